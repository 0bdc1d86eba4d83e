"""The handwritten digits in the box, with which of them no model in it was trained on.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0 (bundled/digits.txt).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 8
"""Pixels of a digit, in height and width."""
LARGEST = 16
"""Of a pixel."""


def digits(split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (N, 8, 8), 0..16, and labels (N,) of the 1,437 images to train on ("train") or the 360 others ("test")."""
    with np.load(Path(str(files("spikformer_deploy"))) / "bundled" / "digits.npz", allow_pickle=False) as stored:
        chosen = stored[split]
        return stored["pixels"][chosen], stored["labels"][chosen]
