"""What the user chose of the integers."""

from __future__ import annotations

from dataclasses import dataclass

from spikformer_deploy.network.neurons import LifKind
from spikformer_deploy.quantization.rounding import Moments


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What the user chose: weight bits, granularity of the scales ("group", "tensor", "channel"), kind of the LIF.

    moments  for calibrated rounding; None: each weight to its nearest integer
    """

    weight_bits: int = 8
    granularity: str = "group"
    neuron: LifKind = LifKind.PROGRAMMABLE
    moments: Moments | None = None

    def shown(self) -> dict[str, int | str]:
        """For the record of a program."""
        return {"weight_bits": self.weight_bits, "granularity": self.granularity, "neuron": self.neuron.value}
