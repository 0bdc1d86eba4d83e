"""Comparisons of spikes after every pass: ties are told from errors, and silent layers are roused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.pipeline.spikes import Checks

PLAIN = Preprocess(1, 4, (0.0,), (1.0,))


def graph(weight: float, threshold: float) -> ir.Graph:
    """One synapse a pixel into neurons without leak, and a readout."""
    kernel = np.full((1, 1, 1, 1), weight)
    nodes = (
        ir.Node("input", ir.Input(False), (), (1, 4, 4)),
        ir.Node("conv", ir.Conv2d(kernel, np.zeros(1)), ("input",), (1, 4, 4)),
        ir.Node("lif", ir.Lif(float("inf"), threshold, False, True), ("conv",), (1, 4, 4)),
        ir.Node("mean", ir.Mean(), ("lif",), (1, 1, 1)),
        ir.Node("output", ir.Output(), ("mean",), (1, 1, 1)),
    )
    return ir.Graph(nodes, 4)


def checks(pixel: int) -> Checks:
    loaded = SimpleNamespace(preprocess=PLAIN, module=torch.nn.Identity())
    return Checks(loaded, np.full((2, 1, 4, 4), pixel, np.uint8))


def follow(made: Checks, first: ir.Graph, second: ir.Graph) -> str:
    made._rouse(first)
    made.last = execute(first, made.images)
    return made.against_last("fold", second)


@pytest.mark.parametrize(("weight", "threshold"), [(1.0, 1.0), (0.5, 0.5), (0.1, 0.1), (0.1, 0.2), (0.3, 0.3)])
def test_a_flip_at_a_tie_is_no_error(weight: float, threshold: float) -> None:
    """A weight that is one rounding smaller flips every neuron that stands at its threshold."""
    remark = follow(checks(255), graph(weight, threshold), graph(weight * (1 - 2**-23), threshold))
    assert remark.startswith("0 of ")
    assert "at ties" in remark


@pytest.mark.parametrize("smaller", [1e-3, 1e-4])
def test_a_flip_beside_a_tie_is_an_error(smaller: float) -> None:
    with pytest.raises(ModelError, match="lif: the pass 'fold' flips"):
        follow(checks(255), graph(1.0, 1.0), graph(1.0 - smaller, 1.0))


def test_images_are_scaled_until_a_layer_fires() -> None:
    """A wrong pass over a layer that is silent on the images is found all the same."""
    with pytest.raises(ModelError, match="lif: the pass 'fold' flips"):
        follow(checks(255), graph(0.1, 1.0), graph(0.08, 1.0))


def test_layers_that_never_fire_are_named() -> None:
    assert checks(255)._rouse(graph(-1.0, 1.0)) == ["lif"]
    assert checks(255)._rouse(graph(0.1, 1.0)) == []


class Twice(torch.nn.Module):
    """(B, 1, 4, 4) -> two layers of one synapse a pixel, and the mean of all spikes: (B, 1)."""

    def __init__(self, weights: tuple[float, float], thresholds: tuple[float, float]) -> None:
        super().__init__()
        self.weights = weights
        self.first, self.second = (LIF(float("inf"), threshold, False) for threshold in thresholds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.unsqueeze(0).repeat(4, 1, 1, 1, 1) * self.weights[0])
        # tokens before channels, as in attention
        tokens = self.second((x * self.weights[1]).flatten(3).transpose(2, 3))
        return tokens.mean((2, 3)).mean(0)[:, None]


def twice(weights: tuple[float, float], thresholds: tuple[float, float], gain: float = 1.0) -> ir.Graph:
    """The graph of `Twice`."""
    kernels = [np.full((1, 1, 1, 1), np.float32(weight).astype(np.float64)) for weight in weights]
    nodes = (
        ir.Node("input", ir.Input(False), (), (1, 4, 4)),
        ir.Node("conv", ir.Conv2d(kernels[0], np.zeros(1)), ("input",), (1, 4, 4)),
        ir.Node("first", ir.Lif(float("inf"), thresholds[0], False), ("conv",), (1, 4, 4)),
        ir.Node("linear", ir.Linear(kernels[1][:, :, 0, 0], np.zeros(1)), ("first",), (1, 4, 4)),
        ir.Node("second", ir.Lif(float("inf"), thresholds[1], False), ("linear",), (1, 4, 4)),
        ir.Node("mean", ir.Mean(), ("second",), (1, 1, 1)),
        ir.Node("scale", ir.Scale(gain), ("mean",), (1, 1, 1)),
        ir.Node("output", ir.Output(), ("scale",), (1, 1, 1)),
    )
    return ir.Graph(nodes, 4)


def against(module: torch.nn.Module, traced: ir.Graph) -> str:
    loaded = SimpleNamespace(preprocess=PLAIN, module=module)
    images = np.full((2, 1, 4, 4), 255, np.uint8)
    images[1, :, 2:] = 0
    return Checks(loaded, images).against_model("trace", traced)


SMALLER = 1 - 2**-23


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.0]), st.integers(1, 3)),
    st.tuples(st.sampled_from([0.1, 0.3, 0.6, 1.1]), st.integers(1, 2)),
)
def test_a_graph_that_rounds_otherwise_flips_spikes_at_ties_alone(
    first: tuple[float, int], second: tuple[float, int]
) -> None:
    """Thresholds are whole multiples of the weights, so that neurons stand at them: each layer by itself."""
    weights, thresholds = (first[0], second[0]), (first[0] * first[1], second[0] * second[1])
    remark = against(Twice(weights, thresholds), twice((weights[0] * SMALLER, weights[1] * SMALLER), thresholds))
    assert remark.startswith("0 of "), remark
    if first[1] == 1:
        assert "at ties" in remark


@pytest.mark.parametrize("layer", [0, 1])
def test_a_graph_of_other_weights_is_an_error_even_among_ties(layer: int) -> None:
    wrong = [0.1 * SMALLER, 0.3 * SMALLER]
    wrong[layer] *= 1 - 1e-3
    with pytest.raises(ModelError, match=f"{('first', 'second')[layer]}: the pass 'trace' flips"):
        against(Twice((0.1, 0.3), (0.2, 0.3)), twice((wrong[0], wrong[1]), (0.2, 0.3)))


def test_logits_are_compared_on_the_spikes_of_the_model() -> None:
    """Ties do not excuse a wrong readout."""
    ties = (0.1 * SMALLER, 0.3)
    assert "at ties" in against(Twice((0.1, 0.3), (0.2, 0.3)), twice(ties, (0.2, 0.3)))
    with pytest.raises(ModelError, match="the logits of the graph differ"):
        against(Twice((0.1, 0.3), (0.2, 0.3)), twice(ties, (0.2, 0.3), gain=1.1))
