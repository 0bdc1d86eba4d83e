"""The types of arrays, said once."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Int: TypeAlias = NDArray[np.int64]
Float: TypeAlias = NDArray[np.float64]
Array: TypeAlias = NDArray[Any]
EXACT_FP32 = 2**24
"""Whole numbers below are exact in single precision, and so are sums of them that stay below."""
EXACT_FP64 = 2**53
"""The same of double precision."""
Shape: TypeAlias = tuple[int, int, int]
"""(C, Y, X) of a layer: channels, rows, columns."""
Pair: TypeAlias = tuple[int, int]
"""(y, x) of a kernel, a stride, a padding."""
