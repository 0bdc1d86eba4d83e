"""The operations of a snntorch network: leaky neurons in a loop, and a recurrent layer whose own weights count.

python examples/count_snntorch.py
"""

import snntorch as snn
import torch
from torch import nn

import spikformer_deploy as sd

TIME_STEPS = 5


class Network(nn.Module):
    """A dense layer of leaky neurons, and one of recurrent ones."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.leaky = snn.Leaky(beta=0.9, threshold=0.4)
        self.fc2 = nn.Linear(32, 16)
        self.recurrent = snn.RLeaky(beta=0.8, threshold=0.4, linear_features=16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        """x (T, N, 64) spikes."""
        mem1 = self.leaky.reset_mem()
        spikes2, mem2 = self.recurrent.reset_mem()
        logits = []
        for step in x:
            spikes1, mem1 = self.leaky(self.fc1(step), mem1)
            spikes2, mem2 = self.recurrent(self.fc2(spikes1), spikes2, mem2)
            logits.append(self.head(spikes2))
        return torch.stack(logits).mean(0)


def main():
    torch.manual_seed(0)
    model, spikes = Network(), (torch.rand(TIME_STEPS, 7, 64) < 0.3).float()
    with sd.count_operations(model) as counts:
        nn.functional.cross_entropy(model(spikes), torch.arange(7)).backward()
    print(counts.table())
    print("firing rates, by step and layer:", counts.firing_rates().round(3), sep="\n")
    print(f"spikformer-paper: {counts.energy('spikformer-paper').total.nominal:.3g} mJ an image")
    return model, spikes, counts


if __name__ == "__main__":
    main()
