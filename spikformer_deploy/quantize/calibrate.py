"""What the float graph does on a few images: firing rates for the mapper, observed ranges for the quantizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Add, AvgPool2d, Graph, Input, Lif, MaxPool2d, Mean, Output, SpikeMask
from spikformer_deploy.quantize.streams import streams_of


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Statistics over `images` images.

    rates     share of non-zero values per neuron and step, by node (Input: 1, every pixel is sent)
    currents  (lowest, highest) input of each Lif in one step, and of the Output summed over the steps, by node;
              values of residual streams, and of the means of those
    """

    images: int
    rates: dict[str, float]
    currents: dict[str, tuple[float, float]]


def calibrate(graph: Graph, images: torch.Tensor, batch: int = 4) -> Calibration:
    """Run the float graph on normalised `images`, (N, C, Y, X) or (N, T, C, Y, X), `batch` at a time."""
    streams = {name for members in streams_of(graph) for name in members}
    streams |= {n.name for n in graph.of(Mean) if n.inputs[0] in streams}
    sending = list(dict.fromkeys([n.name for n in graph.of(Lif, MaxPool2d, AvgPool2d, Add, SpikeMask)] + [*streams]))
    reads = {n.name: n.inputs[0] for n in graph.of(Lif, Output)} | {name: name for name in streams}
    rates = dict.fromkeys(sending, 0.0)
    currents: dict[str, tuple[float, float]] = {}
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        values = execute(graph, part, record={*sending, *reads.values()})
        for name in sending:
            rates[name] += float(values[name].count_nonzero()) / values[name].numel() * len(part) / len(images)
        for name, read in reads.items():
            value = values[read].cumsum(1) if isinstance(graph[name].op, Output) else values[read]
            low, high = float(value.min()), float(value.max())
            old = currents.get(name, (low, high))
            currents[name] = (min(low, old[0]), max(high, old[1]))
    rates |= {n.name: 1.0 for n in graph.of(Input)}
    return Calibration(len(images), rates, currents)
