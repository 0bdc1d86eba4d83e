"""The page-long scripts, one a library: their synaptic operations against convolutions of masks, made by hooks."""

from __future__ import annotations

import runpy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikformer_deploy.counts.operations import OperationCounts

EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / name), run_name="example")["main"]()


@contextmanager
def masks(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """By layer: pairs of inputs and weights, and those of inputs that are not 0, from the layer's own arithmetic."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            hooks.append(module.register_forward_pre_hook(_mask_hook(found, name)))
    yield found
    for hook in hooks:
        hook.remove()


def _mask_hook(found: dict[str, list[int]], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().double()
        ones = torch.ones_like(module.weight, dtype=torch.float64)
        x = x.flatten(0, 1) if isinstance(module, nn.Conv2d) and x.dim() == 5 else x
        for index, operand in enumerate((torch.ones_like(x), (x != 0).double())):
            if isinstance(module, nn.Linear):
                out = nn.functional.linear(operand, ones)
            else:
                settings = (module.stride, module.padding, module.dilation, module.groups)
                out = nn.functional.conv2d(operand, ones, None, *settings)
            found[name][index] += int(out.sum())

    return hook


def of_layers(counts: OperationCounts) -> dict[str, list[int]]:
    """Dense pairs and pairs of the layers that are counted."""
    return {
        o.name: [sum(c.dense for c in o.counted), sum(c.pairs for c in o.counted)]
        for o in counts.operations
        if o.kind in ("linear", "convolution") and not o.functional
    }


@pytest.mark.parametrize(
    ("name", "images", "time_steps"), [("plain_pytorch", 4, 4), ("snntorch", 7, 5), ("norse", 3, 6)]
)
def test_counts_are_those_of_masks(name: str, images: int, time_steps: int) -> None:
    if name != "plain_pytorch":
        pytest.importorskip(name)
    model, data, counting = main_of(f"count_{name}.py")
    with masks(model) as expected:
        model(data)
    counts = counting.counts
    assert of_layers(counts) == dict(expected)
    assert (counts.images, counts.time_steps) == (images, time_steps)
    assert len(counts.neurons) == 2
    assert not counts.not_understood
    rates = counting.firing_rates()
    assert rates.shape == (time_steps, 2)
    assert (rates[1:] > 0).all()


def test_spikingjelly_step_by_step_and_all_at_once() -> None:
    pytest.importorskip("spikingjelly")
    counted, (model, frames) = main_of("count_spikingjelly.py")
    with masks(model) as expected:
        model(frames)
    for counting in counted.values():
        counts = counting.counts
        assert (counts.images, counts.time_steps) == (3, 4)
        assert of_layers(counts) == dict(expected)
        assert [n.neuron for n in counts.neurons] == ["LIFNode", "IFNode"]
    np.testing.assert_array_equal(*(counting.firing_rates() for counting in counted.values()))
    assert counted["step by step"].counts.passes == 4


def test_snntorch_counts_recurrent_weights_inside_of_neurons() -> None:
    pytest.importorskip("snntorch")
    _, _, counting = main_of("count_snntorch.py")
    (operation,) = [o for o in counting.counts.operations if o.name == "recurrent.recurrent"]
    record = {n.name: n for n in counting.counts.neurons}["recurrent"]
    # the spikes of a step meet the weights in the next one
    assert sum(c.pairs for c in operation.counted) == record.spikes[:-1].sum() * 16
    assert sum(c.dense for c in operation.counted) == 5 * 7 * 16 * 16
