"""A float model as ONNX: its folded graph in standard operators, each neuron a call of a local function of these.

The function is a Scan over time in the order of operations of nn/lif.py or nn/levels.py, so that ONNX Runtime's spikes
are torch's wherever the sums before them round alike.  Values are (T * N, C, Y, X), as in graph/execute.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.arrays import Pair, Shape
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.imported import about_of
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
    Output,
    Scale,
    SpikeMask,
    TokenPool,
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
LEVELS = {"LevelsHalfEven": True, "LevelsHalfUp": False}
"""Those of integer neurons; whether ties go to the even neighbour."""


def write_model(
    graph: Graph, path: Path, preprocess: Preprocess, labels: tuple[str, ...], training: Mapping[str, Any]
) -> None:
    """Write the graph as an .onnx file: normalised images in, logits out, any number of images.

    T, the preprocessing and the labels go along in its metadata, so that read.py gives the same model again.
    """
    entry = about_of(graph, preprocess, labels, training).text()
    write_whole(path, to_model(graph, entry=entry).SerializeToString(deterministic=True))


def to_model(graph: Graph, record: Sequence[str] = (), entry: str = "") -> Any:
    """The ModelProto; `record` names populations whose spikes become outputs too, `entry` is our own in the metadata.

    Inputs   images (N, C, Y, X) float32, normalised as in training, or (N, T, C, Y, X) where the model takes frames
    Outputs  logits (N, classes) float32; for each recorded one its spikes, under its name, (N, T, C, Y, X) float32
    """
    nodes = Nodes()
    values: dict[str, str] = {}
    for node in graph:
        start = len(nodes.nodes)
        values[node.name] = _value(nodes, graph, node, [values[i] for i in node.inputs])
        if not isinstance(node.op, (Input, Attention, DualSpike)):
            nodes.label(node.name, type(node.op).__name__, start)
    first = graph.nodes[0]
    assert isinstance(first.op, Input)
    frames = [graph.time_steps] if first.op.per_step else []
    images = nodes.info("images", np.float32, ["N", *frames, *first.shape])
    classes = prod(graph.nodes[-1].shape)
    results = [nodes.info("logits", np.float32, ["N", classes])]
    for name in record:
        maps = nodes.shaped(values[name], graph.time_steps, -1, *graph[name].shape)
        nodes.node("Transpose", maps, name=name, perm=[1, 0, 2, 3, 4])
        results.append(nodes.info(name, np.float32, ["N", graph.time_steps, *graph[name].shape]))
    title = f"Spiking network, T = {graph.time_steps}, batch normalisation folded; sha256 {graph.digest()}"
    return nodes.model(GRAPH, images, results, title, _functions(nodes.onnx, graph), entry)


def _functions(onnx: Any, graph: Graph) -> tuple[Any, ...]:
    """The local functions that the graph calls, in an order that is the same for the same graph."""
    lifs = [node.op for node in graph if isinstance(node.op, Lif)]
    kinds = sorted({(lif.decay_input, lif.soft_reset, lif.strict) for lif in lifs})
    roundings = sorted({node.op.half_even for node in graph if isinstance(node.op, Levels)})
    return (
        *(lif_function(onnx, *kind) for kind in kinds),
        *(levels_function(onnx, half_even) for half_even in roundings),
    )


def _value(nodes: Nodes, graph: Graph, node: Node, inputs: list[str]) -> str:
    """The nodes of one operation; the name of its value."""
    steps = graph.time_steps
    match node.op:
        case Input(per_step):
            return _frames(nodes, node.shape, steps, per_step)
        case Conv2d() as conv:
            return _convolution(nodes, conv, inputs[0])
        case Linear(weight, bias):
            # ONNX's Gemm takes one row: a linear layer at every position is a convolution with a kernel of one
            parameters = (nodes.parameter(weight[:, :, None, None]), nodes.parameter(bias))
            return nodes.node("Conv", inputs[0], *parameters, kernel_shape=[1, 1])
        case BatchNorm(gamma, beta, mean, var, eps):
            statistics = [nodes.parameter(p) for p in (gamma, beta, mean, var)]
            return nodes.node("BatchNormalization", inputs[0], *statistics, epsilon=eps)
        case Lif() as lif:
            by_step = nodes.shaped(inputs[0], steps, -1, *node.shape)
            function = _name(lif.decay_input, lif.soft_reset, lif.strict)
            attributes: dict[str, Any] = {"tau": lif.tau, "v_threshold": lif.v_threshold}
            spikes = nodes.node(function, by_step, domain=LOCAL, **attributes)
            return nodes.shaped(spikes, -1, *node.shape)
        case Levels() as levels:
            by_step = nodes.shaped(inputs[0], steps, -1, *node.shape)
            name = next(name for name, half_even in LEVELS.items() if half_even == levels.half_even)
            attributes = {"count": float(levels.count), "threshold": levels.threshold, "keep": levels.keep}
            return nodes.shaped(nodes.node(name, by_step, domain=LOCAL, **attributes), -1, *node.shape)
        case MaxPool2d(kernel, stride, _, dilation) as pool:
            geometry = _window(kernel, stride, _pads(pool, graph[node.inputs[0]].shape))
            if dilation != (1, 1):
                geometry["dilations"] = list(dilation)
            return nodes.node("MaxPool", inputs[0], **geometry)
        case TokenPool(heads, tokens, channels):
            height, width = node.shape[1:]
            by_head = nodes.shaped(inputs[0], -1, heads, node.shape[0] // heads, height * width)
            pads = [channels // 2, tokens // 2] * 2
            pooled = nodes.node("MaxPool", by_head, **_window((channels, tokens), (1, 1), pads))
            return nodes.shaped(pooled, -1, *node.shape)
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
            depths = [graph[name].shape[0] // heads for name in node.inputs]
            return _attention(nodes, node, heads, scale, list(zip(inputs, depths, strict=True)))
        case DualSpike() as dual:
            shapes = [graph[name].shape for name in node.inputs]
            return _dual_spike(nodes, node, dual, list(zip(inputs, shapes, strict=True)))
        case SpikeMask():
            return _masked(nodes, node, graph[node.inputs[1]].shape, inputs)
        case TokenSum():
            return nodes.node("ReduceSum", inputs[0], nodes.constant([2, 3], np.int64), keepdims=1)
        case Mean():
            return nodes.node("ReduceMean", inputs[0], axes=[2, 3], keepdims=1)
        case Output(last):
            by_step = nodes.shaped(inputs[0], steps, -1, prod(node.shape))
            return _logits(nodes, by_step, steps, last)
        case op:  # a kind that came after this file
            raise ModelError(node.name, f"the export to ONNX has no operators for {type(op).__name__}")


def _frames(nodes: Nodes, shape: Shape, steps: int, per_step: bool) -> str:
    """(T * N, C, Y, X): all images of a step lie together, as the Scan of a LIF reads them."""
    if per_step:
        frames = nodes.node("Transpose", "images", perm=[1, 0, 2, 3, 4])
    else:
        once = nodes.shaped("images", 1, -1, *shape)
        frames = nodes.node("Expand", once, nodes.constant([steps, 1, 1, 1, 1], np.int64))
    return nodes.shaped(frames, -1, *shape)


def _logits(nodes: Nodes, by_step: str, steps: int, last: bool) -> str:
    """The mean over the time steps, or the last one."""
    if last:
        return nodes.node("Gather", by_step, nodes.constant(steps - 1, np.int64), name="logits", axis=0)
    return nodes.node("ReduceMean", by_step, name="logits", axes=[0], keepdims=0)


def _convolution(nodes: Nodes, conv: Conv2d, value: str) -> str:
    parameters = (nodes.parameter(conv.weight), nodes.parameter(conv.bias))
    py, px = conv.padding
    geometry: dict[str, Any] = {
        "kernel_shape": list(conv.weight.shape[2:]),
        "strides": list(conv.stride),
        "pads": [py, px, py, px],
    }
    return nodes.node("Conv", value, *parameters, group=conv.groups, **geometry)


def _masked(nodes: Nodes, node: Node, mask_shape: Shape, inputs: list[str]) -> str:
    """Maps times masks: one mask for all channels, one a channel, or one a head, which is a range of channels."""
    values, masks = inputs
    heads = mask_shape[0]
    channels, *extent = node.shape
    if heads in (1, channels):
        return nodes.node("Mul", values, masks)
    by_head = nodes.shaped(values, -1, heads, channels // heads, *extent)
    spread = nodes.shaped(masks, -1, heads, 1, *mask_shape[1:])
    return nodes.shaped(nodes.node("Mul", by_head, spread), -1, *node.shape)


def _window(kernel: Pair, stride: Pair, pads: list[int]) -> dict[str, Any]:
    geometry: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(stride)}
    return geometry | ({"pads": pads} if any(pads) else {})


def _pads(pool: MaxPool2d | AvgPool2d, shape: Shape) -> list[int]:
    """Padding before and after, with what ceil_mode adds behind: no number of windows is left to the runtime."""
    py, px = pool.padding
    more_y, more_x = overhang(pool, shape[1:])
    return [py, px, py + more_y, px + more_x]


def _average(nodes: Nodes, node: Node, pool: AvgPool2d | AdaptiveAvgPool2d, shape: Shape, value: str) -> str:
    """An AveragePool where there is one that divides by the same numbers."""
    window = one_window(pool, shape[1:])
    if window is not None:
        kernel, stride, (py, px), divisor = window
        if divisor == kernel[0] * kernel[1]:
            counted: dict[str, Any] = {"count_include_pad": 1} if py or px else {}
            return nodes.node("AveragePool", value, **_window(kernel, stride, [py, px, py, px]), **counted)
    # windows over the edge: ONNX divides by the positions inside, as torch does where it does not count the padding
    if isinstance(pool, AvgPool2d) and pool.divisor is None and (pool.padding == (0, 0) or not pool.count_include_pad):
        return nodes.node("AveragePool", value, **_window(pool.kernel, pool.stride, _pads(pool, shape)))
    raise ModelError(
        node.name,
        "ONNX has no average pooling over unequal ranges, with a divisor, or with padding and ceil_mode",
        "Pool with windows of one size.",
    )


def _attention(nodes: Nodes, node: Node, heads: int, scale: float, inputs: list[tuple[str, int]]) -> str:
    """inputs: q, k and v, and how many channels of each a head has."""
    tokens = node.shape[1] * node.shape[2]
    q, k, v = (nodes.shaped(value, -1, heads, depth, tokens) for value, depth in inputs)
    # channels first, as the maps lie: (v k^T) q
    pairs = nodes.node("MatMul", v, nodes.node("Transpose", k, perm=[0, 1, 3, 2]))
    products = nodes.node("MatMul", pairs, q)
    nodes.label(node.name, "Attention", len(nodes.nodes) - 1)
    merged = nodes.shaped(products, -1, *node.shape)
    return nodes.node("Mul", merged, nodes.parameter(scale))


def _dual_spike(nodes: Nodes, node: Node, dual: DualSpike, inputs: list[tuple[str, Shape]]) -> str:
    """inputs: y and s, and their shapes."""
    y, spikes = (
        nodes.shaped(value, -1, dual.heads, shape[0] // dual.heads, shape[1] * shape[2]) for value, shape in inputs
    )
    left = y if dual.over_tokens else nodes.node("Transpose", y, perm=[0, 1, 3, 2])
    product = nodes.node("MatMul", left, spikes)
    nodes.label(node.name, "DualSpike", len(nodes.nodes) - 1)
    scaled = nodes.node("Mul", product, nodes.parameter(dual.scale[:, None, None]))
    return nodes.shaped(scaled, -1, *node.shape)


def _name(decay_input: bool, soft_reset: bool, strict: bool) -> str:
    return next(name for name, kind in FUNCTIONS.items() if kind == (decay_input, soft_reset, strict))


def lif_function(onnx: Any, decay_input: bool, soft_reset: bool, strict: bool) -> Any:
    """LIF as a local function: x (T, N, C, Y, X) float32 -> spikes; attributes tau, v_threshold (see graph.ir.Lif)."""
    node = onnx.helper.make_node
    info = onnx.helper.make_tensor_value_info
    real = onnx.TensorProto.FLOAT
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
    body = [
        _attribute(onnx, "tau", "tau"),
        _attribute(onnx, "v_threshold", "threshold"),
        node("Constant", [], ["zero"], value_float=0.0),
        node("Constant", [], ["one"], value_float=1.0),
        node("Constant", [], ["first"], value_int=0),
        node("Div", ["one", "tau"], ["leak"]),
        node("Sub", ["one", "leak"], ["decay"]),
        *_at_rest(onnx),
        node("Scan", ["rest", "x"], ["last", "spikes"], num_scan_inputs=1, body=step),
    ]
    opset = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_function(
        LOCAL, _name(decay_input, soft_reset, strict), ["x"], ["spikes"], body, opset, ["tau", "v_threshold"]
    )


def levels_function(onnx: Any, half_even: bool) -> Any:
    """Integer neurons as a local function: x (T, N, C, Y, X) float32 -> whole numbers.

    Attributes count, threshold and keep, all of them floats (see graph.ir.Levels).
    """
    node = onnx.helper.make_node
    info = onnx.helper.make_tensor_value_info
    real = onnx.TensorProto.FLOAT
    up = [node("Add", ["clamped", "half"], ["raised"]), node("Floor", ["raised"], ["s"])]
    charge_and_count = [
        node("Mul", ["v", "keep"], ["kept"]),
        node("Add", ["kept", "x_t"], ["u"]),
        node("Div", ["u", "threshold"], ["share"]),
        node("Clip", ["share", "zero", "count"], ["clamped"]),
        # ONNX's Round goes to the even neighbour at ties
        *([node("Round", ["clamped"], ["s"])] if half_even else up),
        node("Mul", ["s", "threshold"], ["reset"]),
        node("Sub", ["u", "reset"], ["after"]),
    ]
    step = onnx.helper.make_graph(
        charge_and_count, "step", [info("v", real, None), info("x_t", real, None)],
        [info("after", real, None), info("s", real, None)],
    )  # fmt: skip
    body = [
        *(_attribute(onnx, name, name) for name in ("count", "threshold", "keep")),
        node("Constant", [], ["zero"], value_float=0.0),
        node("Constant", [], ["half"], value_float=0.5),
        node("Constant", [], ["first"], value_int=0),
        *_at_rest(onnx),
        node("Scan", ["rest", "x"], ["last", "sent"], num_scan_inputs=1, body=step),
    ]
    name = next(name for name, kind in LEVELS.items() if kind == half_even)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_function(LOCAL, name, ["x"], ["sent"], body, opset, ["count", "threshold", "keep"])


def _at_rest(onnx: Any) -> list[Any]:
    """The potential at rest, of the shape of one step, which is known only when the function is called."""
    node = onnx.helper.make_node
    return [node("Gather", ["x", "first"], ["x_first"], axis=0), node("Mul", ["x_first", "zero"], ["rest"])]


def _attribute(onnx: Any, name: str, out: str) -> Any:
    """A Constant whose value is an attribute of the function."""
    constant = onnx.helper.make_node("Constant", [], [out])
    # make_node takes values only, and no reference to an attribute
    reference = constant.attribute.add()
    reference.name = "value_float"
    reference.ref_attr_name = name
    reference.type = onnx.AttributeProto.FLOAT
    return constant
