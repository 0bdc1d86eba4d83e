"""The operations of a spikingjelly network, step by step and all steps at once: the same counts.

python examples/count_spikingjelly.py
"""

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import spikformer_deploy as sd

TIME_STEPS = 4


def network(step_mode):
    """A small convolutional network of LIF neurons."""
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False),
        layer.BatchNorm2d(8),
        neuron.LIFNode(tau=2.0, v_threshold=0.5, surrogate_function=surrogate.ATan()),
        layer.Conv2d(8, 16, 3, stride=2, padding=1, groups=2, bias=False),
        neuron.IFNode(v_threshold=0.5, surrogate_function=surrogate.ATan()),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(16 * 4 * 4, 10),
    )
    functional.set_step_mode(model, step_mode)
    # in training, the statistics of one step and of all steps differ, and so do the spikes
    return model.eval()


def main():
    frames = (torch.rand(TIME_STEPS, 3, 2, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.2).float()

    multi_step = network("m")
    with sd.count_operations(multi_step) as counts:
        logits = multi_step(frames).mean(0)
        logits.sum().backward()
    functional.reset_net(multi_step)
    print(counts.table())

    single_step = network("s")
    with sd.count_operations(single_step) as by_step:
        for frame in frames:
            single_step(frame)
    functional.reset_net(single_step)

    print("firing rates, by step and layer:", counts.firing_rates().round(3), sep="\n")
    print(f"spikformer-paper: {counts.energy('spikformer-paper').total.nominal:.3g} mJ an image")
    return {"all steps": counts, "step by step": by_step}, (multi_step, frames)


if __name__ == "__main__":
    main()
