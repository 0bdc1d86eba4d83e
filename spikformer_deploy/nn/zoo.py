"""The table of families: published sizes by name, the module of any size, and the family of a state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn import (
    max_former,
    meta_spikeformer,
    ms_qkformer,
    qkformer,
    qsd_transformer,
    seqsnn,
    spike_driven,
    spike_driven_v3,
    spike_driven_v3_large,
    spikformer,
    spikformer_v2,
    spiking_resformer,
    spikingformer,
)
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors

FAMILIES: dict[str, Family] = {
    "v1": spikformer.FAMILY,
    "v2": spikformer_v2.FAMILY,
    "spikingformer": spikingformer.FAMILY,
    "sdt1": spike_driven.FAMILY,
    "sdt2": meta_spikeformer.FAMILY,
    "sdt3": spike_driven_v3.FAMILY,
    "sdt3-large": spike_driven_v3_large.FAMILY,
    "qsd": qsd_transformer.FAMILY,
    "qkformer": qkformer.FAMILY,
    "max-former": max_former.FAMILY,
    "ms-qkformer": ms_qkformer.FAMILY,
    "spiking-resformer": spiking_resformer.FAMILY,
    "seqsnn": seqsnn.FAMILY,
}
"""All families, by the name that ModelConfig.family has."""


def published() -> dict[str, ModelConfig]:
    """The published sizes of all families, by name."""
    return {name: config for family in FAMILIES.values() for name, config in family.published.items()}


def named(name: str, **overrides: Any) -> ModelConfig:
    """The published size `name`, with some fields changed.  Raises InputError for an unknown name."""
    sizes = published()
    if name not in sizes:
        raise InputError("--arch", f"no published size is called '{name}'", f"Known: {', '.join(sizes)}.")
    return replace(sizes[name], **overrides)


def recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What an official state_dict tells of its model; None where it is of no family.

    path       for errors; arguments: of the training script, where the file holds them
    Raises ModelError for a form that is not supported.  What a family's `choices` leave open, its fields do not say.
    """
    for name, family in FAMILIES.items():
        recognised = family.recognise(path, tensors, arguments) if family.recognise else None
        if recognised is not None:
            return recognised._replace(fields={"family": name, **recognised.fields})
    return None


def with_official_code() -> tuple[str, ...]:
    """Titles of the families whose official state_dicts are recognised."""
    return tuple(family.title for family in FAMILIES.values() if family.recognise)


def stem_pooling(config: ModelConfig) -> str:
    """`config.pooling`, or what its form has; "" where the family has no choice of it."""
    return config.pooling or _pooling_of_form(config)


def plain(config: ModelConfig) -> ModelConfig:
    """`config` without a pooling that says no more than its form: what are equal networks is then equal."""
    implied = config.pooling == _pooling_of_form(config)
    return replace(config, pooling="") if implied else config


def build(config: ModelConfig) -> nn.Module:
    """The module of `config`, freshly initialised.  Raises InputError where the sizes do not go together."""
    family = FAMILIES.get(config.family)
    if config.pooling and not (family and family.pooling):
        raise InputError("pooling", f"the stem of {config.family} has no choice of it", "Leave it out.")
    if config.dim % config.heads:
        problem = f"{config.dim} channels do not divide into {config.heads} heads"
        raise InputError("--heads", problem, "Choose a divisor.")
    if family is None or config.form not in family.forms:
        raise InputError("--arch", f"there is no {config.family} in the form '{config.form}'")
    if config.hidden and not (family.hidden_by_block and len(config.hidden) == config.depth):
        problem = f"hidden channels of {len(config.hidden)} blocks, and {config.family} has {config.depth}"
        raise InputError("hidden", problem if family.hidden_by_block else f"{config.family} has one width for all")
    if config.stem_hidden:
        usual = family.stem_hidden(config) if family.stem_hidden else ()
        if len(config.stem_hidden) != len(usual):
            problem = f"{len(config.stem_hidden)} widths in the stem, and that of {config.family} has {len(usual)}"
            raise InputError("stem_hidden", problem if usual else f"the stem of {config.family} has none of its own")
    return family.build(config)


def _pooling_of_form(config: ModelConfig) -> str:
    """A header may name a family or a form that there is none of: `build` refuses it."""
    family = FAMILIES.get(config.family)
    return family.pooling.get(config.form, "") if family else ""
