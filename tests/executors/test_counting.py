"""The counting loop on maps larger than those of random networks, against its plain twin."""

import numpy as np
import pytest

from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.executors.fast import counting
from spikformer_deploy.executors.fast.plan import _grid
from spikformer_deploy.executors.reference import observe


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
@pytest.mark.parametrize("largest", [1, 200])
@pytest.mark.parametrize("seed", range(8))
def test_counting_equals_the_reference_whatever_the_cells(kind: type, largest: int, seed: int) -> None:
    """From one position to 900 of them a cell (bytes would be full); from one channel to all of them."""
    rng = np.random.default_rng(seed)
    channels, height, width = int(rng.integers(1, 300)), 30, int(rng.integers(20, 31))
    cuts = np.array(sorted({0, channels, *rng.integers(0, channels, 3 + 10 * seed).tolist()}))
    rows, columns = (np.unique(rng.integers(0, seed**2 + 1, n), return_inverse=True)[1] for n in (height, width))
    cells = Cells(cuts, rows, columns)
    sent = rng.integers(0, largest + 1, (2, 3, channels, height, width)) * (rng.random((3, channels, 1, 1)) < 0.9)
    right, grid = observe(sent, cells), _grid(cells)
    messages, active = np.zeros((6, *grid.shape), np.int32), np.zeros((height, width, channels), np.uint8)
    total = np.zeros((6, grid.shape[1], len(grid.slabs) - 1), np.int64)
    maps = np.ascontiguousarray(sent.transpose(0, 1, 3, 4, 2).reshape(6, height, width, channels)).astype(kind)
    order = (grid.row_order, grid.row_starts, cells.columns, cells.channels, grid.slabs)
    counting.observe(maps, largest == 1, *order, messages, active, total)
    np.testing.assert_array_equal(messages.reshape(right.messages.shape), right.messages)
    np.testing.assert_array_equal(active.transpose(2, 0, 1).astype(bool), right.active)
    np.testing.assert_array_equal(total.sum((1, 2)).reshape(2, 3).sum(0), right.total)
