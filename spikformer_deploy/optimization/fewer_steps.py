"""Fewer time steps T, with fine-tuning: an image costs as T does, and many models learnt with more than they need.

    loss = cross-entropy, half of it against the outputs of the model with all its time steps
           + what its spikes cost, over that of as many steps of the original, less 1, where it is more

A model that may fire more wins accuracy back so, and is no cheaper in the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from torch import Tensor

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.zoo import build
from spikformer_deploy.optimization.sparser import cost_of_spikes
from spikformer_deploy.optimization.spike_cost import SpikeCost
from spikformer_deploy.optimization.stages import Kind, Search, Tried, Tuned, Tuning


def fewer_steps(
    model: Loaded,
    training_images: ImageSet,
    validation_images: ImageSet,
    tuning: Tuning,
) -> Tuned:
    """Find the fewest time steps with which a model keeps nearly the same accuracy, fine-tuned where that needs it.

    model           from a checkpoint, of images: frames of event data stand for a time step each
    training_images, validation_images  with labels; nothing is learnt from the latter
    tuning          its target is the one whose prices count
    Which T are tried: see next_steps.
    Raises InputError as make_sparser, ModelError for a model of frames, and for one of a single time step.
    """
    if model.per_step:
        raise ModelError("model", "its images are frames, one for each time step", "Give it fewer frames.")
    if model.time_steps == 1:
        raise ModelError("model", "it has one time step, and none has less", "Give a model of more.")
    search = Search("fewer_steps", model, training_images, validation_images, float(model.time_steps), tuning)
    search.open()

    @cache
    def cost() -> tuple[SpikeCost, float]:
        return cost_of_spikes(search)

    def beside(sent: Mapping[str, Tensor], time_steps: float) -> Tensor:
        energy, of_original = cost()
        return (energy(sent) / (of_original * time_steps / model.time_steps) - 1).clamp(min=0)

    return search.run(
        Kind(
            "T",
            next_steps,
            lambda before, setting: of_steps(before, int(setting)),
            beside if any(isinstance(layer, LIF) for layer in model.module.modules()) else None,
        )
    )


def next_steps(rows: list[Tried]) -> tuple[float, Tried] | None:
    """T of the next stage and the stage that it starts from; None where there is no more to try.

    By bisection between the least T that holds and the largest below it that does not; each goes on from the former.
    """
    holding = min((row for row in rows if row.holds), key=lambda row: row.setting)
    failed = max((row.setting for row in rows if not row.holds and row.setting < holding.setting), default=0.0)
    return ((holding.setting + failed) // 2, holding) if holding.setting - failed > 1 else None


def of_steps(model: Loaded, time_steps: int) -> Loaded:
    """The same weights for another number of time steps."""
    config = replace(model.config, time_steps=time_steps)
    module = build(config).eval()
    module.load_state_dict(model.module.state_dict())
    return replace(model, module=module, config=config)
