"""Any file as tables: a program, a model, a hardware profile."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from spikformer_deploy.converters.checkpoints.read import BUNDLED
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.kinds import Kind, kind_of
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.converters.netx.read import read_network, stated_steps
from spikformer_deploy.graph.ir import Neuron, Op
from spikformer_deploy.network.mapping import SECTIONS
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Conv, Readout, Window
from spikformer_deploy.nn.zoo import stem_pooling
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.report.tables import facts_table, number, program_facts, program_table, way_in_words
from spikformer_deploy.report.targets import target_tables

OF_SERIES = ("encoder", "positions", "position_neurons")
"""Fields of a configuration that models on images have no choice of."""


def inspect_file(file: str, loading: dict[str, Any]) -> tuple[list[Table], Any]:
    """(tables, plain values) of what `file` holds, whatever its name.  Raises InputError for other files."""
    if file in BUNDLED:
        return inspect_model(file, load(file, **loading))
    path = Path(file)
    match kind_of(path):
        case Kind.PROFILE:
            return target_tables(file)
        case Kind.PROGRAM:
            return _program(Program.load(path), file)
        case Kind.NETX:
            return _netx(path, file, loading.get("time_steps"))
        case _:
            return inspect_model(file, load(file, **loading))


def _program(program: Program, file: str) -> tuple[list[Table], Any]:
    """A program: figures, cores, attention and provenance."""
    summary = {"program": file, **program_facts(program)}
    table, sites = _sites(program)
    bits = bits_by_layer(program.network)
    values = {
        "kind": "program",
        **summary,
        "sites": sites,
        "weight_bits": bits,
        "labels": list(program.labels),
        "provenance": program.provenance,
    }
    # both have tables of their own
    provenance = {k: str(v) for k, v in program.provenance.items() if k not in ("training", "mapping")}
    attention = _attention_table(program.provenance.get("mapping", {}))
    of_layers = Table(title="bits of the synapses that reach it", title_justify="left", show_header=False)
    for name, counts in bits.items():
        of_layers.add_row(name, ", ".join(map(str, counts)))
    return [program_table(file, summary), table, of_layers, *attention, facts_table("provenance", provenance)], values


def bits_by_layer(network: Network) -> dict[str, list[int]]:
    """Bits of the synapses that reach each population, of those with weights and attention; in the order of these."""
    counted = [p for p in network.projections if not isinstance(p.synapse, Window)]
    return {p.target: [network.bits_of(q) for q in counted if q.target == p.target] for p in counted}


def _sites(program: Program) -> tuple[Table, list[dict[str, Any]]]:
    """Where the layers stand: slices, the largest box of each, and its memory by section."""
    sites = []
    table = Table(title="cores", title_justify="left")
    for column in ("site", "shape", "slices", "box", *(f"{s}\nwords" for s in SECTIONS), "serial"):
        # nothing is cut: names that begin alike could not be told apart
        table.add_column(column, justify="left" if column in ("site", "serial") else "right", overflow="fold")
    for index, site in enumerate(program.mapping.sites):
        chosen = program.mapping.slices_of(index)
        words = program.mapping.words[chosen].sum(0)
        # (slices, axis, from or to)
        edges = program.mapping.boxes[chosen, 1:].reshape(-1, 3, 2)
        box = (edges[:, :, 1] - edges[:, :, 0]).max(0).tolist()
        shape = "x".join(map(str, site.shape))
        series = "one a channel" if site.token_serial else site.serial
        serial = f"{series}, {site.sub_steps} sub-steps" if site.sub_steps else ""
        table.add_row(site.name, shape, str(len(chosen)), "x".join(map(str, box)), *(f"{w:,}" for w in words), serial)
        by_section = dict(zip(SECTIONS, map(int, words), strict=True))
        sites.append({"name": site.name, "slices": len(chosen), "box": box, "words": by_section, "serial": site.serial})
    return table, sites


def _attention_table(explained: dict[str, Any]) -> list[Table]:
    """The ways to serialise the attentions, expected from the firing rates of calibration; none without attention."""
    ways = dict(explained.get("attention", {}))
    if not ways:
        return []
    chosen = ways.pop("chosen")
    title = f"attention: {way_in_words(chosen)} is chosen by the objective '{explained['objective']}'"
    table = Table(title=title, title_justify="left")
    # nominal values, without links before placement; of the energy what depends on the cut or the way
    energy = "power, messages, sweeps, uJ"
    for column in ("way", "cores", "chips", "sub-steps", "messages a step", "step, us", energy, ""):
        table.add_column(column, justify="left" if column in ("way", "") else "right")
    keys = ("cores", "chips", "sub_steps", "messages_per_step", "step_us", "energy_uj")
    for name, way in ways.items():
        # a way that was refused has no figures, but says why
        numbers = [number(way[key]) if key in way else "-" for key in keys]
        remarks = ["chosen"] * (name == chosen) + ["with links"] * ("placed" in way)
        table.add_row(way_in_words(name), *numbers, way.get("refused", ", ".join(remarks)))
    return [table]


def inspect_model(file: str, loaded: Model) -> tuple[list[Table], Any]:
    """(tables, plain values) of a model, from a checkpoint or as a graph; file: what it is called."""
    training = {k: v for k, v in loaded.training.items() if isinstance(v, (int, float, str))}
    about: dict[str, Any] = {
        "sha256": loaded.sha256,
        "labels": list(loaded.labels),
        "training": training,
        "notes": list(loaded.notes),
    }
    if isinstance(loaded, Imported):
        return _graph(file, loaded, about)
    parameters = sum(int(np.prod(p.shape)) for p in loaded.module.parameters())
    config = {**asdict(loaded.config), "pooling": stem_pooling(loaded.config)}
    if not loaded.config.encoder:  # it takes no time series
        config = {name: value for name, value in config.items() if name not in OF_SERIES}
    if loaded.layer_bits:
        about["layer_bits"] = dict(loaded.layer_bits)
    values = {"kind": "model", "parameters": parameters, **config, **about}
    # settings of other families, and those left at what is usual, would fill most of the table
    usual = {f.name: f.default for f in fields(loaded.config) if f.default is not MISSING}
    told = {name: value for name, value in values.items() if name not in usual or value != usual[name]}
    return [facts_table(file, _shown(told) | training)], values


def _graph(file: str, loaded: Imported, about: dict[str, Any]) -> tuple[list[Table], Any]:
    """A float graph: figures and layers."""
    graph = loaded.graph
    neurons = {node.name: int(np.prod(node.shape)) for node in graph.of(Neuron)}
    arrays = {node.name: _parameters(node.op) for node in graph}
    values = {
        "kind": "model",
        "format": loaded.kind,
        "parameters": sum(arrays.values()),
        "neurons": sum(neurons.values()),
        "time_steps": loaded.time_steps,
        "input": list(loaded.input_shape),
        "frames": loaded.per_step,
        "layers": [
            {"name": n.name, "operation": type(n.op).__name__, "shape": list(n.shape), "parameters": arrays[n.name]}
            for n in graph
        ],
        **about,
    }
    table = Table(title="layers", title_justify="left")
    for column in ("name", "operation", "shape", "parameters"):
        table.add_column(column, justify="left" if column in ("name", "operation") else "right", overflow="fold")
    for node in graph:
        shape = "x".join(map(str, node.shape))
        table.add_row(node.name, type(node.op).__name__, shape, f"{arrays[node.name]:,}" if arrays[node.name] else "")
    return [facts_table(file, _shown(values)), table], values


def _parameters(op: Op) -> int:
    values = (getattr(op, name) for name in op.__dataclass_fields__)
    return sum(value.size for value in values if isinstance(value, np.ndarray))


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """What a table shows of the values."""
    facts = {k: v for k, v in values.items() if k not in ("labels", "training", "notes", "layers")}
    return {k: "x".join(map(str, v)) if isinstance(v, list) else v for k, v in facts.items()}


def _netx(path: Path, file: str, time_steps: int | None) -> tuple[list[Table], Any]:
    """A .net of lava-dl: figures and populations."""
    steps = time_steps or stated_steps(path)
    network = read_network(path, steps or 1)
    weights = {p.target: p.synapse.weight.size for p in network.projections if isinstance(p.synapse, (Conv, Readout))}
    layers = [
        {
            "name": p.name,
            "neurons": p.size,
            "shape": list(p.shape),
            "kind": type(p.neuron).__name__,
            "weights": weights.get(p.name, 0),
        }
        for p in network
    ]
    values = {
        "kind": "network",
        "format": "netx",
        "weights": sum(weights.values()),
        "neurons": sum(p.size for p in network),
        # without a number of steps there is no largest potential either
        "time_steps": steps,
        "bounds": network.bounds if steps else None,
        "layers": layers,
    }
    table = Table(title="populations", title_justify="left")
    for column in ("name", "kind", "shape", "neurons", "weights"):
        table.add_column(column, justify="left" if column in ("name", "kind") else "right", overflow="fold")
    for p in network:
        shape = "x".join(map(str, p.shape))
        table.add_row(p.name, type(p.neuron).__name__, shape, f"{p.size:,}", f"{weights.get(p.name, 0):,}")
    return [facts_table(file, _shown(values)), table], values
