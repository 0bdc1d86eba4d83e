"""An integer program as ONNX: standard operators only, so that ONNX Runtime gives the same spikes, bit for bit.

Messages are floats that hold small integers; sums of them stay below 2^24 (2^53 in double), where they are exact.
Neurons are updated in int64, time step after time step, by one Scan a population; those that keep nothing from step to
step need none.  Maps are (T, N, C, Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import EXACT_FP32, EXACT_FP64
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.onnx.nodes import INTEGERS, Nodes
from spikformer_deploy.network.bounds import largest_sum
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import (
    DECAY_ONE,
    STOCK_SHIFT,
    Accumulator,
    And,
    Levels,
    Lif,
    LifKind,
    Max,
    Or,
    Source,
    Stream,
    Sum,
)
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window

NIBBLE = 16
"""Where a convolution is too wide for fp32, its weights are taken apart: w = 16 * high + low."""


def write_program(network: Network, path: Path) -> None:
    """Write `network` as an .onnx file: pixels in, accumulators (int64) and logits (double) out.

    Raises ModelError for a layer whose sums no float of ONNX Runtime's convolutions holds exactly.
    """
    write_whole(path, to_model(network).SerializeToString())


def to_model(network: Network, record: Sequence[str] = ()) -> Any:
    """The ModelProto; `record` names populations whose messages and potentials become outputs too.

    Inputs   pixels (N, C, Y, X) uint8, or (N, T, C, Y, X) where the network takes frames; uint16 where they exceed 255
    Outputs  accumulators (N, classes) int64; logits (N, classes) double; for each recorded population `name`
             sent/name and potential/name (N, T, C, Y, X) float and int64, potentials of LIFs, Levels and accumulators
             only;
             reached/name int64, the largest magnitude of all states and sums met, as Execution.peak_state; none of Max
    """
    graph = _Graph(network, record)
    graph.source()
    for population in network.populations[1:]:
        graph.population(population)
    title = f"Integer spiking network, T = {network.time_steps}; sha256 {network.digest()}"
    return graph.model(INTEGERS, graph.pixels(), graph.outputs(), title)


def pixel_type(network: Network) -> type[np.uint8] | type[np.uint16]:
    """The narrowest type of the pixels that a network takes."""
    return np.uint8 if network.input.max_out < 256 else np.uint16


@dataclass(frozen=True, slots=True)
class _Link:
    """A projection between two populations; `messages` is the value that its first source sends."""

    projection: Projection
    source: Population
    target: Population
    messages: str


class _Graph(Nodes):
    """The graph as it grows.

    sent        messages of each population, (T, N, C, Y, X) float
    potentials  of LIFs, Levels and accumulators, (T, N, C, Y, X) int64
    reached     by population, the values whose largest magnitude is recorded
    """

    def __init__(self, network: Network, record: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.record = record
        self.sent: dict[str, str] = {}
        self.potentials: dict[str, str] = {}
        self.reached: dict[str, list[str]] = {}

    # --- populations ---

    def pixels(self) -> Any:
        """The description of the input."""
        steps = [self.network.time_steps] if _per_step(self.network) else []
        shape: list[Any] = ["N", *steps, *self.network.input.shape]
        return self.info("pixels", pixel_type(self.network), shape)

    def source(self) -> None:
        """What the input sends, in every time step."""
        real = self.cast("pixels", np.float32)
        if _per_step(self.network):
            frames = self.node("Transpose", real, perm=[1, 0, 2, 3, 4])
        else:
            once = self.shaped(real, 1, -1, *self.network.input.shape)
            repeats = self.constant([self.network.time_steps, 1, 1, 1, 1], np.int64)
            frames = self.node("Expand", once, repeats)
        self.sent[self.network.input.name] = frames

    def population(self, population: Population) -> None:
        """Its synaptic sums and what its neurons make of them."""
        if population.max_out >= EXACT_FP32:
            raise ModelError(population.name, f"messages of up to {population.max_out:,} are not exact in fp32")
        name = population.name
        if isinstance(population.neuron, Max):
            self.sent[name] = self.largest(population)
            return
        total = self.total(population)
        reached = [total]
        match population.neuron:
            case Or():
                silent = self.node("Equal", total, self.constant(0, np.int64))
                self.sent[name] = self.cast(self.node("Not", silent), np.float32)
            case Sum():
                self.sent[name] = self.cast(total, np.float32)
            case And(inputs=inputs):
                missing = self.node("Less", total, self.constant(inputs, np.int64))
                self.sent[name] = self.cast(self.node("Not", missing), np.float32)
            case Stream() as stream:
                current = self.node("Add", total, self.over_positions(stream.bias))
                self.sent[name] = self.cast(self.dropped(stream.drop, current), np.float32)
                reached = [current]
            case Lif() as lif:
                spikes, potentials, *reached = self.lif(lif, total, name in self.record)
                self.sent[name] = self.cast(spikes, np.float32)
                self.potentials[name] = potentials
            case Levels() as neuron:
                sent, self.potentials[name], *reached = self.levels(neuron, total, name in self.record)
                self.sent[name] = self.cast(sent, np.float32)
            case Accumulator() as head:
                running = total if head.last else self.node("CumSum", total, self.constant(0, np.int64))
                self.potentials[name] = self.node("Add", running, self.over_positions(head.bias))
                reached = [self.potentials[name], total]
            case Source() | Max():
                raise ModelError(name, "an input in the middle of the network")
            case _:
                assert_never(population.neuron)
        self.reached[name] = reached

    def dropped(self, drop: int, current: str) -> str:
        """current / 2^drop, rounded to the nearest."""
        if not drop:
            return current
        raised = self.node("Add", current, self.constant(1 << drop >> 1, np.int64))
        return _floored(self, raised, 1 << drop)

    def largest(self, population: Population) -> str:
        """What a population that takes the largest of its window sends: ONNX's max-pooling leaves padding out, too."""
        (projection,) = self.network.into(population.name)
        window = projection.synapse
        source = self.network[projection.sources[0]]
        assert isinstance(window, Window)
        py, px = window.padding
        merged = self.shaped(self.sent[source.name], -1, *source.shape)
        out = self.node(
            "MaxPool", merged, kernel_shape=list(window.kernel), strides=list(window.stride), pads=[py, px, py, px]
        )
        return self.shaped(out, self.network.time_steps, -1, *population.shape)

    def over_positions(self, values: NDArray[np.int64]) -> str:
        """(C,) or (C, Y, X) parameters, as a constant that broadcasts over maps."""
        return self.constant(values.reshape(-1, 1, 1) if values.ndim == 1 else values, np.int64)

    def lif(self, lif: Lif, total: str, watched: bool) -> list[str]:
        """[spikes, potentials] of all time steps, from the sums.

        And where watched potentials before the reset, drives, and currents where they decay.
        """
        extra = STOCK_SHIFT if lif.kind == LifKind.STOCK else 0
        scaled = self.node("Mul", total, self.constant(2 ** (lif.shift + extra), np.int64))
        rest = self.at_rest(scaled)
        extras: list[str] = []
        if watched:
            extras = ["reached", "drives", "currents"] if lif.current else ["reached", "drives"]
        names = [self.fresh(kind) for kind in ("last", "current", "spikes", "states", *extras)]
        bias = self.over_positions(lif.bias << extra)
        threshold = self.over_positions(lif.threshold << extra)
        body = _update(self.onnx, lif, bias, threshold, watched=len(extras))
        # the state is v and u, and what is scanned are the sums of one step after the other
        scan = self.onnx.helper.make_node("Scan", [rest, rest, scaled], names, num_scan_inputs=1, body=body)
        self.nodes.append(scan)
        _, _, *of_all_steps = names
        return of_all_steps

    def levels(self, neuron: Levels, total: str, watched: bool) -> list[str]:
        """[what is sent, potentials, drives] of all time steps, from the sums, int64.

        And where watched potentials before the reset, of those that keep theirs.
        """
        scaled = self.node("Mul", total, self.constant(2**neuron.shift, np.int64))
        drives = self.node("Add", scaled, self.over_positions(neuron.bias))
        levels = [self.over_positions(level) for level in neuron.levels.T]
        if not neuron.decay:
            return [_how_many(self, drives, levels), drives, drives]
        last, sent, potentials, *reached = (
            self.fresh(kind) for kind in ("last", "counts", "states", *["reached"] * watched)
        )
        names = [last, sent, potentials, *reached]
        body = _levels_step(neuron.decay, levels, self.over_positions(neuron.reset), watched=watched)
        scan = self.onnx.helper.make_node("Scan", [self.at_rest(drives), drives], names, num_scan_inputs=1, body=body)
        self.nodes.append(scan)
        return [sent, potentials, drives, *reached]

    def at_rest(self, value: str) -> str:
        """Zeros of the shape of one step: the number of images is known only when the file is run."""
        first = self.node("Gather", value, self.constant(0, np.int64), axis=0)
        return self.node("Mul", first, self.constant(0, np.int64))

    # --- synapses ---

    def total(self, population: Population) -> str:
        """Sum of all synapses in every step, int64."""
        parts = [self.synapse(p, population) for p in self.network.into(population.name)]
        total = parts[0]
        for part in parts[1:]:
            total = self.node("Add", total, part)
        return total

    def synapse(self, projection: Projection, target: Population) -> str:
        """What one projection delivers, (T, N, C, Y, X) int64."""
        source = self.network[projection.sources[0]]
        link = _Link(projection, source, target, self.sent[source.name])
        match projection.synapse:
            case Conv() as conv:
                return self.convolution(link, conv)
            case Window() as window:
                return self.window(link, window)
            case Attention() as attention:
                return self.attention(projection, attention, target)
            case DualSpike() as dual:
                return self.dual_spike(projection, dual, target)
            case Readout() as readout:
                return self.readout(link, readout)
            case _:
                assert_never(projection.synapse)

    def convolution(self, link: _Link, conv: Conv) -> str:
        """Exact sums: in one convolution where fp32 holds them all, else in two, of the halves of the weights."""
        if conv.shift:
            plain = self.convolution(link, replace(conv, shift=0))
            return self.node("Mul", plain, self.constant(2**conv.shift, np.int64))
        bound = largest_sum(self.network, link.projection)
        if bound < EXACT_FP32:
            return self.convolved(link, conv)
        # floor division: the lower half is never negative, and both fit int8
        high = conv.weight // NIBBLE
        upper = _with_weight(conv, high)
        lower = _with_weight(conv, conv.weight - NIBBLE * high)
        if max(_reach(upper), _reach(lower)) * link.source.max_out >= EXACT_FP32:
            raise ModelError(
                link.target.name,
                f"sums of up to {bound:,} are not exact in ONNX Runtime's convolutions (fp32, below {EXACT_FP32:,})",
                "Compile with fewer weight bits.",
            )
        high_sums = self.convolved(link, upper)
        low_sums = self.convolved(link, lower)
        return self.node("Add", self.node("Mul", high_sums, self.constant(NIBBLE, np.int64)), low_sums)

    def convolved(self, link: _Link, conv: Conv) -> str:
        """One convolution in fp32, whose sums are integers that fp32 holds."""
        merged = self.shaped(link.messages, -1, *link.source.shape)
        py, px = conv.padding
        geometry: dict[str, Any] = {"kernel_shape": list(conv.weight.shape[2:]), "strides": list(conv.stride)}
        # stored as integers, a quarter of the size
        real = self.cast(self.constant(conv.weight, conv.weight.dtype), np.float32)
        out = self.node("Conv", merged, real, pads=[py, px, py, px], group=conv.groups, **geometry)
        return self.cast(self.shaped(out, self.network.time_steps, -1, *link.target.shape), np.int64)

    def window(self, link: _Link, window: Window) -> str:
        """Sums over windows: of one position, of all positions, or a convolution with ones, channel by channel."""
        if any(window.offset):
            return self.window(self.moved(link, window), Window(window.kernel, window.stride))
        if (window.kernel, window.stride, window.padding) == ((1, 1), (1, 1), (0, 0)):
            return self.cast(link.messages, np.int64)
        if window.kernel == link.source.shape[1:] and window.padding == (0, 0):
            positions = self.cast(link.messages, np.int64)
            return self.node("ReduceSum", positions, self.constant([3, 4], np.int64), keepdims=1)
        bound = largest_sum(self.network, link.projection)
        if bound >= EXACT_FP32:
            raise ModelError(link.target.name, f"sums of up to {bound:,} are not exact in ONNX Runtime's convolutions")
        channels = link.source.shape[0]
        ones = np.ones((channels, 1, *window.kernel), np.int8)
        return self.convolved(link, Conv(ones, window.stride, window.padding, channels))

    def moved(self, link: _Link, window: Window) -> _Link:
        """The part of the source, and of zeros around it, that moved windows see without any padding."""
        channels, height, width = link.source.shape
        (py, px), (oy, ox) = window.padding, window.offset
        shape = (channels, height + 2 * py, width + 2 * px)
        border = [0, 0, 0, py + abs(oy), px + abs(ox)]
        padded = self.node("Pad", link.messages, self.constant(border * 2, np.int64))
        first = [abs(oy) + oy, abs(ox) + ox]
        end = [first[0] + shape[1], first[1] + shape[2]]
        seen = self.node("Slice", padded, *(self.constant(values, np.int64) for values in (first, end, [3, 4])))
        return replace(link, source=replace(link.source, shape=shape), messages=seen)

    def dual_spike(self, projection: Projection, dual: DualSpike, target: Population) -> str:
        """y^T s, or y s over tokens, head by head: channels x positions."""
        y, spikes = (self.by_head(name, dual.heads, self.exact_kind(projection, target)) for name in projection.sources)
        left = y if dual.over_tokens else self.node("Transpose", y, perm=[0, 1, 2, 4, 3])
        sums = self.cast(self.node("MatMul", left, spikes), np.int64)
        return self.shaped(sums, self.network.time_steps, -1, *target.shape)

    def exact_kind(self, projection: Projection, target: Population) -> type[np.float32] | type[np.float64]:
        """The float type that holds every partial sum of matrix products."""
        bound = largest_sum(self.network, projection)
        if bound >= EXACT_FP64:
            raise ModelError(target.name, f"sums of up to {bound:,} are not exact in double", "Use fewer tokens.")
        return np.float32 if bound < EXACT_FP32 else np.float64

    def by_head(self, name: str, heads: int, kind: type[np.floating]) -> str:
        """What a population sends, (T, N, heads, channels of a head, positions)."""
        channels, height, width = self.network[name].shape
        sent = self.cast(self.sent[name], kind)
        return self.shaped(sent, self.network.time_steps, -1, heads, channels // heads, height * width)

    def attention(self, projection: Projection, attention: Attention, target: Population) -> str:
        """weight * q (K^T V), head by head: channels x tokens; q and k may have other channels than v."""
        kind = self.exact_kind(projection, target)
        q, k, v = (self.by_head(name, attention.heads, kind) for name in projection.sources)
        pairs = self.node("MatMul", v, self.node("Transpose", k, perm=[0, 1, 2, 4, 3]))
        out = self.cast(self.node("MatMul", pairs, q), np.int64)
        weighted = self.node("Mul", out, self.constant(attention.weight, np.int64))
        return self.shaped(weighted, self.network.time_steps, -1, *target.shape)

    def readout(self, link: _Link, readout: Readout) -> str:
        """Weights times the sums over all positions; in double, whose 53 bits hold every sum that the law allows."""
        messages = self.cast(link.messages, np.float64)
        counts = self.node("ReduceSum", messages, self.constant([3, 4], np.int64), keepdims=0)
        sums = self.node("MatMul", counts, self.constant(readout.weight.T, np.float64))
        return self.shaped(self.cast(sums, np.int64), self.network.time_steps, -1, *link.target.shape)

    # --- outputs ---

    def outputs(self) -> list[Any]:
        """Descriptions of the outputs, and the nodes that make them."""
        head = self.network.output
        assert isinstance(head.neuron, Accumulator)
        last = self.node("Gather", self.potentials[head.name], self.constant(-1, np.int64), axis=0)
        self.node("Reshape", last, self.constant([-1, head.size], np.int64), name="accumulators")
        real = self.cast("accumulators", np.float64)
        scale = np.repeat(head.neuron.scale, head.size // head.shape[0])
        self.node("Mul", real, self.constant(scale, np.float64), name="logits")
        shape: list[Any] = ["N", head.size]
        infos = [self.info("accumulators", np.int64, shape), self.info("logits", np.float64, shape)]
        for name in self.record:
            if name in self.sent:
                infos.append(self.by_image(f"sent/{name}", self.sent[name], np.float32, name))
            if name in self.potentials:
                infos.append(self.by_image(f"potential/{name}", self.potentials[name], np.int64, name))
            if name in self.reached:
                largest = [self.node("ReduceMax", self.node("Abs", value), keepdims=0) for value in self.reached[name]]
                infos.append(self.info(self.node("Max", *largest, name=f"reached/{name}"), np.int64, []))
        return infos

    def by_image(self, output: str, value: str, dtype: type[np.generic], population: str) -> Any:
        """(T, N, C, Y, X) values of a population as the output (N, T, C, Y, X); its description."""
        self.node("Transpose", value, name=output, perm=[1, 0, 2, 3, 4])
        return self.info(output, dtype, ["N", self.network.time_steps, *self.network[population].shape])


def _update(onnx: Any, lif: Lif, bias: str, threshold: str, *, watched: int) -> Any:
    """The body of a Scan: one time step of a LIF, (v, u, input) -> (v, u, spikes, v).

    And the first `watched` of these: v before the reset, drive, u.
    """
    node = onnx.helper.make_node
    integer = onnx.TensorProto.INT64
    parameters = {"decay": lif.decay, "one": DECAY_ONE, "zero": 0}
    if lif.kind == LifKind.PROGRAMMABLE:
        parameters["round_up"] = lif.round_up
    else:
        parameters["current"] = lif.current
    constants = [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in parameters.items()]
    if lif.kind == LifKind.PROGRAMMABLE:
        # ONNX's Div rounds toward zero, and its Mod of a positive divisor is never negative: together they floor
        leak = [
            node("Mul", ["v", "decay"], ["scaled"]),
            node("Add", ["scaled", "round_up"], ["product"]),
            node("Mod", ["product", "one"], ["remainder"]),
            node("Sub", ["product", "remainder"], ["whole"]),
            node("Div", ["whole", "one"], ["leaked"]),
            node("Mul", ["u", "zero"], ["carried"]),
        ]
        fires = "Greater" if lif.strict else "GreaterOrEqual"
    else:  # toward zero
        leak = [*_toward_zero(node, "v", "decay", "leaked"), *_toward_zero(node, "u", "current", "carried")]
        fires = "Greater"
    rest = [
        node("Add", ["carried", "x"], ["u_new"]),
        node("Add", ["u_new", bias], ["drive"]),
        node("Add", ["leaked", "drive"], ["h"]),
        node(fires, ["h", threshold], ["spikes"]),
        *([node("Sub", ["h", threshold], ["after"])] if lif.soft else []),
        node("Where", ["spikes", "after" if lif.soft else "zero", "h"], ["state"]),
        # of a Scan no value is both carried on and given out in every step: it needs two names
        node("Identity", ["state"], ["kept"]),
        *([node("Identity", ["u_new"], ["u_kept"])] if watched > 2 else []),
    ]
    info = onnx.helper.make_tensor_value_info
    inputs = [info(name, integer, None) for name in ("v", "u", "x")]
    watchable = ("h", "drive", "u_kept")
    results = [
        info("state", integer, None),
        info("u_new", integer, None),
        info("spikes", onnx.TensorProto.BOOL, None),
        info("kept", integer, None),
        *(info(name, integer, None) for name in watchable[:watched]),
    ]
    return onnx.helper.make_graph([*leak, *rest], "step", inputs, results, constants)


def _levels_step(decay: int, levels: Sequence[str], reset: str, *, watched: bool) -> Any:
    """The body of a Scan: one time step of Levels, (v, drive) -> (v, sent, v); watched: and v before the reset."""
    body = Nodes("step.")
    leaked = _floored(body, body.node("Mul", "v", body.constant(decay, np.int64)), DECAY_ONE)
    potential = body.node("Add", leaked, "drive", name="potential")
    sent = _how_many(body, potential, levels)
    body.node("Sub", potential, body.node("Mul", sent, reset), name="state")
    # of a Scan no value is both carried on and given out in every step: it needs two names
    body.node("Identity", "state", name="kept")
    inputs, results = (
        [body.info(name, np.int64, None) for name in names]
        for names in (("v", "drive"), ("state", sent, "kept", *[potential] * watched))
    )
    return body.onnx.helper.make_graph(body.nodes, "step", inputs, results, body.constants)


def _how_many(nodes: Nodes, value: str, levels: Sequence[str]) -> str:
    """How many of the levels a value reaches, int64: one comparison and one addition each."""
    reached = [nodes.cast(nodes.node("GreaterOrEqual", value, level), np.int64) for level in levels]
    count = reached[0]
    for one in reached[1:]:
        count = nodes.node("Add", count, one)
    return count


def _floored(nodes: Nodes, value: str, divisor: int) -> str:
    """floor(value / divisor): ONNX's Div rounds toward zero, and its Mod of a positive divisor is never negative."""
    rest = nodes.node("Mod", value, nodes.constant(divisor, np.int64))
    return nodes.node("Div", nodes.node("Sub", value, rest), nodes.constant(divisor, np.int64))


def _toward_zero(node: Any, state: str, decay: str, out: str) -> list[Any]:
    """out = sign(state) * (|state| * decay / 4096), integers, with the names of values instead of the values."""
    return [
        node("Abs", [state], [f"{state}_size"]),
        node("Mul", [f"{state}_size", decay], [f"{state}_product"]),
        node("Div", [f"{state}_product", "one"], [f"{state}_whole"]),
        node("Sign", [state], [f"{state}_sign"]),
        node("Mul", [f"{state}_whole", f"{state}_sign"], [out]),
    ]


def _with_weight(conv: Conv, weight: NDArray[np.integer]) -> Conv:
    """The same geometry with other weights."""
    return Conv(weight.astype(np.int8), conv.stride, conv.padding, conv.groups)


def _reach(conv: Conv) -> int:
    """The largest sum of magnitudes that the weights of one output channel have."""
    magnitudes = np.abs(conv.weight.astype(np.int64))
    return int(magnitudes.reshape(len(magnitudes), -1).sum(1).max())


def _per_step(network: Network) -> bool:
    assert isinstance(network.input.neuron, Source)
    return network.input.neuron.per_step
