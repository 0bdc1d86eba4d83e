"""Rasters and firing rates as SVG files of their own: they need no style sheet, no script and no font."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.report.svg import LETTER, VIRIDIS, escape

COLOUR = VIRIDIS[4]
INK = "#333"
TEXT = f'font-family="sans-serif" font-size="12" fill="{INK}"'
MOST_ROWS = 512
"""Of a raster; where there are more neurons, some share a row, which is the darker the more of them fire."""
SHADES = 8
MOST_TICKS = 16
"""Time steps that all have their number."""
HEIGHT = 384
WIDTH = 480
NARROWEST_COLUMN = 2
TOP = 28
LEFT = 64
BOTTOM = 40
ROW = 18
BARS = 240
"""Sizes in pixels."""


def raster(spikes: NDArray[np.integer], title: str) -> str:
    """A raster of one layer and image: time steps to the right, neurons downwards, a mark where one fires.

    spikes  (T, C, Y, X); of numbers of spikes, and of rows that several neurons share, the mark is as dark as they are
            many.  Negative values, of currents, count by their magnitude
    """
    steps = len(spikes)
    values = np.abs(spikes.reshape(steps, -1).astype(np.int64))
    neurons = values.shape[1]
    together = -(-neurons // MOST_ROWS)
    shades = _shades(values, together)
    rows = shades.shape[1]
    across = max(NARROWEST_COLUMN, WIDTH / steps)
    down = HEIGHT / rows
    width, height = LEFT + across * steps + 16, TOP + HEIGHT + BOTTOM
    out = _beginning(width, height, title)
    for shade in range(1, SHADES + 1):
        marks = "".join(_runs(shades[t] == shade, LEFT + t * across, across, down) for t in range(steps))
        if marks:
            out.append(f'<path d="{marks}" fill="{COLOUR}" fill-opacity="{shade / SHADES:g}"/>')
    frame = f'x="{LEFT}" y="{TOP}" width="{across * steps:.1f}" height="{HEIGHT}"'
    out.append(f'<rect {frame} fill="none" stroke="{INK}" stroke-width="0.5"/>')
    for row, text in ((TOP + 10, "0"), (TOP + HEIGHT, f"{neurons - 1}")):
        out.append(f'<text x="{LEFT - 6}" y="{row}" text-anchor="end" {TEXT}>{text}</text>')
    for step in range(1, steps + 1) if steps <= MOST_TICKS else (1, (steps + 1) // 2, steps):
        x = LEFT + (step - 0.5) * across
        out.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle" {TEXT}>{step}</text>')
    says = "time step" + (f"; each row is {together} neurons" if together > 1 else "; each row is a neuron")
    out.append(f'<text x="{LEFT}" y="{TOP + HEIGHT + 32}" {TEXT}>{says}</text>')
    return "".join(out) + "</svg>\n"


def rates(layers: Mapping[str, Sequence[float]], title: str) -> str:
    """Firing rates by layer and time step: a row of bars a layer, all on one scale, and the mean at its end.

    layers  by name: for each time step the share of neurons that send something
    """
    left = 12 + LETTER * max((len(name) for name in layers), default=0)
    most = max((max(values, default=0.0) for values in layers.values()), default=0.0) or 1.0
    height = TOP + ROW * len(layers) + BOTTOM
    out = _beginning(left + BARS + 72, height, title)
    for row, (name, values) in enumerate(layers.items()):
        floor = TOP + ROW * (row + 1)
        pitch = BARS / max(1, len(values))
        out.append(f'<text x="{left - 8:.1f}" y="{floor - 4}" text-anchor="end" {TEXT}>{escape(name)}</text>')
        for step, value in enumerate(values):
            size = (ROW - 3) * value / most
            place = f'x="{left + step * pitch:.1f}" y="{floor - size:.2f}" width="{max(0.5, pitch - 1):.2f}"'
            says = f"<title>step {step + 1}: {value:.2%}</title>"
            out.append(f'<rect {place} height="{size:.2f}" fill="{COLOUR}">{says}</rect>')
        out.append(f'<path d="M{left:.1f} {floor}h{BARS}" stroke="{INK}" stroke-width="0.3"/>')
        mean = float(np.mean(values)) if len(values) else 0.0
        out.append(f'<text x="{left + BARS + 8:.1f}" y="{floor - 4}" {TEXT}>{mean:.2%}</text>')
    says = f"time steps 1 to {max(map(len, layers.values()), default=0)}; the tallest bar is {most:.2%}"
    out.append(f'<text x="{left:.1f}" y="{TOP + ROW * len(layers) + 20}" {TEXT}>{says}</text>')
    return "".join(out) + "</svg>\n"


def _beginning(width: float, height: float, title: str) -> list[str]:
    safe = escape(title)
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{safe}">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
        f'<text x="8" y="18" font-weight="bold" {TEXT}>{safe}</text>',
    ]


def _shades(values: NDArray[np.int64], together: int) -> NDArray[np.int64]:
    """(T, rows) 0 where nothing is sent, up to SHADES where most is, of neurons `together` in a row."""
    edges = np.arange(0, values.shape[1], together)
    rows = np.add.reduceat(values, edges, 1) / np.diff([*edges, values.shape[1]])
    return np.ceil(SHADES * rows / max(float(rows.max()), 1e-300)).astype(np.int64)


def _runs(marked: NDArray[np.bool_], x: float, width: float, height: float) -> str:
    """A rectangle for each run of neighbouring rows that are marked."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    gap = width * 0.9
    return "".join(
        f"M{x:.1f} {TOP + first * height:.2f}h{gap:.1f}v{(end - first) * height:.2f}h-{gap:.1f}z"
        for first, end in changes.reshape(-1, 2).tolist()
    )
