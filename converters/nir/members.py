"""The members of a NIR node as they stand in the file: each is checked, and refused by the name of its node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spikformer_deploy.base.arrays import Pair, Shape
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.converters.windows import window_counts

LARGEST_WHOLE = 2**31
LARGEST_EXTENT = 2**15
"""Of a kernel, a stride or a padding."""

Members = Mapping[str, Any]


def word(value: Any) -> str:
    """A word of the file, "" where there is something else."""
    return value if isinstance(value, str) else ""


def array_of(name: str, node: Members, key: str) -> np.ndarray:
    """The numbers of a member: fp32 or fp64 as in the file, anything else as fp64."""
    value = node.get(key)
    array = np.asarray(value)
    if value is None or array.dtype.kind not in "iufb" or not array.size:
        raise InputError(name, f"'{node['type']}' lacks {key}, or it holds no numbers")
    if array.dtype.kind != "f" or array.dtype.itemsize < 4:
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ModelError(name, f"its {key} holds NaN or infinite values")
    return array


def whole_numbers(name: str, node: Members, key: str) -> list[int]:
    """Whole numbers in a row.  int() would cut what is not whole, and is used after the check."""
    values = np.atleast_1d(array_of(name, node, key))
    if values.ndim != 1 or (values != np.rint(values)).any() or (np.abs(values) >= LARGEST_WHOLE).any():
        raise ModelError(name, f"its {key} is {values.tolist()}, and must be whole numbers")
    return [int(value) for value in values]


def whole_number(name: str, node: Members, key: str) -> int:
    """One whole number."""
    values = whole_numbers(name, node, key)
    if len(values) != 1:
        raise ModelError(name, f"its {key} is {values}, and must be one whole number")
    return values[0]


def shared_member(name: str, node: Members, key: str) -> float:
    """The number that all neurons of a node have in common."""
    return shared(name, key, array_of(name, node, key))


def shared(name: str, key: str, values: np.ndarray) -> float:
    """The number that all of `values` are; ModelError where they differ."""
    if values.size == 0 or (values != values.flat[0]).any():
        distinct = np.unique(values)
        raise ModelError(
            name,
            f"its neurons have {len(distinct)} values of {key}, from {distinct[0] if len(distinct) else '-'} on",
            "All neurons of a population must share it.",
        )
    return float(values.flat[0])


def per_channel(name: str, values: np.ndarray, shape: Shape) -> np.ndarray:
    """(C,) float64 parameters of neurons of `shape` (C, Y, X); ModelError where they differ within a channel.

    values  one for all, (C,), or one for each neuron, in any shape with as many numbers
    """
    if values.ndim == 1 and len(values) == shape[0]:
        # numpy would take the only axis for X
        values = values.reshape(-1, 1, 1)
    if values.size == np.prod(shape):
        values = values.reshape(shape)
    try:
        maps = np.broadcast_to(values, shape)
    except ValueError:
        raise ModelError(name, f"parameters of shape {values.shape} for neurons of {shape}") from None
    if (maps != maps[:, :1, :1]).any():
        raise ModelError(name, "gains that differ between positions of a channel are not supported")
    return maps[:, 0, 0].astype(np.float64)


# --- geometry of windows --------------------------------------------------------------------------------------------


def pair(name: str, node: Members, key: str, least: int, one_axis: bool = False) -> Pair:
    """(along Y, along X), of which the file may say one number for both; `least` along the Y that one axis lacks."""
    values = whole_numbers(name, node, key)
    if not 1 <= len(values) <= (1 if one_axis else 2):
        raise ModelError(name, f"a {key} of {values}")
    vertical = least if one_axis else values[0]
    horizontal = values[-1]
    if min(vertical, horizontal) < least or max(vertical, horizontal) > LARGEST_EXTENT:
        raise ModelError(name, f"a {key} of {values}")
    return vertical, horizontal


def padding_of(name: str, node: Members, kernel: Pair, stride: Pair, one_axis: bool) -> Pair:
    """The padding of a convolution, the same on both sides: in numbers, or one of NIR's words "valid" and "same"."""
    stated = node.get("padding")
    if not isinstance(stated, str):
        return pair(name, node, "padding", 0, one_axis)
    if stated == "valid":
        return (0, 0)
    # only an odd kernel with stride 1 pads both sides alike
    if stated != "same" or stride != (1, 1) or any(extent % 2 == 0 for extent in kernel):
        raise ModelError(name, f"padding '{stated}' of a kernel {kernel} with stride {stride} is not symmetric")
    return (kernel[0] // 2, kernel[1] // 2)


def windows(name: str, shape: Shape, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """How many windows there are along Y and X; ModelError where none fits in."""
    counts = window_counts(shape[1:], kernel, stride, padding)
    if min(counts) < 1:
        raise ModelError(name, f"a window of {kernel} is larger than its input of {shape[1:]}")
    return counts
