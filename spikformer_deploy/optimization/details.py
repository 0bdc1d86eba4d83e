"""What `optimize` asks of its steps in detail, and the TOML file that says this and its options."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cattrs

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import text_of
from spikformer_deploy.base.validation import problems, strict_converter
from spikformer_deploy.optimization.bits import check_least
from spikformer_deploy.optimization.fewer_channels import check_shares
from spikformer_deploy.optimization.sparser import FIRST_WEIGHT, LARGEST_WEIGHT, check_weights
from spikformer_deploy.pipeline.layer_bits import DEFAULT_BITS
from spikformer_deploy.quantization.build import LEAST_BITS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WAY_OUT = 'See "Details in a file" in docs/optimize.md.'


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What the steps of optimize do in detail.

    learning_rate  the largest of a stage of fine-tuning; batch: images of one, None: as the model learnt with
    first_weight   of the energy in the loss, in the first stage of "sparser"; largest_weight: no stage has more
    shares         of the hidden channels that "prune" tries to cut, ascending until one does not hold; (): by bisection
    stem_shares    the same of the channels inside the stem, of "stems"
    least_bits     of a layer's weights, in "bits"
    """

    learning_rate: float = 1e-3
    batch: int | None = None
    first_weight: float = FIRST_WEIGHT
    largest_weight: float = LARGEST_WEIGHT
    shares: tuple[float, ...] = ()
    stem_shares: tuple[float, ...] = ()
    least_bits: int = LEAST_BITS

    def check(self) -> None:
        """Raise InputError, by the option's name, for what makes no sense; of fine-tuning check_numbers does."""
        check_weights(self.first_weight, self.largest_weight)
        check_shares("--shares", self.shares)
        check_shares("--stem-shares", self.stem_shares)
        check_least(self.least_bits, DEFAULT_BITS)


AS_USUAL = Details()
DETAILS = tuple(field.name for field in fields(Details))
"""What no option of the command says."""
SIZES = ("heads", "levels", "time_steps", "image_size", "window", "variables")
"""Of what a file does not tell of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Details):
    """The table [optimize] of a file: details, and options of the command; None: the file does not say it.

    validation  images by name, or a share of those of `input`
    """

    input: str | None = None
    validation: Any = None
    target: str | None = None
    max_drop: float | None = None
    steps: tuple[str, ...] | None = None
    epochs: float | None = None
    minutes: float | None = None
    seed: int | None = None
    output: str | None = None
    arch: str | None = None
    heads: int | None = None
    levels: int | None = None
    time_steps: int | None = None
    image_size: int | None = None
    window: int | None = None
    variables: int | None = None
    dt: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a validation that is neither, and for sizes below 1."""
        if self.validation is not None and type(self.validation) not in (str, int, float):
            raise ValueError("validation is no text, and no number")
        for name in SIZES:
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} = {size}, and it is at least 1")

    @property
    def details(self) -> Details:
        """The details alone."""
        return Details(**{name: getattr(self, name) for name in DETAILS})

    @property
    def options(self) -> dict[str, Any]:
        """The options that it says, by name."""
        said = {name.name: getattr(self, name.name) for name in fields(self) if name.name not in DETAILS}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _File:
    optimize: Asked


def read_asked(path: str | Path) -> Asked:
    """The table [optimize] of a TOML file.  Raises InputError that lists everything that is wrong with it."""
    try:
        raw: dict[str, Any] = tomllib.loads(text_of(Path(path), WAY_OUT))
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"it is no readable TOML: {error}") from None
    try:
        return strict_converter().structure(raw, _File).optimize
    except cattrs.BaseValidationError as error:
        raise InputError(str(path), "; ".join(problems(error)), WAY_OUT) from None
