"""Where the energy and the time of an image go: by layer, static against dynamic, and from image to image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spikformer_deploy.accounting.by_layer import by_layer
from spikformer_deploy.accounting.conventions import beyond_sops, exact_sops, first_macs
from spikformer_deploy.accounting.figures import range_values
from spikformer_deploy.accounting.target import NEURO_CORES
from spikformer_deploy.accounting.uncertainty import NOTHING, Energy
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.report.levers import levers, saves, target_energy
from spikformer_deploy.timing.by_layer import busy_us

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run

NS_PER_US, US_PER_SECOND = 1e3, 1e6
COSTS_OF_LAYER = ("energy_mj", "dynamic_mj", "static_mj", "busy_us")
QUARTILES = {"min": 0, "lower_quartile": 25, "median": 50, "upper_quartile": 75, "max": 100}


def layer_costs(run: Run) -> dict[str, dict[str, float]]:
    """By layer: nominal energy_mj of an image within the figure's boundary, of that dynamic_mj and static_mj; busy_us.

    {} where no timing was asked for.
    """
    if run.timing is None:
        return {}
    program = run.program
    profile = hardware.under(program.profile, run.runtime)
    busy = busy_us(run.events, program.network, program.mapping, profile)
    return {
        layer.name: dict(zip(COSTS_OF_LAYER, (layer.total, layer.dynamic, layer.static, busy[layer.name]), strict=True))
        for layer in by_layer(target_energy(run.energies), run.events, program.mapping)
    }


def static_share(run: Run) -> dict[str, Any] | None:
    """The target's figure in two: dynamic, what events cost, and static, power that flows with time; None untimed."""
    if run.timing is None:
        return None
    energy = target_energy(run.energies)
    flowing = [part.energy for part in energy.inside if part.boundary != NEURO_CORES]
    static, dynamic = sum(flowing, NOTHING), energy.within(NEURO_CORES)
    return {
        "boundary": energy.scope,
        "dynamic": range_values(dynamic),
        "static": range_values(static),
        "static_share": static.nominal / energy.total.nominal if energy.total.nominal else None,
    }


def operation_values(run: Run) -> dict[str, Any]:
    """Synaptic operations an image beside the paper's SOPs and the MACs of its first layer, and why they differ."""
    network, events = run.program.network, run.events
    return {
        "synaptic_ops": events.synops,
        "paper_sops": exact_sops(network, events),
        "first_layer_macs": first_macs(network),
        "beyond_sops": beyond_sops(network, events),
    }


def lever_values(run: Run) -> list[dict[str, Any]]:
    """What would help most (see levers.py), the largest first."""
    if run.timing is None:
        return []
    energy = target_energy(run.energies)
    return [
        {
            "name": lever.name,
            "energy_mj": range_values(lever.energy),
            "saves": saves(lever, energy),
            "latency_us": lever.latency_us,
            "accuracy": lever.accuracy,
            "rests_on": lever.rests_on,
            "way": lever.way,
        }
        for lever in levers(run)
    ]


def image_spread(run: Run) -> list[dict[str, Any]]:
    """What was kept image by image, as the five numbers of QUARTILES, at nominal constants, by the closed form.

    Operations and dynamic energy are sums over all images, and have no spread.  [] where no timing was asked for.
    """
    if run.timing is None or len(run.accumulators) < 2:
        return []
    times = run.timing.times
    step_us = times.step_ns[NOMINAL].mean(1) / NS_PER_US
    image_us = times.step_ns[NOMINAL].sum(1) / NS_PER_US
    rows = [
        ("a pipelined step", "us", step_us),
        ("an image in the pipeline", "us", image_us),
        ("latency, pipelined", "us", step_us * (times.step_ns.shape[2] + times.depth - 1)),
        ("fall-through", "us", times.fall_through_ns[NOMINAL].sum(1) / NS_PER_US),
        ("static energy", "mJ", image_us * _static_mj_per_us(target_energy(run.energies))),
    ]
    if len(times.hop_counts):
        rows.append(("messages times hops", "1", times.hop_counts.sum(1).astype(float)))
    return [{"name": name, "unit": unit, **_five(values)} for name, unit, values in rows]


def _static_mj_per_us(energy: Energy) -> float:
    """Of the power of the chips in use."""
    flowing = [part for part in energy.inside if part.unit == "s"]
    return sum(part.energy.nominal / (part.events * US_PER_SECOND) for part in flowing if part.events)


def _five(values: np.ndarray) -> dict[str, float]:
    return dict(zip(QUARTILES, np.percentile(values, list(QUARTILES.values())).tolist(), strict=True))
