"""Looking things up in what was counted, and the simplest neurons."""

from __future__ import annotations

from torch import Tensor, nn

from spikformer_deploy.counts.operations import Counted, Operation, OperationCounts


def operation(counts: OperationCounts, name: str, kind: str | None = None) -> Operation:
    (found,) = [o for o in counts.operations if o.name == name and kind in (None, o.kind)]
    return found


def only(found: Operation) -> Counted:
    (counted,) = found.counted
    return counted


class Steps(nn.Module):
    """The threshold of plain PyTorch, over whatever leads."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0.5).float()
