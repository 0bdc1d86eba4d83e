"""Small pictures as inline SVG: bars with whiskers, stacked shares, lines over the time steps, the map of the cores.

Every function returns markup that is safe to insert: all text goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
ROLE_COLOURS = {"calibrated": "#1b7837", "independent": "#4292c6", "guessed": "#d7301f"}
POWER_COLOURS = {"dynamic": "#2b6cb0", "static": "#8a94a3"}
LARGEST_MAP = 2000
"""Cores drawn one by one; beyond, the map shows tiles, and beyond as many tiles, chips."""
LETTER = 6.6
BARS_WIDTH = 430
BAR_PITCH = 24
SHARES_WIDTH = 480
BARS_RIGHT = 150
NARROW_WIDTH = 350
NARROW_PITCH = 38
NARROW_MARGIN = 26
MOST_LABELS = 7
COLUMN_PITCH = 64
COLUMN_HEIGHT = 82
CELL = 14
CHIP_GAP = 6
NARROWEST_MAP = 360
SCALE_STEP = 24
"""Sizes in pixels; LETTER: about the width of one."""


def escape(text: str) -> str:
    """Text that is no markup, with control characters as escapes."""
    return escaped(printable(text))


def opening(width: float, height: float, kind: str, label: str, style: str = "") -> str:
    """The beginning of a picture.  kind: a class of the page; label: what readers hear in place of it."""
    look = f' style="{style}"' if style else ""
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}" class="{kind}"{look}>'


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure with its likely interval and its envelope; without `likely` it is sure.  kind: a class of the page."""

    label: str
    nominal: float
    kind: str
    likely: tuple[float, float] | None = None
    envelope: tuple[float, float] | None = None


def bars(rows: Sequence[Bar], unit: str, label: str, narrow: bool = False) -> str:
    """Horizontal bars on a log scale: a band for the likely interval, a whisker for the envelope, a tick at nominal.

    What is sure is a whole bar.  narrow: names and figures stand above the bars, so that a phone shows it all.
    """
    ends = [(row.nominal, *(row.likely or ()), *(row.envelope or ())) for row in rows]
    values = [value for row in ends for value in row if value > 0]
    if not values:
        return ""
    # whole decades, so that the first and the last line of the grid have labels
    decades = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    if narrow:
        axis, pitch, right = _LogAxis(*decades, left=NARROW_MARGIN, width=NARROW_WIDTH), NARROW_PITCH, NARROW_MARGIN
    else:
        left = 20 + LETTER * max(len(row.label) for row in rows)
        axis, pitch, right = _LogAxis(*decades, left=left, width=BARS_WIDTH), BAR_PITCH, BARS_RIGHT
    bottom = pitch * len(rows)
    out = [opening(axis.left + axis.width + right, bottom + 26, "narrow" if narrow else "bars", label)]
    every = math.ceil((axis.last - axis.first + 1) / MOST_LABELS)
    for power in range(axis.first, axis.last + 1, every):
        x = axis.x_of(10.0**power)
        out.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom}" class="grid"/>')
        text = escape(f"{10.0**power:g} {unit}")
        out.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" class="tick">{text}</text>')
    for i, row in enumerate(rows):
        out += _bar(axis, i * pitch + 4, row, unit, narrow)
    return "".join(out) + "</svg>"


@dataclass(frozen=True, slots=True)
class _LogAxis:
    """From 10^first to 10^last, `left` pixels from the left, `width` of them wide.

    What is below the first decade stands at its beginning.
    """

    first: int
    last: int
    left: float
    width: float

    def x_of(self, value: float) -> float:
        """In pixels."""
        decades = math.log10(max(value, 10.0**self.first)) - self.first
        return self.left + self.width * decades / max(1, self.last - self.first)


def _bar(axis: _LogAxis, y: int, row: Bar, unit: str, narrow: bool) -> list[str]:
    """One bar with its name, its whisker and what it says."""
    nominal = axis.x_of(row.nominal)
    start, end = (axis.x_of(value) for value in row.likely) if row.likely else (axis.left, nominal)
    figure = escape(f"{interval(*row.likely) if row.likely else si(row.nominal)} {unit}")
    name = escape(row.label)
    out = []
    if narrow:
        right = axis.left + axis.width
        out.append(f'<text x="{axis.left:.1f}" y="{y + 9}" class="name">{name}</text>')
        out.append(f'<text x="{right:.1f}" y="{y + 9}" text-anchor="end" class="value">{figure}</text>')
        y += NARROW_PITCH - BAR_PITCH
    else:
        out.append(f'<text x="{axis.left - 8:.1f}" y="{y + 12}" text-anchor="end" class="name">{name}</text>')
    # at least a pixel wide, to be seen
    width = max(1.0, end - start)
    out.append(f'<rect x="{start:.1f}" y="{y}" width="{width:.1f}" height="15" class="{escape(row.kind)}"/>')
    if row.likely:
        out.append(f'<path d="M{nominal:.1f} {y}v15" class="nominal"/>')
    if row.envelope:
        low, high = (axis.x_of(value) for value in row.envelope)
        line = (
            f"M{low:.1f} {y + 7.5}H{start:.1f}M{end:.1f} {y + 7.5}H{high:.1f}M{low:.1f} {y + 4}v7M{high:.1f} {y + 4}v7"
        )
        out.append(f'<path d="{line}" class="whisker"/>')
        end = max(end, high)
    if not narrow:
        out.append(f'<text x="{max(nominal, end) + 6:.1f}" y="{y + 12}" class="value">{figure}</text>')
    return out


def shares(parts: dict[str, float], label: str) -> str:
    """One stacked bar of shares by kind or role of number, or of dynamic and static, with its legend below."""
    said = ", ".join(f"{kind} {share:.0%}" for kind, share in parts.items())
    out = [opening(SHARES_WIDTH, 46, "shares", f"{label}: {said}")]
    x = 0.0
    legend = 0.0
    for kind, share in parts.items():
        colour = (KIND_COLOURS | ROLE_COLOURS | POWER_COLOURS).get(kind, "#888")
        text = f"{kind} {share:.0%}"
        out.append(f'<rect x="{x:.1f}" y="0" width="{SHARES_WIDTH * share:.1f}" height="18" fill="{colour}"/>')
        out.append(f'<rect x="{legend:.1f}" y="28" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{legend + 14:.1f}" y="37" class="tick">{escape(text)}</text>')
        x += SHARES_WIDTH * share
        # SVG lays out no text: 7.2 pixels are a letter of this size
        legend += 24 + 7.2 * len(text)
    return "".join(out) + "</svg>"


def columns(values: Sequence[float], labels: Sequence[str], unit: str, title: str) -> str:
    """Vertical bars, one a time step."""
    most = max(values, default=0.0) or 1.0
    said = ", ".join(f"{name}: {si(value)}{unit}" for name, value in zip(labels, values, strict=True))
    out = [opening(COLUMN_PITCH * len(values) + 8, 130, "columns", f"{title}: {said}")]
    for i, (value, label) in enumerate(zip(values, labels, strict=True)):
        height = COLUMN_HEIGHT * value / most
        x = 8 + i * COLUMN_PITCH
        out.append(f'<rect x="{x}" y="{100 - height:.1f}" width="44" height="{height:.1f}" class="spiking"/>')
        text = escape(si(value) + unit)
        out.append(f'<text x="{x + 22}" y="{94 - height:.1f}" text-anchor="middle" class="value">{text}</text>')
        out.append(f'<text x="{x + 22}" y="116" text-anchor="middle" class="tick">{escape(label)}</text>')
    return "".join(out) + "</svg>"


@dataclass(frozen=True, slots=True)
class _Cells:
    """How the map draws a tile: as across x down cells, one for each of its cores, or as a single one.

    merged_x, merged_y  tiles of the chip that are one here: 1, or all of them
    """

    tiles_x: int
    tiles_y: int
    across: int
    down: int
    merged_x: int = 1
    merged_y: int = 1

    @property
    def chip(self) -> tuple[int, int]:
        """Width and height of a chip, in pixels, without the gap behind it."""
        return self.tiles_x * self.across * CELL, self.tiles_y * self.down * CELL

    def cell_of(self, tile: tuple[int, int], place: int) -> tuple[int, int]:
        """The cell of a core, by its tile and its number there."""
        if self.across * self.down == 1:
            return tile
        tile_x, tile_y = tile
        return tile_x * self.across + place % self.across, tile_y * self.down + place // self.across

    def corner_of(self, cell: tuple[int, int]) -> tuple[int, int]:
        """The left and the upper edge of a cell, in pixels; a gap lies between chips."""
        x, y = cell
        left = x * CELL + x // (self.tiles_x * self.across) * CHIP_GAP
        top = y * CELL + y // (self.tiles_y * self.down) * CHIP_GAP
        return left, top


def core_map(cores: dict[str, Any], by_layer: bool = False) -> str:
    """The mesh of all chips in use, every core (or tile, where there are many) coloured by its synaptic operations.

    by_layer  by the place of its layer in the network instead: how the network lies on the chips
    """
    used = cores["used"]
    geometry = _cells(cores)
    titles: dict[tuple[int, int], str] = {}
    work: dict[tuple[int, int], float] = {}
    layer: dict[tuple[int, int], float] = {}
    seen: dict[tuple[int, int], int] = {}
    for core in used:
        tile = (core["x"] // geometry.merged_x, core["y"] // geometry.merged_y)
        place = seen.get(tile, 0)
        seen[tile] = place + 1
        cell = geometry.cell_of(tile, place)
        # several cores, where a cell is a tile or a chip
        work[cell] = work.get(cell, 0.0) + core["synaptic_ops_per_step"]
        layer[cell] = max(layer.get(cell, 0), core["layer"])
        titles[cell] = f"core {core['core']}: {core['site']}, {work[cell]:,.0f} synaptic operations a step"
    shades = layer if by_layer else work
    most = max(shades.values(), default=1.0) or 1.0
    chips_x = max(core["x"] for core in used) // (geometry.tiles_x * geometry.merged_x) + 1
    chips_y = max(core["y"] for core in used) // (geometry.tiles_y * geometry.merged_y) + 1
    chips = f"{chips_x * chips_y} chip{'' if chips_x * chips_y == 1 else 's'}"
    shown = "by the order of their layers" if by_layer else "by their synaptic operations a step"
    out = _chips(geometry, chips_x, chips_y, f"map of {len(used)} cores on {chips}, coloured {shown}")
    for cell, title in titles.items():
        left, top = geometry.corner_of(cell)
        colour = VIRIDIS[min(len(VIRIDIS) - 1, int(len(VIRIDIS) * shades[cell] / most))]
        out.append(
            f'<rect x="{left + 1}" y="{top + 1}" width="{CELL - 2}" height="{CELL - 2}" fill="{colour}">'
            f"<title>{escape(title)}</title></rect>"
        )
    return "".join(out) + "</svg>"


def _cells(cores: dict[str, Any]) -> _Cells:
    """The cells of a map of these cores."""
    tiles_x, tiles_y = cores["tiles"]
    if len({(core["x"], core["y"]) for core in cores["used"]}) > LARGEST_MAP:
        return _Cells(1, 1, 1, 1, tiles_x, tiles_y)
    if len(cores["used"]) > LARGEST_MAP:
        return _Cells(tiles_x, tiles_y, 1, 1)
    # as square as the cores of a tile allow
    across = max(1, math.ceil(math.sqrt(cores["cores_per_tile"])))
    return _Cells(tiles_x, tiles_y, across, math.ceil(cores["cores_per_tile"] / across))


def _chips(geometry: _Cells, chips_x: int, chips_y: int, label: str) -> list[str]:
    """The beginning of the map: its frame, and a box for every chip."""
    chip_width, chip_height = geometry.chip
    step_x = chip_width + CHIP_GAP
    step_y = chip_height + CHIP_GAP
    width = chips_x * step_x
    style = f"max-width:{max(NARROWEST_MAP, width)}px"
    out = [opening(width, chips_y * step_y, "map", label, style)]
    for chip_y in range(chips_y):
        for chip_x in range(chips_x):
            place = f'x="{chip_x * step_x}" y="{chip_y * step_y}"'
            out.append(f'<rect {place} width="{chip_width}" height="{chip_height}" class="chip"/>')
    return out


def scale() -> str:
    """The legend of the map."""
    boxes = [
        f'<rect x="{i * SCALE_STEP}" y="0" width="{SCALE_STEP}" height="10" fill="{colour}"/>'
        for i, colour in enumerate(VIRIDIS)
    ]
    width = SCALE_STEP * len(VIRIDIS)
    return f"{opening(width, 10, 'scale', 'colours from least to most')}{''.join(boxes)}</svg>"


def si(value: float) -> str:
    """Three significant digits with a prefix: 12.3 M."""
    if value == 0:
        return "0"
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


def interval(low: float, high: float) -> str:
    """From one value to another, each with a prefix; one of them where they read alike."""
    ends = si(low), si(high)
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
