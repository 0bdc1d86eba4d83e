"""Small models of SeqSNN on time series, weights under which their neurons fire, and windows for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.zoo import build, named

VARIABLES, POINTS, HORIZON = 5, 6, 3
CASES = {
    "points": ("spikformer", "conv", "", 1),
    "points, marks added": ("spikformer", "conv", "add", VARIABLES),
    "points, marks beside": ("spikformer", "conv", "concat", 3),
    "variables, conv": ("ispikformer", "conv", "", 1),
    "variables, delta": ("ispikformer", "delta", "", 1),
    "variables, repeat": ("ispikformer", "repeat", "", 1),
}


def config_of(case: str) -> ModelConfig:
    form, encoder, positions, marks = CASES[case]
    sizes = {"in_channels": VARIABLES, "image_size": POINTS, "positions": positions, "position_neurons": marks}
    outputs = HORIZON * VARIABLES if form == "spikformer" else HORIZON
    name = "seqsnn-spikformer-metr-la" if form == "spikformer" else "seqsnn-ispikformer-metr-la"
    return named(name, depth=1, dim=16, heads=2, mlp_ratio=2, encoder=encoder, num_classes=outputs, **sizes)


def state_of(case: str) -> dict[str, Tensor]:
    """A state_dict whose neurons fire: weights as drawn, statistics and shifts that make currents near thresholds."""
    torch.manual_seed(len(case))
    module = build(config_of(case))
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, 0.4, 1.6)
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.05, 0.3)  # type: ignore[arg-type]
        elif isinstance(layer, nn.Linear) and layer.out_features > 4:
            nn.init.normal_(layer.weight, 0.1, 0.4)
    state = module.state_dict()
    if "network.pe.emb.pe" in state:
        table = state["network.pe.emb.pe"]
        table[:] = (torch.rand(table.shape) > 0.6).float()
    return {key: value.clone() for key, value in state.items()}


def windows(count: int = 6) -> np.ndarray:
    """Real windows (count, L, V), each variable around a level of its own."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, POINTS, VARIABLES)) * 1.5 + rng.normal(size=VARIABLES)
