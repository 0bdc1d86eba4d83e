"""Plots as inline SVG: a curve over the time steps, and points of two figures with their fronts.

Every function returns markup that is safe to insert: all text goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from spikformer_deploy.report.svg import VIRIDIS, escape, opening

Shown: TypeAlias = Callable[[float], str]

CURVE_WIDTH, CURVE_HEIGHT = 320, 170
SCATTER_WIDTH, SCATTER_HEIGHT = 540, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 24, 40
"""Margins of a plot, for what its axes say."""
MARGIN = 0.05
"""Of a linear axis, beyond its first and last value."""
TICKS = 5
LOG_FROM = 8.0
"""An axis whose last value is that many times its first is logarithmic."""
DOT = 2.5
POINT = 5
ACCURACY = '<text x="4" y="12" class="tick">accuracy</text>'
"""What the y axes of all scatter plots show."""


@dataclass(frozen=True, slots=True)
class Line:
    """Values over time steps, with a band around them where there is one."""

    steps: Sequence[int]
    values: Sequence[float]
    band: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """A point of a scatter plot.

    likely  the ends of its whisker along x, or None
    kind    a class of the page
    goes_to the id of an element of the page
    """

    x: float
    y: float
    kind: str
    title: str
    goes_to: str
    likely: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to pixels: first at `start`, last at `end`."""

    first: float
    last: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """In pixels."""
        if self.is_log:
            share = (math.log10(value) - math.log10(self.first)) / (math.log10(self.last) - math.log10(self.first))
        else:
            share = (value - self.first) / (self.last - self.first)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values on the axis."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.first)), math.ceil(math.log10(self.last)) + 1)
            values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        else:
            step = _round_step((self.last - self.first) / TICKS)
            number = math.floor(self.first / step)
            values = [step * (number + i) for i in range(2 * TICKS + 4)]
        slack = 1e-9 * abs(self.last)
        return [value for value in values if self.first - slack <= value <= self.last + slack]

    @property
    def whole_ticks(self) -> list[float]:
        """Those of `ticks` that are whole numbers: of what is counted."""
        return [value for value in self.ticks if math.isclose(value, round(value))]


def _round_step(width: float) -> float:
    """1, 2 or 5 times a power of ten, at least `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9))


def linear(values: Sequence[float], start: float, end: float) -> Axis:
    """A linear axis with some room around all values; from 0 to 1 where all are 0: no figure of a plot is below."""
    low, high = min(values), max(values)
    if low == high == 0:
        return Axis(0.0, 1.0, start, end)
    room = MARGIN * (high - low) or 0.1 * abs(high)
    return Axis(low - room, high + room, start, end)


def fitting(values: Sequence[float], start: float, end: float) -> Axis:
    """A logarithmic axis where values are far apart and positive, else a linear one."""
    low, high = min(values), max(values)
    if low > 0 and high >= LOG_FROM * low:
        return Axis(low / 1.15, high * 1.15, start, end, True)
    return linear(values, start, end)


def curve(line: Line, shown: Shown, title: str) -> str:
    """A line over the time steps, with its band; title: what it shows."""
    x = linear(line.steps, LEFT, CURVE_WIDTH - RIGHT)
    ends = [end for pair in line.band for end in pair]
    y = linear([0.0, *line.values, *ends], CURVE_HEIGHT - BOTTOM, TOP)
    said = ", ".join(f"{step}: {shown(value)}" for step, value in zip(line.steps, line.values, strict=True))
    label = f"{title} by time steps: {said}"
    out = [opening(CURVE_WIDTH, CURVE_HEIGHT, "curve", label), *_rows(y, CURVE_WIDTH, shown)]
    every = max(1, len(line.steps) // 8)
    for step in line.steps[::-every]:
        place = f'x="{x.at(step):.1f}" y="{CURVE_HEIGHT - 20}"'
        out.append(f'<text {place} text-anchor="middle" class="tick">{step}</text>')
    middle = (LEFT + CURVE_WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle:.1f}" y="{CURVE_HEIGHT - 4}" text-anchor="middle" class="tick">time steps</text>')
    if line.band:
        pairs = list(zip(line.steps, line.band, strict=True))
        edge = [(step, low) for step, (low, _) in pairs] + [(step, high) for step, (_, high) in reversed(pairs)]
        out.append(f'<polygon points="{_path(edge, x, y)}" class="band"/>')
    points = list(zip(line.steps, line.values, strict=True))
    out.append(f'<polyline points="{_path(points, x, y)}" class="line"/>')
    for step, value in points:
        title = f"<title>{escape(f't = {step}: {shown(value)}')}</title>"
        out.append(f'<circle cx="{x.at(step):.1f}" cy="{y.at(value):.1f}" r="{DOT}" class="spiking">{title}</circle>')
    return "".join(out) + "</svg>"


def scatter(
    spots: Sequence[Spot],
    front: Sequence[tuple[float, float]],
    title: str,
    shown: Shown,
    shown_y: Shown,
    counts: bool = False,
) -> str:
    """Points with whiskers along x, and the steps of their front; title: of the x axis, counts: of whole numbers."""
    ends = [end for spot in spots for end in (spot.x, *(spot.likely or ()))]
    x = fitting(ends, LEFT, SCATTER_WIDTH - RIGHT)
    y = linear([spot.y for spot in spots], SCATTER_HEIGHT - BOTTOM, TOP)
    label = f"accuracy against {title}: {len(spots)} points, {len(front)} on the front"
    out = [opening(SCATTER_WIDTH, SCATTER_HEIGHT, "scatter", label), ACCURACY, *_rows(y, SCATTER_WIDTH, shown_y)]
    out += _columns(x, title, shown, counts)
    if front:
        out.append(f'<path d="{_steps(front, x, y)}" class="front"/>')
    # what is on the front is drawn last, above all others
    for spot in sorted(spots, key=lambda spot: spot.kind == "target"):
        left, top = x.at(spot.x), y.at(spot.y)
        if spot.likely:
            low, high = map(x.at, spot.likely)
            out.append(f'<path d="M{low:.1f} {top:.1f}H{high:.1f}" class="whisker"/>')
        circle = f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{POINT}" class="{escape(spot.kind)}">'
        tip = f"<title>{escape(spot.title)}</title>"
        out.append(f'<a href="#{escape(spot.goes_to)}">{circle}{tip}</circle></a>')
    return "".join(out) + "</svg>"


NamedLine: TypeAlias = tuple[str, Sequence[tuple[float, float, str]]]
"""Its title, and its points, each with a word."""


def legend(titles: Sequence[str]) -> list[tuple[str, str]]:
    """The colour of each line of `paths`, and its title."""
    last = max(1, len(titles) - 1)
    # the brightest colour is hardly seen on white
    colours = VIRIDIS[:-1]
    return [(colours[number * (len(colours) - 1) // last], title) for number, title in enumerate(titles)]


def paths(lines: Sequence[NamedLine], shown: Shown, shown_y: Shown) -> str:
    """Points of two figures, energy and accuracy, joined in their order."""
    points = [point for _, line in lines for point in line]
    x = fitting([point[0] for point in points], LEFT, SCATTER_WIDTH - RIGHT)
    y = linear([point[1] for point in points], SCATTER_HEIGHT - BOTTOM, TOP)
    label = f"accuracy against energy an image, after each time step: {', '.join(title for title, _ in lines)}"
    out = [opening(SCATTER_WIDTH, SCATTER_HEIGHT, "scatter", label), ACCURACY, *_rows(y, SCATTER_WIDTH, shown_y)]
    out += _columns(x, "energy an image", shown)
    for (colour, title), (_, line) in zip(legend([title for title, _ in lines]), lines, strict=True):
        way = _path([(a, b) for a, b, _ in line], x, y)
        out.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for a, b, word in line:
            tip = f"<title>{escape(f'{title}; {word}')}</title>"
            out.append(f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3.5" fill="{colour}">{tip}</circle>')
    return "".join(out) + "</svg>"


def _rows(y: Axis, width: int, shown: Shown) -> list[str]:
    """The grid of the y axis with its labels."""
    out = []
    for tick in y.ticks:
        top = y.at(tick)
        out.append(f'<line x1="{LEFT}" y1="{top:.1f}" x2="{width - RIGHT}" y2="{top:.1f}" class="grid"/>')
        label = escape(shown(tick))
        out.append(f'<text x="{LEFT - 6}" y="{top + 4:.1f}" text-anchor="end" class="tick">{label}</text>')
    return out


def _columns(x: Axis, title: str, shown: Shown, counts: bool = False) -> list[str]:
    """The grid of the x axis of a scatter plot with its labels; counts: whether it shows whole numbers only."""
    bottom = SCATTER_HEIGHT - BOTTOM
    out = []
    free_from = 0.0
    for tick in x.whole_ticks if counts else x.ticks:
        left = x.at(tick)
        out.append(f'<line x1="{left:.1f}" y1="{TOP}" x2="{left:.1f}" y2="{bottom}" class="grid"/>')
        text = shown(tick)
        # SVG lays out no text: a label that would touch the one before is left out
        half = 3.6 * len(text)
        if left - half >= free_from:
            label = f'<text x="{left:.1f}" y="{bottom + 16}" text-anchor="middle" class="tick">{escape(text)}</text>'
            out.append(label)
            free_from = left + half + 6
    middle = (LEFT + SCATTER_WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">{escape(title)}</text>')
    return out


def _path(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    return " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)


def _steps(front: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Along x first: up to the next point of a front nothing is better."""
    (first_x, first_y), *others = front
    path = f"M{x.at(first_x):.1f} {y.at(first_y):.1f}"
    return path + "".join(f"H{x.at(a):.1f}V{y.at(b):.1f}" for a, b in others)
