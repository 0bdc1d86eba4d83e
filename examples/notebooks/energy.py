# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Where the energy of a model goes
#
# Operations are counted while a model runs, in any PyTorch code, and priced by the rules of papers and tools.

# %%
import torch
from torch import nn

import spikformer_deploy as sd


# %%
class Network(nn.Module):
    """A convolution, a layer of leaky neurons, a classifier; four time steps in a loop."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(8 * 8 * 8, 10)

    def forward(self, x):
        v, logits = 0.0, 0.0
        for _ in range(4):
            v = 0.5 * v + self.conv(x)
            spikes = (v >= 0.3).float()
            v = v - 0.3 * spikes
            logits = logits + self.head(spikes.flatten(1)) / 4
        return logits


# %%
torch.manual_seed(0)
model, images = Network(), torch.rand(16, 1, 8, 8)
with sd.count_operations(model, time_steps=4) as counts:
    model(images)

print(counts.table("spikformer-paper"))

# %% [markdown]
# The same counts under other conventions, in mJ an image:

# %%
{name: counts.energy(name).total.nominal for name in ("spikformer-paper", "syops-counter", "ann-equivalent-fp32")}

# %% [markdown]
# Operators that have no rule must be none before the number is printed:

# %%
assert not counts.not_understood
counts.firing_rates()  # (T, layers)
