"""How figures are shown: energies and times with the prefix that suits them, intervals in one unit, shares."""

from __future__ import annotations

from collections.abc import Callable

from spikformer_deploy.report import svg


def likely(figure: dict[str, float], what: str) -> str:
    """The likely interval of a figure; what: one of SHOWN."""
    return interval(figure["likely_low"], figure["likely_high"], what)


def nominal(figure: dict[str, float], what: str) -> str:
    """Its nominal value; what: one of SHOWN."""
    return SHOWN[what](figure["nominal"])


def envelope(figure: dict[str, float], what: str) -> str:
    """From its low to its high end; what: one of SHOWN."""
    return interval(figure["low"], figure["high"], what)


def interval(low: float, high: float, what: str) -> str:
    """Both ends in the unit of the high one, which stands once; one of them where they read alike."""
    first, last = PREFIXED[what](low, high) if what in PREFIXED else SHOWN[what](low), SHOWN[what](high)
    if first == last:
        return first
    number, _, unit = first.partition(" ")
    return f"{number if unit == last.partition(' ')[2] else first} to {last}"


def percent(value: float | None) -> str:
    """A share, or a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.2%}" if 0 < value < 0.1 else f"{value:.1%}"


def joules(millijoules: float, like: float | None = None) -> str:
    """Energy with the prefix that suits it, or that suits `like`, mJ too."""
    largest = millijoules if like is None else like
    factor, unit = next(((f, u) for f, u in ((1e-3, "J"), (1.0, "mJ")) if largest * f >= 0.1), (1e3, "µJ"))
    return f"{millijoules * factor:.3g} {unit}"


def micro(microseconds: float, like: float | None = None) -> str:
    """Time with the prefix that suits it, or that suits `like`, us too."""
    largest = microseconds if like is None else like
    factor, unit = next(((f, u) for f, u in ((1e-6, "s"), (1e-3, "ms")) if largest * f >= 1), (1.0, "µs"))
    return f"{microseconds * factor:.3g} {unit}"


PREFIXED: dict[str, Callable[[float, float], str]] = {"energy": joules, "time": micro}
"""Those whose prefix can be that of another figure."""
SHOWN: dict[str, Callable[[float], str]] = {"energy": joules, "time": micro, "rate": svg.si}
"""How what is shown."""
