"""How far each weight moves: the learning rate over time, and over the depth of the network."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import nn

from spikformer_deploy.training.recipe import Optimiser


def learning_rate(settings: Optimiser, position: float) -> float:
    """Linear warm-up, then half a cosine down to zero; `position` in epochs."""
    if position < settings.warmup_epochs:
        # not quite 0 at first: the first batch would be for nothing
        return settings.learning_rate * (position + 1e-3) / settings.warmup_epochs
    through = (position - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, through)))


def parameter_groups(module: nn.Module, settings: Optimiser) -> list[dict[str, Any]]:
    """Groups for AdamW, each with its `factor` of the learning rate.

    Vectors (biases, normalisation) do not decay, and learn at `vector_factor` times the rate of the others.
    With layer_decay d the head learns at full rate, the last block at d, and so on down to the stem at d^(depth + 1)
    (Clark et al. 2020, ELECTRA; He et al. 2022, MAE, table 9).
    """
    depth = 1 + max((_layer(name, 0) for name, _ in module.named_parameters()), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        factor = settings.layer_decay ** (depth - _layer(name, depth))
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        factor *= settings.vector_factor if parameter.ndim == 1 else 1.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()]


def _layer(name: str, last: int) -> int:
    """0 for the stem, i + 1 for block i, `last` for what comes after."""
    block = re.search(r"\bblock\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return 0 if "patch_embed" in name else last
