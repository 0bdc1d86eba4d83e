"""A trained Spikformer V1 (form imagenet) stored as the integers of its 8-bit program: a file that compresses.

    python benchmarks/store_integers.py CHECKPOINT OUTPUT

Trained mantissas are random, and no archive makes them smaller.  A program has a whole number for each weight: where a
convolution w and its normalisation, of gain g = gamma / sqrt(var + eps), drive a LIF of integer threshold V, it has
q = round(w g V c), with a power of two c for fractional bits and decay.  So w becomes q, and the normalisation has the
scale 1 / (g V c) of each channel.  The largest weight of a channel stays real: the compiler chooses thresholds by it.
The first convolution, into which the mean and deviation of images are folded, stays as it is.

The program of the new file must have the same integers as that of the old one, else nothing is written.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from spikformer_deploy.base.arrays import Array, Int
from spikformer_deploy.base.errors import ModelError, SpikdeployError
from spikformer_deploy.converters.checkpoints.read import Loaded, load, save
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Lif
from spikformer_deploy.network.synapses import Conv
from spikformer_deploy.pipeline.stages import compile_model

MOST_ROUNDS = 12
"""Biases are settled within so many compilations; each doubles the step."""
WAY_OUT = "Give a checkpoint of a Spikformer V1 in the form imagenet, as examples/cifar10.toml makes it."


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A convolution of the model, its normalisation, and the integers that the program makes of both.

    weight     (O, I, Y, X)
    threshold  (O,)
    """

    lif: str
    conv: nn.Module
    norm: nn.BatchNorm1d | nn.BatchNorm2d
    weight: Int
    threshold: Int


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False))
@click.argument("output", type=click.Path(dir_okay=False))
def main(checkpoint: str, output: str) -> None:
    """Store the integers, check them, print sizes."""
    try:
        same = stored_as_integers(checkpoint, output)
    except SpikdeployError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"the program has the same integers, {same[:12]}")
    for path in (checkpoint, output):
        content = Path(path).read_bytes()
        click.echo(f"{path}: {len(content):,} bytes, {len(zlib.compress(content)):,} compressed")


def stored_as_integers(checkpoint: str, output: str) -> str:
    """Write the file; the digest of the integers.  Raises ModelError where they would be others."""
    trained, stored = load(checkpoint), load(checkpoint)
    wanted = network_of(trained)
    layers = list(layers_of(wanted, stored.module))
    if not layers:
        raise ModelError(checkpoint, "no convolution behind the first drives a LIF", WAY_OUT)
    with torch.no_grad():
        for layer in layers:
            store(layer)
        settle(stored, layers, wanted)
    if integers(network_of(stored)) != integers(wanted):
        raise ModelError(checkpoint, "its program would have other integers", "Keep the checkpoint as it is.")
    save(output, stored.module, stored.config, stored.preprocess, stored.labels, stored.training)
    return integers(wanted)


def network_of(loaded: Loaded) -> Network:
    """The network of the 8-bit program, calibrated on random pixels."""
    return compile_model(loaded, check=False).program.network


def integers(network: Network) -> str:
    """A digest of all integers of a network, without the error that their rounding left: of integers there is less."""
    return replace(network, populations=tuple(replace(p, rounding=0.0) for p in network)).digest()


def layers_of(network: Network, module: nn.Module) -> Iterator[Layer]:
    """The convolutions that spikes reach and that drive a LIF; the model calls what is before x_lif x_conv and x_bn."""
    for projection in network.projections:
        neuron = network[projection.target].neuron
        if not isinstance(projection.synapse, Conv) or not isinstance(neuron, Lif):
            continue
        if projection.sources == (network.input.name,):
            continue
        conv, norm = (_part(module, projection.target, part) for part in ("_conv", "_bn"))
        if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            raise ModelError(projection.target, "its convolution has no batch normalisation", WAY_OUT)
        yield Layer(projection.target, conv, norm, projection.synapse.weight, neuron.threshold)


def _part(module: nn.Module, lif: str, part: str) -> nn.Module:
    name = lif.replace("_lif", part)
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise ModelError(lif, f"the model has no {name}", WAY_OUT) from None


def store(layer: Layer) -> None:
    """Give the convolution the integers of the program, and the normalisation their scales."""
    norm = layer.norm
    weight = _values(layer.conv.weight).reshape(len(layer.weight), -1)
    quantized = layer.weight.reshape(len(layer.weight), -1)
    gain = _values(norm.weight) / np.sqrt(_values(norm.running_var) + norm.eps)
    scale = 1 / (gain * layer.threshold * _power_of_two(weight * (gain * layer.threshold)[:, None], quantized))
    layer.conv.weight.copy_(_tensor(_with_peaks(weight / scale[:, None], quantized)).view_as(layer.conv.weight))
    norm.weight.copy_(_tensor(_values(norm.weight) * scale))
    norm.running_mean.copy_(_tensor(_values(norm.running_mean) / scale))
    if layer.conv.bias is not None:
        layer.conv.bias.copy_(_tensor(_values(layer.conv.bias) / scale))


def _power_of_two(real: Array, quantized: Int) -> float:
    """The power of two next to the factor that brings `real` closest to `quantized`."""
    return float(2.0 ** np.round(np.log2((real * quantized).sum() / (real * real).sum())))


def _with_peaks(real: Array, quantized: Int) -> Array:
    """(O, n) integers, of which the largest of each row is real; no other exceeds it, though it may have rounded up."""
    rows = np.arange(len(real))
    at = np.abs(real).argmax(1)
    peaks = real[rows, at].astype(np.float32)
    out = np.clip(quantized.astype(np.float32), -np.abs(peaks)[:, None], np.abs(peaks)[:, None])
    out[rows, at] = peaks
    return out


def settle(stored: Loaded, layers: list[Layer], wanted: Network) -> None:
    """Move the shifts of normalisations until no bias is off by one.

    Scales are floats of 32 bits again, and a bias that was next to half an integer may round the other way.
    """
    step = 1
    for _ in range(MOST_ROUNDS):
        found = network_of(stored)
        off = {layer: _biases(wanted, layer) - _biases(found, layer) for layer in layers}
        if not any(difference.any() for difference in off.values()):
            return
        for layer, difference in off.items():
            shift = layer.norm.bias.numpy()
            towards = np.where(difference > 0, np.inf, -np.inf).astype(np.float32)
            for _ in range(step):
                shift[:] = np.where(difference, np.nextafter(shift, towards), shift)
        step *= 2


def _biases(network: Network, layer: Layer) -> Int:
    neuron = network[layer.lif].neuron
    assert isinstance(neuron, Lif)
    return neuron.bias


def _values(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


if __name__ == "__main__":
    main()
