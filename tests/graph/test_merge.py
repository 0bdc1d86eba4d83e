"""Layers in a row are one convolution where that is exact, and stay two where it is not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Conv2d, Graph, Input, Lif, Linear, Mean, Node, Output
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.merge import merge_layers


def conv(rng: np.random.Generator, inputs: int, outputs: int, kernel: int, **geometry: object) -> Conv2d:
    groups = int(geometry.get("groups", 1))  # type: ignore[call-overload]
    weight = rng.normal(size=(outputs, inputs // groups, kernel, kernel))
    bias = rng.normal(size=outputs)
    return Conv2d(weight, bias, **geometry)  # type: ignore[arg-type]


def chain(*layers: Conv2d | Linear) -> Graph:
    nodes = [Node("input", Input(), (), (4, 9, 8))]
    shape = (4, 9, 8)
    for i, op in enumerate(layers):
        if isinstance(op, Conv2d):
            sizes = zip(shape[1:], op.padding, op.weight.shape[2:], op.stride, strict=True)
            shape = (len(op.weight), *((e + 2 * p - k) // s + 1 for e, p, k, s in sizes))  # type: ignore[assignment]
        else:
            shape = (len(op.weight), *shape[1:])
        nodes.append(Node(f"layer{i}", op, (nodes[-1].name,), shape))
    nodes += [
        Node("lif", Lif(), (nodes[-1].name,), shape),
        Node("mean", Mean(), ("lif",), (shape[0], 1, 1)),
        Node("output", Output(), ("mean",), (shape[0], 1, 1)),
    ]
    return check(Graph(tuple(nodes), 1))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from([1, 2, 4]))
def test_layers_in_a_row_are_one(seed: int, first: int, second: int, groups: int) -> None:
    """As in a re-parameterised convolution: padded, depthwise or not, strided, a linear layer last."""
    rng = np.random.default_rng(seed)
    graph = chain(
        conv(rng, 4, 8, 1, padding=(1, 1)),
        conv(rng, 8, 8, 3, stride=(first, second), groups=groups),
        Linear(rng.normal(size=(5, 8)), rng.normal(size=5)),
    )
    merged = check(merge_layers(graph))
    assert [n.name for n in merged] == ["input", "layer2", "lif", "mean", "output"]
    images = torch.from_numpy(rng.normal(size=(2, 4, 9, 8)))
    one = execute(merged, images, dtype=torch.float64, record={"layer2"})["layer2"]
    three = execute(graph, images, dtype=torch.float64, record={"layer2"})["layer2"]
    torch.testing.assert_close(one, three, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inner", [{"padding": (1, 1)}, {"bias": True}])
def test_zeros_around_something_else_than_zero_stay(inner: dict) -> None:
    rng = np.random.default_rng(0)
    padding = inner.get("padding", (0, 0))
    graph = chain(conv(rng, 4, 4, 1, padding=padding), conv(rng, 4, 4, 3, padding=(1, 1)))
    assert len(merge_layers(graph)) == len(graph)
