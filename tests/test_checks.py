"""Comparisons of spikes after every pass: ties are told from errors, and silent layers are roused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spikformer_deploy.checks import Checks
from spikformer_deploy.errors import ModelError
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.images import Preprocess

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
