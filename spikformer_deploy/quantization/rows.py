"""Maps as rows of channels: (C, Y, X) as (C * Y * X, 1, 1), for what has a weight of its own at each position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikformer_deploy.base.values import frozen
from spikformer_deploy.network.network import Projection
from spikformer_deploy.network.synapses import Conv
from spikformer_deploy.quantization.currents import ConvTerm, Current, ReadoutTerm, Term, dense_weight
from spikformer_deploy.quantization.signals import units_of
from spikformer_deploy.quantization.walk import Walk


def maps_as_rows(walk: Walk, current: Current) -> Current:
    """The current of a head with the maps that it reads position by position as rows of channels."""
    return replace(current, terms=tuple(_as_row(walk, term) for term in current.terms))


def _as_row(walk: Walk, term: Term) -> Term:
    """A readout of the row that repeats a map, where a convolution to one position reads one: else `term`."""
    if not isinstance(term, ConvTerm):
        return term
    source = walk.population(term.source)
    channels, height, width = source.shape
    if (height, width) == (1, 1):
        return term
    kernel = dense_weight(term.weight, term.groups)
    # The only output stands where the padding begins: taps before the map, and those beyond it, see zeros.
    top, left = term.padding
    seen = kernel[:, :, top : top + height, left : left + width]
    weight = np.zeros((len(kernel), channels, height, width))
    weight[:, :, : seen.shape[2], : seen.shape[3]] = seen
    return ReadoutTerm(
        term.layer, row_of(walk, term.layer, term.source), weight.reshape(len(kernel), -1), 1, term.max_out
    )


def row_of(walk: Walk, layer: str, source: str) -> str:
    """The population that repeats what `source` sends as (C * Y * X, 1, 1), for `layer`; one for all that read it.

    A synapse has one weight a channel, for all positions: in a row, each position is a channel of its own.
    """
    name = f"{source}.row"
    while name in walk.graph:  # a module of the user's may be called so
        name += "_"
    if name in walk.quantized:
        return name
    channels, height, width = walk.population(source).shape
    most = walk.population(source).max_out
    # For each position a kernel of the size of the map, with a one there; the same kernels for each channel.
    positions = np.eye(height * width, dtype=np.int8).reshape(-1, 1, height, width)
    conv = Conv(frozen(np.tile(positions, (channels, 1, 1, 1)), np.int8), groups=channels)
    signal = units_of(name, (channels * height * width, 1, 1), most)
    problem = f"it reads values up to {most} position by position"
    walk.place_relay(signal, (Projection((source,), name, conv),), layer, problem)
    return name
