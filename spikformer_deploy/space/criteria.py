"""What points are compared by: figures of their rows, with units, likely intervals, and which way is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spikformer_deploy.base.plain import shown


@dataclass(frozen=True, slots=True)
class Criterion:
    """A figure of a row.

    unit    of its value; a budget may give it in any of `units`, by what one of them is worth
    higher  whether more is better
    at      the keys to it; likely: those to its likely interval, two keys to each end
    may_be_none  whether a row may lack it: accuracy, where images have no labels
    """

    title: str
    unit: str
    units: dict[str, float]
    higher: bool
    at: tuple[str, ...]
    likely: Callable[[dict[str, Any]], tuple[float, float]] | None = None
    may_be_none: bool = False

    def of(self, row: dict[str, Any]) -> float | None:
        """Its nominal value."""
        found: Any = row
        for key in self.at:
            found = found[key]
        return None if found is None else float(found)

    def interval(self, row: dict[str, Any]) -> tuple[float, float] | None:
        """Its likely interval; None for what is counted, and so is sure."""
        return None if self.likely is None else self.likely(row)

    def check(self, row: dict[str, Any]) -> None:
        """Raise ValueError where a row from a file lacks it."""
        try:
            found: Any = row
            for key in self.at:
                found = found[key]
            numbers = [found, *(self.likely(row) if self.likely else ())]
        except (KeyError, TypeError, ValueError, IndexError):
            raise ValueError(f"it has no {'.'.join(self.at)}") from None
        if found is None and self.may_be_none:
            return
        if not all(type(number) in (int, float) for number in numbers):
            raise ValueError(f"{'.'.join(self.at)} is {shown(found)}")


def _of_energy(row: dict[str, Any]) -> tuple[float, float]:
    energy = row["energy_mj"]["profile"]
    return energy["likely_low"], energy["likely_high"]


def _of_latency(row: dict[str, Any]) -> tuple[float, float]:
    low, high = row["time"]["latency_us_likely"]
    return low, high


def _of_throughput(row: dict[str, Any]) -> tuple[float, float]:
    low, high = row["time"]["images_per_second_likely"]
    return low, high


COUNT = {"": 1.0}
CRITERIA = {
    "accuracy": Criterion("accuracy", "", {"": 1.0, "%": 0.01}, True, ("accuracy",), may_be_none=True),
    "energy": Criterion(
        "energy an image",
        "mJ",
        {"J": 1e3, "mJ": 1.0, "uJ": 1e-3, "µJ": 1e-3, "nJ": 1e-6},
        False,
        ("energy_mj", "profile", "nominal"),
        _of_energy,
    ),
    "latency": Criterion(
        "latency",
        "us",
        {"s": 1e6, "ms": 1e3, "us": 1.0, "µs": 1.0},
        False,
        ("time", "latency_us"),
        _of_latency,
    ),
    "throughput": Criterion(
        "images a second", "/s", COUNT | {"/s": 1.0}, True, ("time", "images_per_second"), _of_throughput
    ),
    "cores": Criterion("cores", "", COUNT, False, ("cores",)),
    "chips": Criterion("chips", "", COUNT, False, ("chips",)),
    "memory": Criterion("memory, words", "words", COUNT | {"words": 1.0}, False, ("memory_words",)),
}
"""By the word that a budget uses."""
