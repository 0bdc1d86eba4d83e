"""The operations of a network of plain PyTorch, with a neuron and a surrogate gradient that are written by hand.

python examples/count_plain_pytorch.py
"""

import torch
from torch import nn

import spikformer_deploy as sd

TIME_STEPS = 4


class Spike(torch.autograd.Function):
    """A step, and in the backward pass the slope of an arc tangent."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).float()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * x) ** 2)


class Network(nn.Module):
    """Two convolutions and a classifier of leaky neurons, all time steps in one loop."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.head = nn.Linear(16 * 8 * 8, 10)

    def forward(self, x):
        v1 = v2 = logits = 0.0
        for _ in range(TIME_STEPS):
            v1 = 0.9 * v1 + self.conv1(x)
            spikes1 = Spike.apply(v1 - 0.3)
            v1 = v1 - 0.3 * spikes1
            v2 = 0.9 * v2 + self.conv2(spikes1)
            spikes2 = Spike.apply(v2 - 0.3)
            v2 = v2 - 0.3 * spikes2
            logits = logits + self.head(spikes2.flatten(1)) / TIME_STEPS
        return logits


def main():
    torch.manual_seed(0)
    model, images = Network(), (torch.rand(4, 2, 16, 16) < 0.2).float()
    with sd.count_operations(model) as counts:
        loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 3]))
        loss.backward()
    print(counts.table())
    print("firing rates, by step and layer:", counts.firing_rates().round(3), sep="\n")
    print(f"spikformer-paper: {counts.energy('spikformer-paper').total.nominal:.3g} mJ an image")
    return model, images, counts


if __name__ == "__main__":
    main()
