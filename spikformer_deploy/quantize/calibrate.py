"""What the float graph does on a few images: firing rates for the mapper, observed ranges for the quantizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Add, AvgPool2d, Graph, Input, Lif, MaxPool2d, Output


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Statistics over `images` images.

    rates     share of non-zero values per neuron and step, by node (Input: 1, every pixel is sent)
    currents  (lowest, highest) input of each Lif in one step, and of the Output summed over the steps, by node
    """

    images: int
    rates: dict[str, float]
    currents: dict[str, tuple[float, float]]


def calibrate(graph: Graph, images: torch.Tensor, batch: int = 4) -> Calibration:
    """Run the float graph on normalised `images`, (N, C, Y, X) or (N, T, C, Y, X), `batch` at a time."""
    sending = [n.name for n in graph.of(Lif, MaxPool2d, AvgPool2d, Add)]
    reads = {n.name: n.inputs[0] for n in graph.of(Lif, Output)}
    rates = dict.fromkeys(sending, 0.0)
    currents: dict[str, tuple[float, float]] = {}
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        values = execute(graph, part, record={*sending, *reads.values()})
        for name in sending:
            rates[name] += float(values[name].count_nonzero()) / values[name].numel() * len(part) / len(images)
        for node in graph.of(Lif, Output):
            value = values[reads[node.name]]
            if isinstance(node.op, Output):
                value = value.cumsum(1)
            low, high = float(value.min()), float(value.max())
            old = currents.get(node.name, (low, high))
            currents[node.name] = (min(low, old[0]), max(high, old[1]))
    rates |= {n.name: 1.0 for n in graph.of(Input)}
    return Calibration(len(images), rates, currents)
