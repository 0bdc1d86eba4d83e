"""LIF neurons whose time constant was learnt with the weights, one for each layer (PLIF)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.nn.lif import LIF

LONGEST = 2.0**20
"""Time steps of a time constant: beyond, nothing leaks and nothing charges."""


class PLIF(LIF):
    """A layer of LIF neurons with 1 / tau = sigmoid(w): (T, ...) currents -> (T, ...) spikes.

    w  () float, of the official state_dicts; 0 stands for tau = 2.  tau follows it when a state_dict is loaded: the
       number itself stays as it was trained.
    Source: Fang et al. 2021 (Parametric LIF), arXiv 2007.05785, eq. 6.
    """

    def __init__(self, v_threshold: float = 1.0) -> None:
        super().__init__(v_threshold=v_threshold)
        self.w = nn.Parameter(torch.zeros(()), requires_grad=False)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.tau = time_constant(f"{prefix}w", self.w)


def time_constant(key: str, w: Tensor) -> float:
    """tau of 1 / tau = sigmoid(w), in time steps.  Raises ModelError, naming the key, where that is beyond LONGEST."""
    share = float(w.detach().double().sigmoid())
    # not "below": NaN is refused too
    if not share >= 1 / LONGEST:
        problem = f"a learnt time constant of 1 / sigmoid({float(w):.4g}) is more than {LONGEST:.0f} time steps"
        raise ModelError(key, problem, "The training diverged, or the file is damaged.")
    return 1 / share


def learn_time_constants(module: nn.Module) -> None:
    """Put a PLIF of the same threshold in the place of every LIF of `module`."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is LIF:
                parent.add_module(name, PLIF(child.v_threshold))
