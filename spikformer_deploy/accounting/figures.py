"""Times and energies with their intervals, as what runs, comparisons and reports print, and as plain values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spikformer_deploy.accounting.uncertainty import Energy, Range, spread_of
from spikformer_deploy.base.arrays import Float
from spikformer_deploy.timing.spread import Spread
from spikformer_deploy.timing.times import StepTimes

MOST_RULERS = 5
"""Constants that a list of the ruling ones names."""
OTHERS = "others"


def time_figures(times: StepTimes, spread: Spread) -> dict[str, Range]:
    """By name: a pipelined step, the latency, the fall-through of an image, in us, and images a second."""
    return {
        "step_us": _spread(times.step_us_mean, spread.step),
        "latency_us": _spread(times.latency_us, spread.step),
        "fall_through_us": _spread(times.fall_through_us, spread.fall_through),
        "images_per_second": _spread(times.images_per_second, 1 / spread.step),
    }


def _spread(corners: Float, factors: Float) -> Range:
    """(3,) values at the corners, with (draws.COUNT,) factors on the nominal one."""
    low, nominal, high = corners.tolist()
    return spread_of(low, nominal, high, factors)


def by_boundary(energy: Energy) -> dict[str, Energy]:
    """The energy with the figure of each of its boundaries in turn, the innermost first."""
    return {name: replace(energy, scope=name) for name in energy.boundaries}


def range_values(figure: Range) -> dict[str, float]:
    """A figure as plain values: the likely interval, the nominal value, and the envelope."""
    likely_low, likely_high = figure.likely
    return {
        "likely_low": likely_low,
        "likely_high": likely_high,
        "nominal": figure.nominal,
        "low": figure.low,
        "high": figure.high,
    }


def energy_values(energy: Energy) -> dict[str, Any]:
    """The figure of a convention in mJ, the name of the boundary that it is of, and the figures of all boundaries."""
    return {
        **range_values(energy.total),
        "boundary": energy.scope,
        "boundaries": {name: range_values(energy.within(name)) for name in energy.boundaries},
    }


def largest(shares: dict[str, float]) -> dict[str, float]:
    """The MOST_RULERS largest of some shares, largest first, and the rest as OTHERS, where there is one."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    rest = sum(share for _, share in ordered[MOST_RULERS:])
    return dict(ordered[:MOST_RULERS]) | ({OTHERS: rest} if rest else {})


def rounded(value: float) -> str:
    """Three significant digits, thousands apart."""
    number = float(f"{value:.3g}")
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:g}"


def interval(low: float, high: float) -> str:
    """From one value to another, rounded; one of them where they read alike."""
    return " to ".join(dict.fromkeys(map(rounded, (low, high))))
