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
# # From your own model to a report
#
# A network of spikingjelly's layers is trained on handwritten digits, compiled to integers for Loihi 2, run, and
# priced. Everything runs on a CPU in a minute.

# %%
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.data.digits import digits

EPOCHS = 10

# %% [markdown]
# ## A model
#
# Two attributes say what files cannot: how pixels become its input, and its number of time steps.


# %%
def lif():
    return neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")


torch.manual_seed(0)
model = nn.Sequential(
    layer.Conv2d(1, 16, 3, padding=1, bias=False, step_mode="m"),
    layer.BatchNorm2d(16, step_mode="m"),
    lif(),
    layer.MaxPool2d(2, 2, step_mode="m"),
    layer.Flatten(step_mode="m"),
    layer.Linear(16 * 4 * 4, 10, step_mode="m"),
)
model.preprocess = sd.Preprocess(channels=1, size=8, mean=(0.3,), std=(0.4,))
model.time_steps = 4

# %% [markdown]
# ## Its training

# %%
pixels, classes = digits("train")
images = torch.tensor(model.preprocess.normalised(pixels[:, None] * 255.0 / 16))
labels = torch.tensor(classes).long()
optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
for _epoch in range(EPOCHS):
    for batch in torch.randperm(len(images)).split(64):
        frames = images[batch].expand(model.time_steps, -1, -1, -1, -1)
        loss = nn.functional.cross_entropy(model(frames).mean(0), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        functional.reset_net(model)
model.eval()
print(f"loss {loss.item():.3f}")

# %% [markdown]
# ## The paper's number, without a chip

# %%
counted = sd.energy(model, "digits", conventions=["spikformer-paper"])
counted.accounts[0].energy.total.nominal  # mJ an image

# %% [markdown]
# ## Integers, cores, time and energy

# %%
program = sd.compile(model, target="loihi2", calibrate_on="digits")
program

# %%
run = sd.run(program, "digits")
run

# %%
run.layers[:3]  # plain records: pandas.DataFrame(run.layers)

# %%
run.report("first_report.html")
