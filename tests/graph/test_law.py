"""The law of the graph: every clause refuses what it is for, by name."""

import numpy as np
import pytest

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.ir import Add, BatchNorm, Conv2d, Graph, Input, Lif, Linear, Mean, Node, Output, Scale
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.simplify import simplify

INPUT = Node("input", Input(), (), (3, 4, 4))
CONV = Node("conv", Conv2d(np.ones((2, 3, 3, 3)), np.zeros(2), padding=(1, 1)), ("input",), (2, 4, 4))
LIF = Node("lif", Lif(), ("conv",), (2, 4, 4))
MEAN = Node("mean", Mean(), ("lif",), (2, 1, 1))
HEAD = Node("head", Linear(np.ones((5, 2)), np.zeros(5)), ("mean",), (5, 1, 1))
OUTPUT = Node("output", Output(), ("head",), (5, 1, 1))
GOOD = (INPUT, CONV, LIF, MEAN, HEAD, OUTPUT)


def test_a_good_graph_passes() -> None:
    graph = Graph(GOOD, 4)
    assert check(graph) is graph


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((INPUT, LIF, CONV, MEAN, HEAD, OUTPUT), "lif: it reads conv, which does not stand before it"),
        ((*GOOD[:2], CONV, *GOOD[2:]), "conv: two nodes have this name"),
        (GOOD[:-1], "one Output, last"),
        ((*GOOD[:2], Node("lif", Lif(), ("conv",), (2, 4, 5)), *GOOD[3:]), "lif: its shape is"),
        ((*GOOD[:3], Node("extra", Lif(), ("conv",), (2, 4, 4)), *GOOD[3:]), "extra: its value reaches no output"),
        (
            (*GOOD[:3], Node("sum", Add(), ("lif", "input"), (2, 4, 4)), MEAN, HEAD, OUTPUT),
            "reaches no output|its inputs",
        ),
        ((*GOOD[:2], Node("lif", Lif(float("nan")), ("conv",), (2, 4, 4)), *GOOD[3:]), "lif: its tau holds NaN"),
    ],
)
def test_every_clause(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check(Graph(nodes, 4))


def test_a_norm_that_follows_no_layer_cannot_be_folded() -> None:
    norm = Node("norm", BatchNorm(np.ones(2), np.zeros(2), np.zeros(2), np.ones(2), 1e-5), ("lif",), (2, 4, 4))
    mean = Node("mean", Mean(), ("norm",), (2, 1, 1))
    with pytest.raises(ModelError, match="norm: this batch normalisation follows lif"):
        fold_batch_norm(Graph((*GOOD[:3], norm, mean, HEAD, OUTPUT), 4))


def test_scales_go_into_the_layer_before() -> None:
    scale = Node("scale", Scale(3.0), ("conv",), (2, 4, 4))
    lif = Node("lif", Lif(), ("scale",), (2, 4, 4))
    graph = simplify(Graph((INPUT, CONV, scale, lif, MEAN, HEAD, OUTPUT), 4))
    assert [n.name for n in check(graph)] == [n.name for n in GOOD]
    assert (graph["conv"].op.weight == 3).all()
