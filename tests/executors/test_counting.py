"""The counting loop on maps larger than those of random networks, against its plain twin."""

import numpy as np
import pytest
from support.deep import some

from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.executors.fast.counting import add_up, observe
from spikformer_deploy.executors.fast.plan import cell_table
from spikformer_deploy.executors.reference import observe as observe_plainly
from spikformer_deploy.network.neurons import Or


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
@pytest.mark.parametrize("largest", [1, 200])
@pytest.mark.parametrize("seed", some([0], [1, 2, 4, 5, 6], long=[3, 7]))
def test_counting_equals_the_reference_whatever_the_cells(kind: type, largest: int, seed: int) -> None:
    """From one position to 900 of them a cell (bytes would be full); from one channel to all of them."""
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 300))
    height = 30
    width = int(rng.integers(20, 31))
    cuts = np.array(sorted({0, channels, *rng.integers(0, channels, 3 + 10 * seed).tolist()}))
    rows = random_classes(rng, height, seed**2 + 1)
    columns = random_classes(rng, width, seed**2 + 1)
    cells = Cells(cuts, rows, columns)
    sent = rng.integers(0, largest + 1, (2, 3, channels, height, width)) * (rng.random((3, channels, 1, 1)) < 0.9)

    right = observe_plainly(Or(), sent, None, cells, graded=True)

    table = cell_table(cells)
    messages = np.zeros((6, *cells.shape), np.int32)
    active = np.zeros((height, width, channels), np.uint8)
    total = np.zeros((6, cells.shape[1], len(table.slabs) - 1), np.int64)
    maps = np.ascontiguousarray(sent.transpose(0, 1, 3, 4, 2).reshape(6, height, width, channels)).astype(kind)
    observe(maps, largest == 1, table, messages, active, total)
    np.testing.assert_array_equal(messages.reshape(right.messages.shape), right.messages)
    np.testing.assert_array_equal(active.transpose(2, 0, 1).astype(bool), right.active)
    np.testing.assert_array_equal(total.sum((1, 2)).reshape(2, 3).sum(0), right.total)
    values, of_values = np.full_like(messages, -1), np.full_like(total, -1)
    add_up(maps, table, values, of_values)
    np.testing.assert_array_equal(values.reshape(right.messages.shape), right.values)
    np.testing.assert_array_equal(of_values, total)


def random_classes(rng: np.random.Generator, count: int, classes: int) -> np.ndarray:
    """The class of each of `count` rows or columns, numbered from 0 without a gap."""
    return np.unique(rng.integers(0, classes, count), return_inverse=True)[1]
