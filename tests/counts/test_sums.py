"""Weighted sums of messages against dense products, for any number of images and steps."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.counts.sums import Entries, joined, layout_of, sparse_sums, weighted

SIZES = {"a": (3, 2, 1), "b": (1, 1, 1), "c": (40, 9, 3)}


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 5), st.integers(0, 70), st.integers(0, 200))
def test_sums_equal_dense_products(seed: int, images: int, steps: int, rows: int, entries: int) -> None:
    rng = np.random.default_rng(seed)
    sent = {name: rng.integers(0, 2**20, (images, steps, *shape)).astype(np.int32) for name, shape in SIZES.items()}
    flat = np.concatenate(
        [sent[name].reshape(images, steps, np.prod(shape)) for name, shape in SIZES.items()], 2
    ).astype(object)
    edges = np.cumsum([0, *(np.prod(shape) for shape in SIZES.values())])
    entries *= rows > 0
    row = rng.integers(0, max(rows, 1), entries)
    cell = rng.integers(0, edges[-1], entries)
    first, second = rng.integers(0, 2**20, (2, entries))
    half = entries // 2
    parts = [
        Entries(*(column[part].astype(np.int32) for column in (row, cell, first, second)))
        for part in (slice(half), slice(half, None))
    ]
    totals, (empty, full) = weighted(
        (sparse_sums(2, joined([])), sparse_sums(rows, joined(parts))),
        sent,
        layout_of({name: math.prod(shape) for name, shape in SIZES.items()}),
    )
    assert empty[0].shape == (images, steps, 2)
    assert not empty[0].any()
    for weights, sums in zip((first, second), full, strict=True):
        table = np.zeros((rows, edges[-1]), object)
        np.add.at(table, (row, cell), weights)
        assert sums.shape == (images, steps, rows)
        np.testing.assert_array_equal(sums, flat @ table.T)
    for name, total in zip(SIZES, totals, strict=True):
        np.testing.assert_array_equal(total, sent[name].sum((2, 3, 4)))


def test_moved_entries_count_other_cells() -> None:
    ones = np.ones(2, np.int32)
    np.testing.assert_array_equal(Entries(ones, 3 * ones, ones, ones).moved(4).cell, [7, 7])
