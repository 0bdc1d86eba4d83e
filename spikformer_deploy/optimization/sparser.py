"""Fine-tuning that makes spikes fewer where they cost most: the target's own price of a spike is part of the loss.

    loss = cross-entropy, half of it against the original model's outputs
           + weight * energy of the spikes / that of the original model

The weight is raised in stages, each from the last one that held, until the allowed drop is used up; then smaller steps
are tried between.  Weights and batch normalisation move; the structure, thresholds and time constants stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import inf, sqrt

import torch
from torch import Tensor

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.words import check_positive
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.optimization.price import spike_prices
from spikformer_deploy.optimization.spike_cost import SpikeCost, tokens_stand_first, watched
from spikformer_deploy.optimization.stages import Kind, Search, Tried, Tuned, Tuning

FIRST_WEIGHT = 1.0
"""Of the energy in the loss, in the first stage."""
LARGEST_WEIGHT = 64.0
SMALLEST = 1 / 8
"""Of the first weight: where even a smaller one costs more than the allowed drop, training itself does."""
NEAREST = 1.2
"""Two weights, of which one holds and one does not, are not told apart below this ratio."""


def make_sparser(
    model: Loaded,
    training_images: ImageSet,
    validation_images: ImageSet,
    tuning: Tuning,
    *,
    first_weight: float = FIRST_WEIGHT,
    largest_weight: float = LARGEST_WEIGHT,
) -> Tuned:
    """Fine-tune a model so that its spikes cost less on a target, at nearly the same accuracy.

    model           of spiking neurons (LIF), from a checkpoint
    training_images, validation_images  with labels; nothing is learnt from the latter
    tuning          its target is the one whose prices count
    first_weight    of the energy in the loss, in the first stage; largest_weight: no stage has more
    Augmentation and weight decay are those that the model learnt with, where its file says so.
    Raises InputError for images without labels, numbers that make no sense and a folder of another call, ModelError for
    a model without LIFs.
    """
    check_weights(first_weight, largest_weight)
    if not any(isinstance(layer, LIF) for layer in model.module.modules()):
        raise ModelError("model", "it has no LIFs whose spikes could be made fewer", "Give a model of LIFs.")
    weights = (float(first_weight), float(largest_weight))
    search = Search("sparser", model, training_images, validation_images, 0.0, tuning, weights)
    search.open()

    @cache
    def cost() -> tuple[SpikeCost, float]:
        return cost_of_spikes(search)

    def beside(sent: Mapping[str, Tensor], weight: float) -> Tensor:
        energy, of_original = cost()
        return weight / of_original * energy(sent)

    return search.run(Kind("weight", lambda rows: next_weight(rows, *weights), None, beside))


def check_weights(first: float, largest: float) -> None:
    """Raise InputError, by the option's name, for weights of the energy that make no sense."""
    check_positive(first_weight=first)
    # of NaN nothing holds
    if not first <= largest < inf:
        raise InputError("--largest-weight", f"{largest}, and the first is {first:g}", "Give no less.")


def next_weight(
    rows: list[Tried], first: float = FIRST_WEIGHT, largest: float = LARGEST_WEIGHT
) -> tuple[float, Tried] | None:
    """The weight of the next stage and the stage that it starts from; None where there is no more to try.

    The first stage has the weight `first`, and none more than `largest`.  The weight doubles while stages hold.  Once
    one does not, the next lies between: its geometric mean with the largest one below that holds, until these are
    close.
    """
    holding = max((row for row in rows if row.holds), key=lambda row: row.setting)
    failed = [row.setting for row in rows if not row.holds and row.setting > holding.setting]
    if not failed:
        weight = 2 * holding.setting or first
        return (weight, holding) if weight <= largest else None
    least = min(failed)
    if not holding.setting:
        return (least / 2, holding) if least / 2 >= SMALLEST * first else None
    return (sqrt(least * holding.setting), holding) if least / holding.setting > NEAREST else None


def cost_of_spikes(search: Search) -> tuple[SpikeCost, float]:
    """The differentiable energy at the prices of the original program, and that of the original model's spikes.

    Raises ModelError for a model that sends none.
    """
    compiled = search.compiled(search.rows[0])
    few = search.some()
    with torch.no_grad(), watched(search.model.module.eval()) as sent:
        search.model.module(few)
    assert compiled.graph is not None
    of_graph = execute(compiled.graph, few[:2])
    few_sent = {name: spikes[:, :2] for name, spikes in sent.items()}
    tokens_first = {n for n, s in few_sent.items() if n in of_graph and tokens_stand_first(s, of_graph[n])}
    cost = SpikeCost(compiled.program.network, spike_prices(compiled.program), frozenset(tokens_first))
    if missing := cost.unpriced(sent):
        search.notes = (f"not in the loss, as it does not follow from spikes of LIFs: {', '.join(missing)}",)
    base = float(cost(sent))
    if not base:
        problem = f"none of its neurons fires on the first {len(few)} training images"
        raise ModelError("model", problem, "Train it first: there are no spikes to be made fewer.")
    return cost, base
