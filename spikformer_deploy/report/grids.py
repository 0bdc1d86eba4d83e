"""Pictures of many numbers as inline SVG: firing rates by layer and step, confusions, and bars in two parts by layer.

Every function returns markup that is safe to insert: all text goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spikformer_deploy.report.svg import LETTER, VIRIDIS, escape, opening

ROW = 18
WIDEST_CELL, NARROWEST_CELL = 46, 6
STEPS_WIDTH = 420
"""Of all steps of a map of rates: cells are as wide as that allows."""
TEXT_CELL = 40
"""A cell that narrow has no room for its figure."""
MATRIX_CELL = 26
HALF = len(VIRIDIS) // 2
"""Colours from here on are bright: text on them is dark."""
BAR_WIDTH = 220
BAR_RIGHT = 90
HEAD = 20
"""Sizes in pixels."""


def _opening(width: float, height: float, kind: str, label: str) -> str:
    """The beginning of a picture that is shown as large as it is."""
    return opening(width, height, kind, label, f"width:{width:.0f}px")


def rate_map(names: Sequence[str], heads: Sequence[str], rates: Sequence[Sequence[float]], label: str) -> str:
    """A row for each layer, a cell for each time step, by its firing rate (0 to 1); figures where there is room.

    heads  of the columns
    """
    steps = len(heads)
    cell = min(WIDEST_CELL, max(NARROWEST_CELL, STEPS_WIDTH / steps))
    most = max((rate for row in rates for rate in row), default=0.0) or 1.0
    left = 12 + LETTER * max(map(len, names))
    out = [_opening(left + cell * steps + 16, HEAD + ROW * len(names), "rates", label)]
    every = math.ceil(LETTER * (1 + max(map(len, heads))) / cell)
    for step in range(0, steps, every):
        x = left + cell * (step + 0.5)
        out.append(f'<text x="{x:.1f}" y="13" text-anchor="middle" class="tick">{escape(heads[step])}</text>')
    for number, (name, row) in enumerate(zip(names, rates, strict=True)):
        y = HEAD + number * ROW
        out.append(f'<text x="{left - 6:.1f}" y="{y + 13}" text-anchor="end" class="name">{escape(name)}</text>')
        for step, rate in enumerate(row):
            text = f"{rate:.1%}" if cell >= TEXT_CELL else ""
            out.append(_cell(left + cell * step, y, cell, ROW, rate / most, text))
    return "".join(out) + "</svg>"


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]], label: str) -> str:
    """Images by their label (rows) and their prediction (columns), coloured by the share of their row."""
    left = 40 + LETTER * max(map(len, names))
    size = MATRIX_CELL * len(names)
    out = [_opening(left + size + 10, HEAD + 8 + size + left - 20, "matrix", label)]
    out.append(f'<text x="{left + size / 2:.1f}" y="13" text-anchor="middle" class="tick">prediction</text>')
    middle = HEAD + 8 + size / 2
    out.append(
        f'<text transform="translate(13 {middle:.1f})rotate(-90)" text-anchor="middle" class="tick">label</text>'
    )
    for number, (name, row) in enumerate(zip(names, counts, strict=True)):
        y = HEAD + 8 + number * MATRIX_CELL
        out.append(f'<text x="{left - 6:.1f}" y="{y + 17}" text-anchor="end" class="name">{escape(name)}</text>')
        place = f"translate({left + (number + 0.7) * MATRIX_CELL:.1f} {HEAD + 14 + size})rotate(-90)"
        out.append(f'<text transform="{place}" text-anchor="end" class="name">{escape(name)}</text>')
        total = sum(row) or 1
        for column, count in enumerate(row):
            x = left + column * MATRIX_CELL
            out.append(_cell(x, y, MATRIX_CELL, MATRIX_CELL, count / total, str(count) if count else ""))
    return "".join(out) + "</svg>"


def _cell(x: float, y: float, width: float, height: float, share: float, text: str) -> str:
    """A coloured cell with its figure; share: 0 to 1 of the scale."""
    shade = min(len(VIRIDIS) - 1, int(len(VIRIDIS) * share))
    box = f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="{height - 1}" fill="{VIRIDIS[shade]}"/>'
    if not text:
        return box
    kind = "dark" if shade > HALF else "bright"
    place = f'x="{x + width / 2 - 0.5:.1f}" y="{y + height / 2 + 3.5:.1f}"'
    return f'{box}<text {place} text-anchor="middle" class="{kind}">{text}</text>'


def stacked(rows: Sequence[tuple[str, float, float, str]], label: str) -> str:
    """Horizontal bars in two parts on a linear scale: (name, first, second, what it says) each."""
    left = 12 + LETTER * max(len(name) for name, *_ in rows)
    most = max(first + second for _, first, second, _ in rows) or 1.0
    out = [_opening(left + BAR_WIDTH + BAR_RIGHT, ROW * len(rows) + 4, "stacked", label)]
    for number, (name, first, second, text) in enumerate(rows):
        y = number * ROW + 2
        x, end = (left + BAR_WIDTH * value / most for value in (first, first + second))
        out.append(f'<text x="{left - 6:.1f}" y="{y + 12}" text-anchor="end" class="name">{escape(name)}</text>')
        out.append(f'<rect x="{left:.1f}" y="{y}" width="{x - left:.1f}" height="{ROW - 4}" class="spiking"/>')
        out.append(f'<rect x="{x:.1f}" y="{y}" width="{end - x:.1f}" height="{ROW - 4}" class="ann"/>')
        out.append(f'<text x="{end + 6:.1f}" y="{y + 12}" class="value">{escape(text)}</text>')
    return "".join(out) + "</svg>"
