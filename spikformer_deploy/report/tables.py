"""Tables for the terminal (rich), and the short summaries that go with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from spikformer_deploy.accounting.layers import layers
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.network.mapping import SECTIONS
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.synapses import Conv, Readout

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run, Verdict
    from spikformer_deploy.pipeline.program import Program
    from spikformer_deploy.timing.times import StepTimes

RUN_FACTS = ("images", "accuracy", "synaptic_ops", "dense_macs", "firing_rate", "backend", "kernels", "seconds")
"""Of the JSON of a run, what its table shows."""
COLUMNS = ("cores", "chips", "accuracy", "step_us", "latency_us", "images_per_second", "energy_mj")
"""Of the table of `spikdeploy compare`."""


def compile_summary(program: Program, path: str, seconds: float, peak_memory_mib: float) -> dict[str, Any]:
    """The JSON of `spikdeploy compile`."""
    costs = {"seconds": seconds, "peak_memory_mib": peak_memory_mib}
    return {"program": path, **program_facts(program), **costs}


def program_facts(program: Program) -> dict[str, Any]:
    """A program in figures; what a step costs is expected from the firing rates of calibration."""
    mapping = program.mapping
    network = program.network
    metrics = mapping.metrics
    # programs of releases before have no such record
    explained = program.provenance.get("mapping", {})
    expected = explained.get("expected", {})
    head = network.output.neuron
    return {
        "target": program.profile.name,
        "cores": mapping.cores_used,
        "chips": mapping.chips,
        "neurons": sum(p.size for p in network),
        "weights": sum(w.size for w in weights_of(program)),
        "memory_words": int(mapping.words.sum()),
        "words": {s: int(w) for s, w in zip(SECTIONS, mapping.words.sum(0), strict=True)},
        "busiest_core_words": int(mapping.words.sum(1).max()),
        "exact": network.exact,
        "execution_exact": network.exact,
        "rounding": {"exact": network.rounding == 0.0, "largest_relative_error": network.rounding},
        "readout": "last time step" if isinstance(head, Accumulator) and head.last else "all time steps",
        "bounds": network.bounds,
        "margin": network.margin,
        "objective": explained.get("objective"),
        "schedule": explained.get("schedule"),
        "packet_hops": metrics["packet_hops"],
        "mean_hops": metrics["mean_hops"],
        "mean_link_load": metrics["mean_link_load"],
        "max_link_load": metrics["max_link_load"],
        "max_chip_link_load": metrics.get("max_chip_link_load"),
        "max_synaptic_ops_per_core": expected.get("busiest_core_synaptic_ops"),
        "attention": explained.get("attention", {}).get("chosen"),
    }


def weights_of(program: Program) -> list[np.ndarray]:
    """All weight arrays of a program."""
    return [p.synapse.weight for p in program.network.projections if isinstance(p.synapse, (Conv, Readout))]


def facts_table(title: str, values: dict[str, Any]) -> Table:
    """Name and value, a row each."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name.replace("_", " "), number(value))
    return table


def run_tables(result: Run) -> list[Table]:
    """Accuracy and time, the layers, and the energies."""
    values = result.to_dict()
    facts = facts_table("run", {name: values[name] for name in RUN_FACTS})
    for times in (result.cycle, result.times):
        if times is not None:
            _add_times(facts, times, values["images"])
    if result.cycle is not None:
        facts.add_row("cycle / estimate, a step", number(values["time"]["ratio"]))
    return [facts, _layer_table(result), _energy_table(result)]


def _add_times(facts: Table, times: StepTimes, images: int) -> None:
    """Rows on the times by one model; images  of the run, of which some models time the first only."""
    timed = times.step_ns.shape[1]
    scope = times.model if times.model == "estimate" else f"{times.model}, first {timed} of {images}"
    low, nominal, high = times.step_us_mean
    facts.add_row(f"step time ({scope})", f"{number(nominal)} us  [{number(low)} to {number(high)}]")
    facts.add_row(f"latency, pipelined ({times.model})", f"{number(times.latency_us[NOMINAL])} us")
    facts.add_row(f"images a second ({times.model})", number(times.images_per_second[NOMINAL]))


def _layer_table(result: Run) -> Table:
    """A row for every population."""
    table = Table(title="layers (an image)", title_justify="left")
    for name in ("layer", "shape", "kind", "firing rate", "synaptic ops", "dense MACs", "ratio"):
        table.add_column(name, justify="left" if name in ("layer", "kind") else "right")
    for layer in layers(result.program.network, result.events):
        dense = layer.dense_macs * result.events.time_steps
        synops = float(layer.synops.sum())
        shape = "x".join(map(str, layer.shape))
        ratio = f"{synops / dense:.1%}" if dense else ""
        table.add_row(layer.name, shape, layer.kind, f"{layer.rate.mean():.1%}", number(synops), number(dense), ratio)
    return table


def _energy_table(result: Run) -> Table:
    """A row for every convention."""
    table = Table(title="energy an image, by convention (mJ, estimates)", title_justify="left")
    for name in ("convention", "low", "nominal", "high", "on guesses"):
        table.add_column(name, justify="left" if name == "convention" else "right")
    for energy in result.energies:
        total = energy.total
        guessed = f"{energy.shares.get('guess', 0.0):.0%}"
        table.add_row(energy.convention, number(total.low), number(total.nominal), number(total.high), guessed)
    return table


def verify_tables(verdict: Verdict) -> list[Table]:
    """Accuracies and backends, then the share of equal spikes of each layer."""
    values = verdict.to_dict()
    facts = facts_table("verify", {n: values[n] for n in ("images", "float_accuracy", "integer_accuracy")})
    for name, state in values["backends"].items():
        facts.add_row(f"engine = {name}", state)
    if not verdict.equal_spikes:
        return [facts]
    table = Table(title="equal spikes, float against integer", title_justify="left")
    table.add_column("layer")
    table.add_column("equal", justify="right")
    for name, share in verdict.equal_spikes.items():
        table.add_row(name, f"{share:.3%}")
    return [facts, table]


def number(value: Any) -> str:
    """A value for a person: four significant digits, thousands apart."""
    # before the integers: Python takes True for one
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {number(inner)}" for name, inner in value.items())
    if isinstance(value, (float, np.floating)):
        return f"{value:,.0f}" if abs(float(value)) >= 1e4 else f"{value:.4g}"
    return str(value)


def compare_table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a person; times and energies are estimates."""
    table = Table(
        title="targets (an image; times and energies are estimates, energy with its range)", title_justify="left"
    )
    for name in ("target", "schedule", *COLUMNS):
        table.add_column(name.replace("_", " "), justify="left" if name in ("target", "schedule") else "right")
    for row in rows:
        if "refused" in row:
            table.add_row(row["target"], row["schedule"], "refused: see below")
            continue
        energy = row["energy_mj"]
        # the last column is no single number
        figures = [number(row[name]) for name in COLUMNS[:-1]]
        spread = f"{number(energy['nominal'])} ({number(energy['low'])} to {number(energy['high'])})"
        table.add_row(row["target"], row["schedule"], *figures, spread)
    return table
