"""A float model as a NIR 1.0 file, of what NIR can hold: the same weights, and the same spikes in fp32.

Numbers are fp32 where fp32 holds all of them, else fp64, so that a model comes back as it was.  NIR fires at
v > v_threshold: the file has the fp32 number before the model's threshold, at which v >= threshold fires too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.imported import ENTRY, about
from spikformer_deploy.converters.nir.read import USUAL_DT
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph.ir import (
    AdaptiveAvgPool2d,
    Add,
    Attention,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Graph,
    Input,
    Lif,
    Linear,
    MaxPool2d,
    Mean,
    Node,
    Offset,
    Op,
    Output,
    Scale,
    SpikeMask,
    TokenSum,
)
from spikformer_deploy.graph.windows import one_window


def write_model(
    graph: Graph, path: Path, preprocess: Preprocess, labels: tuple[str, ...], training: Mapping[str, Any]
) -> None:
    """Write a folded graph as a .nir file; T, thresholds and preprocessing go along in its metadata.

    Raises ModelError, naming the node, for what NIR cannot hold: attention, max-pooling.
    """
    nir = _package(path)
    made = _Written(nir, graph)
    for node in graph:
        made.write(node)
    metadata = {ENTRY: about(graph, preprocess, labels, training).text(), "dt": USUAL_DT}
    buffer = io.BytesIO()
    nir.write(buffer, nir.NIRGraph(made.nodes, made.edges, metadata))
    write_whole(path, buffer.getvalue())


def _package(path: Path) -> Any:
    try:
        import nir
    except ImportError:
        raise InputError(str(path), "writing .nir files needs the package nir", "pip install nir") from None
    return nir


class _Written:
    """NIR nodes and edges as they grow; a value of one position is a row of numbers, as linear layers want it."""

    def __init__(self, nir: Any, graph: Graph) -> None:
        self.nir, self.graph = nir, graph
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.senders: dict[str, tuple[str, ...]] = {}
        parameters = [value for node in graph for value in _parameters(node.op)]
        single = all(np.array_equal(value, value.astype(np.float32)) for value in parameters)
        self.dtype = np.float32 if single else np.float64

    def write(self, node: Node) -> None:
        name, nir = node.name, self.nir
        shape = self.graph[node.inputs[0]].shape if node.inputs else node.shape
        match node.op:
            case Input():
                self.put(node, nir.Input(np.array(_form(node.shape))))
            case Output(last=True):
                problem = "it reads the last time step alone, and a reader of NIR takes the mean of all"
                raise ModelError(name, problem, "Export to onnx.")
            case Output():
                self.put(node, nir.Output(np.array(_form(node.shape))))
            case Linear(weight, bias) if shape[1:] == (1, 1):
                self.put(node, nir.Affine(self.real(weight), self.real(bias)))
            case Linear(weight, bias):
                self.conv(node, shape, Conv2d(weight[:, :, None, None], bias))
            case Conv2d() as conv:
                self.conv(node, shape, conv)
            case Lif() as lif:
                if lif.soft_reset:
                    raise ModelError(name, "NIR's neurons reset to a value: it has no soft reset", "Export to onnx.")
                self.put(node, self.neuron(lif, _form(node.shape)))
            case AvgPool2d() | AdaptiveAvgPool2d() as pool:
                self.average(node, pool, (shape[1], shape[2]))
            case Mean() if shape[1:] == (1, 1):
                self.senders[name] = self.senders[node.inputs[0]]
            case Mean():
                self.pool(node, (shape[1], shape[2]), (shape[1], shape[2]))
            case Scale(factor):
                self.put(node, nir.Scale(np.full(_form(node.shape), factor, self.dtype)))
            case Add():
                self.add(node)
            case MaxPool2d():
                raise ModelError(name, "NIR has no max-pooling", "Export to onnx, or train with average pooling.")
            case Attention():
                raise ModelError(name, "NIR has no attention: no product of two activations", "Export to onnx.")
            case SpikeMask():
                raise ModelError(name, "NIR has no masks: no product of two activations", "Export to onnx.")
            case TokenSum():
                raise ModelError(name, "NIR has no sum over all positions", "Export to onnx.")
            case Concat():
                raise ModelError(name, "NIR cannot join the channels of branches", "Export to onnx.")
            case Offset():
                raise ModelError(name, "NIR adds no constants to maps (a position embedding)", "Export to onnx.")
            case BatchNorm():
                raise ModelError(name, "NIR has no batch normalisation", "Fold it into the layer before.")
            case _:
                assert_never(node.op)

    def average(self, node: Node, pool: AvgPool2d | AdaptiveAvgPool2d, extents: tuple[int, int]) -> None:
        plain = one_window(pool, extents)
        if plain is None or plain[2] != (0, 0) or plain[3] != plain[0][0] * plain[0][1]:
            problem = "NIR's average pooling has no padding, no ceil_mode, and no divisor of its own"
            raise ModelError(node.name, problem, "Export to onnx, or pool with windows of one size.")
        if extents == (1, 1):
            self.senders[node.name] = self.senders[node.inputs[0]]
        else:
            self.pool(node, plain[0], plain[1])

    def put(self, node: Node, made: Any, senders: Sequence[str] | None = None) -> None:
        """A NIR node, with edges from `senders`, or from all that flows into it."""
        flowing = [sender for i in node.inputs for sender in self.senders[i]] if senders is None else senders
        self.nodes[node.name] = made
        self.edges += [(sender, node.name) for sender in flowing]
        self.senders[node.name] = (node.name,)
        if isinstance(node.op, (Conv2d, AvgPool2d, Mean)) and len(_form(node.shape)) == 1 and senders is None:
            self.senders[node.name] = (self.flatten(node.name, node.shape, (node.name,)),)

    def flatten(self, name: str, shape: tuple[int, ...], senders: Sequence[str]) -> str:
        """A Flatten of what `senders` send; its name."""
        flat = f"{name}.flatten"
        self.nodes[flat] = self.nir.Flatten(np.array(shape), start_dim=0, end_dim=-1)
        self.edges += [(sender, flat) for sender in senders]
        return flat

    def conv(self, node: Node, shape: tuple[int, int, int], conv: Conv2d) -> None:
        """A convolution; where its kernel is the whole map it is a linear layer on the flattened map."""
        weight, bias = self.real(conv.weight), self.real(conv.bias)
        if weight.shape[1:] == shape and conv.padding == (0, 0):
            senders = self.senders[node.inputs[0]]
            rows = self.nir.Affine(weight.reshape(len(weight), -1), bias)
            self.put(node, rows, senders if shape[1:] == (1, 1) else [self.flatten(node.name, shape, senders)])
        elif shape[1:] == (1, 1):
            raise ModelError(node.name, "NIR sees one position as a row of numbers, and this convolution pads it")
        else:
            made = self.nir.Conv2d(shape[1:], weight, conv.stride, conv.padding, 1, conv.groups, bias)
            _check_types(node, made, shape)
            self.put(node, made)

    def pool(self, node: Node, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        none = np.zeros(2, np.int64)
        made = self.nir.AvgPool2d(np.array(kernel), np.array(stride), none)
        self.put(node, made)

    def add(self, node: Node) -> None:
        """Edges that meet add up; no two of them may come from the same node."""
        senders = tuple(sender for i in node.inputs for sender in self.senders[i])
        if len(set(senders)) != len(senders):
            raise ModelError(node.name, "it adds a value to itself, and NIR has one edge between two nodes")
        self.senders[node.name] = senders

    def neuron(self, lif: Lif, shape: tuple[int, ...]) -> Any:
        def full(value: float) -> Any:
            return np.full(shape, value, self.dtype)

        # at the fp32 number before the threshold, v > v_threshold is v >= threshold
        at = np.float32(lif.v_threshold)
        threshold = full(float(at if lif.strict else np.nextafter(at, np.float32(-inf))))
        if lif.tau == inf:
            return self.nir.IF(full(1 / USUAL_DT), threshold, full(0))
        tau, r = full(lif.tau * USUAL_DT), full(1 if lif.decay_input else lif.tau)
        return self.nir.LIF(tau=tau, r=r, v_leak=full(0), v_threshold=threshold, v_reset=full(0))

    def real(self, values: Any) -> Any:
        return np.array(values, self.dtype)


def _check_types(node: Node, made: Any, shape: tuple[int, int, int]) -> None:
    """Refuse a convolution of which nir has other shapes than it has: nir.read of any tool would refuse the file.

    nir 1.0.8 takes the first extent of a kernel for both, and the channels of one group for all.
    """
    found = tuple(made.input_type["input"]), tuple(made.output_type["output"])
    if found != (shape, node.shape):
        kernel, groups = "x".join(map(str, made.weight.shape[2:])), made.groups
        problem = f"the package nir computes wrong shapes of this convolution (kernel {kernel}, {groups} groups)"
        raise ModelError(node.name, problem, "Export to onnx.")


def _parameters(op: Op) -> Iterator[Any]:
    match op:
        case Conv2d(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            yield from (weight, bias)
        case Scale(factor=factor):
            yield np.array(factor)
        case _:
            return


def _form(shape: tuple[int, int, int]) -> tuple[int, ...]:
    return shape[:1] if shape[1:] == (1, 1) else shape
