"""Some of the channels of a node: how their node is named, and which operation computes only those.

Two things make such nodes.  A model cuts the result of one layer into parts (parts.py: q, k and v of one layer), and
passes move joins of branches towards the end (joins.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.ir import BatchNorm, Conv2d, Linear, Op

CHANNELS = ".channels_"

AnyOp = TypeVar("AnyOp", bound=Op)


def part_name(name: str, first: int, end: int) -> str:
    """The name of the node that computes channels `first` to `end` of node `name`: "lif.channels_0_8"."""
    return f"{name}{CHANNELS}{first}_{end}"


def part_of_heads_name(name: str, first: int, end: int, size: int) -> str:
    """Of the node that computes those channels of each head of `size`: "norm.channels_0_8_of_16"."""
    return f"{part_name(name, first, end)}_of_{size}"


def part_of(name: str, known: Mapping[str, object]) -> tuple[str, slice]:
    """(node, channels) of the node that `part_name` has named so; those of a `known` node are all its channels."""
    node, _, ends = name.rpartition(CHANNELS)
    if name in known or not node:
        return name, slice(None)
    first, end = ends.split("_")
    return node, slice(int(first), int(end))


def of_channels(op: AnyOp, first: int, end: int) -> AnyOp:
    """The operation that makes channels `first` to `end` of what `op` makes.

    A layer without groups still reads its whole input.  An operation that works channel by channel reads the same
    channels of its input; all but normalisation do the same to every channel.
    """
    return _of_chosen(op, slice(first, end))


def of_heads(op: Conv2d | Linear | BatchNorm, first: int, end: int, size: int) -> Conv2d | Linear | BatchNorm:
    """The operation that makes channels `first` to `end` of each head of `size` channels; a layer has no groups."""
    channels = len(op.gamma if isinstance(op, BatchNorm) else op.bias)
    return _of_chosen(op, np.arange(channels).reshape(-1, size)[:, first:end].ravel())


def _of_chosen(op: AnyOp, chosen: slice | Int) -> AnyOp:
    match op:
        case Conv2d(weight=weight, bias=bias, groups=1) | Linear(weight=weight, bias=bias):
            return replace(op, weight=frozen(weight[chosen]), bias=frozen(bias[chosen]))
        case BatchNorm(gamma, beta, mean, var):
            return replace(
                op,
                gamma=frozen(gamma[chosen]),
                beta=frozen(beta[chosen]),
                mean=frozen(mean[chosen]),
                var=frozen(var[chosen]),
            )
        case _:
            return op
