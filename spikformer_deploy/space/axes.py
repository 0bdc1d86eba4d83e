"""What a design space is made of: its axes, its points, and the TOML file that says them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import cattrs
from attrs import field, frozen, validators

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import text_of
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.base.validation import problems, strict_converter
from spikformer_deploy.chips.profile import RUNTIMES
from spikformer_deploy.mapping.map import OBJECTIVES, SCHEDULES
from spikformer_deploy.quantization.settings import GRANULARITIES, ROUNDINGS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_POINTS = 10_000
"""Of a space: the product of its axes grows fast, and more is a mistake."""
WAY_OUT = "See docs/sweep.md."


def _each(check: Any) -> Any:
    """Every value of an axis, of which there is at least one."""
    return validators.and_(validators.min_len(1), validators.deep_iterable(check))


def _one_of(words: Iterable[str]) -> Any:
    return _each(validators.in_(list(words)))


_named: Any = validators.min_len(1)
_bits = validators.and_(validators.ge(2), validators.le(8))
_steps = validators.and_(validators.ge(1), validators.le(MOST_STEPS))


@frozen(kw_only=True)
class Space:
    """A design space: its axes are those fields that hold several values, and `input` is what all points run on.

    models       files, or bundled models by name; names of models of the user's own code (own.py)
    time_steps   none: each model's own
    targets      names, or .toml files
    calibrate    images to calibrate on; "" as `compile` does it
    labels       a file of the classes of the images, or ""
    limit        at most that many images; 0: all
    arch, heads, levels, image_size  where a checkpoint does not tell, or "" and 0; dt: seconds a time step of a .nir,
                 or 0
    budget       what a point must keep to (budget.py), or ""
    """

    models: tuple[str, ...] = field(validator=_each(_named))
    input: str = field(validator=_named)
    time_steps: tuple[int, ...] = field(default=(), validator=validators.deep_iterable(_steps))
    weight_bits: tuple[int, ...] = field(default=(8,), validator=_each(_bits))
    granularity: tuple[str, ...] = field(default=("group",), validator=_one_of(GRANULARITIES))
    rounding: tuple[str, ...] = field(default=("nearest",), validator=_one_of(ROUNDINGS))
    targets: tuple[str, ...] = field(default=("loihi2",), validator=_each(_named))
    schedule: tuple[str, ...] = field(default=("spatial",), validator=_one_of(SCHEDULES))
    objective: tuple[str, ...] = field(default=("energy",), validator=_one_of(OBJECTIVES))
    calibrate: str = ""
    labels: str = ""
    limit: int = field(default=0, validator=validators.ge(0))
    runtime: str = field(default="lava", validator=validators.in_(RUNTIMES))
    arch: str = ""
    heads: int = field(default=0, validator=validators.ge(0))
    levels: int = field(default=0, validator=validators.ge(0))
    image_size: int = field(default=0, validator=validators.ge(0))
    dt: float = field(default=0.0, validator=validators.ge(0))
    budget: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One setting of everything: what `spikdeploy compile` takes by the same names."""

    model: str
    time_steps: int
    weight_bits: int
    granularity: str
    rounding: str
    target: str
    schedule: str
    objective: str

    def settings(self) -> dict[str, Any]:
        """What a row begins with."""
        return {name: getattr(self, name) for name in SETTINGS}


SETTINGS = tuple(Point.__dataclass_fields__)
"""The first columns of every row."""

Row: TypeAlias = dict[str, Any]
"""The settings of a point, then its figures, or `refused`: why it cannot be."""


def point_of(row: Row) -> Point:
    """The point of a row."""
    return Point(**{name: row[name] for name in SETTINGS})


def space_of(**values: Any) -> Space:
    """A space from plain values, tuples or lists; None is what there is by default.

    Raises InputError that lists everything that is wrong.
    """
    raw = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return _space({name: value for name, value in raw.items() if value is not None}, "sweep", in_file=False)


def read_space(path: str | Path) -> Space:
    """The space in a TOML file.  Raises InputError that lists everything that is wrong with it."""
    try:
        raw: dict[str, Any] = tomllib.loads(text_of(Path(path), WAY_OUT))
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"it is no readable TOML: {error}") from None
    return _space(raw, str(path))


def with_budget(space: Space, budget: str | None) -> Space:
    """The space with another budget, where one is given."""
    return space if budget is None else attrs.evolve(space, budget=budget)


def _space(raw: dict[str, Any], place: str, in_file: bool = True) -> Space:
    """in_file: whether an error says a path in a file; else it says the name of an option."""
    try:
        space = strict_converter().structure(raw, Space)
    except cattrs.BaseValidationError as error:
        wrong = problems(error) if in_file else [_of_option(problem) for problem in problems(error)]
        raise InputError(place, "; ".join(wrong), WAY_OUT) from None
    points = len(space.models) * max(1, len(space.time_steps))
    for name in ("weight_bits", "granularity", "rounding", "targets", "schedule", "objective"):
        points *= len(getattr(space, name))
    if points > MOST_POINTS:
        raise InputError(place, f"{points:,} points, and at most {MOST_POINTS:,} are run", "Give fewer values.")
    axes = {name: value for name, value in attrs.asdict(space, recurse=False).items() if isinstance(value, tuple)}
    once: dict[str, Any] = {name: tuple(dict.fromkeys(values)) for name, values in axes.items()}
    return attrs.evolve(space, **once)


def _of_option(problem: str) -> str:
    """A problem with the name of its field before it, in place of a path in a file behind it."""
    words, _, path = problem.rpartition(" @ $")
    name = path.removeprefix(".").partition("[")[0]
    return f"{name}: {words}" if name else words


def points_of(space: Space, model: str, time_steps: Iterable[int]) -> list[Point]:
    """All points of one model, in order."""
    axes = (space.weight_bits, space.granularity, space.rounding, space.targets, space.schedule, space.objective)
    return sorted(Point(model, steps, *values) for steps in time_steps for values in product(*axes))
