"""Energy of an image under named conventions; no figure is without its name, its boundary and its constants."""

from __future__ import annotations

from dataclasses import dataclass

from spikformer_deploy.accounting.uncertainty import Range


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One summand: `events` of a kind an image, each at a cost.

    events  mean an image (seconds for static power); energy in mJ an image
    kind    kind of the constant: measured, datasheet, simulated, fitted, derived, guess; source: where it is from
    """

    name: str
    events: float
    energy: Range
    kind: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Energy:
    """Energy of one image, mean over the images, in mJ.

    convention  "spikformer-paper" | "syops" | "ann-equivalent-fp32" | "ann-equivalent-int8" | "memory-aware" |
                "profile" | "profile:<corner>"
    boundary    what is inside and what is left out, one sentence
    """

    convention: str
    boundary: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> Range:
        """Sum of the parts in mJ."""
        return sum((part.energy for part in self.parts), Range(0.0, 0.0, 0.0))

    @property
    def shares(self) -> dict[str, float]:
        """Share of the nominal total that rests on each kind of number, by kind."""
        total, out = self.total.nominal, dict[str, float]()
        for part in self.parts:
            share = part.energy.nominal / total if total else 0.0
            out[part.kind] = out.get(part.kind, 0.0) + share
        return out
