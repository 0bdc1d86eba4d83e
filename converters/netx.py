"""Networks of lava-dl's netx (.net, HDF5), read and written: chains of convolutions and dense layers of CUBA neurons.

Weights, biases, decays and thresholds in the file are integers of lava.proc.lif already, so that nothing is quantized:
the network is the one that Lava runs, spike for spike.  A layer that netx knows and we do not is refused by name.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int, Shape
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.base.values import frozen
from spikformer_deploy.converters import hdf5
from spikformer_deploy.network.bounds import is_proven, membrane_range, piled_up, weighted_range
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import STOCK_SHIFT, Accumulator, Lif, LifKind, Source
from spikformer_deploy.network.synapses import Conv, Readout

STATE_BITS = 24
"""Of u and v in lava.proc.lif; both are compared in units shifted left by 6 bits."""
LARGEST_MANTISSA = 127
LARGEST_VTH = 2**17
CLEARED = 4096
"""iDecay with which the current is forgotten every step."""
KEYS = {
    "input": {"shape", "neuron", "weight", "bias"},
    "conv": {"shape", "neuron", "weight", "bias", "delay", "stride", "padding", "dilation", "groups"}
    | {"inChannels", "outChannels", "kernelSize"},
    "dense": {"shape", "neuron", "weight", "bias", "delay", "inFeatures", "outFeatures"},
    "flatten": {"shape"},
}
"""Of each type of layer, all of which are read, or held against what is read."""
NEURON_KEYS = {"iDecay", "vDecay", "vThMant", "refDelay", "wgtExp", "gradedSpike", "messageBits"}
TRAINING_KEYS = {"theta", "scaleRho", "tauRho"}
"""Of SLAYER's surrogate gradient: PilotNet's last layer has a theta of another threshold than the one it runs with."""


def read_network(path: str | Path, time_steps: int | None = None) -> Network:
    """The network of a .net file; its accumulators count the output's spikes, or are the last layer without neurons.

    time_steps  of an image; by default what the file says (simulation/tSample)
    Pixels are the integers that lava-dl's input layer would inject, weight * x + bias in its own normalisation.
    Without an input layer, the first dense layer takes spikes: frames of (in, 1, 1) for each step.
    Raises InputError for a file that is damaged or foreign, ModelError for a layer that we do not have, or that the
    file says two things about.
    """
    path = Path(path)
    layers, simulation = _read(path)
    steps = time_steps or simulation.get("tSample")
    if steps is None:
        raise ModelError(str(path), "it does not say how many time steps an image has", "Give --time-steps.")
    chain = _Chain(_steps(path, steps))
    for index, layer in enumerate(layers):
        try:
            chain.add(f"layer.{index}", layer)
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            raise ModelError(f"layer.{index}", f"its numbers make no layer: {error}") from None
    network = chain.finish()
    try:
        check_network(network)
    except ValueError as error:
        raise ModelError(str(path), f"it makes no network: {error}") from None
    return network


def delay_note(network: Network) -> str:
    """What a user must know who compares counts with those of training."""
    late = sum(isinstance(p.neuron, Lif) for p in network)
    return (
        f"counts are those of all {network.time_steps} steps; a training with SLAYER's delay_shift, its default, gives "
        f"spikes out a step later in each of the {late} layers, and lacks those of the last {late} (docs/lava.md)"
    )


def stated_steps(path: str | Path) -> int | None:
    """How many time steps an image has by the .net file itself, or None; InputError and ModelError as read_network."""
    _, simulation = _read(Path(path))
    return _steps(Path(path), simulation["tSample"]) if "tSample" in simulation else None


def _steps(path: Path, value: Any) -> int:
    steps = np.asarray(value)
    if steps.size != 1 or steps.dtype.kind not in "iuf" or steps.item() not in range(1, MOST_STEPS + 1):
        raise ModelError(str(path), f"{value} time steps", f"Give --time-steps, 1 to {MOST_STEPS}.")
    return int(steps.item())


class _Chain:
    """Populations one after the other."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.populations: list[Population] = []
        self.projections: list[Projection] = []
        self.flat = False  # whether the last layer was a flatten layer
        self.headed = False  # whether the last layer has no neurons

    def add(self, name: str, layer: dict[str, Any]) -> None:
        kind = layer["type"]
        if kind == "input" and self.populations:
            raise ModelError(name, "the input must be the first layer, and only that")
        if kind in KEYS:
            _all_known(name, layer, KEYS[kind] | {"type"})
        if self.headed:
            raise ModelError(self.populations[-1].name, "only the last layer may be a dense layer without neurons")
        if self.flat and kind != "dense":
            raise ModelError(name, f"a layer of type '{kind}' behind a flatten layer", "A dense layer must follow it.")
        if kind in ("conv", "flatten") and not self.populations:
            raise ModelError(name, "no input layer says how large its maps are", "Add an input layer with a shape.")
        match kind:
            case "input":
                self._input(name, layer)
            case "conv":
                self._conv(name, layer)
            case "dense":
                self._dense(name, layer)
            case "flatten":
                self._flatten(name, layer)
            case _:
                raise ModelError(
                    name,
                    f"layers of type '{kind}' are not supported",
                    "Chains of input, conv, flatten and dense layers are.",
                )

    def _input(self, name: str, layer: dict[str, Any]) -> None:
        shape = _shape(name, layer)
        neuron = layer.get("neuron")
        largest = 1 if neuron is None else 255
        self.populations.append(Population(name, shape, Source(largest, per_step=neuron is None), largest))
        if neuron is not None:  # pixels are the bias of neurons, which turn them into spikes
            ones = np.ones((shape[0], 1, 1, 1), np.int8)
            self._lif(f"{name}.lif", shape, Conv(frozen(ones), groups=shape[0]), {"neuron": neuron})

    def _conv(self, name: str, layer: dict[str, Any]) -> None:
        weight = _integers(f"{name}.weight", layer["weight"])
        if weight.ndim == 5 and weight.shape[4] == 1:
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise ModelError(name, f"weights of shape {weight.shape}, not (out, in, height, width)")
        stride, padding = _pair(layer.get("stride", 1)), _pair(layer.get("padding", 0))
        groups = _whole(name, "groups", layer.get("groups", 1))
        if min(stride) < 1 or min(padding) < 0 or groups < 1 or len(weight) % groups:
            raise ModelError(name, f"stride {stride}, padding {padding}, {groups} groups of {len(weight)} channels")
        if _pair(layer.get("dilation", 1)) != (1, 1):
            raise ModelError(name, f"dilation {_pair(layer['dilation'])} is not supported", "Train it without.")
        _without_delay(name, layer)
        channels, height, width = self.populations[-1].shape
        if weight.shape[1] * groups != channels:
            raise ModelError(name, f"weights for {weight.shape[1] * groups} channels, and {channels} come in")
        kernel = weight.shape[2:]
        _agree(name, "kernelSize", _pair(layer.get("kernelSize", kernel)), kernel)
        _agree(name, "inChannels", _whole(name, "inChannels", layer.get("inChannels", channels)), channels)
        _agree(name, "outChannels", _whole(name, "outChannels", layer.get("outChannels", len(weight))), len(weight))
        rows, columns = (
            (extent + 2 * p - k) // s + 1
            for extent, p, k, s in zip((height, width), padding, kernel, stride, strict=True)
        )
        shape = (len(weight), rows, columns)
        if "shape" in layer:
            _agree(name, "shape", _shape(name, layer), shape)
        mantissa, shift = _mantissa(name, weight)
        self._lif(name, shape, Conv(mantissa, stride, padding, groups), layer, shift)

    def _flatten(self, name: str, layer: dict[str, Any]) -> None:
        """The weights of the dense layer that must follow stand in the order (C, Y, X)."""
        if "shape" in layer:
            _agree(name, "the size of its shape", _size(name, layer), self.populations[-1].size)
        self.flat = True

    def _dense(self, name: str, layer: dict[str, Any]) -> None:
        weight = _dense_weight(name, layer)
        _without_delay(name, layer)
        if not self.populations:  # lava-dl then takes spikes from outside
            spikes = (weight.shape[1], 1, 1)
            self.populations.append(Population("input", spikes, Source(1, per_step=True), 1))
        source, self.flat = self._flattened(name), False
        if weight.shape[1] != source.size:
            come = "x".join(map(str, source.shape))
            raise ModelError(name, f"weights for {weight.shape[1]} inputs, and {come} come in", "")
        mantissa, shift = _mantissa(name, weight.reshape(-1, *source.shape))
        if "neuron" in layer:
            self._lif(name, (len(weight), 1, 1), Conv(mantissa), layer, shift)
        else:
            self._head(name, mantissa, layer, shift)

    def _flattened(self, name: str) -> Population:
        """What a dense layer reads: one position, or a map whose order a flatten layer says."""
        source = self.populations[-1]
        if source.shape[1:] != (1, 1) and not self.flat:
            come = "x".join(map(str, source.shape))
            raise ModelError(name, f"a map of {come} comes in, and no flatten layer says its order", "Flatten it.")
        return source

    def _head(self, name: str, weight: NDArray[np.int8], layer: dict[str, Any], shift: int) -> None:
        """Without neurons: lava-dl gives it a current that is never forgotten, no decay but of that, and no spikes.

        What it holds after the last step is the sum of all that came in, and the bias once.
        """
        source = self.populations[-1]
        if source.shape[1:] != (1, 1):
            raise ModelError(name, "a dense layer without neurons on a map is not supported", "Give it neurons.")
        bias = _bias(name, layer, len(weight))
        if (bias % (1 << shift)).any():
            raise ModelError(name, f"its bias has finer steps than its weights, which are multiples of {1 << shift}")
        bias >>= shift
        low, high = weighted_range(weight, source.max_out * self.steps)
        bounds = (int(np.minimum(bias, low + bias).min()), int(np.maximum(bias, high + bias).max()))
        head = Accumulator(frozen(bias), frozen(np.full(len(weight), float(1 << shift))))
        self.populations.append(Population(name, (len(weight), 1, 1), head, 0, bounds, 0.0))
        self.projections.append(Projection((source.name,), name, Readout(frozen(weight[:, :, 0, 0]))))
        self.headed = True

    def _lif(self, name: str, shape: Shape, conv: Conv, layer: dict[str, Any], shift: int = 0) -> None:
        neuron, source = layer["neuron"], self.populations[-1]
        lif = _neuron(name, neuron, shape, layer, shift)
        low, high = weighted_range(conv.weight, source.max_out)
        low, high = (piled_up(x << shift + STOCK_SHIFT, lif.current, self.steps) for x in (low, high))
        low, high = (x + (lif.bias << STOCK_SHIFT) for x in (low, high))
        floor, ceiling = membrane_range(low, high, (lif.threshold << STOCK_SHIFT) + 1, lif.decay, self.steps)
        bounds = (int(floor.min()), int(ceiling.max()))
        self.populations.append(Population(name, shape, lif, 1, bounds, 0.0))
        self.projections.append(Projection((source.name,), name, conv))

    def finish(self) -> Network:
        if len(self.populations) < 2:
            raise ModelError("network", "it has no layer of neurons")
        if self.flat:
            raise ModelError("network", "it ends in a flatten layer", "A dense layer must follow it.")
        if not self.headed:
            self._count()
        channels = self.populations[0].shape[0]
        largest = max(1, *(abs(edge) for population in self.populations for edge in population.bounds))
        network = Network(
            tuple(self.populations),
            tuple(self.projections),
            self.steps,
            STATE_BITS,
            8,
            "observed",
            (2 ** (STATE_BITS - 1) - 1) / largest,
            frozen(np.zeros(channels)),
            frozen(np.ones(channels)),
        )
        return replace(network, bounds="static") if is_proven(network) else network

    def _count(self) -> None:
        """The last layer's spikes are counted."""
        last = self.populations[-1]
        classes = last.shape[0]
        head = Accumulator(frozen(np.zeros(classes, np.int64)), frozen(np.ones(classes)))
        most = self.steps * last.shape[1] * last.shape[2]
        self.populations.append(Population("counts", (classes, 1, 1), head, 0, (0, most), 0.0))
        self.projections.append(Projection((last.name,), "counts", Readout(frozen(np.eye(classes, dtype=np.int8)))))


def _neuron(name: str, neuron: dict[str, Any], shape: Shape, layer: dict[str, Any], shift: int) -> Lif:
    kind = str(neuron.get("type", "")).upper()
    if kind not in ("CUBA", "LOIHI"):
        raise ModelError(name, f"neurons of type '{kind}' are not supported", "CUBA (LOIHI) neurons are.")
    _all_known(f"{name}.neuron", neuron, NEURON_KEYS | TRAINING_KEYS | {"type"})
    current, decay = (_whole(name, key, neuron[key]) for key in ("iDecay", "vDecay"))
    if not 1 <= current <= CLEARED or not 0 <= decay <= 4096:
        raise ModelError(name, f"decays of {current} and {decay}", "They are of 4096.")
    threshold = _whole(name, "vThMant", neuron["vThMant"])
    if not 0 <= threshold < LARGEST_VTH:
        raise ModelError(name, f"a threshold (vThMant) of {threshold}", f"It must be 0 to {LARGEST_VTH - 1}.")
    _only_spikes(name, neuron)
    return Lif(
        LifKind.STOCK,
        4096 - decay,
        shift,
        frozen(np.full(shape[0], threshold, np.int64)),
        frozen(_bias(name, layer, shape[0])),
        current=CLEARED - current,
    )


def _only_spikes(name: str, neuron: dict[str, Any]) -> None:
    """Refuse what lava-dl's own reader does not look at, or what Lava's LIF does not do."""
    exponent, refractory = (_whole(name, key, neuron.get(key, d)) for key, d in (("wgtExp", 0), ("refDelay", 1)))
    if exponent != 0:
        raise ModelError(name, f"a weight exponent of {exponent} is not supported", "Use 0.")
    if refractory != 1:
        raise ModelError(name, f"a refractory delay of {refractory} is not supported", "Use 1.")
    bits = _whole(name, "messageBits", neuron.get("messageBits", 0))
    graded = _whole(name, "gradedSpike", neuron.get("gradedSpike", 0))
    if bits != 0 or graded != 0:
        problem = f"graded spikes (gradedSpike {graded}, messageBits {bits}) are not supported"
        raise ModelError(name, problem, "Train it with binary spikes.")


def _all_known(name: str, found: dict[str, Any], known: set[str]) -> None:
    """Nothing that a file says is passed over."""
    unknown = sorted(set(found) - known)
    if unknown:
        problem = f"it has {', '.join(map(repr, unknown[:4]))}, of which this reader does not know the meaning"
        raise ModelError(name, problem, "Remove it from the file where it has none.")


def _agree(name: str, what: str, said: Any, found: Any) -> None:
    if said != found:
        raise ModelError(name, f"{what} is {said} in the file, and its weights and input make it {found}")


def _without_delay(name: str, layer: dict[str, Any]) -> None:
    if np.any(layer.get("delay", 0)):
        raise ModelError(name, "delays of synapses are not supported", "Train it without.")


def _whole(name: str, what: str, value: Any) -> int:
    """A number that must be one, and whole: int() alone would cut it."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iufb" or array.item() != np.rint(array.item()):
        raise ModelError(name, f"{what} is {value}, and must be one whole number")
    return int(array.item())


def _size(name: str, layer: dict[str, Any]) -> int:
    extents = [_whole(name, "shape", extent) for extent in np.asarray(layer["shape"]).reshape(-1)]
    return math.prod(extents)


def _dense_weight(name: str, layer: dict[str, Any]) -> Int:
    """(out, in), of which the file may have lost the first axis, and says the sizes up to three times."""
    weight = _integers(f"{name}.weight", layer["weight"])
    said = _whole(name, "outFeatures", layer["outFeatures"]) if "outFeatures" in layer else _size(name, layer)
    if said < 1 or weight.size == 0 or weight.size % said:
        raise ModelError(name, f"{weight.size} weights for {said} neurons")
    rows = weight.reshape(said if weight.ndim < 2 else len(weight), -1)
    _agree(name, "outFeatures", said, len(rows))
    if "shape" in layer:
        _agree(name, "the size of its shape", _size(name, layer), len(rows))
    columns = rows.shape[1]
    _agree(name, "inFeatures", _whole(name, "inFeatures", layer.get("inFeatures", columns)), columns)
    return rows


def _bias(name: str, layer: dict[str, Any], channels: int) -> Int:
    """(C,) int64"""
    bias = _integers(f"{name}.bias", np.asarray(layer.get("bias", 0))).reshape(-1)
    return np.broadcast_to(bias, channels).astype(np.int64)


def _mantissa(name: str, weight: Int) -> tuple[NDArray[np.int8], int]:
    """(weights of 8 bits, exponent) with the same product, as on the chip: mantissas share one exponent."""
    exponent = 0
    while np.abs(weight).max(initial=0) > LARGEST_MANTISSA and not (weight & 1).any():
        weight, exponent = weight >> 1, exponent + 1
    if np.abs(weight).max(initial=0) > LARGEST_MANTISSA:
        largest = np.abs(weight).max()
        raise ModelError(name, f"weights up to {largest} have more than 8 bits", "Train it with fewer weight bits.")
    return frozen(weight, np.int8), exponent


def _integers(name: str, values: NDArray[Any]) -> Int:
    whole = np.rint(np.asarray(values, np.float64))
    if not np.array_equal(whole, values) or np.abs(whole).max(initial=0) > 2**15 - 1:
        raise ModelError(name, "values are no integers of 16 bits", "Export the quantized network (export_hdf5).")
    return whole.astype(np.int64)


def _pair(value: Any) -> tuple[int, int]:
    first, second = np.broadcast_to(np.asarray(value).reshape(-1), 2).tolist()
    if (int(first), int(second)) != (first, second):
        raise ValueError(f"{first} and {second} are not whole")
    return int(first), int(second)


def _shape(name: str, layer: dict[str, Any]) -> Shape:
    shape = [_whole(name, "shape", extent) for extent in np.asarray(layer["shape"]).reshape(-1)]
    if len(shape) != 3 or min(shape) < 1:
        raise ModelError(name, f"a shape of {shape}, not (channels, height, width)")
    return shape[0], shape[1], shape[2]


# --- writing ----------------------------------------------------------------------------------------------------


def write_network(network: Network, path: Path) -> None:
    """Write a chain of convolutions and dense layers as a .net that lava-dl reads: same weights, same spikes.

    Accumulators that only count the last layer's spikes are not written: netx gives out these spikes.
    Raises ModelError for anything that netx cannot hold, by name.
    """
    import h5py

    layers = [_written_input(network)]
    last = network.input
    for population in network.populations[1:-1]:
        if population.name == f"{network.input.name}.lif" and _turns_pixels_into_spikes(network, population):
            layers[0]["neuron"] = _written_neuron(population)
        else:
            if layers[-1]["type"] in ("input", "conv") and _reads_all(network, population, last):
                layers.append({"type": "flatten", "shape": [1, 1, last.size]})
            layers.append(_written_layer(network, population, last))
        last = population
    _check_head(network, last)

    def put(group: Any, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                put(group.create_group(key), value)
            else:
                group[key] = np.bytes_(value) if isinstance(value, str) else value

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        numbered = {str(i): layer for i, layer in enumerate(layers)}
        put(file, {"layer": numbered, "simulation": {"Ts": 1, "tSample": network.time_steps}})
    write_whole(path, buffer.getvalue())


def _written_input(network: Network) -> dict[str, Any]:
    return {"type": "input", "shape": list(network.input.shape), "weight": 1, "bias": 0}


def _turns_pixels_into_spikes(network: Network, population: Population) -> bool:
    """Whether it is the input's own neurons: one synapse of weight 1 from each pixel, no bias."""
    incoming = network.into(population.name)
    synapse = incoming[0].synapse if len(incoming) == 1 else None
    return (
        isinstance(synapse, Conv)
        and synapse.groups == population.shape[0] == network.input.shape[0]
        and synapse.weight.shape[1:] == (1, 1, 1)
        and bool((synapse.weight == 1).all())
        and isinstance(population.neuron, Lif)
        and population.neuron.shift == 0
        and not population.neuron.bias.any()
    )


def _reads_all(network: Network, population: Population, source: Population) -> bool:
    """Whether one synapse from every position of the source reaches each neuron: a dense layer."""
    synapse = network.into(population.name)[0].synapse
    return (
        isinstance(synapse, Conv)
        and synapse.weight.shape[1:] == source.shape
        and population.shape[1:] == (1, 1)
        and synapse.padding == (0, 0)
    )


def _written_layer(network: Network, population: Population, source: Population) -> dict[str, Any]:
    name, neuron = population.name, population.neuron
    incoming = network.into(name)
    if len(incoming) != 1 or incoming[0].sources != (source.name,) or not isinstance(incoming[0].synapse, Conv):
        kinds = ", ".join(type(p.synapse).__name__.lower() for p in incoming)
        raise ModelError(name, f"netx holds chains of conv and dense layers, and this one has inputs by {kinds}")
    if not isinstance(neuron, Lif):
        raise ModelError(name, f"netx has no layer for {type(neuron).__name__.lower()} neurons")
    conv = incoming[0].synapse
    weight = conv.weight.astype(np.int64) << neuron.shift
    if np.abs(weight).max(initial=0) > LARGEST_MANTISSA:
        raise ModelError(
            name,
            f"netx has no exponent for weights, and with their {neuron.shift} fractional bits they need more than 8",
            "Compile with fewer weight bits.",
        )
    if neuron.bias.ndim > 1 and (neuron.bias != neuron.bias[:, :1, :1]).any():
        raise ModelError(name, "netx has one bias a channel, and this layer a map of them (padding of the input)")
    bias = neuron.bias if neuron.bias.ndim == 1 else neuron.bias[:, 0, 0]
    common = {"shape": list(population.shape), "bias": bias, "neuron": _written_neuron(population)}
    if _reads_all(network, population, source):
        sizes = {"inFeatures": source.size, "outFeatures": population.size}
        return {"type": "dense", "weight": weight.reshape(len(weight), -1), **sizes, **common}
    geometry = {"stride": list(conv.stride), "padding": list(conv.padding), "dilation": [1, 1], "groups": conv.groups}
    channels = {"inChannels": source.shape[0], "outChannels": population.shape[0]}
    kernel = {"kernelSize": list(weight.shape[2:])}
    return {"type": "conv", "weight": weight, **geometry, **channels, **kernel, **common}


def _written_neuron(population: Population) -> dict[str, Any]:
    neuron = population.neuron
    assert isinstance(neuron, Lif)
    if neuron.kind != LifKind.STOCK:
        raise ModelError(population.name, "netx has CUBA neurons alone", "Compile with --neuron stock.")
    thresholds = np.unique(neuron.threshold)
    if len(thresholds) > 1 or not 0 <= thresholds[0] < LARGEST_VTH:
        problem = f"netx has one threshold a layer below {LARGEST_VTH}, and this one has {thresholds[:4].tolist()}"
        raise ModelError(population.name, problem, "Compile with --granularity tensor.")
    decays = {"iDecay": CLEARED - neuron.current, "vDecay": 4096 - neuron.decay, "vThMant": int(thresholds[0])}
    return {"type": "CUBA", "refDelay": 1, "wgtExp": 0, **decays}


def _check_head(network: Network, last: Population) -> None:
    head, incoming = network.output, network.into(network.output.name)
    assert isinstance(head.neuron, Accumulator)
    if head.neuron.last:
        problem = "it reads the last time step alone, and netx gives out the spikes of all"
        raise ModelError(head.name, problem, "Export to onnx, or train with the mean over the time steps.")
    counts = incoming[0].synapse if len(incoming) == 1 and incoming[0].sources == (last.name,) else None
    plain = isinstance(counts, Readout) and np.array_equal(counts.weight, np.eye(last.shape[0]))
    if not plain or head.neuron.bias.any():
        raise ModelError(
            head.name,
            "netx has no accumulators with weights and a bias of their own",
            "Export a chain that ends in spikes.",
        )


# --- the file ---------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(layers in order, simulation) as nested dicts of arrays and strings."""
    found = _unwrapped(hdf5.tree(path, "layer", "simulation"))
    layers = found.get("layer")
    if not isinstance(layers, dict) or sorted(layers) != sorted(map(str, range(len(layers)))) or not layers:
        raise InputError(str(path), "it has no layers 0, 1, ... as netx writes them", "Give a .net of lava-dl.")
    ordered = [layers[str(i)] for i in range(len(layers))]
    for index, layer in enumerate(ordered):
        _complete(f"layer.{index}", layer)
    simulation = found.get("simulation", {})
    if not isinstance(simulation, dict):
        raise InputError(str(path), "its 'simulation' is no group", "Give a .net of lava-dl.")
    _all_known(str(path), dict.fromkeys(hdf5.members(path)), {"layer", "simulation"})
    _all_known(f"{path}: simulation", simulation, {"Ts", "tSample"})
    if _whole(str(path), "simulation/Ts", simulation.get("Ts", 1)) != 1:
        raise ModelError(str(path), f"steps of {simulation['Ts']} (simulation/Ts) are not supported", "Use 1.")
    return ordered, simulation


NEEDED = {"input": ("shape",), "conv": ("weight", "neuron"), "dense": ("weight",)}


def _complete(name: str, layer: Any) -> None:
    if not isinstance(layer, dict) or not isinstance(layer.get("type"), str):
        raise InputError(name, "it has no type")
    neuron = layer.get("neuron", {"iDecay": 0, "vDecay": 0, "vThMant": 0})
    missing = [key for key in NEEDED.get(layer["type"], ()) if key not in layer]
    if layer["type"] == "dense" and not layer.keys() & {"outFeatures", "shape"}:
        missing.append("outFeatures")
    if isinstance(neuron, dict):
        missing += [f"neuron/{key}" for key in ("iDecay", "vDecay", "vThMant") if key not in neuron]
    if missing or not isinstance(neuron, dict):
        raise InputError(name, f"'{layer['type']}' lacks {', '.join(missing) or 'a neuron'}")


def _unwrapped(value: Any) -> Any:
    """The same with each array of words as its first word: netx writes a word as an array of one."""
    if isinstance(value, dict):
        return {key: _unwrapped(member) for key, member in value.items()}
    while isinstance(value, list):
        value = value[0] if value else ""
    return value
