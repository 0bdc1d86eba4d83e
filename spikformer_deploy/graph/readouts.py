"""What stands behind the time axis: a graph takes the mean over the time steps, or the last one, at its very end."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final

from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.operations import Value

MEAN: Final = "a mean over the time steps"
LAST: Final = "the last time step"
ALLOWED = {MEAN: "linear layers", LAST: "layers without neurons"}
DIFFERENT: dict[str, tuple[type, ...]] = {
    MEAN: (ir.Lif, ir.MaxPool2d, ir.Attention, ir.SpikeMask),
    LAST: (ir.Lif,),
}
"""Operations that make of the mean (of the last step) something else than the mean (last step) of what they make of
each step.  Of the last one only the LIF does: all others have no state.
"""


class Readouts:
    """Values of a model that have no time axis any more, and which way it went."""

    def __init__(self) -> None:
        self._ways: dict[Hashable, str] = {}

    def is_last(self, value: Hashable) -> bool:
        """Whether a value is of the last time step alone."""
        return self._ways.get(value) == LAST

    def follow(
        self, made: Hashable, sources: Iterable[Hashable], args: Sequence[Any], result: Any, nodes: Sequence[ir.Node]
    ) -> tuple[str, str] | None:
        """Note one operation; what is wrong with it and the way out where it cannot move before the end, else None.

        made, sources   what stands for its result and for what it reads
        args, result    their values
        nodes           what it has added to the graph
        """
        ways = {self._ways[source] for source in sources if source in self._ways}
        gone = _over_time(result) is False and any(_over_time(value) for value in args)
        if isinstance(result, Value) and result.last:
            ways.add(LAST)
        elif gone:
            ways.add(MEAN)
        if len(ways) > 1:
            way_out = "Use one of them: the head of the chip adds up all time steps, or holds the last one."
            return f"joins {LAST} with {MEAN}", way_out
        for way in ways:
            self._ways[made] = way
            if not gone and (_over_time(result) or any(isinstance(node.op, DIFFERENT[way]) for node in nodes)):
                return f"stands behind {way}", f"Behind it only {ALLOWED[way]} can stand: take {way} at the end."
        return None


def _over_time(value: Any) -> bool | None:
    """Whether a value has a time axis; None where it is no value."""
    return any("T" in axes.roles(dim) for dim in value.dims) if isinstance(value, Value) else None
