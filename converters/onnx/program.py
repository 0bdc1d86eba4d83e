"""An integer program as ONNX: standard operators alone, so that ONNX Runtime gives the same spikes, bit for bit.

Messages are floats that hold small integers; sums of them stay below 2^24 (2^53 in double), where they are exact.
Neurons are updated in int64, time step after time step, by one Scan a population.  Maps are (T, N, C, Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.onnx.nodes import Nodes
from spikformer_deploy.network.bounds import largest_sum
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import STOCK_SHIFT, Accumulator, And, Lif, LifKind, Max, Or, Source, Stream, Sum
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Window

EXACT_FP32 = 2**24
EXACT_FP64 = 2**53
NIBBLE = 16
"""Where a convolution is too wide for fp32, its weights are taken apart: w = 16 * high + low."""


def write_program(network: Network, path: Path) -> None:
    """Write `network` as an .onnx file: pixels in, accumulators (int64) and logits (double) out.

    Raises ModelError for a layer whose sums no float of ONNX Runtime's convolutions holds exactly.
    """
    write_whole(path, to_model(network).SerializeToString())


def to_model(network: Network, record: Sequence[str] = ()) -> Any:
    """The ModelProto; `record` names populations whose messages and potentials become outputs too.

    Inputs   pixels (N, C, Y, X) uint8, or (N, T, C, Y, X) where the network takes frames
    Outputs  accumulators (N, classes) int64; logits (N, classes) double; for each recorded population `name`
             sent/name and potential/name (N, T, C, Y, X) float and int64, potentials of LIFs and accumulators alone;
             reached/name int64, the largest magnitude of all states and sums met, as Execution.peak_state; none of Max
    """
    graph = _Graph(network, record)
    graph.source()
    for population in network.populations[1:]:
        graph.population(population)
    about = f"Integer spiking network, T = {network.time_steps}; sha256 {network.digest()}"
    return graph.model("spiking_network", graph.pixels(), graph.outputs(), about)


class _Graph(Nodes):
    """The graph as it grows; messages and potentials by population."""

    def __init__(self, network: Network, record: Sequence[str]) -> None:
        super().__init__()
        self.network, self.record = network, record
        self.sent: dict[str, str] = {}
        self.potentials: dict[str, str] = {}
        self.reached: dict[str, list[str]] = {}

    # --- populations ---

    def pixels(self) -> Any:
        """The description of the input."""
        steps = [self.network.time_steps] if _per_step(self.network) else []
        shape: list[Any] = ["N", *steps, *self.network.input.shape]
        return self.info("pixels", np.uint8, shape)

    def source(self) -> None:
        """What the input sends, in every time step."""
        steps, shape = self.network.time_steps, self.network.input.shape
        real = self.cast("pixels", np.float32)
        if _per_step(self.network):
            frames = self.node("Transpose", real, perm=[1, 0, 2, 3, 4])
        else:
            once = self.shaped(real, 1, -1, *shape)
            frames = self.node("Expand", once, self.constant([steps, 1, 1, 1, 1], np.int64))
        self.sent[self.network.input.name] = frames

    def population(self, population: Population) -> None:
        """Its synaptic sums and what its neurons make of them."""
        if population.max_out >= EXACT_FP32:
            raise ModelError(population.name, f"messages of up to {population.max_out:,} are not exact in fp32")
        if isinstance(population.neuron, Max):
            self.sent[population.name] = self.largest(population)
            return
        total = self.total(population)
        match population.neuron:
            case Or():
                met = [total]
                fired = self.node("Not", self.node("Equal", total, self.constant(0, np.int64)))
                self.sent[population.name] = self.cast(fired, np.float32)
            case Sum():
                met = [total]
                self.sent[population.name] = self.cast(total, np.float32)
            case And(inputs=inputs):
                met = [total]
                missing = self.node("Less", total, self.constant(inputs, np.int64))
                self.sent[population.name] = self.cast(self.node("Not", missing), np.float32)
            case Stream() as stream:
                met = [self.node("Add", total, self.over_positions(stream.bias))]
                self.sent[population.name] = self.cast(self.dropped(stream.drop, met[0]), np.float32)
            case Lif() as lif:
                spikes, states, *met = self.lif(lif, total, population.name in self.record)
                self.sent[population.name] = self.cast(spikes, np.float32)
                self.potentials[population.name] = states
            case Accumulator() as head:
                running = total if head.last else self.node("CumSum", total, self.constant(0, np.int64))
                states = self.node("Add", running, self.over_positions(head.bias))
                self.potentials[population.name], met = states, [states, total]
            case Source() | Max():
                raise ModelError(population.name, "an input in the middle of the network")
            case _:
                assert_never(population.neuron)
        self.reached[population.name] = met

    def dropped(self, drop: int, current: str) -> str:
        """current / 2^drop, rounded to the nearest: floor division by Mod, which is never negative."""
        if not drop:
            return current
        raised = self.node("Add", current, self.constant(1 << drop >> 1, np.int64))
        rest = self.node("Mod", raised, self.constant(1 << drop, np.int64))
        return self.node("Div", self.node("Sub", raised, rest), self.constant(1 << drop, np.int64))

    def largest(self, population: Population) -> str:
        """What a population that takes the largest of its window sends: ONNX's max-pooling leaves padding out, too."""
        (projection,) = self.network.into(population.name)
        window, source = projection.synapse, self.network[projection.sources[0]]
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
        first = self.node("Gather", scaled, self.constant(0, np.int64), axis=0)
        rest = self.node("Mul", first, self.constant(0, np.int64))
        kinds = ["reached", "drives", "currents"][: 2 + bool(lif.current)] if watched else []
        names = [self.fresh(kind) for kind in ("last", "current", "spikes", "states", *kinds)]
        body = _update(
            self.onnx, lif, *(self.over_positions(p << extra) for p in (lif.bias, lif.threshold)), watched=len(kinds)
        )
        scan = self.onnx.helper.make_node("Scan", [rest, rest, scaled], names, num_scan_inputs=1, body=body)
        self.nodes.append(scan)
        return names[2:]

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
        messages = self.sent[source.name]
        match projection.synapse:
            case Conv() as conv:
                return self.convolution(projection, conv, messages, source, target)
            case Window() as window:
                return self.window(projection, window, messages, source, target)
            case Attention() as attention:
                return self.attention(projection, attention, target)
            case Readout() as readout:
                counts = self.node(
                    "ReduceSum", self.cast(messages, np.float64), self.constant([3, 4], np.int64), keepdims=0
                )
                sums = self.node("MatMul", counts, self.constant(readout.weight.T, np.float64))
                return self.shaped(self.cast(sums, np.int64), self.network.time_steps, -1, *target.shape)
            case _:
                assert_never(projection.synapse)

    def convolution(
        self, projection: Projection, conv: Conv, messages: str, source: Population, target: Population
    ) -> str:
        if conv.shift:
            plain = self.convolution(projection, replace(conv, shift=0), messages, source, target)
            return self.node("Mul", plain, self.constant(2**conv.shift, np.int64))
        bound = largest_sum(self.network, projection)
        if bound < EXACT_FP32:
            return self.convolved(conv, conv.weight, messages, source, target)
        high = conv.weight // NIBBLE
        parts = [_with_weight(conv, w) for w in (high, conv.weight - NIBBLE * high)]
        reach = [int(np.abs(c.weight.astype(np.int64)).reshape(len(c.weight), -1).sum(1).max()) for c in parts]
        if max(reach) * source.max_out >= EXACT_FP32:
            raise ModelError(
                target.name,
                f"sums of up to {bound:,} are not exact in ONNX Runtime's convolutions (fp32, below {EXACT_FP32:,})",
                "Compile with fewer weight bits.",
            )
        upper, lower = (self.convolved(c, c.weight, messages, source, target) for c in parts)
        return self.node("Add", self.node("Mul", upper, self.constant(NIBBLE, np.int64)), lower)

    def convolved(
        self, conv: Conv, weight: NDArray[np.integer], messages: str, source: Population, target: Population
    ) -> str:
        merged = self.shaped(messages, -1, *source.shape)
        py, px = conv.padding
        geometry: dict[str, Any] = {"kernel_shape": list(weight.shape[2:]), "strides": list(conv.stride)}
        real = self.cast(self.constant(weight, weight.dtype), np.float32)
        out = self.node("Conv", merged, real, pads=[py, px, py, px], group=conv.groups, **geometry)
        return self.cast(self.shaped(out, self.network.time_steps, -1, *target.shape), np.int64)

    def window(
        self, projection: Projection, window: Window, messages: str, source: Population, target: Population
    ) -> str:
        if (window.kernel, window.stride, window.padding) == ((1, 1), (1, 1), (0, 0)):
            return self.cast(messages, np.int64)
        if window.kernel == source.shape[1:] and window.padding == (0, 0):
            return self.node("ReduceSum", self.cast(messages, np.int64), self.constant([3, 4], np.int64), keepdims=1)
        if (bound := largest_sum(self.network, projection)) >= EXACT_FP32:
            raise ModelError(target.name, f"sums of up to {bound:,} are not exact in ONNX Runtime's convolutions")
        channels = source.shape[0]
        ones = np.ones((channels, 1, *window.kernel), np.int8)
        conv = Conv(ones, window.stride, window.padding, channels)
        return self.convolved(conv, ones, messages, source, target)

    def attention(self, projection: Projection, attention: Attention, target: Population) -> str:
        """weight * q (K^T V), head by head: channels x tokens."""
        bound = largest_sum(self.network, projection)
        if bound >= EXACT_FP64:
            raise ModelError(target.name, f"sums of up to {bound:,} are not exact in double", "Use fewer tokens.")
        kind = np.float32 if bound < EXACT_FP32 else np.float64
        channels, height, width = target.shape
        depth, steps = channels // attention.heads, self.network.time_steps
        q, k, v = (
            self.shaped(self.cast(self.sent[s], kind), steps, -1, attention.heads, depth, height * width)
            for s in projection.sources
        )
        pairs = self.node("MatMul", v, self.node("Transpose", k, perm=[0, 1, 2, 4, 3]))
        out = self.cast(self.node("MatMul", pairs, q), np.int64)
        weighted = self.node("Mul", out, self.constant(attention.weight, np.int64))
        return self.shaped(weighted, steps, -1, *target.shape)

    # --- outputs ---

    def outputs(self) -> list[Any]:
        """Descriptions of the outputs, and the nodes that make them."""
        head = self.network.output
        assert isinstance(head.neuron, Accumulator)
        last = self.node("Gather", self.potentials[head.name], self.constant(-1, np.int64), axis=0)
        self.node("Reshape", last, self.constant([-1, head.shape[0]], np.int64), name="accumulators")
        real, scale = self.cast("accumulators", np.float64), self.constant(head.neuron.scale, np.float64)
        self.node("Mul", real, scale, name="logits")
        shape: list[Any] = ["N", head.shape[0]]
        out = [self.info("accumulators", np.int64, shape), self.info("logits", np.float64, shape)]
        for name in self.record:
            maps: list[Any] = ["N", self.network.time_steps, *self.network[name].shape]
            for what, values, kind in (
                ("sent", self.sent, np.float32), ("potential", self.potentials, np.int64),
            ):  # fmt: skip
                if name in values:
                    place = self.node("Transpose", values[name], name=f"{what}/{name}", perm=[1, 0, 2, 3, 4])
                    out.append(self.info(place, kind, maps))
            if name in self.reached:
                each = [self.node("ReduceMax", self.node("Abs", met), keepdims=0) for met in self.reached[name]]
                out.append(self.info(self.node("Max", *each, name=f"reached/{name}"), np.int64, []))
        return out


def _update(onnx: Any, lif: Lif, bias: str, threshold: str, *, watched: int) -> Any:
    """The body of a Scan: one time step of a LIF, (v, u, input) -> (v, u, spikes, v).

    And so many more that are watched: v before the reset, drive, u.
    """
    node, integer = onnx.helper.make_node, onnx.TensorProto.INT64
    held = {"decay": lif.decay, "current": lif.current, "one": 4096, "zero": 0, "round_up": lif.round_up}
    constants = [onnx.numpy_helper.from_array(np.array(v, np.int64), k) for k, v in held.items()]
    if lif.kind == LifKind.PROGRAMMABLE:  # floor: Mod of a positive divisor is never negative
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
        node("Identity", ["state"], ["kept"]),
        *([node("Identity", ["u_new"], ["u_kept"])] if watched > 2 else []),
    ]
    info = onnx.helper.make_tensor_value_info
    given = [info(name, integer, None) for name in ("v", "u", "x")]
    names = ("state", "u_new", "spikes", "kept", "h", "drive", "u_kept")[: 4 + watched]
    made = [info(name, integer, None) for name in names]
    made[2] = info("spikes", onnx.TensorProto.BOOL, None)
    return onnx.helper.make_graph([*leak, *rest], "step", given, made, constants)


def _toward_zero(node: Any, state: str, decay: str, out: str) -> list[Any]:
    """out = sign(state) * (|state| * decay / 4096), integers."""
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


def _per_step(network: Network) -> bool:
    assert isinstance(network.input.neuron, Source)
    return network.input.neuron.per_step
