"""Batch normalisation whose stored statistics are not those of the images, made ready to be trained again.

A file may hold weights of another scale than those that were trained, with statistics that make up for it: its forward
pass is right in evaluation, and silent as soon as batches are normalised by their own statistics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spikformer_deploy.training.supervised import NORMS

Norm = nn.BatchNorm1d | nn.BatchNorm2d

FARTHEST = 2.0
"""Ratio of the stored and the measured deviation of the median channel, and difference of their means in deviations,
from which on the stored ones are of something else."""


@torch.no_grad()
def with_statistics_of(module: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Give normalisations the statistics of a batch where theirs are far from them; what `module` computes stays.

    x  normalised images, as the module takes them
    Gains and biases make up for the new statistics, and the layer in front, where its name tells it, is scaled so that
    it puts out currents of deviation 1.  Returns the names of the normalisations that changed.
    """
    measured: dict[str, tuple[Tensor, Tensor]] = {}

    def measure(name: str, current: Tensor) -> None:
        axes = [axis for axis in range(current.ndim) if axis != 1]
        measured[name] = (current.mean(axes), current.var(axes, unbiased=False))

    norms = {name: layer for name, layer in module.named_modules() if isinstance(layer, NORMS)}
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, inputs, name=name: measure(name, inputs[0]))
        for name, layer in norms.items()
    ]
    was_training = module.training
    module.eval()(x)
    module.train(was_training)
    for hook in hooks:
        hook.remove()
    changed = []
    for name, (mean, variance) in measured.items():
        layer = norms[name]
        varies = variance > layer.eps
        # of channels that nothing reaches, nothing is known
        if not bool(varies.any()):
            continue
        variance = torch.where(varies, variance, variance[varies].mean())
        if _is_far(layer, mean, variance):
            _adapt(layer, mean, variance, _before(module, name))
            changed.append(name)
    return tuple(changed)


def _is_far(norm: Norm, mean: Tensor, variance: Tensor) -> bool:
    """Whether the stored statistics are of something else."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    stored = (norm.running_var + norm.eps).sqrt()
    found = (variance + norm.eps).sqrt()
    apart = (stored / found).log().abs().median() > math.log(FARTHEST)
    return bool(apart or ((norm.running_mean - mean).abs() / found).median() > FARTHEST)


def _adapt(norm: Norm, mean: Tensor, variance: Tensor, before: nn.Module | None) -> None:
    """The new statistics, and what makes up for them."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    # of a layer whose currents have deviation 1 / scale
    scale = 1 / variance.mean().add(norm.eps).sqrt() if before is not None else torch.ones(())
    norm.bias.add_(gain * (mean - norm.running_mean))
    norm.running_mean.copy_(mean * scale)
    norm.running_var.copy_(variance * scale**2)
    norm.weight.copy_(gain * (norm.running_var + norm.eps).sqrt() / scale)
    if before is not None:
        for value in before.parameters():
            value.mul_(scale)


def _before(module: nn.Module, norm: str) -> nn.Module | None:
    """The synaptic layer in front of a normalisation, by the names of a unit: "q_conv" or "q_linear" of "q_bn"."""
    owner, _, name = norm.rpartition(".")
    beside = dict(module.get_submodule(owner).named_children())
    for kind in ("conv", "linear"):
        layer = beside.get(name.replace("bn", kind))
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            return layer
    return None
