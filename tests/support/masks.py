"""Synaptic operations of layers from their own arithmetic: a convolution of a mask with ones counts pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.counts.operations import OperationCounts


@contextmanager
def masks(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """By layer: pairs of inputs and weights, and those of inputs that are not 0, from the layer's own arithmetic."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            hooks.append(module.register_forward_pre_hook(_mask_hook(found, name)))
    yield found
    for hook in hooks:
        hook.remove()


def _mask_hook(found: dict[str, list[int]], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().double()
        ones = torch.ones_like(module.weight, dtype=torch.float64)
        x = x.flatten(0, 1) if isinstance(module, nn.Conv2d) and x.dim() == 5 else x
        for index, operand in enumerate((torch.ones_like(x), (x != 0).double())):
            found[name][index] += int(_layer(module, operand, ones).sum())

    return hook


def _layer(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's own arithmetic on other inputs and weights."""
    if isinstance(module, nn.Linear):
        return nn.functional.linear(x, weight)
    convolve = nn.functional.conv1d if isinstance(module, nn.Conv1d) else nn.functional.conv2d
    return convolve(x, weight, None, module.stride, module.padding, module.dilation, module.groups)


def of_layers(counts: OperationCounts) -> dict[str, list[int]]:
    """Dense pairs and pairs of the layers that are counted."""
    return {
        o.name: [sum(c.dense for c in o.counted), sum(c.pairs for c in o.counted)]
        for o in counts.operations
        if o.kind in ("linear", "convolution") and not o.functional
    }
