"""Checkpoints of models on time series: what says how windows become frames, and what the user says beside the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.series import LARGEST, MOST_VALUES, SCALE, Series, table_of
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.series import preprocess_of_series
from spikformer_deploy.nn.family import ModelConfig

SERIES = "seqsnn"
"""The family of models on time series."""
TABLE = "network.pe.emb.pe"
"""The spikes that mark positions."""


def of_series(config: ModelConfig, window: int | None, variables: int | None) -> ModelConfig:
    """The configuration with what the user says of the series; InputError where the file says otherwise."""
    said = {"--window": ("image_size", window, "spikformer"), "--variables": ("in_channels", variables, "ispikformer")}
    for option, (name, value, untold_in) in said.items():
        if value is None:
            continue
        if config.family != SERIES:
            raise InputError(option, "the model takes no time series", "Leave it out.")
        if config.form == untold_in:
            sizes: dict[str, Any] = {name: value}
            config = replace(config, **sizes)
        elif value != getattr(config, name):
            raise InputError(option, f"{value}, and the file says {getattr(config, name)}", "Leave it out.")
    return config


def series_notes(config: ModelConfig) -> tuple[str, ...]:
    """What the user must know of how values are taken, and of what no key tells."""
    notes = [f"values are taken as integers up to {LARGEST} of both signs; --calibrate fits their scale to your data"]
    if config.form == "ispikformer":
        notes.append("each window is standardised by its own mean and deviation (denormalize: True), which is undone")
    elif not config.positions:
        notes.append("positions are not marked: pe_type 'none' is taken, whose keys those of 'learn' are, too")
    return tuple(notes)


def series_preprocess(
    path: Path, config: ModelConfig, tensors: Mapping[str, torch.Tensor], stated: Series | None
) -> Preprocess:
    """How windows become the frames of a model; stated: what its file says, whose scale holds.

    Raises InputError where a frame would be too large.
    """
    points = config.form == "spikformer"
    series = Series(
        points=config.image_size,
        variables=config.in_channels,
        tokens="points" if points else "variables",
        steps=config.time_steps if config.per_step else 0,
        before=int(config.encoder == "delta"),
        standardised=not points,
        scale=SCALE if stated is None else stated.scale,
    )
    values = int(np.prod(series.frame, dtype=object))
    if values > MOST_VALUES:
        problem = f"frames of {values:,} values, and {MOST_VALUES:,} are the most"
        raise InputError(str(path), problem, "Give a smaller --window, or fewer --variables.")
    if not config.positions:
        return preprocess_of_series(series)
    marks = _marks(config, tensors)
    return preprocess_of_series(
        replace(series, positions=config.positions, marks=config.position_neurons, table=table_of(marks))
    )


def _marks(config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
    """(T, L, marks) of the table in the file: row t L + l."""
    rows = config.time_steps * config.image_size
    table = tensors[TABLE]
    if rows > len(table) or table.shape[1:] != (1, config.position_neurons):
        problem = f"its shape is {tuple(table.shape)}, and {rows} positions are marked by {config.position_neurons}"
        raise ModelError(TABLE, problem, "Give a smaller --window.")
    marks = table[:rows, 0].numpy() == 1
    return marks.reshape(config.time_steps, config.image_size, -1)
