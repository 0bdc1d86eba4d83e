"""Small pictures as inline SVG: bars with whiskers, stacked shares, lines over the time steps, the map of the cores.

Every function returns markup that is safe to insert: all text goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape as escaped
from typing import Any

from spikformer_deploy.base.errors import printable

VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""Nine colours of matplotlib's viridis (CC0): even steps of lightness, readable without colour vision."""
KIND_COLOURS = {
    "measured": "#1b7837",
    "datasheet": "#5aae61",
    "simulated": "#9ecae1",
    "fitted": "#4292c6",
    "derived": "#fdb863",
    "guess": "#d7301f",
}
LARGEST_MAP = 4000
"""Cores drawn one by one; beyond, the map shows tiles."""


def escape(text: str) -> str:
    """Text that is no markup, with control characters as escapes."""
    return escaped(printable(text))


def bars(rows: Sequence[tuple[str, float, float, float, str]], unit: str) -> str:
    """Horizontal bars on a log scale: (label, low, nominal, high, css class) with a whisker from low to high."""
    values = [v for row in rows for v in row[1:4] if v > 0]
    if not values:
        return ""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    left, width, height = 190, 430, 24

    def at(value: float) -> float:
        return left + width * (math.log10(max(value, 10.0**first)) - first) / max(1, last - first)

    out = [f'<svg viewBox="0 0 {left + width + 110} {height * len(rows) + 26}" role="img" class="bars">']
    for power in range(first, last + 1):
        x = at(10.0**power)
        out.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height * len(rows)}" class="grid"/>')
        label = escape(f"{10.0**power:g} {unit}")
        out.append(f'<text x="{x:.1f}" y="{height * len(rows) + 16}" text-anchor="middle" class="tick">{label}</text>')
    for i, (label, low, nominal, high, kind) in enumerate(rows):
        y = i * height + 4
        out.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end" class="name">{escape(label)}</text>')
        out.append(
            f'<rect x="{left}" y="{y}" width="{max(1.0, at(nominal) - left):.1f}" height="15" class="{escape(kind)}"/>'
        )
        if high > low:
            a, b, middle = at(low), at(high), y + 7.5
            out.append(f'<path d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {y + 3}v9M{b:.1f} {y + 3}v9" class="whisker"/>')
        x = max(at(nominal), at(high)) + 6
        out.append(f'<text x="{x:.1f}" y="{y + 12}" class="value">{escape(si(nominal))} {escape(unit)}</text>')
    return "".join(out) + "</svg>"


def shares(parts: dict[str, float]) -> str:
    """One stacked bar of shares by kind of number, with its legend below."""
    x, out = 0.0, ['<svg viewBox="0 0 640 46" role="img" class="shares">']
    legend = 0.0
    for kind, share in parts.items():
        colour, label = KIND_COLOURS.get(kind, "#888"), f"{kind} {share:.0%}"
        out.append(f'<rect x="{x:.1f}" y="0" width="{640 * share:.1f}" height="18" fill="{colour}"/>')
        out.append(f'<rect x="{legend:.1f}" y="28" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{legend + 14:.1f}" y="37" class="tick">{escape(label)}</text>')
        x += 640 * share
        legend += 24 + 7.2 * len(label)
    return "".join(out) + "</svg>"


def columns(values: Sequence[float], labels: Sequence[str], unit: str) -> str:
    """Vertical bars, one a time step."""
    most = max(values, default=0.0) or 1.0
    width, out = 64, [f'<svg viewBox="0 0 {64 * len(values) + 8} 130" role="img" class="columns">']
    for i, (value, label) in enumerate(zip(values, labels, strict=True)):
        height, x = 82 * value / most, 8 + i * width
        out.append(f'<rect x="{x}" y="{100 - height:.1f}" width="44" height="{height:.1f}" class="spiking"/>')
        text = escape(si(value) + unit)
        out.append(f'<text x="{x + 22}" y="{94 - height:.1f}" text-anchor="middle" class="value">{text}</text>')
        out.append(f'<text x="{x + 22}" y="116" text-anchor="middle" class="tick">{escape(label)}</text>')
    return "".join(out) + "</svg>"


def rates(values: Sequence[float]) -> str:
    """A sparkline of the firing rate over the time steps, 0 to 100 % of the highest of them."""
    most = max(values, default=0.0) or 1.0
    wide = 46 / max(1, len(values))
    across = max(1.0, wide - 1)
    heights = [13 * value / most for value in values]
    parts = [
        f'<rect x="{i * wide:.1f}" y="{14 - h:.1f}" width="{across:.1f}" height="{h:.1f}" class="spiking"/>'
        for i, h in enumerate(heights)
    ]
    return f'<svg viewBox="0 0 46 14" class="spark" role="img">{"".join(parts)}</svg>'


def core_map(cores: dict[str, Any], by_layer: bool = False) -> str:
    """The mesh of all chips in use, every core (or tile, where there are many) coloured by its synaptic operations.

    by_layer  by the place of its layer in the network instead: how the network lies on the chips
    """
    used, (tiles_x, tiles_y), per_tile = cores["used"], cores["tiles"], cores["cores_per_tile"]
    across = max(1, math.ceil(math.sqrt(per_tile))) if len(used) <= LARGEST_MAP else 1
    down = math.ceil(per_tile / across) if len(used) <= LARGEST_MAP else 1
    cells: dict[tuple[int, int], tuple[float, str]] = {}
    shades: dict[tuple[int, int], float] = {}
    seen: dict[tuple[int, int], int] = {}
    for core in used:
        tile = (core["x"], core["y"])
        place = seen[tile] = seen.get(tile, -1) + 1
        cell = (tile[0] * across + place % across, tile[1] * down + place // across) if across * down > 1 else tile
        work = cells.get(cell, (0.0, ""))[0] + core["synaptic_ops_per_step"]
        shades[cell] = max(shades.get(cell, 0), core["layer"]) if by_layer else work
        cells[cell] = (work, f"core {core['core']}: {core['site']}, {work:,.0f} synaptic operations a step")
    most = max(shades.values(), default=1.0) or 1.0
    chips_x = max(c["x"] for c in used) // tiles_x + 1
    chips_y = max(c["y"] for c in used) // tiles_y + 1
    size, gap = 14, 6
    step_x, step_y = tiles_x * across * size + gap, tiles_y * down * size + gap
    width, height = chips_x * step_x, chips_y * step_y
    out = [f'<svg viewBox="0 0 {width} {height}" role="img" class="map" style="max-width:{max(360, width)}px">']
    for chip_y in range(chips_y):
        for chip_x in range(chips_x):
            box = f'width="{step_x - gap}" height="{step_y - gap}"'
            out.append(f'<rect x="{chip_x * step_x}" y="{chip_y * step_y}" {box} class="chip"/>')
    for (x, y), (_, title) in cells.items():
        left = x * size + x // (tiles_x * across) * gap
        top = y * size + y // (tiles_y * down) * gap
        colour = VIRIDIS[min(8, int(9 * shades[x, y] / most))]
        out.append(
            f'<rect x="{left + 1}" y="{top + 1}" width="{size - 2}" height="{size - 2}" fill="{colour}">'
            f"<title>{escape(title)}</title></rect>"
        )
    return "".join(out) + "</svg>"


def scale() -> str:
    """The legend of the map."""
    boxes = "".join(f'<rect x="{i * 24}" y="0" width="24" height="10" fill="{c}"/>' for i, c in enumerate(VIRIDIS))
    return f'<svg viewBox="0 0 216 10" class="scale" role="img">{boxes}</svg>'


def si(value: float) -> str:
    """Three significant digits with a prefix: 12.3 M."""
    if value == 0:
        return "0"
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"
