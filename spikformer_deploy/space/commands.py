"""The commands that make and run a point by itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spikformer_deploy.space.axes import Point, Space

if TYPE_CHECKING:
    from spikformer_deploy.space.own import Own


def command_of(point: Point, space: Space, own: Mapping[str, Own]) -> str:
    """What compiles a point and runs it on the images of its space, for a shell.

    own  the models of the user's own code, by name; "" of those that no command can make
    """
    source = own.get(point.model)
    model = (point.model,) if source is None else source.words(point.time_steps)
    if not model:
        return ""
    stem = Path(point.model).name.split(".")[0].replace(":", "-")
    target = Path(point.target).name.removesuffix(".toml")
    bits = f"w{point.weight_bits}-{point.granularity}-{point.rounding}"
    program = f"{stem}-t{point.time_steps}-{bits}-{target}-{point.schedule}-{point.objective}.spk"
    compiled = {
        "--target": point.target,
        "--time-steps": point.time_steps,
        "--weight-bits": point.weight_bits,
        "--granularity": point.granularity,
        "--rounding": point.rounding,
        "--schedule": point.schedule,
        "--objective": point.objective,
        "--runtime": space.runtime,
        "--calibrate": space.calibrate,
        "--arch": space.arch,
        "--heads": space.heads,
        "--levels": space.levels,
        "--image-size": space.image_size,
        "--dt": space.dt,
        "-o": program,
    }
    run = {
        "--input": space.input,
        "--labels": space.labels,
        "--limit": space.limit,
        "--runtime": space.runtime,
    }
    return f"{_line('compile', model, compiled)} && {_line('run', (program,), run)}"


def _line(word: str, arguments: Sequence[str], options: Mapping[str, object]) -> str:
    """Options that are empty or 0 are not given."""
    parts = ["spikdeploy", word, *arguments]
    for name, value in options.items():
        parts += [name, str(value)] if value else []
    return shlex.join(parts)
