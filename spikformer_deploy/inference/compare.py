"""One model on several targets, side by side: what does not fit one of them is a row with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from spikformer_deploy.accounting.figures import energy_values
from spikformer_deploy.base.errors import InputError, MappingError, OverflowDetected, QuantizeError
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.chips.profile import CoreLimits, Profile, load_profile
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.graph.ir import Graph
from spikformer_deploy.inference.results import Run, time_facts
from spikformer_deploy.inference.run import images_for
from spikformer_deploy.inference.together import run_together, same_integers
from spikformer_deploy.mapping.map import SCHEDULES
from spikformer_deploy.pipeline.layer_bits import DEFAULT_BITS, bits_for
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.sample import Sample
from spikformer_deploy.pipeline.stages import Front, check_labels, float_graph, images_of, mapped, quantized
from spikformer_deploy.quantization.settings import Settings

FROM_TIMES = ("latency_us", "latency_us_likely", "images_per_second", "images_per_second_likely")
"""Of the times of a run, what a row has under the same name."""


def compare(
    model: str | Path | Model,
    targets: tuple[str, ...],
    data: str | Path,
    *,
    limit: int | None = None,
    labels: str | Path | None = None,
    progress: Progress = silent,
    objective: str = "energy",
    runtime: str = "lava",
    calibrate_on: str | Path | None = None,
    **loading: Any,
) -> list[dict[str, Any]]:
    """A row a target and schedule: both names, and figures or `refused`, the reason why the model cannot run there.

    Figures are those of the JSON of a run, under one runtime: NAME_likely is the likely interval of NAME, and the
    energy is that of the convention "profile" with its boundaries.  All rows have `notes` on the model, and those with
    figures on the images, too.
    Models whose attention has tokens are mapped both ways, spatial and token-serial; of others a note says why not.

    labels  a file of the classes of the images (see data/labels.py)
    objective, runtime, calibrate_on, loading  as pipeline.stages.compile_model
    progress  called with (targets done, in all, a note)
    Raises InputError for an unknown target, a model or images that cannot be used.
    """
    profiles = {target: load_profile(target) for target in targets}
    loaded = load(model, **loading) if isinstance(model, (str, Path)) else model
    place = str(model) if isinstance(model, (str, Path)) else "model"
    graph = float_graph(loaded)
    check_labels(place, loaded.labels, graph.nodes[-1].shape[0])
    sample = Sample(loaded, images_of(place) if calibrate_on is None else calibrate_on)
    fronts: dict[CoreLimits, Front | QuantizeError] = {}
    pairs = list(product(targets, SCHEDULES))
    made: dict[tuple[str, str], Program | MappingError | QuantizeError] = {}
    no_such_way: dict[str, str] = {}
    for done, (target, schedule) in enumerate(pairs):
        progress(done, len(pairs), f"{target}, {schedule}")
        profile = profiles[target]
        if profile.limits not in fronts:
            fronts[profile.limits] = _front(graph, sample, profile)
        found = _mapped(fronts[profile.limits], profile, objective, runtime, schedule)
        if isinstance(found, str):
            no_such_way[target] = f"no {schedule} rows: {found}"
        else:
            made[target, schedule] = found
    programs = {pair: program for pair, program in made.items() if isinstance(program, Program)}
    runs = _runs(programs, data, limit, labels, runtime)
    of_model = {
        target: (*_notes(fronts[profile.limits], loaded), *filter(None, [no_such_way.get(target)]))
        for target, profile in profiles.items()
    }
    rows = [
        {"target": target, "schedule": schedule, **_figures(runs[target, schedule], of_model[target])}
        if (target, schedule) in runs
        else {
            "target": target,
            "schedule": schedule,
            "refused": str(made[target, schedule]),
            "notes": list(of_model[target]),
        }
        for target, schedule in made
    ]
    return rows


def _front(graph: Graph, sample: Sample, profile: Profile) -> Front | QuantizeError:
    """The integers of a target, or why there are none."""
    try:
        bits, _ = bits_for(sample.loaded, DEFAULT_BITS, None)
        settings = Settings(neuron=profile.limits.neuron, layer_bits=bits)
        return quantized(graph, sample, profile, settings, "nearest")
    except QuantizeError as error:
        return error


def _mapped(
    front: Front | QuantizeError, profile: Profile, objective: str, runtime: str, schedule: str
) -> Program | MappingError | QuantizeError | str:
    """The program, or why there is none; in words of a schedule that the network cannot have on any target."""
    if isinstance(front, QuantizeError):
        return front
    try:
        return mapped(front, profile, objective, runtime, schedule)
    except MappingError as error:
        return error
    except InputError as error:
        if error.place == "--schedule":  # no attention, no tokens
            return error.problem
        raise


def _runs(
    programs: Mapping[tuple[str, str], Program],
    data: str | Path,
    limit: int | None,
    labels: str | Path | None,
    runtime: str,
) -> dict[tuple[str, str], Run]:
    """The records of all programs; those with the same integers share a run."""
    served: dict[str, dict[tuple[str, str], Program]] = {}
    for pair, program in programs.items():
        served.setdefault(same_integers(program.network), {})[pair] = program
    runs: dict[tuple[str, str], Run] = {}
    for some in served.values():
        images = images_for(next(iter(some.values())), data, limit, labels)
        for pair, found in zip(some, run_together(list(some.values()), images, runtime), strict=True):
            if isinstance(found, OverflowDetected):
                raise found
            runs[pair] = found
    return runs


def _notes(front: Front | QuantizeError, loaded: Model) -> tuple[str, ...]:
    """What a user must know of the model and, where it has integers, of what it was calibrated on."""
    return loaded.notes if isinstance(front, QuantizeError) else front.notes


def _figures(found: Run, of_model: tuple[str, ...]) -> dict[str, Any]:
    """The figures of a row; of_model: notes on the model."""
    mapping = found.program.mapping
    times = time_facts(found)
    assert times is not None
    energy = next(energy for energy in found.energies if energy.convention == "profile")
    return {
        "runtime": found.runtime,
        "cores": mapping.cores_used,
        "chips": mapping.chips,
        "accuracy": found.accuracy,
        "step_us": times["step_us_mean"],
        "step_us_likely": [times["likely_low"], times["likely_high"]],
        **{name: times[name] for name in FROM_TIMES},
        "energy_mj": energy_values(energy),
        "logits_sha256": found.logits_sha256,
        "notes": list(dict.fromkeys((*of_model, *found.notes))),
    }
