"""Write a network as a folder that runs in Lava by itself: description, weights, and the scripts of standalone/."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import EXACT_FP32
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_new_folder, writing
from spikformer_deploy.base.json_text import written
from spikformer_deploy.network.bounds import largest_sum
from spikformer_deploy.network.heads import heads_of
from spikformer_deploy.network.mapping import Way
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import Lif, LifKind, Max, Source, kind_of
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window

STANDALONE = Path(__file__).with_name("standalone")
LIF_BITS = 24
"""Of the states of lava.proc.lif."""
LARGEST_BIAS = 2**15 - 1
"""The arrays of lava.proc.lif hold biases in 16 bits, and wrap what has more."""
README = """**What this is not: it holds no NeuroCore models and no microcode. It runs in Lava on a CPU.**

# A spiking network in Lava

{summary}

    pip install numpy scipy scikit-learn networkx asteval
    pip install --no-deps --ignore-requires-python lava-nc==0.10.0
    python run.py IMAGES.npy -o results/

IMAGES.npy is a file of yours: unsigned integers {images}; pixels are taken as they are.
network.json describes the populations and the synapses between them, weights.npz holds their integers, assemble.py
makes Lava Processes of both, and processes/ has those that Lava itself lacks, each with its fixed-point model for CPUs.
Every spike and every potential is that of the program that was exported.
"""
"""Of a network without a mapping; pipeline/board.py has that of a program."""
PROCESSES = {
    "source": "Frames",
    "levels": "Levels",
    "or": "Or",
    "sum": "Sum",
    "max": "Sum",
    "and": "And",
    "stream": "Stream",
    "accumulator": "Accumulator",
}
"""The classes that standalone/assemble.py makes of neurons, by their kind; of LIFs see process_of."""


def export(
    network: Network, folder: Path, beside: Mapping[str, bytes] | None = None, ways: Mapping[str, Way] | None = None
) -> None:
    """Write the folder, whole or not at all.

    beside  other files in it, or in place of those that it has: path in the folder -> content
    ways    of its attentions, by target, as a mapping has them; the one with the fewest counters where nothing is said
    Raises InputError where it exists and is not empty, or cannot be written.
    """
    check_new_folder(folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with writing(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:40]}.") as name:
        whole = Path(name) / "whole"
        write(network, whole, ways)
        for path, content in (beside or {}).items():
            (whole / path).parent.mkdir(exist_ok=True)
            (whole / path).write_bytes(content)
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)


def write(network: Network, folder: Path, ways: Mapping[str, Way] | None = None) -> None:
    """The files of an export, into a new folder; ways: as of `export`."""
    shutil.copytree(STANDALONE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "__init__.py").unlink()
    arrays: dict[str, np.ndarray] = {}
    description = {
        "time_steps": network.time_steps,
        "state_bits": network.state_bits,
        "bounds": network.bounds,
        "populations": [_population(p, f"population{i}", arrays) for i, p in enumerate(network)],
        "projections": [
            _projection(network, p, f"projection{i}", arrays, ways or {}) for i, p in enumerate(network.projections)
        ],
    }
    (folder / "network.json").write_text(written(description, indent=1) + "\n")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    (folder / "weights.npz").write_bytes(buffer.getvalue())
    (folder / "README.md").write_text(README.format(summary=summary_of(network), images=images_of(network)))


def _population(population: Population, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    def keep(what: str, array: np.ndarray) -> str:
        arrays[f"{prefix}.{what}"] = array
        return f"{prefix}.{what}"

    neuron = population.neuron
    if isinstance(neuron, Lif) and neuron.kind == LifKind.STOCK:
        _check_bias(population.name, neuron)
    # a neuron is its fields, under their names; those without a shift take sums as they are
    facts: dict[str, Any] = {"kind": kind_of(neuron), "shift": 0}
    for field in fields(neuron):
        value = getattr(neuron, field.name)
        if isinstance(value, np.ndarray):
            value = keep(field.name, value)
        facts[field.name] = value.value if isinstance(value, Enum) else value
    return {"name": population.name, "shape": list(population.shape), "largest": population.max_out, **facts}


def _check_bias(name: str, lif: Lif) -> None:
    largest = np.abs(lif.bias).max(initial=0)
    if largest > LARGEST_BIAS:
        problem = f"a bias of {largest}, and lava.proc.lif holds them up to {LARGEST_BIAS}"
        raise InputError(name, problem, "Compile with fewer weight bits, or with other neurons.")


def _projection(
    network: Network, projection: Projection, prefix: str, arrays: dict[str, np.ndarray], ways: Mapping[str, Way]
) -> dict[str, Any]:
    facts: dict[str, Any] = {"sources": list(projection.sources), "target": projection.target}
    match projection.synapse:
        case Conv() as conv:
            arrays[f"{prefix}.weight"] = conv.weight
            target = network[projection.target].neuron
            dense = conv.weight.shape[2:] == (1, 1) and conv.groups == 1 and conv.weight.dtype == np.int8
            return {
                **facts,
                "kind": "conv",
                "weight": f"{prefix}.weight",
                "stride": list(conv.stride),
                "padding": list(conv.padding),
                "groups": conv.groups,
                "shift": conv.shift,
                "float": _exact(network, projection),
                "dense": bool(dense and isinstance(target, Lif) and target.kind == LifKind.STOCK),
            }
        case Window() as window:
            geometry = {name: list(getattr(window, name)) for name in ("stride", "padding", "offset")}
            kind = "largest" if isinstance(network[projection.target].neuron, Max) else "window"
            return {**facts, "kind": kind, "kernel": list(window.kernel), **geometry}
        case Readout() as readout:
            arrays[f"{prefix}.weight"] = readout.weight
            return {**facts, "kind": "readout", "weight": f"{prefix}.weight"}
        case Attention() as attention:
            way = ways.get(projection.target) or Way(heads_of(network, projection).fewest_counters)
            parameters = {"heads": attention.heads, "factor": attention.weight}
            return {**facts, "kind": "attention", **parameters, "serial": way.serial, "copies": way.copies}
        case DualSpike(heads, over_tokens):
            exact = _exact(network, projection)
            return {**facts, "kind": "dual_spike", "float": exact, "heads": heads, "over_tokens": over_tokens}
        case _:
            assert_never(projection.synapse)


def _exact(network: Network, projection: Projection) -> str:
    """The float type that holds every partial sum of a projection."""
    return "float32" if largest_sum(network, projection) < EXACT_FP32 else "float64"


def process_of(network: Network, population: Population) -> str:
    """The class of the Process that standalone/assemble.py makes of a population."""
    neuron = population.neuron
    if not isinstance(neuron, Lif):
        return PROCESSES[kind_of(neuron)]
    if neuron.kind == LifKind.PROGRAMMABLE:
        return "ProgrammableLif"
    fits = network.bounds == "static" and network.state_bits <= LIF_BITS
    return "lava.proc.lif.LIFReset" if fits else "GuardedLif"


def summary_of(network: Network) -> str:
    """How many neurons of which kinds, and how many time steps."""
    spiking = [p for p in network if p.neuron.fires]
    kinds = {f"{p.neuron.kind} LIF" if isinstance(p.neuron, Lif) else kind_of(p.neuron) for p in spiking}
    neurons = f"{sum(p.size for p in spiking):,} spiking neurons ({', '.join(sorted(kinds))})"
    return f"{neurons}, {network.time_steps} time steps an image."


def images_of(network: Network) -> str:
    """The shape and the range of its images."""
    source = network.input
    assert isinstance(source.neuron, Source)
    steps = f"{network.time_steps}, " if source.neuron.per_step else ""
    return f"(images, {steps}{', '.join(map(str, source.shape))}) from 0 to {source.neuron.max_value}"
