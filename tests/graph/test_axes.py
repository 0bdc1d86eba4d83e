"""Axes follow what numpy does to labelled elements."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.graph import axes

EXTENTS = {"T": 2, "B": 7, "C": 12, "Y": 3, "X": 5}


def labelled() -> tuple[np.ndarray, axes.Dims]:
    """An array whose elements are their own flat index, and its axes."""
    values = np.arange(np.prod(list(EXTENTS.values()))).reshape(*EXTENTS.values())
    return values, tuple(axes.axis(role, size) for role, size in EXTENTS.items())


def meaning(dims: axes.Dims) -> np.ndarray:
    """What the axes say an array of these dimensions holds: the flat index of each element."""
    strides = dict(zip(EXTENTS, np.cumprod([1, *reversed(EXTENTS.values())])[-2::-1], strict=True))
    out = np.zeros((1,) * len(dims), np.int64)
    for i, dim in enumerate(dims):
        index = np.zeros(1, np.int64)
        for atom in dim:
            index = (index[:, None] + np.arange(atom.size) * atom.stride * strides[atom.role]).ravel()
        out = out + index.reshape([-1 if k == i else 1 for k in range(len(dims))])
    return out


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_layout_operations_keep_the_meaning(data: st.DataObject) -> None:
    values, dims = labelled()
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            order = tuple(data.draw(st.permutations(range(len(dims)))))
            values = values.transpose(order)
            dims = axes.permute(dims, order)
            continue
        cut = data.draw(st.integers(0, len(dims) - 1))
        sizes = list(values.shape)
        if data.draw(st.booleans()) and cut + 1 < len(sizes):
            sizes[cut : cut + 2] = [sizes[cut] * sizes[cut + 1]]
        else:
            divisors = [d for d in range(1, sizes[cut] + 1) if sizes[cut] % d == 0]
            part = data.draw(st.sampled_from(divisors))
            sizes[cut : cut + 1] = [part, sizes[cut] // part]
        try:
            dims = axes.reshape(dims, tuple(sizes))
        except axes.MixedAxesError:
            return
        values = values.reshape(sizes)
    assert [axes.size(d) for d in dims] == list(values.shape)
    np.testing.assert_array_equal(meaning(dims), values)


def test_heads_split_and_merge() -> None:
    _, dims = labelled()
    split = axes.reshape(dims, (2, 7, 3, 4, 15))
    assert axes.show(split) == "(T, B, C/4, C, Y*X)"
    assert axes.reshape(split, (2, 7, 12, 3, 5)) == dims


def test_a_cut_through_an_axis_is_refused() -> None:
    _, dims = labelled()
    with pytest.raises(axes.MixedAxesError, match="axis B of 7 cannot be cut"):
        axes.reshape(axes.permute(dims, (1, 0, 2, 3, 4)), (2, 7, 12, 3, 5))


def test_sizes_of_the_batch_have_its_name() -> None:
    """Nobody knows the number that stands for it."""
    shown = [axes.show_size(size) for size in (1, 384, axes.BATCH, 4 * axes.BATCH, axes.BATCH + 1)]
    assert shown == ["1", "384", "B", "4*B", str(axes.BATCH + 1)]
    dims = (axes.axis("B", axes.BATCH), axes.axis("C", 4), axes.axis("X", 8))
    for wanted, problem in (
        ((axes.BATCH, 31), "32*B elements cannot become 31*B"),
        ((2, 16 * axes.BATCH), "axis B cannot be cut into 2 parts"),
    ):
        with pytest.raises(axes.MixedAxesError) as raised:
            axes.reshape(dims, wanted)
        assert str(raised.value) == problem
