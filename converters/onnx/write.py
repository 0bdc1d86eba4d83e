"""A float model as ONNX: its folded graph in standard operators, each LIF a call of a local function of these.

The LIF function is a Scan over time in the order of operations of nn/lif.py, so that ONNX Runtime's spikes are torch's
wherever the sums before them round alike.  Values are (T * N, C, Y, X), as in graph/execute.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Pair, Shape
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.imported import about
from spikformer_deploy.converters.onnx.nodes import LOCAL, OPSET, Nodes
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
    Output,
    Scale,
    SpikeMask,
    TokenSum,
)
from spikformer_deploy.graph.windows import one_window, overhang

GRAPH = "spiking_model"
FUNCTIONS = {
    "LifHardResetDecayInput": (True, False, False),
    "LifHardReset": (False, False, False),
    "LifSoftResetDecayInput": (True, True, False),
    "LifSoftReset": (False, True, False),
    "LifHardResetDecayInputStrict": (True, False, True),
    "LifHardResetStrict": (False, False, True),
    "LifSoftResetDecayInputStrict": (True, True, True),
    "LifSoftResetStrict": (False, True, True),
}
"""Names of the local functions; whether the input decays, the reset is soft, and the comparison strict."""


def write_model(
    graph: Graph, path: Path, preprocess: Preprocess, labels: tuple[str, ...], training: Mapping[str, Any]
) -> None:
    """Write the graph as an .onnx file: normalised images in, logits out, any number of images.

    T, the preprocessing and the labels go along in its metadata, so that onnx_reader gives the same model again.
    """
    notes = about(graph, preprocess, labels, training).text()
    write_whole(path, to_model(graph, notes=notes).SerializeToString(deterministic=True))


def to_model(graph: Graph, record: Sequence[str] = (), notes: str = "") -> Any:
    """The ModelProto; `record` names LIFs whose spikes become outputs too, `notes` are metadata.

    Inputs   images (N, C, Y, X) float32, normalised as in training, or (N, T, C, Y, X) where the model takes frames
    Outputs  logits (N, classes) float32; for each recorded LIF its spikes, under its name, (N, T, C, Y, X) float32
    """
    nodes = Nodes()
    values: dict[str, str] = {}
    for node in graph:
        start = len(nodes.nodes)
        values[node.name] = _value(nodes, graph, node, [values[i] for i in node.inputs])
        if not isinstance(node.op, (Input, Attention)):
            nodes.label(node.name, type(node.op).__name__, start)
    first, last = graph.nodes[0], graph.nodes[-1]
    assert isinstance(first.op, Input)
    steps = [graph.time_steps] if first.op.per_step else []
    given = nodes.info("images", np.float32, ["N", *steps, *first.shape])
    made = [nodes.info("logits", np.float32, ["N", last.shape[0]])]
    for name in record:
        maps = nodes.shaped(values[name], graph.time_steps, -1, *graph[name].shape)
        nodes.node("Transpose", maps, name=name, perm=[1, 0, 2, 3, 4])
        made.append(nodes.info(name, np.float32, ["N", graph.time_steps, *graph[name].shape]))
    kinds = sorted({(op.decay_input, op.soft_reset, op.strict) for n in graph.of(Lif) if isinstance(op := n.op, Lif)})
    functions = tuple(lif_function(nodes.onnx, *kind) for kind in kinds)
    what = f"Spiking network, T = {graph.time_steps}, batch normalisation folded; sha256 {graph.digest()}"
    return nodes.model(GRAPH, given, made, what, functions, notes)


def _value(nodes: Nodes, graph: Graph, node: Node, inputs: list[str]) -> str:
    """The nodes of one operation; the name of its value."""
    steps = graph.time_steps
    match node.op:
        case Input(per_step):
            if per_step:
                return nodes.shaped(nodes.node("Transpose", "images", perm=[1, 0, 2, 3, 4]), -1, *node.shape)
            once = nodes.shaped("images", 1, -1, *node.shape)
            frames = nodes.node("Expand", once, nodes.constant([steps, 1, 1, 1, 1], np.int64))
            return nodes.shaped(frames, -1, *node.shape)
        case Conv2d(weight, bias, stride, (py, px), groups):
            parameters = (nodes.parameter(weight), nodes.parameter(bias))
            geometry: dict[str, Any] = {
                "kernel_shape": list(weight.shape[2:]),
                "strides": list(stride),
                "pads": [py, px, py, px],
            }
            return nodes.node("Conv", inputs[0], *parameters, group=groups, **geometry)
        case Linear(weight, bias):
            parameters = (nodes.parameter(weight[:, :, None, None]), nodes.parameter(bias))
            return nodes.node("Conv", inputs[0], *parameters, kernel_shape=[1, 1])
        case BatchNorm(gamma, beta, mean, var, eps):
            statistics = [nodes.parameter(p) for p in (gamma, beta, mean, var)]
            return nodes.node("BatchNormalization", inputs[0], *statistics, epsilon=eps)
        case Lif(tau, v_threshold, decay_input, soft_reset, strict):
            by_step = nodes.shaped(inputs[0], steps, -1, *node.shape)
            called: dict[str, Any] = {"domain": LOCAL, "tau": tau, "v_threshold": v_threshold}
            return nodes.shaped(nodes.node(_name(decay_input, soft_reset, strict), by_step, **called), -1, *node.shape)
        case MaxPool2d(kernel, stride, _, dilation) as pool:
            geometry = _window(kernel, stride, _pads(pool, graph[node.inputs[0]].shape))
            more: dict[str, Any] = {} if dilation == (1, 1) else {"dilations": list(dilation)}
            return nodes.node("MaxPool", inputs[0], **geometry, **more)
        case AvgPool2d() | AdaptiveAvgPool2d() as average:
            return _average(nodes, node, average, graph[node.inputs[0]].shape, inputs[0])
        case Add():
            return nodes.node("Add", *inputs)
        case Concat():
            return nodes.node("Concat", *inputs, axis=1)
        case Offset(value):
            return nodes.node("Add", inputs[0], nodes.parameter(value))
        case Scale(factor):
            return nodes.node("Mul", inputs[0], nodes.parameter(factor))
        case Attention(heads, scale):
            return _attention(nodes, node, heads, scale, inputs)
        case SpikeMask():
            masks = graph[node.inputs[1]].shape
            if masks[0] in (1, node.shape[0]):
                return nodes.node("Mul", *inputs)
            by_head = nodes.shaped(inputs[0], -1, masks[0], node.shape[0] // masks[0], *node.shape[1:])
            spread = nodes.shaped(inputs[1], -1, masks[0], 1, *masks[1:])
            return nodes.shaped(nodes.node("Mul", by_head, spread), -1, *node.shape)
        case TokenSum():
            return nodes.node("ReduceSum", inputs[0], nodes.constant([2, 3], np.int64), keepdims=1)
        case Mean():
            return nodes.node("ReduceMean", inputs[0], axes=[2, 3], keepdims=1)
        case Output(last):
            by_step = nodes.shaped(inputs[0], steps, -1, node.shape[0])
            if last:
                return nodes.node("Gather", by_step, nodes.constant(steps - 1, np.int64), name="logits", axis=0)
            return nodes.node("ReduceMean", by_step, name="logits", axes=[0], keepdims=0)
        case _:
            assert_never(node.op)


def _window(kernel: Pair, stride: Pair, pads: list[int]) -> dict[str, Any]:
    geometry: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(stride)}
    return geometry | ({"pads": pads} if any(pads) else {})


def _pads(pool: MaxPool2d | AvgPool2d, shape: Shape) -> list[int]:
    """Padding before and after, with what ceil_mode adds behind: no number of windows is left to the runtime."""
    (py, px), (more_y, more_x) = pool.padding, overhang(pool, shape[1:])
    return [py, px, py + more_y, px + more_x]


def _average(nodes: Nodes, node: Node, pool: AvgPool2d | AdaptiveAvgPool2d, shape: Shape, value: str) -> str:
    """An AveragePool where there is one that divides by the same numbers."""
    plain = one_window(pool, shape[1:])
    if plain is not None and plain[3] == plain[0][0] * plain[0][1]:
        kernel, stride, (py, px), _ = plain
        counted: dict[str, Any] = {"count_include_pad": 1} if py or px else {}
        return nodes.node("AveragePool", value, **_window(kernel, stride, [py, px, py, px]), **counted)
    inside = isinstance(pool, AvgPool2d) and pool.divisor is None
    if isinstance(pool, AvgPool2d) and inside and (pool.padding == (0, 0) or not pool.count_include_pad):
        return nodes.node("AveragePool", value, **_window(pool.kernel, pool.stride, _pads(pool, shape)))
    raise ModelError(
        node.name,
        "ONNX has no average pooling over unequal ranges, with a divisor, or with padding and ceil_mode",
        "Pool with windows of one size.",
    )


def _attention(nodes: Nodes, node: Node, heads: int, scale: float, inputs: list[str]) -> str:
    channels, height, width = node.shape
    q, k, v = (nodes.shaped(i, -1, heads, channels // heads, height * width) for i in inputs)
    pairs = nodes.node("MatMul", v, nodes.node("Transpose", k, perm=[0, 1, 3, 2]))
    products = nodes.node("MatMul", pairs, q)
    nodes.label(node.name, "Attention", len(nodes.nodes) - 1)
    merged = nodes.shaped(products, -1, *node.shape)
    return nodes.node("Mul", merged, nodes.parameter(scale))


def _name(decay_input: bool, soft_reset: bool, strict: bool) -> str:
    return next(name for name, kind in FUNCTIONS.items() if kind == (decay_input, soft_reset, strict))


def lif_function(onnx: Any, decay_input: bool, soft_reset: bool, strict: bool) -> Any:
    """LIF as a local function: x (T, N, C, Y, X) float32 -> spikes; attributes tau, v_threshold (see graph.ir.Lif)."""
    node, info, real = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    if decay_input:
        charge = [
            node("Sub", ["x_t", "v"], ["difference"]),
            node("Div", ["difference", "tau"], ["share"]),
            node("Add", ["v", "share"], ["h"]),
        ]
    else:
        charge = [node("Mul", ["v", "decay"], ["kept"]), node("Add", ["kept", "x_t"], ["h"])]
    fire = [
        node("Greater" if strict else "GreaterOrEqual", ["h", "threshold"], ["fired"]),
        *([node("Sub", ["h", "threshold"], ["reset"])] if soft_reset else []),
        node("Where", ["fired", "reset" if soft_reset else "zero", "h"], ["after"]),
        node("Cast", ["fired"], ["s"], to=real),
    ]
    step = onnx.helper.make_graph(
        [*charge, *fire], "step", [info("v", real, None), info("x_t", real, None)],
        [info("after", real, None), info("s", real, None)],
    )  # fmt: skip
    constants = [_attribute(onnx, "tau", "tau"), _attribute(onnx, "v_threshold", "threshold")]
    constants += [node("Constant", [], ["zero"], value_float=0.0), node("Constant", [], ["one"], value_float=1.0)]
    constants += [node("Constant", [], ["first"], value_int=0)]
    body = [
        *constants,
        node("Div", ["one", "tau"], ["leak"]),
        node("Sub", ["one", "leak"], ["decay"]),
        node("Gather", ["x", "first"], ["x_first"], axis=0),
        node("Mul", ["x_first", "zero"], ["rest"]),
        node("Scan", ["rest", "x"], ["last", "spikes"], num_scan_inputs=1, body=step),
    ]
    opset = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_function(
        LOCAL, _name(decay_input, soft_reset, strict), ["x"], ["spikes"], body, opset, ["tau", "v_threshold"]
    )


def _attribute(onnx: Any, name: str, out: str) -> Any:
    """A Constant whose value is an attribute of the function."""
    constant = onnx.helper.make_node("Constant", [], [out])
    reference = constant.attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "value_float", name, onnx.AttributeProto.FLOAT
    return constant
