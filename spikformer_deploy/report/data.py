"""What a report says, as plain values: the one source of the HTML page and of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikformer_deploy.accounting.energy import Energy
from spikformer_deploy.accounting.figures import by_boundary, largest, range_values, time_figures
from spikformer_deploy.accounting.layers import layers, sparsity
from spikformer_deploy.accounting.notes import notes
from spikformer_deploy.accounting.target import LEFT_OUT
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import quantities
from spikformer_deploy.network.mapping import SECTIONS
from spikformer_deploy.report.classes import class_values
from spikformer_deploy.report.tables import program_facts
from spikformer_deploy.report.targets import quantity_values
from spikformer_deploy.report.where import (
    COSTS_OF_LAYER,
    image_spread,
    layer_costs,
    lever_values,
    operation_values,
    static_share,
)

if TYPE_CHECKING:
    from spikformer_deploy.inference.exits import ExitRun
    from spikformer_deploy.inference.results import Run, Timing, Verdict


MODELS = {
    "estimate": "closed form: busiest core or heaviest link, then barrier and runtime (after arXiv 2601.10035)",
    "cycle": "message by message through queues, links and routers",
}
"""What StepTimes.model means."""
UNDER = {
    "lava": "what a user can have today",
    "bare": "a runtime that costs nothing: a lower bound that nobody has measured",
}
"""What the runtimes mean."""
NS_PER_US = 1e3


def report_data(
    run: Run,
    float_accuracy: float | None = None,
    *,
    title: str | None = None,
    file: str | None = None,
    verdict: Verdict | None = None,
    early: ExitRun | None = None,
) -> dict[str, Any]:
    """All content of the report of `run`; means are over its images.

    title    in place of model and target
    file     of the program: what a model is called whose program holds no recipe
    verdict  of the same images with the float model: its accuracy, and the share of equal spikes of each layer
    early    of the same images with early exit, beside `run`, which has all steps
    """
    if verdict is not None:
        float_accuracy = verdict.float_accuracy
    program = run.program
    described = {"description": program.profile.description, "state_bits": program.network.state_bits}
    return {
        "title": title or f"{_model_name(run, file)} on {program.profile.name}",
        "estimate": True,
        "program": {**program_facts(program), **described},
        "accuracy": {
            "integer": run.accuracy,
            "float": float_accuracy,
            "images": len(run.accumulators),
            "predictions_changed": None if verdict is None else verdict.predictions_changed,
        },
        "early_exit": None if early is None else _early(early),
        "regression": run.regression,
        "float_regression": None if verdict is None else verdict.float_regression,
        "run": {k: v for k, v in run.to_dict().items() if k != "predictions"},
        "operations": operation_values(run),
        "layers": _layers(run, {} if verdict is None else verdict.equal_spikes),
        "sparsity": _sparsity(run),
        "steps": _steps(run),
        "time": _time(run),
        "energies": [_energy(energy) for energy in run.energies],
        "static": static_share(run),
        "levers": lever_values(run),
        "classes": class_values(run),
        "spread": image_spread(run),
        "not_modelled": LEFT_OUT,
        "rests_on": _rests_on(run),
        "cores": _cores(run),
        "notes": [*run.notes, *_notes(run)],
        "constants": [quantity_values(path, quantity) for path, quantity in quantities(program.profile)],
        "provenance": _provenance(run),
    }


def _early(early: ExitRun) -> dict[str, Any]:
    """A run with early exit: what is in its JSON, and its figures."""
    values = early.to_dict()
    target = next((energy for energy in early.energies if energy.convention == "profile"), None)
    return {
        **{name: value for name, value in values["early_exit"].items() if name != "steps"},
        "accuracy": values["accuracy"],
        "synaptic_ops": values["synaptic_ops"],
        "latency_us": None if early.latency is None else range_values(early.latency),
        "energy_mj": None if target is None else range_values(target.total),
    }


def _notes(run: Run) -> tuple[str, ...]:
    """What must be said beside the figures."""
    return notes(run.program.network, run.events, run.energies, run.cycle or run.times, run.cycle and run.times)


def _model_name(run: Run, file: str | None) -> str:
    """Family and size from the recipe, where the program has one; else its file, whatever the network may be."""
    recipe = run.program.provenance.get("training", {}).get("recipe", {})
    model = recipe.get("model", {})
    if not model:
        return Path(file).stem if file else "A spiking network"
    return f"Spikformer {str(model.get('family')).upper()}-{model.get('depth')}-{model.get('dim')}"


def _layers(run: Run, equal_spikes: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for every population, an image; equal_spikes: by layer, its spikes that are those of the float model."""
    costs = layer_costs(run)
    mapping = run.program.mapping
    slices = {site.population: 0 for site in mapping.sites}
    for index, site in enumerate(mapping.sites):
        slices[site.population] += len(mapping.slices_of(index))
    out = []
    for layer in layers(run.program.network, run.events):
        # the sums of the head stay where they are: they have no rate
        sends = layer.kind != "accumulator"
        dense = layer.dense_macs * run.events.time_steps
        synops = float(layer.synops.sum())
        out.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "shape": list(layer.shape),
                "neurons": layer.neurons,
                "firing_rate": float(layer.rate.mean()) if sends else None,
                "rate_by_step": layer.rate.tolist(),
                "mean_sent": None if layer.mean_sent is None else float(layer.mean_sent.mean()),
                "spikes": float(layer.rate.sum() * layer.neurons),
                "synaptic_ops": synops,
                "dense_macs": dense,
                # the head of an ANN reads a mean over positions, that of a chip the spikes of all of them
                "ratio": synops / dense if dense and sends else None,
                "silent": layer.silent if sends else None,
                "cores": slices[layer.name],
                "graded": layer.graded,
                "equal_spikes": equal_spikes.get(layer.name),
                **(costs.get(layer.name) or dict.fromkeys(COSTS_OF_LAYER)),
            }
        )
    return out


def _sparsity(run: Run) -> dict[str, float | None]:
    """Shares of zeros, and of neurons that fire (see accounting.layers.Sparsity)."""
    shares = sparsity(run.program.network, run.events)
    return {
        "activation": shares.activation,
        "connection": shares.connection,
        "firing_rate": shares.rate,
        "silent": shares.silent,
    }


def _steps(run: Run) -> list[dict[str, float]]:
    """Synaptic operations and spikes of each time step, an image."""
    events = run.events
    synops = events.synops_by_step
    spikes = sum((p.spikes for p in events.populations.values()), np.zeros(events.time_steps, np.int64))
    return [
        {"step": t, "synaptic_ops": float(synops[t]) / events.images, "spikes": float(spikes[t]) / events.images}
        for t in range(events.time_steps)
    ]


def _time(run: Run) -> dict[str, Any] | None:
    """The finest times that there are, beside the closed form, under each runtime; None where no timing was asked for.

    Outside of `under` stands what the run's own runtime gives.
    """
    timing = run.timing
    if timing is None:
        return None
    times = timing.finest
    estimated_us = float(timing.times.step_us_mean[NOMINAL])
    under = {name: _figures(other) for name, other in run.under.items()}
    return {
        "model": MODELS[times.model],
        "images": times.step_ns.shape[1],
        "runtime": run.runtime,
        "under": under,
        "runtimes": UNDER,
        **under[run.runtime],
        "estimate_step_us": estimated_us,
        "ratio": float(times.step_us_mean[NOMINAL]) / estimated_us if estimated_us else None,
        "step_us_by_step": (times.step_ns[NOMINAL].mean(0) / NS_PER_US).tolist(),
        "parts_us": {name: value / NS_PER_US for name, value in times.parts_ns.items()},
        "chip_steps": times.chip_steps,
        "bound": times.bound,
        "busiest_core": times.busiest_core,
        "busiest_population": run.program.mapping.population_on(times.busiest_core),
        "depth": times.depth,
    }


def _figures(timing: Timing) -> dict[str, dict[str, float]]:
    """Times under one runtime, each with its likely interval and its envelope."""
    return {name: range_values(figure) for name, figure in time_figures(timing.finest, timing.spread).items()}


def _energy(energy: Energy) -> dict[str, Any]:
    """One convention in mJ: its figure, that of each of its boundaries, and what they consist of."""
    return {
        "convention": energy.convention,
        "boundary": energy.scope,
        **range_values(energy.total),
        "boundaries": {name: _within(within) for name, within in by_boundary(energy).items()},
        "shares": energy.shares,
        "roles": energy.roles,
        "rulers": energy.rulers,
        "parts": [
            {
                "name": part.name,
                "events": part.events,
                "unit": part.unit,
                **range_values(part.energy),
                "boundary": part.boundary,
                "kind": part.kind,
                "role": part.role,
                "source": part.source,
            }
            for part in energy.parts
        ],
    }


def _within(energy: Energy) -> dict[str, Any]:
    """The figure of one boundary, what that holds, and what it rests on."""
    return {"holds": energy.boundary, **range_values(energy.total), "shares": energy.shares, "roles": energy.roles}


def _rests_on(run: Run) -> dict[str, Any] | None:
    """The constants that rule the time of a step and the target's nominal energy, the largest of them by name.

    Shares of what the figure varies by over the draws; None where no timing was asked for.
    """
    if run.timing is None:
        return None
    energy = next(energy for energy in run.energies if energy.convention == "profile")
    return {
        "step_us": largest(run.timing.spread.rulers),
        "energy": largest(energy.rulers),
        "boundary": energy.scope,
    }


def _cores(run: Run) -> dict[str, Any]:
    """Every core in use: where it stands, what stands on it, its work and its memory."""
    mapping = run.program.mapping
    profile = run.program.profile
    slices = run.events.slices
    assert slices is not None  # a run always counts with its mapping
    x, y = coordinates(profile, mapping.cores)
    synops = slices.synops.sum((0, 1)) / (run.events.images * run.events.time_steps)
    names = [mapping.sites[site].name for site in mapping.boxes[:, 0]]
    rows = [
        {
            "core": int(mapping.cores[i]),
            "x": int(x[i]),
            "y": int(y[i]),
            "site": names[i],
            "layer": int(mapping.boxes[i, 0]),
            "synaptic_ops_per_step": float(synops[i]),
            "words": int(mapping.words[i].sum()),
        }
        for i in range(len(names))
    ]
    return {
        "memory_words": int(profile.core.memory_words),
        "cores_per_tile": int(profile.chip.cores_per_tile),
        "tiles": [int(profile.chip.tiles_x), int(profile.chip.tiles_y)],
        "sections": {s: int(w) for s, w in zip(SECTIONS, mapping.words.sum(0), strict=True)},
        "metrics": mapping.metrics,
        "used": rows,
    }


def _rounding_in_words(rounding: float | None) -> str:
    """What rounding left of the model's weights, biases and thresholds, in words."""
    if rounding is None:
        return "not recorded in this program"
    return f"largest relative error {rounding:.2g}" if rounding else "none: they are integers of the model's own grid"


def _provenance(run: Run) -> dict[str, str]:
    """Where the program is from, and how far its integers can be trusted, in words."""
    source = run.program.provenance
    settings = ", ".join(f"{k} = {v}" for k, v in source.get("settings", {}).items())
    calibration = source.get("calibration", {})
    versions = ", ".join(f"{k} {v}" for k, v in source.get("versions", {}).items())
    network = run.program.network
    bounds = "proven for every possible input" if network.bounds == "static" else "observed on the calibration images"
    return {
        "model, sha256": str(source.get("model_sha256", "")),
        "settings": settings,
        "calibrated on": f"{calibration.get('images')} images: {calibration.get('data')}",
        "integer ranges": f"{bounds}; the state is {network.margin:.2f} times the largest bound",
        "execution is exact": "yes" if network.exact else "no: the decay needs more bits",
        "rounding of the weights": _rounding_in_words(network.rounding),
        "executor": f"{run.backend}, {run.kernels} kernels",
        "versions": versions,
    }
