"""The page-long scripts, one a library: their synaptic operations against convolutions of masks, made by hooks."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.masks import masks, of_layers

EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / name), run_name="example")["main"]()


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
