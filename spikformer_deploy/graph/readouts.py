"""What stands behind the time axis of a model.

A model ends the time axis by a mean over the time steps, or by taking the last one, anywhere.  A graph does so at its
very end, in the Output.  So everything that a model does in between moves before the mean (the last step), and that is
allowed only where it makes the same numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final

from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.calls import Value

MEAN: Final = "a mean over the time steps"
LAST: Final = "the last time step"
ALLOWED = {MEAN: "linear layers", LAST: "layers without neurons"}
DIFFERENT = {
    MEAN: ir.Neuron | ir.MaxPool2d | ir.TokenPool | ir.Attention | ir.DualSpike | ir.SpikeMask,
    LAST: ir.Neuron,
}
"""Operations whose result changes where they move before the mean (before the last step).

Neurons have state, so they need every step.  The others are not linear: the maximum of means is not the mean of maxima.
"""


class Readouts:
    """Values of a model that have no time axis any more, and whether it went by a mean or by the last step."""

    def __init__(self) -> None:
        self._ways: dict[Hashable, str] = {}

    def is_last(self, value: Hashable) -> bool:
        """Whether a value is of the last time step only."""
        return self._ways.get(value) == LAST

    def follow(
        self, target: Hashable, sources: Iterable[Hashable], args: Sequence[Any], result: Any, nodes: Sequence[ir.Node]
    ) -> tuple[str, str] | None:
        """Note one operation; what is wrong with it and the way out where it cannot move before the end, else None.

        target, sources   what stands for its result and for what it reads
        args, result      their values
        nodes             what it has added to the graph
        """
        ways = {self._ways[source] for source in sources if source in self._ways}
        ends_time = _has_time(result) is False and any(_has_time(value) for value in args)
        if isinstance(result, Value) and result.last:
            ways.add(LAST)
        elif ends_time:
            ways.add(MEAN)
        if len(ways) > 1:
            way_out = "Use one of them: the head of the chip adds up all time steps, or holds the last one."
            return f"joins {LAST} with {MEAN}", way_out
        for way in ways:
            self._ways[target] = way
            # a reduction itself may make nodes: the Mean over positions in the same call
            if not ends_time and (_has_time(result) or any(isinstance(node.op, DIFFERENT[way]) for node in nodes)):
                return f"stands behind {way}", f"Behind it only {ALLOWED[way]} can stand: take {way} at the end."
        return None


def _has_time(value: Any) -> bool | None:
    """Whether a value has a time axis; None where it is no value."""
    return any("T" in axes.roles(dim) for dim in value.dims) if isinstance(value, Value) else None
