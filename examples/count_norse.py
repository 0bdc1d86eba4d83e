"""The operations of a norse network: cells in a loop that hand their state on.

python examples/count_norse.py
"""

import norse.torch as norse
import torch
from torch import nn

import spikformer_deploy as sd

TIME_STEPS = 6


class Network(nn.Module):
    """A convolution and a dense layer of LIF cells, and leaky integrators that read them."""

    def __init__(self):
        super().__init__()
        parameters = norse.LIFParameters(v_th=torch.as_tensor(0.05))
        self.conv = nn.Conv2d(1, 4, 5, stride=2)
        self.lif1 = norse.LIFCell(parameters)
        self.fc = nn.Linear(4 * 6 * 6, 20)
        self.lif2 = norse.LIFCell(parameters)
        self.out = norse.LILinearCell(20, 10)

    def forward(self, x):
        """x (T, N, 1, 16, 16) spikes."""
        state1 = state2 = state3 = None
        voltages = []
        for step in x:
            spikes1, state1 = self.lif1(self.conv(step), state1)
            spikes2, state2 = self.lif2(self.fc(spikes1.flatten(1)), state2)
            voltage, state3 = self.out(spikes2, state3)
            voltages.append(voltage)
        return torch.stack(voltages).amax(0)


def main():
    torch.manual_seed(0)
    model, spikes = Network(), (torch.rand(TIME_STEPS, 3, 1, 16, 16) < 0.3).float()
    with sd.count_operations(model) as counts:
        nn.functional.cross_entropy(model(spikes), torch.arange(3)).backward()
    print(counts.table())
    print("firing rates, by step and layer:", counts.firing_rates().round(3), sep="\n")
    print(f"spikformer-paper: {counts.energy('spikformer-paper').total.nominal:.3g} mJ an image")
    return model, spikes, counts


if __name__ == "__main__":
    main()
