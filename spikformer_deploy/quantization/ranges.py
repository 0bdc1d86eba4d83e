"""Ranges of the float graph's values on a few images: they serve where no worst case fits the target's integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph, Mean, Neuron, Output
from spikformer_deploy.quantization.residuals import residual_streams


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranges on some images; the graph runs once, when the first of them is asked for, and mostly none is.

    images  normalised, (N, C, Y, X) or (N, T, C, Y, X)
    batch   images that run at a time
    """

    graph: Graph
    images: torch.Tensor
    batch: int = 4

    def range_of(self, name: str) -> tuple[float, float]:
        """(lowest, highest) input of a Lif in one step, or of the Output summed over the steps up to any.

        Of an Output that reads only the last step, in one step: its accumulators forget.

        Of residual streams, and of their means: the values themselves.
        """
        return self._ranges[name]

    @cached_property
    def _ranges(self) -> dict[str, tuple[float, float]]:
        value_of = _values_to_watch(self.graph)
        ranges: dict[str, tuple[float, float]] = {}
        for images in self.images.split(self.batch):
            values = execute(self.graph, images, record={*value_of.values()})
            for name, watched in value_of.items():
                op = self.graph[name].op
                # An accumulator must hold the sum after every step, not only the last one: sums may go up and down.
                adds_up = isinstance(op, Output) and not op.last
                least, most = torch.aminmax(values[watched].cumsum(1) if adds_up else values[watched])
                low, high = ranges.get(name, (float(least), float(most)))
                ranges[name] = (min(float(least), low), max(float(most), high))
        return ranges


def _values_to_watch(graph: Graph) -> dict[str, str]:
    """By each node whose range may be asked for, the node whose value it is: what it reads, or its own."""
    inputs = {node.name: node.inputs[0] for node in graph.of(Neuron, Output)}
    residual = {name for members in residual_streams(graph) for name in members}
    means = {node.name for node in graph.of(Mean) if node.inputs[0] in residual}
    return inputs | {name: name for name in residual | means}
