"""What the user chose of the integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

    moments     for calibrated rounding; None: each weight to its nearest integer
    layer_bits  weight bits of some layers, by node of the folded graph; all others have `weight_bits`
    """

    weight_bits: int = 8
    granularity: str = "group"
    neuron: LifKind = LifKind.PROGRAMMABLE
    moments: Moments | None = None
    layer_bits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_word("--granularity", self.granularity, GRANULARITIES)

    def bits_of(self, layer: str) -> int:
        """Weight bits of a layer."""
        return self.layer_bits.get(layer, self.weight_bits)

    def largest_weight(self, layer: str) -> int:
        """The largest magnitude of an integer weight of a layer; the negative one beyond it is not used."""
        return int(2 ** (self.bits_of(layer) - 1) - 1)

    def widest(self, layers: Iterable[str]) -> int:
        """The largest weight of any of the layers that share a scale; of none: of all others."""
        return max(map(self.largest_weight, layers), default=self.largest_weight(""))

    def own_bits(self, layer: str) -> int:
        """For a Projection of that layer: 0 where it has the bits of the network."""
        bits = self.bits_of(layer)
        return bits if bits != self.weight_bits else 0

    def shown(self) -> dict[str, Any]:
        """For the record of a program."""
        out: dict[str, Any] = {"weight_bits": self.weight_bits, "granularity": self.granularity}
        out["neuron"] = self.neuron.value
        return out | ({"layer_bits": dict(self.layer_bits)} if self.layer_bits else {})
