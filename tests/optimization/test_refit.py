"""A layer without some of its channels: twins that solve each least-squares problem by itself."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.deep import some
from torch import nn
from torch.nn import functional as F

from spikformer_deploy.optimization.refit import DAMPING, LEAST_DAMPING, as_maps, moments, without

Float = NDArray[np.float64]


def sees(layer: nn.Module, x: torch.Tensor, positions: int = 10**6) -> Float:
    return moments(layer, as_maps(layer, x), positions, torch.Generator().manual_seed(0))


def solved(weight: Float, rows: Float, left: NDArray[np.bool_]) -> tuple[Float, Float, float]:
    """Weights and constant of the channels that are left, each problem by itself, and how far the currents are off."""
    outputs, _, taps = weight.shape
    flat = weight.reshape(outputs, -1)
    columns = np.repeat(left, taps)
    damping = DAMPING * np.square(rows).mean(0).mean() + LEAST_DAMPING
    # damping pulls each weight to what it was, those that have gone included: what they were is to be made up for
    kept = np.concatenate([rows[:, columns], np.ones((len(rows), 1))], 1)
    ridge = np.concatenate([np.sqrt(damping * len(rows)) * np.eye(int(columns.sum())), np.zeros((columns.sum(), 1))], 1)
    wanted = np.concatenate([rows @ flat.T, np.sqrt(damping * len(rows)) * flat[:, columns].T])
    found, *_ = np.linalg.lstsq(np.concatenate([kept, ridge]), wanted, rcond=None)
    missed = np.square(np.concatenate([kept, ridge]) @ found - wanted).sum() / len(rows)
    # that of a weight that has gone stays 0, whatever the others are
    missed += damping * np.square(flat[:, ~columns]).sum()
    out = np.zeros_like(flat)
    out[:, columns] = found[:-1].T
    return out.reshape(weight.shape), found[-1], float(missed)


@pytest.mark.parametrize("seed", some(range(12), range(12, 200)))
def test_the_channels_that_go_are_those_of_the_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, channels, taps = int(rng.integers(1, 5)), int(rng.integers(2, 7)), int(rng.integers(1, 4))
    hidden = rng.random((200, 3))
    # spikes that follow each other: what one channel tells, others tell too
    rows = (hidden @ rng.random((3, channels * taps)) + 0.3 * rng.random((200, channels * taps)) > 0.9).astype(float)
    weight = rng.standard_normal((outputs, channels, taps))
    gone = np.zeros(channels, bool)
    gone[rng.integers(channels)] = rng.random() < 0.5
    count = int(rng.integers(gone.sum(), channels))
    seen = np.concatenate([rows, np.ones((len(rows), 1))], 1)
    found, chosen, constant = without(weight, seen.T @ seen, gone, count)
    left = ~gone
    while channels - left.sum() < count:
        missed = {}
        for channel in np.flatnonzero(left):
            left[channel] = False
            missed[int(channel)] = solved(weight, rows, left)[2]
            left[channel] = True
        left[min(missed, key=missed.__getitem__)] = False
    np.testing.assert_array_equal(found, ~left)
    expected = solved(weight, rows, left)
    np.testing.assert_allclose(chosen, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(constant, expected[1], rtol=1e-5, atol=1e-6)
    assert not chosen[:, found].any()


def test_a_channel_that_another_repeats_is_not_missed() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((500, 4)) < 0.3).astype(float)
    rows[:, 2] = rows[:, 0]
    weight = rng.standard_normal((3, 4, 1))
    seen = np.concatenate([rows, np.ones((500, 1))], 1)
    gone, chosen, constant = without(weight, seen.T @ seen, np.zeros(4, bool), 1)
    assert gone[[0, 2]].sum() == gone.sum() == 1
    currents = rows @ chosen[:, :, 0].T + constant
    np.testing.assert_allclose(currents, rows @ weight[:, :, 0].T, atol=1e-3)


def test_what_always_fires_is_a_constant() -> None:
    rng = np.random.default_rng(1)
    rows = (rng.random((300, 3)) < 0.5).astype(float)
    rows[:, 1] = 1.0
    weight = 5 * rng.standard_normal((2, 3, 1))
    seen = np.concatenate([rows, np.ones((300, 1))], 1)
    gone, chosen, constant = without(weight, seen.T @ seen, np.zeros(3, bool), 1)
    assert gone.tolist() == [False, True, False]
    np.testing.assert_allclose(rows @ chosen[:, :, 0].T + constant, rows @ weight[:, :, 0].T, atol=1e-2)


def test_silent_channels_change_no_weight() -> None:
    rng = np.random.default_rng(2)
    rows = (rng.random((300, 6)) < 0.5).astype(float)
    rows[:, 2:4] = 0.0
    weight = rng.standard_normal((2, 3, 2))
    seen = np.concatenate([rows, np.ones((300, 1))], 1)
    gone, chosen, constant = without(weight, seen.T @ seen, np.array([False, True, False]), 1)
    assert gone.tolist() == [False, True, False]
    np.testing.assert_allclose(chosen[:, [0, 2]], weight[:, [0, 2]], rtol=1e-9)
    np.testing.assert_allclose(constant, 0.0, atol=1e-12)


def test_nothing_that_fires_at_all() -> None:
    gone, chosen, _ = without(np.ones((2, 3, 1)), np.diag([0.0, 0.0, 0.0, 10.0]), np.zeros(3, bool), 2)
    assert gone.sum() == 2
    np.testing.assert_allclose(chosen[:, ~gone], 1.0)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0), (1, 0)])
def test_a_convolution_sees_all_positions(stride: int, padding: int) -> None:
    layer = nn.Conv2d(3, 4, (3, 2), stride, padding)
    x = (torch.rand(2, 3, 7, 6) < 0.4).float()
    rows = F.unfold(x, (3, 2), stride=stride, padding=padding).transpose(1, 2).reshape(-1, 18)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).numpy()
    np.testing.assert_allclose(sees(layer, x), rows.T @ rows, rtol=1e-6)
    drawn = sees(layer, x, 5)
    assert drawn[-1, -1] == 5
    assert (drawn <= sees(layer, x) * 5 + 1e-6).all()


def test_tokens_are_positions() -> None:
    tokens = (torch.rand(2, 5, 3) < 0.4).float()
    rows = np.concatenate([tokens.reshape(-1, 3).numpy(), np.ones((10, 1))], 1)
    np.testing.assert_allclose(sees(nn.Linear(3, 4), tokens), rows.T @ rows, rtol=1e-6)
    np.testing.assert_allclose(sees(nn.Conv1d(3, 4, 1), tokens.transpose(1, 2)), rows.T @ rows, rtol=1e-6)
