"""Integer networks as a .net of lava-dl's netx (HDF5): chains of convolutions and dense layers of CUBA neurons."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.netx.fields import CLEARED, LARGEST_MANTISSA, LARGEST_VTH, Layer
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import DECAY_ONE, Accumulator, Lif, LifKind, kind_of
from spikformer_deploy.network.synapses import Conv, Readout


def write_network(network: Network, path: Path) -> None:
    """Write a chain of convolutions and dense layers as a .net that lava-dl reads: same weights, same spikes.

    Accumulators that only count the last layer's spikes are not written: netx gives out these spikes.
    Raises ModelError for anything that netx cannot hold, by name.
    """
    import h5py

    layers = _layers(network)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        numbered = {str(index): layer for index, layer in enumerate(layers)}
        _put(file, {"layer": numbered, "simulation": {"Ts": 1, "tSample": network.time_steps}})
    write_whole(path, buffer.getvalue())


def _put(group: Any, values: dict[str, Any]) -> None:
    """Write nested dicts into an HDF5 group."""
    for key, value in values.items():
        if isinstance(value, dict):
            _put(group.create_group(key), value)
        else:
            group[key] = np.bytes_(value) if isinstance(value, str) else value


def _layers(network: Network) -> list[Layer]:
    layers: list[Layer] = [{"type": "input", "shape": list(network.input.shape), "weight": 1, "bias": 0}]
    source = network.input
    for population in network.populations[1:-1]:
        if _turns_pixels_into_spikes(network, population):
            # netx's input layer has neurons of its own
            layers[0]["neuron"] = _neuron(population)
        else:
            if layers[-1]["type"] in ("input", "conv") and _reads_all(network, population, source):
                layers.append({"type": "flatten", "shape": [1, 1, source.size]})
            layers.append(_layer(network, population, source))
        source = population
    _check_head(network, source)
    return layers


def _turns_pixels_into_spikes(network: Network, population: Population) -> bool:
    """Whether it is the input's own neurons: one synapse of weight 1 from each pixel, no bias."""
    if population.name != f"{network.input.name}.lif":
        return False
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


def _layer(network: Network, population: Population, source: Population) -> Layer:
    """A population of LIFs that reads the one before it by one convolution; a conv or a dense layer."""
    name = population.name
    neuron = population.neuron
    incoming = network.into(name)
    if len(incoming) != 1 or incoming[0].sources != (source.name,) or not isinstance(incoming[0].synapse, Conv):
        kinds = ", ".join(type(projection.synapse).__name__.lower() for projection in incoming)
        raise ModelError(name, f"netx holds chains of conv and dense layers, and this one has inputs by {kinds}")
    if not isinstance(neuron, Lif):
        raise ModelError(name, f"netx has no layer for {kind_of(neuron)} neurons", "Export to onnx or lava.")
    conv = incoming[0].synapse
    weight = _weight(name, conv, neuron)
    common = {"shape": list(population.shape), "bias": _bias(name, neuron), "neuron": _neuron(population)}
    if _reads_all(network, population, source):
        sizes = {"inFeatures": source.size, "outFeatures": population.size}
        return {"type": "dense", "weight": weight.reshape(len(weight), -1), **sizes, **common}
    return {
        "type": "conv",
        "weight": weight,
        "stride": list(conv.stride),
        "padding": list(conv.padding),
        "dilation": [1, 1],
        "groups": conv.groups,
        "inChannels": source.shape[0],
        "outChannels": population.shape[0],
        "kernelSize": list(weight.shape[2:]),
        **common,
    }


def _weight(name: str, conv: Conv, neuron: Lif) -> Int:
    """(out, in, height, width) with the fractional bits of the neurons' input in the weights themselves."""
    weight = conv.weight.astype(np.int64) << neuron.shift
    if np.abs(weight).max(initial=0) > LARGEST_MANTISSA:
        raise ModelError(
            name,
            f"netx has no exponent for weights, and with their {neuron.shift} fractional bits they need more than 8",
            "Compile with fewer weight bits.",
        )
    return weight


def _bias(name: str, neuron: Lif) -> Int:
    """(C,)"""
    if neuron.bias.ndim == 1:
        return neuron.bias
    if (neuron.bias != neuron.bias[:, :1, :1]).any():
        raise ModelError(name, "netx has one bias a channel, and this layer a map of them (padding of the input)")
    return neuron.bias[:, 0, 0]


def _neuron(population: Population) -> dict[str, Any]:
    neuron = population.neuron
    assert isinstance(neuron, Lif)
    if neuron.kind != LifKind.STOCK:
        raise ModelError(population.name, "netx has only CUBA neurons", "Compile with --neuron stock.")
    thresholds = np.unique(neuron.threshold)
    if len(thresholds) > 1 or not 0 <= thresholds[0] < LARGEST_VTH:
        problem = f"netx has one threshold a layer below {LARGEST_VTH}, and this one has {thresholds[:4].tolist()}"
        raise ModelError(population.name, problem, "Compile with --granularity tensor.")
    # the file says what is lost in a step, and a Lif what is kept
    decays = {"iDecay": CLEARED - neuron.current, "vDecay": DECAY_ONE - neuron.decay}
    return {"type": "CUBA", "refDelay": 1, "wgtExp": 0, **decays, "vThMant": int(thresholds[0])}


def _check_head(network: Network, last: Population) -> None:
    """Refuse a head that does more than to count the spikes of the last layer."""
    head = network.output
    incoming = network.into(head.name)
    assert isinstance(head.neuron, Accumulator)
    if head.neuron.last:
        problem = "it reads the last time step only, and netx gives out the spikes of all"
        raise ModelError(head.name, problem, "Export to onnx, or train with the mean over the time steps.")
    counts = incoming[0].synapse if len(incoming) == 1 and incoming[0].sources == (last.name,) else None
    plain = isinstance(counts, Readout) and np.array_equal(counts.weight, np.eye(last.shape[0]))
    if not plain or head.neuron.bias.any():
        raise ModelError(
            head.name,
            "netx has no accumulators with weights and a bias of their own",
            "Export a chain that ends in spikes.",
        )
