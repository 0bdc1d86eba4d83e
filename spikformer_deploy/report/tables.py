"""Tables for the terminal (rich), and the short summaries that go with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from spikformer_deploy.accounting.figures import by_boundary, interval, largest, rounded, time_figures
from spikformer_deploy.accounting.layers import layers
from spikformer_deploy.accounting.uncertainty import Range
from spikformer_deploy.mapping.partition import way_of
from spikformer_deploy.network.mapping import SECTIONS
from spikformer_deploy.network.network import graded_spikes
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.synapses import Conv, Readout

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run, Timing, Verdict
    from spikformer_deploy.pipeline.program import Program
    from spikformer_deploy.timing.times import StepTimes

ATTENTION = {"tokens": "KV first, tokens in series", "channels": "QK first, channels in series"}
REGRESSION = "regression"
"""The task of a run whose results are no classes."""
NO_TARGETS = "none: the inputs come without targets"
RUN_FACTS = ("images", "accuracy", "synaptic_ops", "dense_macs", "firing_rate", "backend", "kernels", "seconds")
"""Of the JSON of a run, what its table shows."""
AS_SLOTS = "synaptic_ops_as_slots"
"""And where messages are numbers of spikes, not one each."""
MEAN_SENT = "mean_sent"
"""And where neurons send such numbers."""
TIMES = {
    "step_us": "step, us",
    "latency_us": "latency, pipelined, us",
    "fall_through_us": "fall-through, us",
    "images_per_second": "images a second",
}
"""What accounting.figures.time_figures gives, in words."""
LIKELY = ("step_us", "latency_us", "images_per_second")
"""Of a row of `spikdeploy compare`: what has a likely interval beside it, NAME_likely."""


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
        "time_steps": network.time_steps,
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
        "runtime": explained.get("runtime"),
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


def program_table(title: str, values: dict[str, Any]) -> Table:
    """What compile_summary or program_facts gives, a row each; what is exact, and what was rounded before, in words."""
    values = dict(values)
    rounding = values.pop("rounding")
    # the same twice: see docs/decisions.md
    del values["exact"]
    exact = "exact" if values.pop("execution_exact") else "not exact"
    error = f"largest relative error {number(rounding['largest_relative_error'])}"
    words = {
        "execution of the integers": exact,
        "rounding to these integers": "none: exact" if rounding["exact"] else error,
    }
    if values["attention"] is not None:
        values["attention"] = way_in_words(values["attention"])
    at = list(values).index("readout")
    rows = list(values.items())
    return facts_table(title, dict([*rows[:at], *words.items(), *rows[at:]]))


def way_in_words(name: str) -> str:
    """A way to serialise attentions, as "tokens x 32" of a program, for a person."""
    way = way_of(name)
    assert way is not None
    copies = f", up to {way.copies} copies of the counters" if way.copies > 1 else ""
    return ATTENTION[way.serial] + copies


def run_tables(result: Run) -> list[Table]:
    """Accuracy, the times, the layers, the energies, and what times and energies rest on."""
    values = result.to_dict()
    network = result.program.network
    numbers = (AS_SLOTS,) * bool(graded_spikes(network))
    sent = (MEAN_SENT,) * any(p.neuron.fires and p.max_out > 1 for p in network)
    shown = {name: values[name] for name in (*RUN_FACTS, *numbers, *sent)}
    facts = facts_table("run", with_scores(shown, values["task"], {"": values["regression"]}))
    timing = result.timing
    if timing is None:
        return [facts, _layer_table(result), _energy_table(result)]
    facts.add_row("depth: layers that a spike passes", number(timing.finest.depth))
    if timing.cycle is not None:
        facts.add_row("cycle / estimate, a step", number(values["time"]["ratio"]))
    return [facts, _time_table(result), _layer_table(result), _energy_table(result), _basis_table(result, timing)]


def with_scores(facts: dict[str, Any], task: str, scores: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """The same facts; a regression has its errors in them instead of accuracies, or that there are no targets.

    scores  by what stands before their names; None: there is nothing to compare, or nothing to compare it with
    """
    if task != REGRESSION:
        return facts
    named = {f"{prefix}{name}": value for prefix, found in scores.items() for name, value in (found or {}).items()}
    return {n: v for n, v in facts.items() if not n.endswith("accuracy")} | (named or {"errors": NO_TARGETS})


def _time_table(result: Run) -> Table:
    """The times by each model, under both runtimes side by side."""
    table = Table(title="time (estimates), under each runtime", title_justify="left")
    table.add_column("")
    for name in result.under:
        for column in (f"{name}: likely", "nominal", "envelope"):
            table.add_column(column, justify="right")
    for model in ("cycle", "estimate"):
        timed = [(_times_by(model, timing), timing.spread) for timing in result.under.values()]
        figures = [time_figures(times, spread) for times, spread in timed if times is not None]
        for name in figures[0] if figures else ():
            cells = [cell for of_runtime in figures for cell in _cells(of_runtime[name])]
            table.add_row(f"{TIMES[name]} ({_scope(model, result)})", *cells)
    return table


def _times_by(model: str, timing: Timing) -> StepTimes | None:
    return timing.cycle if model == "cycle" else timing.times


def _scope(model: str, result: Run) -> str:
    """The model, with its images where it times the first only."""
    if model == "estimate" or result.cycle is None:
        return model
    return f"{model}, first {result.cycle.step_ns.shape[1]} of {len(result.accumulators)}"


def _cells(figure: Range) -> tuple[str, str, str]:
    """The likely interval, the nominal value, the envelope."""
    return interval(*figure.likely), number(figure.nominal), interval(figure.low, figure.high)


def _layer_table(result: Run) -> Table:
    """A row for every population."""
    table = Table(title="layers (an image)", title_justify="left")
    for name in ("layer", "shape", "kind", "firing rate", "mean sent", "synaptic ops", "dense MACs", "ratio"):
        table.add_column(name, justify="left" if name in ("layer", "kind") else "right")
    for layer in layers(result.program.network, result.events):
        dense = layer.dense_macs * result.events.time_steps
        synops = float(layer.synops.sum())
        shape = "x".join(map(str, layer.shape))
        # the head of an ANN reads a mean over positions, that of a chip the spikes of all of them: no share
        ratio = f"{synops / dense:.1%}" if dense and layer.kind != "accumulator" else ""
        rate = f"{layer.rate.mean():.1%}"
        # of binary spikes it is the rate
        mean = f"{layer.mean_sent.mean():.3f}" if layer.graded and layer.mean_sent is not None else ""
        table.add_row(layer.name, shape, layer.kind, rate, mean, number(synops), number(dense), ratio)
    return table


def _energy_table(result: Run) -> Table:
    """A row for every convention and boundary."""
    under = f"; on the target under the runtime '{result.runtime}'" if result.under else ""
    title = f"energy an image, by convention and boundary (mJ, estimates{under})"
    table = Table(title=title, title_justify="left")
    for name in ("convention", "boundary", "likely", "nominal", "envelope", "on guesses"):
        table.add_column(name, justify="left" if name in ("convention", "boundary") else "right")
    for energy in result.energies:
        for boundary, within in by_boundary(energy).items():
            guessed = f"{within.shares.get('guess', 0.0):.0%}"
            table.add_row(energy.convention, boundary, *_cells(within.total), guessed)
    return table


def _basis_table(result: Run, timing: Timing) -> Table:
    """Which numbers the target's energy consists of, and which constants rule it and the time of a step."""
    energy = next(energy for energy in result.energies if energy.convention == "profile")
    table = Table(title="what these figures rest on", title_justify="left", show_header=False)
    of_energy = f"energy, profile, {energy.scope}"
    table.add_row(f"{of_energy}: kinds of numbers", _percents(energy.shares))
    table.add_row(f"{of_energy}: roles of numbers", _percents(energy.roles))
    table.add_row(f"{of_energy}: ruled by", _percents(largest(energy.rulers)))
    table.add_row("time of a step: ruled by", _percents(largest(timing.spread.rulers)))
    return table


def _percents(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "nothing that has a range"


def verify_tables(verdict: Verdict) -> list[Table]:
    """Accuracies and backends, then the share of equal spikes of each layer."""
    values = verdict.to_dict()
    named = {n: values[n] for n in ("images", "float_accuracy", "integer_accuracy")}
    errors = {f"{kind}_": values[f"{kind}_regression"] for kind in ("float", "integer")}
    facts = facts_table("verify", with_scores(named, values["task"], errors))
    if verdict.predictions_changed is not None:
        facts.add_row("predictions changed", f"{verdict.predictions_changed:,} of {verdict.images:,}")
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
    # the same in all rows that have figures
    shared = next((row for row in rows if "refused" not in row), None)
    under = f" under the runtime '{shared['runtime']}'" if shared else ""
    title = f"targets (an image; times and energies are estimates{under}: likely interval, nominal value in brackets)"
    table = Table(title=title, title_justify="left")
    energy = f"energy, mJ: {shared['energy_mj']['boundary']}" if shared else "energy, mJ"
    for name in ("target", "schedule", "cores", "chips", "accuracy", *(TIMES[name] for name in LIKELY), energy):
        table.add_column(name, justify="left" if name in ("target", "schedule") else "right")
    for row in rows:
        if "refused" in row:
            table.add_row(row["target"], row["schedule"], "refused: see below")
            continue
        total = row["energy_mj"]
        table.add_row(
            *(number(row[name]) for name in ("target", "schedule", "cores", "chips", "accuracy")),
            *(f"{interval(*row[f'{name}_likely'])}\n({rounded(row[name])})" for name in LIKELY),
            f"{interval(total['likely_low'], total['likely_high'])}\n({rounded(total['nominal'])})",
        )
    return table
