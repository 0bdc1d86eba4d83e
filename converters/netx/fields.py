"""What stands in a .net of lava-dl's netx (HDF5): its layers, their fields and numbers, each checked by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int, Pair, Shape
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.base.values import frozen
from spikformer_deploy.converters import hdf5
from spikformer_deploy.network.neurons import DECAY_ONE

Layer = dict[str, Any]
"""Of one layer, by name: numbers, arrays, words, and its neuron, which is a dict of its own."""

LARGEST_MANTISSA = 127
"""Of weights of 8 bits, to either side of zero."""
LARGEST_VALUE = 2**15 - 1
"""Of weights and biases in the file, before an exponent is taken out of them."""
LARGEST_VTH = 2**17
CLEARED = DECAY_ONE
"""iDecay with which the current is forgotten every step."""

KEYS = {
    "input": {"shape", "neuron", "weight", "bias"},
    "conv": {"shape", "neuron", "weight", "bias", "delay", "stride", "padding", "dilation", "groups"}
    | {"inChannels", "outChannels", "kernelSize"},
    "dense": {"shape", "neuron", "weight", "bias", "delay", "inFeatures", "outFeatures"},
    "flatten": {"shape"},
}
"""Of each type of layer, all of which are read, or held against what is read."""
NEEDED = {"input": ("shape",), "conv": ("weight", "neuron"), "dense": ("weight",)}
"""Of each type of layer, without which it is none."""
NEURON_NEEDED = ("iDecay", "vDecay", "vThMant")
NEURON_KEYS = {*NEURON_NEEDED, "refDelay", "wgtExp", "gradedSpike", "messageBits"}
TRAINING_KEYS = {"theta", "scaleRho", "tauRho"}
"""Of SLAYER's surrogate gradient: PilotNet's last layer has a theta of another threshold than the one it runs with."""


# --- the file -------------------------------------------------------------------------------------------------------


def layers_of(path: Path) -> tuple[list[Layer], dict[str, Any]]:
    """(layers in order, simulation).  Raises InputError, and ModelError for what a reader must know and we do not."""
    content = _unwrapped(hdf5.tree(path, "layer", "simulation"))
    layers = content.get("layer")
    if not isinstance(layers, dict) or sorted(layers) != sorted(map(str, range(len(layers)))) or not layers:
        raise InputError(str(path), "it has no layers 0, 1, ... as netx writes them", "Give a .net of lava-dl.")
    # HDF5 has them in the order of words: 0, 1, 10, 2
    ordered = [layers[str(i)] for i in range(len(layers))]
    for index, layer in enumerate(ordered):
        _check_complete(f"layer.{index}", layer)
    simulation = content.get("simulation", {})
    if not isinstance(simulation, dict):
        raise InputError(str(path), "its 'simulation' is no group", "Give a .net of lava-dl.")
    check_known(str(path), dict.fromkeys(hdf5.members(path)), {"layer", "simulation"})
    check_known(f"{path}: simulation", simulation, {"Ts", "tSample"})
    if whole(str(path), "simulation/Ts", simulation.get("Ts", 1)) != 1:
        raise ModelError(str(path), f"steps of {simulation['Ts']} (simulation/Ts) are not supported", "Use 1.")
    return ordered, simulation


def steps_in(path: Path, value: Any) -> int:
    """T, as the file or the user says it."""
    steps = np.asarray(value)
    if steps.size != 1 or steps.dtype.kind not in "iuf" or steps.item() not in range(1, MOST_STEPS + 1):
        raise ModelError(str(path), f"{value} time steps", f"Give --time-steps, 1 to {MOST_STEPS}.")
    return int(steps.item())


def _check_complete(name: str, layer: Any) -> None:
    if not isinstance(layer, dict) or not isinstance(layer.get("type"), str):
        raise InputError(name, "it has no type")
    kind = layer["type"]
    missing = [key for key in NEEDED.get(kind, ()) if key not in layer]
    # either says how many neurons there are
    if kind == "dense" and not layer.keys() & {"outFeatures", "shape"}:
        missing.append("outFeatures")
    neuron = layer.get("neuron", dict.fromkeys(NEURON_NEEDED))
    if isinstance(neuron, dict):
        missing += [f"neuron/{key}" for key in NEURON_NEEDED if key not in neuron]
    if missing or not isinstance(neuron, dict):
        raise InputError(name, f"'{kind}' lacks {', '.join(missing) or 'a neuron'}")


def _unwrapped(value: Any) -> Any:
    """The same with each array of words as its first word: netx writes a word as an array of one."""
    if isinstance(value, dict):
        return {key: _unwrapped(member) for key, member in value.items()}
    while isinstance(value, list):
        value = value[0] if value else ""
    return value


# --- what a file says twice, or what nothing here reads --------------------------------------------------------------


def check_known(name: str, fields: dict[str, Any], known: set[str]) -> None:
    """Refuse names whose meaning is not known: nothing that a file says is passed over."""
    unknown = sorted(set(fields) - known)
    if unknown:
        problem = f"it has {', '.join(map(repr, unknown[:4]))}, of which this reader does not know the meaning"
        raise ModelError(name, problem, "Remove it from the file where it has none.")


def check_equal(name: str, what: str, stated: Any, actual: Any) -> None:
    """Refuse a layer whose file states something else than its weights and its input make it."""
    if stated != actual:
        raise ModelError(name, f"{what} is {stated} in the file, and its weights and input make it {actual}")


def check_no_delay(name: str, layer: Layer) -> None:
    """Refuse delays of synapses."""
    if np.any(layer.get("delay", 0)):
        raise ModelError(name, "delays of synapses are not supported", "Train it without.")


# --- numbers --------------------------------------------------------------------------------------------------------


def whole(name: str, what: str, value: Any) -> int:
    """A number that must be one, and whole.  int() would cut what is not, and is used after the check."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iufb" or array.item() != np.rint(array.item()):
        raise ModelError(name, f"{what} is {value}, and must be one whole number")
    return int(array.item())


def pair(value: Any) -> Pair:
    """(along Y, along X), of which the file may say one number for both; ValueError where they are not whole."""
    first, second = np.broadcast_to(np.asarray(value).reshape(-1), 2).tolist()
    if (int(first), int(second)) != (first, second):
        raise ValueError(f"{first} and {second} are not whole")
    return int(first), int(second)


def shape_of(name: str, layer: Layer) -> Shape:
    """(C, Y, X) as the layer says it."""
    shape = _extents(name, layer)
    if len(shape) != 3 or min(shape) < 1:
        raise ModelError(name, f"a shape of {shape}, not (channels, height, width)")
    return shape[0], shape[1], shape[2]


def size_of(name: str, layer: Layer) -> int:
    """How many neurons the shape of a layer makes, whatever its order."""
    return math.prod(_extents(name, layer))


def _extents(name: str, layer: Layer) -> list[int]:
    return [whole(name, "shape", extent) for extent in np.asarray(layer["shape"]).reshape(-1)]


def integers(name: str, values: NDArray[Any]) -> Int:
    """Weights or biases: numbers of 16 bits, in whatever type the file has them."""
    rounded = np.rint(np.asarray(values, np.float64))
    if not np.array_equal(rounded, values) or np.abs(rounded).max(initial=0) > LARGEST_VALUE:
        raise ModelError(name, "values are no integers of 16 bits", "Export the quantized network (export_hdf5).")
    return rounded.astype(np.int64)


def bias_of(name: str, layer: Layer, channels: int) -> Int:
    """(C,) int64; a layer may say one for all, or none."""
    bias = integers(f"{name}.bias", np.asarray(layer.get("bias", 0))).reshape(-1)
    return np.broadcast_to(bias, channels).astype(np.int64)


def dense_weight(name: str, layer: Layer) -> Int:
    """(out, in), of which the file may have lost the first axis, and says the sizes up to three times."""
    weight = integers(f"{name}.weight", layer["weight"])
    stated = whole(name, "outFeatures", layer["outFeatures"]) if "outFeatures" in layer else size_of(name, layer)
    if stated < 1 or weight.size == 0 or weight.size % stated:
        raise ModelError(name, f"{weight.size} weights for {stated} neurons")
    rows = weight.reshape(stated if weight.ndim < 2 else len(weight), -1)
    check_equal(name, "outFeatures", stated, len(rows))
    if "shape" in layer:
        check_equal(name, "the size of its shape", size_of(name, layer), len(rows))
    columns = rows.shape[1]
    check_equal(name, "inFeatures", whole(name, "inFeatures", layer.get("inFeatures", columns)), columns)
    return rows


def mantissas(name: str, weight: Int) -> tuple[NDArray[np.int8], int]:
    """(weights of 8 bits, exponent) with the same product, as on the chip: mantissas share one exponent."""
    exponent = 0
    while np.abs(weight).max(initial=0) > LARGEST_MANTISSA and not (weight & 1).any():
        weight = weight >> 1
        exponent += 1
    largest = np.abs(weight).max(initial=0)
    if largest > LARGEST_MANTISSA:
        raise ModelError(name, f"weights up to {largest} have more than 8 bits", "Train it with fewer weight bits.")
    return frozen(weight, np.int8), exponent
