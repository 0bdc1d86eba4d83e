"""What the currents of the float graph reach on a few images: ranges where no worst case fits the target's integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph, Lif, Mean, Output
from spikformer_deploy.quantization.streams import streams_of


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranges on some images; the graph runs once, when the first of them is asked for, and mostly none is.

    images  normalised, (N, C, Y, X) or (N, T, C, Y, X); batch: so many at a time
    """

    graph: Graph
    images: torch.Tensor
    batch: int = 4

    def range_of(self, name: str) -> tuple[float, float]:
        """(lowest, highest) input of a Lif in one step, or of the Output summed over the steps up to any.

        Of an Output that reads the last step alone, in one step: its accumulators forget.

        Of residual streams, and of their means: the values themselves.
        """
        return self._currents[name]

    @cached_property
    def _currents(self) -> dict[str, tuple[float, float]]:
        graph = self.graph
        streams = {name for members in streams_of(graph) for name in members}
        streams |= {n.name for n in graph.of(Mean) if n.inputs[0] in streams}
        reads = {n.name: n.inputs[0] for n in graph.of(Lif, Output)} | {name: name for name in streams}
        currents: dict[str, tuple[float, float]] = {}
        for part in self.images.split(self.batch):
            values = execute(graph, part, record={*reads.values()})
            for name, read in reads.items():
                op = graph[name].op
                value = values[read].cumsum(1) if isinstance(op, Output) and not op.last else values[read]
                low, high = (float(x) for x in torch.aminmax(value))
                old = currents.get(name, (low, high))
                currents[name] = (min(low, old[0]), max(high, old[1]))
        return currents
