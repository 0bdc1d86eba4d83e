"""A training recipe: a TOML file, validated as a whole, every error with its path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
import cattrs
from attrs import field, frozen, validators

from spikformer_deploy.errors import InputError
from spikformer_deploy.validation import problems

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

positive: Any = validators.gt(0)
share: Any = validators.and_(validators.ge(0), validators.lt(1))


@frozen
class Model:
    """The architecture; see nn.zoo.ModelConfig."""

    family: str = field(validator=validators.in_(["v1", "v2"]))
    form: str = field(validator=validators.in_(["cifar", "imagenet"]))
    depth: int = field(validator=positive)
    dim: int = field(validator=positive)
    heads: int = field(validator=positive)
    time_steps: int = field(validator=positive)
    mlp_ratio: int = field(default=4, validator=positive)
    stem_stages: int = field(default=4, validator=positive)


@frozen
class Data:
    """What it is trained on: `source` as in images.read, the size of its square images, and how far they are moved."""

    source: str
    channels: int = field(validator=positive)
    size: int = field(validator=positive)
    shift: int = field(default=0, validator=validators.ge(0))
    rotate_degrees: float = field(default=0.0, validator=validators.ge(0))


@frozen
class Optimiser:
    """AdamW under a cosine schedule with warm-up; `ema` decays the average of the weights that is kept in the end."""

    epochs: int = field(validator=positive)
    batch: int = field(validator=positive)
    learning_rate: float = field(validator=positive)
    weight_decay: float = field(default=0.05, validator=validators.ge(0))
    warmup_epochs: int = field(default=0, validator=validators.ge(0))
    label_smoothing: float = field(default=0.0, validator=share)
    ema: float = field(default=0.0, validator=share)
    seed: int = field(default=0, validator=validators.ge(0))


@frozen
class Recipe:
    """A whole recipe; `output` is the checkpoint it makes, relative to the working folder."""

    output: str
    model: Model
    data: Data
    optimiser: Optimiser


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file.  Raises InputError that lists everything that is wrong with it."""
    path = Path(path)
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(str(path), "there is no such file", "Examples: examples/digits_v2.toml.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(str(path), f"it is no readable TOML: {error}") from None
    converter = cattrs.Converter(forbid_extra_keys=True)
    try:
        return converter.structure(raw, Recipe)
    except cattrs.BaseValidationError as error:
        found = "; ".join(problems(error))
        raise InputError(str(path), found, "See examples/digits_v2.toml for a complete recipe.") from None


def describe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for the checkpoint's header."""
    return attrs.asdict(recipe)
