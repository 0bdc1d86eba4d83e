"""What a report says, as plain values: the one source of the HTML page and of its JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.energy import Energy
from spikformer_deploy.accounting.layers import layers, sparsity
from spikformer_deploy.accounting.notes import notes
from spikformer_deploy.chips.draws import CORNERS, NOMINAL
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import quantities
from spikformer_deploy.chips.quantity import KINDS
from spikformer_deploy.network.mapping import SECTIONS
from spikformer_deploy.report.tables import program_facts
from spikformer_deploy.report.targets import quantity_values

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run


MODELS = {
    "estimate": "closed form: busiest core or heaviest link, then the barrier (after arXiv 2601.10035)",
    "cycle": "message by message through queues, links and routers",
}
"""What StepTimes.model means."""
NS_PER_US = 1e3


def report_data(run: Run, float_accuracy: float | None = None) -> dict[str, Any]:
    """All content of the report of `run`; means are over its images."""
    program = run.program
    described = {"description": program.profile.description, "state_bits": program.network.state_bits}
    return {
        "title": f"{_model_name(run)} on {program.profile.name}",
        "estimate": True,
        "program": {**program_facts(program), **described},
        "accuracy": {"integer": run.accuracy, "float": float_accuracy, "images": len(run.accumulators)},
        "run": {k: v for k, v in run.to_dict().items() if k != "predictions"},
        "layers": _layers(run),
        "sparsity": _sparsity(run),
        "steps": _steps(run),
        "time": _time(run),
        "energies": [_energy(energy) for energy in run.energies],
        "cores": _cores(run),
        "notes": [*run.notes, *notes(program.network, run.events, run.energies, run.cycle or run.times)],
        "constants": [quantity_values(path, quantity) for path, quantity in quantities(program.profile)],
        "provenance": _provenance(run),
    }


def _model_name(run: Run) -> str:
    """Family and size from the recipe, where the program has one."""
    recipe = run.program.provenance.get("training", {}).get("recipe", {})
    model = recipe.get("model", {})
    if not model:
        return "A Spikformer"
    return f"Spikformer {str(model.get('family')).upper()}-{model.get('depth')}-{model.get('dim')}"


def _layers(run: Run) -> list[dict[str, Any]]:
    """A row for every population, an image."""
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
                "spikes": float(layer.rate.sum() * layer.neurons),
                "synaptic_ops": synops,
                "dense_macs": dense,
                "ratio": synops / dense if dense else None,
                "silent": layer.silent if sends else None,
                "cores": slices[layer.name],
                "graded": layer.graded,
            }
        )
    return out


def _sparsity(run: Run) -> dict[str, float]:
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
    """The finest times that there are, beside the closed form; None where no timing was asked for."""
    times = run.cycle or run.times
    if times is None or run.times is None:
        return None
    return {
        "model": MODELS[times.model],
        "images": times.step_ns.shape[1],
        "estimate_step_us": float(run.times.step_us_mean[NOMINAL]),
        "ratio": float(times.step_us_mean[NOMINAL] / run.times.step_us_mean[NOMINAL]),
        "step_us": _by_corner(times.step_us_mean),
        "step_us_by_step": (times.step_ns[NOMINAL].mean(0) / NS_PER_US).tolist(),
        "latency_us": _by_corner(times.latency_us),
        "fall_through_us": _by_corner(times.fall_through_us),
        "images_per_second": _by_corner(times.images_per_second),
        "parts_us": {name: value / NS_PER_US for name, value in times.parts_ns.items()},
        "bound": times.bound,
        "busiest_core": times.busiest_core,
        "busiest_population": run.program.mapping.population_on(times.busiest_core),
        "depth": times.depth,
    }


def _by_corner(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(CORNERS, values.tolist(), strict=True))


def _energy(energy: Energy) -> dict[str, Any]:
    """One convention: its bounds in mJ, and what they consist of."""
    total = energy.total
    shares = energy.shares
    return {
        "convention": energy.convention,
        "boundary": energy.boundary,
        "low": total.low,
        "nominal": total.nominal,
        "high": total.high,
        "shares": {kind: shares[kind] for kind in KINDS if kind in shares},
        "parts": [
            {
                "name": part.name,
                "events": part.events,
                "nominal": part.energy.nominal,
                "low": part.energy.low,
                "high": part.energy.high,
                "kind": part.kind,
                "source": part.source,
            }
            for part in energy.parts
        ],
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
