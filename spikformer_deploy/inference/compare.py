"""One model on several targets, side by side: what does not fit one of them is a row with the reason."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from spikformer_deploy.base.errors import InputError, MappingError, QuantizeError
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.inference.run import run
from spikformer_deploy.mapping.map import SCHEDULES
from spikformer_deploy.pipeline.stages import compile_model

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
    energy is that of the convention "profile" with its boundaries.  Such rows have `notes` on the images, too, the
    same in each.
    Models with attention are mapped both ways, spatial and token-serial.

    labels  a file of the classes of the images (see data/labels.py)
    objective, runtime, calibrate_on, loading  as pipeline.stages.compile_model
    progress  called with (targets done, in all, a note)
    Raises InputError for an unknown target, a model or images that cannot be used.
    """
    for target in targets:
        load_profile(target)
    loaded = load(model, **loading) if isinstance(model, (str, Path)) else model
    rows: list[dict[str, Any]] = []
    pairs = list(product(targets, SCHEDULES))
    for done, (target, schedule) in enumerate(pairs):
        progress(done, len(pairs), f"{target}, {schedule}")
        options: dict[str, Any] = {"calibrate_on": calibrate_on, "objective": objective, "check": False}
        options["runtime"] = runtime
        try:
            compiled = compile_model(loaded, target, schedule=schedule, **options)
        except (MappingError, QuantizeError) as error:
            rows.append({"target": target, "schedule": schedule, "refused": str(error)})
            continue
        except InputError as error:
            if error.place == "--schedule":  # no attention, no tokens
                continue
            raise
        result = run(compiled.program, data, limit=limit, labels=labels, runtime=runtime)
        values, mapping = result.to_dict(), compiled.program.mapping
        times = values["time"]
        rows.append(
            {
                "target": target,
                "schedule": schedule,
                "runtime": runtime,
                "cores": mapping.cores_used,
                "chips": mapping.chips,
                "accuracy": values["accuracy"],
                "step_us": times["step_us_mean"],
                "step_us_likely": [times["likely_low"], times["likely_high"]],
                **{name: times[name] for name in FROM_TIMES},
                "energy_mj": values["energy_mj"]["profile"],
                "logits_sha256": values["logits_sha256"],
                "notes": values["notes"],
            }
        )
    return rows
