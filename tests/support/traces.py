"""Equal models are traced once in a process: torch.export takes seconds, and gives equal graphs each time.

What tracing itself does is tested with `spikformer_deploy.graph.trace.trace`, which nothing is remembered of.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from spikformer_deploy.base.values import digest
from spikformer_deploy.graph.ir import Graph

OURS = ("spikformer_deploy.nn.", "torch.nn.modules.")
"""Modules whose forward pass reads their own attributes only."""
MOST_VALUES = 5_000_000
"""Weights of larger models are not copied, and not looked at."""


def remembered(trace: Callable[..., Graph]) -> Callable[..., Graph]:
    """`trace`, which gives a graph once more for a module whose weights, layers and attributes are those of before."""
    known: dict[str, Graph] = {}

    def traced(module: nn.Module, *shape: Any, **options: Any) -> Graph:
        if not _is_ours(module):
            return trace(module, *shape, **options)
        key = digest((shape, options, tuple(_of(module))))
        if key not in known:
            # a copy: whoever trains the module further changes tensors that the graph may share
            known[key] = copy.deepcopy(trace(module, *shape, **options))
        module.eval()  # as torch.export leaves it
        return known[key]

    return traced


def _is_ours(module: nn.Module) -> bool:
    hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    ours = all(type(layer).__module__.startswith(OURS) for layer in module.modules())
    return ours and not hooked and sum(value.numel() for value in module.state_dict().values()) <= MOST_VALUES


def _of(module: nn.Module) -> Iterator[Any]:
    """All that a forward pass reads: layers and the code of each, their attributes, their weights."""
    for name, layer in module.named_modules():
        own = {key: value for key, value in vars(layer).items() if not key.startswith("_") and key != "training"}
        yield name, type(layer).__qualname__, str(id(type(layer).forward)), repr(sorted(own.items(), key=str))
        tensors = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        yield {key: value.detach().cpu().numpy() for key, value in tensors}
