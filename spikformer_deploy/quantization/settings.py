"""What the user chose of the integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spikformer_deploy.base.words import check_word
from spikformer_deploy.network.neurons import LifKind

if TYPE_CHECKING:
    from spikformer_deploy.quantization.rounding import Moments

GRANULARITIES = ("group", "tensor", "channel")
"""What shares a scale of weights."""
ROUNDINGS = ("nearest", "calibrated")
"""Each weight by itself, or together, by what reaches them."""


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What the user chose: weight bits, one of GRANULARITIES, kind of the LIF.

    moments  for calibrated rounding; None: each weight to its nearest integer
    """

    weight_bits: int = 8
    granularity: str = "group"
    neuron: LifKind = LifKind.PROGRAMMABLE
    moments: Moments | None = None

    def __post_init__(self) -> None:
        check_word("--granularity", self.granularity, GRANULARITIES)

    def shown(self) -> dict[str, int | str]:
        """For the record of a program."""
        return {"weight_bits": self.weight_bits, "granularity": self.granularity, "neuron": self.neuron.value}
