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

from spikformer_deploy.base.arrays import Pair, Shape
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.base.formats import ENTRY
from spikformer_deploy.converters.imported import about_of
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
    DualSpike,
    Graph,
    Input,
    Levels,
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
    TokenPool,
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
    written = _Written(nir, graph)
    for node in graph:
        written.write(node)
    metadata = {ENTRY: about_of(graph, preprocess, labels, training).text(), "dt": USUAL_DT}
    buffer = io.BytesIO()
    nir.write(buffer, nir.NIRGraph(written.nodes, written.edges, metadata))
    write_whole(path, buffer.getvalue())


def _package(path: Path) -> Any:
    try:
        import nir
    except ImportError:
        raise InputError(str(path), "writing .nir files needs the package nir", "pip install nir") from None
    return nir


class _Written:
    """NIR nodes and edges as they grow; a value of one position is a row of numbers, as linear layers want it.

    senders  names of the NIR nodes whose outputs add up to the value of a node of the graph, by its name
    """

    def __init__(self, nir: Any, graph: Graph) -> None:
        self.nir = nir
        self.graph = graph
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.senders: dict[str, tuple[str, ...]] = {}
        parameters = [value for node in graph for value in _parameters(node.op)]
        single = all(np.array_equal(value, value.astype(np.float32)) for value in parameters)
        self.dtype = np.float32 if single else np.float64

    def write(self, node: Node) -> None:
        """Add what NIR has for a node; ModelError where it has nothing."""
        name = node.name
        nir = self.nir
        # of what flows in; all inputs of a node that NIR has are alike
        shape = self.graph[node.inputs[0]].shape if node.inputs else node.shape
        match node.op:
            case Input():
                self.put(node, nir.Input(np.array(_form(node.shape))))
            case Output(last=True):
                problem = "it reads the last time step only, and a reader of NIR takes the mean of all"
                raise ModelError(name, problem, "Export to onnx.")
            case Output():
                self.put(node, nir.Output(np.array(_form(node.shape))))
            case Linear(weight, bias) if shape[1:] == (1, 1):
                self.put(node, nir.Affine(self.real(weight), self.real(bias)))
            case Linear(weight, bias):
                # at every position of a map: a convolution with a kernel of one position
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
                # the mean of one position is that position: no node
                self.senders[name] = self.senders[node.inputs[0]]
            case Mean():
                self.pool(node, (shape[1], shape[2]), (shape[1], shape[2]))
            case Scale(factor):
                self.put(node, nir.Scale(np.full(_form(node.shape), factor, self.dtype)))
            case Add():
                self.add(node)
            case _:
                raise _refusal(name, node.op)

    def average(self, node: Node, pool: AvgPool2d | AdaptiveAvgPool2d, extents: Pair) -> None:
        """An average over windows of one size, each divided by the number of its positions."""
        kernel, stride = _plain_window(node, pool, extents)
        if extents == (1, 1):
            self.senders[node.name] = self.senders[node.inputs[0]]
        else:
            self.pool(node, kernel, stride)

    def put(self, node: Node, nir_node: Any, senders: Sequence[str] | None = None) -> None:
        """A NIR node, with edges from `senders`, or from all that flows into it."""
        flowing = self.flowing(node) if senders is None else senders
        self.nodes[node.name] = nir_node
        self.edges += [(sender, node.name) for sender in flowing]
        self.senders[node.name] = (node.name,)
        # these give a map out, of one position here; a row of numbers is what the next node expects
        if isinstance(node.op, (Conv2d, AvgPool2d, Mean)) and len(_form(node.shape)) == 1 and senders is None:
            self.senders[node.name] = (self.flatten(node.name, node.shape, (node.name,)),)

    def flowing(self, node: Node) -> list[str]:
        """The senders of all inputs of a node."""
        return [sender for value in node.inputs for sender in self.senders[value]]

    def flatten(self, name: str, shape: tuple[int, ...], senders: Sequence[str]) -> str:
        """A Flatten of what `senders` send; its name."""
        flat = f"{name}.flatten"
        self.nodes[flat] = self.nir.Flatten(np.array(shape), start_dim=0, end_dim=-1)
        self.edges += [(sender, flat) for sender in senders]
        return flat

    def conv(self, node: Node, shape: Shape, conv: Conv2d) -> None:
        """A convolution; where its kernel is the whole map it is a linear layer on the flattened map."""
        weight = self.real(conv.weight)
        bias = self.real(conv.bias)
        if weight.shape[1:] == shape and conv.padding == (0, 0):
            senders = self.senders[node.inputs[0]]
            rows = self.nir.Affine(weight.reshape(len(weight), -1), bias)
            self.put(node, rows, senders if shape[1:] == (1, 1) else [self.flatten(node.name, shape, senders)])
        elif shape[1:] == (1, 1):
            raise ModelError(node.name, "NIR sees one position as a row of numbers, and this convolution pads it")
        else:
            convolution = self.nir.Conv2d(shape[1:], weight, conv.stride, conv.padding, 1, conv.groups, bias)
            _check_types(node, convolution, shape)
            self.put(node, convolution)

    def pool(self, node: Node, kernel: Pair, stride: Pair) -> None:
        """Averages over windows without padding."""
        no_padding = np.zeros(2, np.int64)
        self.put(node, self.nir.AvgPool2d(np.array(kernel), np.array(stride), no_padding))

    def add(self, node: Node) -> None:
        """Edges that meet add up; no two of them may come from the same node."""
        senders = tuple(self.flowing(node))
        if len(set(senders)) != len(senders):
            raise ModelError(node.name, "it adds a value to itself, and NIR has one edge between two nodes")
        self.senders[node.name] = senders

    def neuron(self, lif: Lif, shape: tuple[int, ...]) -> Any:
        """A LIF, or an IF where nothing leaks, with all its parameters at every position, as NIR wants them."""

        def full(value: float) -> Any:
            return np.full(shape, value, self.dtype)

        # no fp32 number lies between the one before the threshold and the threshold: v > the one is v >= the other
        at = np.float32(lif.v_threshold)
        threshold = full(float(at if lif.strict else np.nextafter(at, np.float32(-inf))))
        zero = full(0)
        if lif.tau == inf:
            return self.nir.IF(full(1 / USUAL_DT), threshold, zero)
        tau = full(lif.tau * USUAL_DT)
        # dt / tau * r I: the gain tau / dt cancels the factor that NIR gives every input
        r = full(1 if lif.decay_input else lif.tau)
        return self.nir.LIF(tau=tau, r=r, v_leak=zero, v_threshold=threshold, v_reset=zero)

    def real(self, values: Any) -> Any:
        """Numbers in the type of the file."""
        return np.array(values, self.dtype)


def _refusal(
    name: str,
    op: Levels | MaxPool2d | TokenPool | Attention | DualSpike | SpikeMask | TokenSum | Concat | Offset | BatchNorm,
) -> ModelError:
    match op:
        case Levels():
            return ModelError(name, "NIR has no neurons that send integers", "Export to onnx.")
        case MaxPool2d():
            return ModelError(name, "NIR has no max-pooling", "Export to onnx, or train with average pooling.")
        case Attention():
            return ModelError(name, "NIR has no attention: no product of two activations", "Export to onnx.")
        case DualSpike():
            problem = "NIR has no dual spike transformation: no product of two activations"
            return ModelError(name, problem, "Export to onnx.")
        case SpikeMask():
            return ModelError(name, "NIR has no masks: no product of two activations", "Export to onnx.")
        case TokenPool():
            return ModelError(name, "NIR has no max-pooling over tokens and channels", "Export to onnx.")
        case TokenSum():
            return ModelError(name, "NIR has no sum over all positions", "Export to onnx.")
        case Concat():
            return ModelError(name, "NIR cannot join the channels of branches", "Export to onnx.")
        case Offset():
            return ModelError(name, "NIR adds no constants to maps (a position embedding)", "Export to onnx.")
        case BatchNorm():
            return ModelError(name, "NIR has no batch normalisation", "Fold it into the layer before.")
        case _:  # a kind that came after this file
            return ModelError(name, f"NIR has nothing like {type(op).__name__}", "Export to onnx.")


def _plain_window(node: Node, pool: AvgPool2d | AdaptiveAvgPool2d, extents: Pair) -> tuple[Pair, Pair]:
    """(kernel, stride) of an average pool that NIR has."""
    window = one_window(pool, extents)
    if window is not None:
        kernel, stride, padding, divisor = window
        if padding == (0, 0) and divisor == kernel[0] * kernel[1]:
            return kernel, stride
    problem = "NIR's average pooling has no padding, no ceil_mode, and no divisor of its own"
    raise ModelError(node.name, problem, "Export to onnx, or pool with windows of one size.")


def _check_types(node: Node, convolution: Any, shape: Shape) -> None:
    """Refuse a convolution of which nir has other shapes than it has: nir.read of any tool would refuse the file.

    nir 1.0.8 takes the first extent of a kernel for both, and the channels of one group for all.
    """
    input_shape = tuple(convolution.input_type["input"])
    output_shape = tuple(convolution.output_type["output"])
    if (input_shape, output_shape) != (shape, node.shape):
        kernel = "x".join(map(str, convolution.weight.shape[2:]))
        which = f"kernel {kernel}, {convolution.groups} groups"
        problem = f"the package nir computes wrong shapes of this convolution ({which})"
        raise ModelError(node.name, problem, "Export to onnx.")


def _parameters(op: Op) -> Iterator[Any]:
    """The numbers that decide whether fp32 holds the model."""
    match op:
        case Conv2d(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            yield from (weight, bias)
        case Scale(factor=factor):
            yield np.array(factor)
        case _:
            return


def _form(shape: Shape) -> tuple[int, ...]:
    """A shape as NIR has it: (C,) for a row of numbers."""
    return shape[:1] if shape[1:] == (1, 1) else shape
