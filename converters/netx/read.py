"""Networks of lava-dl's netx (.net, HDF5), read: chains of convolutions and dense layers of CUBA neurons.

Weights, biases, decays and thresholds in the file are integers of lava.proc.lif already, so that nothing is quantized:
the network is the one that Lava runs, spike for spike.  A layer that netx knows and we do not is refused by name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.converters.netx.fields import (
    CLEARED,
    KEYS,
    LARGEST_VTH,
    NEURON_KEYS,
    TRAINING_KEYS,
    Layer,
    bias_of,
    check_equal,
    check_known,
    check_no_delay,
    dense_weight,
    integers,
    layers_of,
    mantissas,
    pair,
    shape_of,
    size_of,
    steps_in,
    whole,
)
from spikformer_deploy.converters.windows import window_counts
from spikformer_deploy.network.bounds import is_proven, membrane_range, piled_up, weighted_range
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import DECAY_ONE, STOCK_SHIFT, Accumulator, Lif, LifKind, Source
from spikformer_deploy.network.synapses import Conv, Readout

STATE_BITS = 24
"""Of u and v in lava.proc.lif; both are compared in units shifted left by 6 bits."""
WEIGHT_BITS = 8


def read_network(path: str | Path, time_steps: int | None = None) -> Network:
    """The network of a .net file; its accumulators count the output's spikes, or are the last layer without neurons.

    time_steps  of an image; by default what the file says (simulation/tSample)
    Pixels are the integers that lava-dl's input layer would inject, weight * x + bias in its own normalisation.
    Without an input layer, the first dense layer takes spikes: frames of (in, 1, 1) for each step.
    Raises InputError for a file that is damaged or foreign, ModelError for a layer that we do not have, or that the
    file says two things about.
    """
    path = Path(path)
    layers, simulation = layers_of(path)
    steps = time_steps or simulation.get("tSample")
    if steps is None:
        raise ModelError(str(path), "it does not say how many time steps an image has", "Give --time-steps.")
    chain = _Chain(steps_in(path, steps))
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
    late = sum(isinstance(population.neuron, Lif) for population in network)
    return (
        f"counts are those of all {network.time_steps} steps; a training with SLAYER's delay_shift, its default, gives "
        f"spikes out a step later in each of the {late} layers, and lacks those of the last {late} (docs/lava.md)"
    )


def stated_steps(path: str | Path) -> int | None:
    """How many time steps an image has by the .net file itself, or None; InputError and ModelError as read_network."""
    path = Path(path)
    _, simulation = layers_of(path)
    return steps_in(path, simulation["tSample"]) if "tSample" in simulation else None


class _Chain:
    """Populations one after the other.

    flat    whether the last layer was a flatten layer
    headed  whether the last layer has no neurons
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.populations: list[Population] = []
        self.projections: list[Projection] = []
        self.flat = False
        self.headed = False

    @property
    def last(self) -> Population:
        """What the next layer reads."""
        return self.populations[-1]

    def add(self, name: str, layer: Layer) -> None:
        kind = layer["type"]
        self._check_place(name, layer)
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

    def _check_place(self, name: str, layer: Layer) -> None:
        """Whether such a layer may come next."""
        kind = layer["type"]
        if kind == "input" and self.populations:
            raise ModelError(name, "the input must be the first layer, and only that")
        if kind in KEYS:
            check_known(name, layer, KEYS[kind] | {"type"})
        if self.headed:
            raise ModelError(self.last.name, "only the last layer may be a dense layer without neurons")
        if self.flat and kind != "dense":
            raise ModelError(name, f"a layer of type '{kind}' behind a flatten layer", "A dense layer must follow it.")
        if kind in ("conv", "flatten") and not self.populations:
            raise ModelError(name, "no input layer says how large its maps are", "Add an input layer with a shape.")

    # --- layers ---

    def _input(self, name: str, layer: Layer) -> None:
        shape = shape_of(name, layer)
        neuron = layer.get("neuron")
        largest = 1 if neuron is None else 255
        self.populations.append(Population(name, shape, Source(largest, per_step=neuron is None), largest))
        if neuron is not None:
            # pixels are the bias of neurons, which turn them into spikes: here a synapse of weight 1 from each pixel
            ones = np.ones((shape[0], 1, 1, 1), np.int8)
            self._lif(f"{name}.lif", shape, Conv(frozen(ones), groups=shape[0]), {"neuron": neuron})

    def _conv(self, name: str, layer: Layer) -> None:
        weight = integers(f"{name}.weight", layer["weight"])
        # lava-dl's convolutions are over time, too, with a kernel of one step
        if weight.ndim == 5 and weight.shape[4] == 1:
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise ModelError(name, f"weights of shape {weight.shape}, not (out, in, height, width)")
        stride = pair(layer.get("stride", 1))
        padding = pair(layer.get("padding", 0))
        groups = whole(name, "groups", layer.get("groups", 1))
        if min(stride) < 1 or min(padding) < 0 or groups < 1 or len(weight) % groups:
            raise ModelError(name, f"stride {stride}, padding {padding}, {groups} groups of {len(weight)} channels")
        if pair(layer.get("dilation", 1)) != (1, 1):
            raise ModelError(name, f"dilation {pair(layer['dilation'])} is not supported", "Train it without.")
        check_no_delay(name, layer)
        self._check_channels(name, layer, weight.shape, groups)
        shape = (len(weight), *window_counts(self.last.shape[1:], weight.shape[2:], stride, padding))
        if "shape" in layer:
            check_equal(name, "shape", shape_of(name, layer), shape)
        mantissa, exponent = mantissas(name, weight)
        self._lif(name, shape, Conv(mantissa, stride, padding, groups), layer, exponent)

    def _check_channels(self, name: str, layer: Layer, weight_shape: tuple[int, ...], groups: int) -> None:
        """What the file says of a convolution's weights, (out, in, height, width), against these and its input."""
        out, taken, *kernel = weight_shape
        channels = self.last.shape[0]
        if taken * groups != channels:
            raise ModelError(name, f"weights for {taken * groups} channels, and {channels} come in")
        check_equal(name, "kernelSize", pair(layer.get("kernelSize", kernel)), tuple(kernel))
        check_equal(name, "inChannels", whole(name, "inChannels", layer.get("inChannels", channels)), channels)
        check_equal(name, "outChannels", whole(name, "outChannels", layer.get("outChannels", out)), out)

    def _flatten(self, name: str, layer: Layer) -> None:
        """The weights of the dense layer that must follow stand in the order (C, Y, X)."""
        if "shape" in layer:
            check_equal(name, "the size of its shape", size_of(name, layer), self.last.size)
        self.flat = True

    def _dense(self, name: str, layer: Layer) -> None:
        weight = dense_weight(name, layer)
        check_no_delay(name, layer)
        if not self.populations:
            # lava-dl then takes spikes from outside
            spikes = (weight.shape[1], 1, 1)
            self.populations.append(Population("input", spikes, Source(1, per_step=True), 1))
        source = self._flattened(name)
        self.flat = False
        if weight.shape[1] != source.size:
            raise ModelError(name, f"weights for {weight.shape[1]} inputs, and {_by(source.shape)} come in", "")
        mantissa, exponent = mantissas(name, weight.reshape(-1, *source.shape))
        if "neuron" in layer:
            self._lif(name, (len(weight), 1, 1), Conv(mantissa), layer, exponent)
        else:
            self._head(name, mantissa, layer, exponent)

    def _flattened(self, name: str) -> Population:
        """What a dense layer reads: one position, or a map whose order a flatten layer says."""
        source = self.last
        if source.shape[1:] != (1, 1) and not self.flat:
            problem = f"a map of {_by(source.shape)} comes in, and no flatten layer says its order"
            raise ModelError(name, problem, "Flatten it.")
        return source

    def _head(self, name: str, weight: NDArray[np.int8], layer: Layer, exponent: int) -> None:
        """Without neurons: lava-dl gives it a current that is never forgotten, no decay but of that, and no spikes.

        What it holds after the last step is the sum of all that came in, and the bias once.
        """
        source = self.last
        if source.shape[1:] != (1, 1):
            raise ModelError(name, "a dense layer without neurons on a map is not supported", "Give it neurons.")
        unit = 1 << exponent
        bias = bias_of(name, layer, len(weight))
        # an accumulator has one unit for all that it holds
        if (bias % unit).any():
            raise ModelError(name, f"its bias has finer steps than its weights, which are multiples of {unit}")
        bias //= unit
        low, high = weighted_range(weight, source.max_out * self.steps)
        bounds = (int(np.minimum(bias, low + bias).min()), int(np.maximum(bias, high + bias).max()))
        head = Accumulator(frozen(bias), frozen(np.full(len(weight), float(unit))))
        self.populations.append(Population(name, (len(weight), 1, 1), head, 0, bounds, 0.0))
        self.projections.append(Projection((source.name,), name, Readout(frozen(weight[:, :, 0, 0]))))
        self.headed = True

    def _lif(self, name: str, shape: Shape, conv: Conv, layer: Layer, exponent: int = 0) -> None:
        source = self.last
        lif = _neuron(name, shape, layer, exponent)
        self.populations.append(Population(name, shape, lif, 1, self._membrane_bounds(lif, conv, source), 0.0))
        self.projections.append(Projection((source.name,), name, conv))

    def _membrane_bounds(self, lif: Lif, conv: Conv, source: Population) -> tuple[int, int]:
        """The least and the largest potential that any input can lead to, in units of lava.proc.lif."""
        bias = lif.bias << STOCK_SHIFT
        # what one step brings, piled up in the current over all steps
        weakest, strongest = weighted_range(conv.weight, source.max_out)
        low = piled_up(weakest << lif.shift + STOCK_SHIFT, lif.current, self.steps) + bias
        high = piled_up(strongest << lif.shift + STOCK_SHIFT, lif.current, self.steps) + bias
        # a stock neuron fires above its threshold, and at it keeps its potential
        fires_from = (lif.threshold << STOCK_SHIFT) + 1
        floor, ceiling = membrane_range(low, high, fires_from, lif.decay, self.steps)
        return int(floor.min()), int(ceiling.max())

    # --- the end ---

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
            WEIGHT_BITS,
            "observed",
            (2 ** (STATE_BITS - 1) - 1) / largest,
            frozen(np.zeros(channels)),
            frozen(np.ones(channels)),
        )
        # "observed" until the law itself finds that no input leaves the bounds
        return replace(network, bounds="static") if is_proven(network) else network

    def _count(self) -> None:
        """The last layer's spikes are counted."""
        last = self.last
        classes, height, width = last.shape
        head = Accumulator(frozen(np.zeros(classes, np.int64)), frozen(np.ones(classes)))
        most = self.steps * height * width
        self.populations.append(Population("counts", (classes, 1, 1), head, 0, (0, most), 0.0))
        self.projections.append(Projection((last.name,), "counts", Readout(frozen(np.eye(classes, dtype=np.int8)))))


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape))


# --- neurons --------------------------------------------------------------------------------------------------------


def _neuron(name: str, shape: Shape, layer: Layer, exponent: int) -> Lif:
    """The neurons of a layer, whose weights are multiples of 2^exponent."""
    neuron = layer["neuron"]
    kind = str(neuron.get("type", "")).upper()
    if kind not in ("CUBA", "LOIHI"):
        raise ModelError(name, f"neurons of type '{kind}' are not supported", "CUBA (LOIHI) neurons are.")
    check_known(f"{name}.neuron", neuron, NEURON_KEYS | TRAINING_KEYS | {"type"})
    current_decay = whole(name, "iDecay", neuron["iDecay"])
    decay = whole(name, "vDecay", neuron["vDecay"])
    if not 1 <= current_decay <= CLEARED or not 0 <= decay <= DECAY_ONE:
        raise ModelError(name, f"decays of {current_decay} and {decay}", f"They are of {DECAY_ONE}.")
    threshold = whole(name, "vThMant", neuron["vThMant"])
    if not 0 <= threshold < LARGEST_VTH:
        raise ModelError(name, f"a threshold (vThMant) of {threshold}", f"It must be 0 to {LARGEST_VTH - 1}.")
    _check_plain_spikes(name, neuron)
    channels = shape[0]
    # the file says what is lost in a step, and a Lif what is kept
    return Lif(
        LifKind.STOCK,
        DECAY_ONE - decay,
        exponent,
        frozen(np.full(channels, threshold, np.int64)),
        frozen(bias_of(name, layer, channels)),
        current=CLEARED - current_decay,
    )


def _check_plain_spikes(name: str, neuron: dict[str, Any]) -> None:
    """Refuse what lava-dl's own reader does not look at, or what Lava's LIF does not do."""
    exponent = whole(name, "wgtExp", neuron.get("wgtExp", 0))
    if exponent != 0:
        raise ModelError(name, f"a weight exponent of {exponent} is not supported", "Use 0.")
    refractory = whole(name, "refDelay", neuron.get("refDelay", 1))
    if refractory != 1:
        raise ModelError(name, f"a refractory delay of {refractory} is not supported", "Use 1.")
    bits = whole(name, "messageBits", neuron.get("messageBits", 0))
    graded = whole(name, "gradedSpike", neuron.get("gradedSpike", 0))
    if bits != 0 or graded != 0:
        problem = f"graded spikes (gradedSpike {graded}, messageBits {bits}) are not supported"
        raise ModelError(name, problem, "Train it with binary spikes.")
