"""The pictures of a report, by name: as they stand in its page, and as files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from spikformer_deploy.report import grids, plots, svg
from spikformer_deploy.report.shown import joules, micro, percent

MOST_STEPS = 32
"""Columns of a map of rates: more steps are means of several."""
MOST_BARS = 12
"""Columns of synaptic operations."""
PICTURES = (
    *("energies", "static", "kinds", "roles", "layers", "rates", "confusion", "parts", "steps", "cores", "placement"),
    *("operations-by-step", "accuracy-by-step", "energy-by-step"),
)
"""All that `figures` may have."""
STYLE = (
    "svg{background:#fff}text{font:12px system-ui,sans-serif;fill:#1c2430}.tick{fill:#5c6878}"
    ".grid{stroke:#dde2e8}.whisker{stroke:#5c6878;fill:none;stroke-width:1}.nominal{stroke:#fff;stroke-width:2}"
    ".spiking{fill:#2b6cb0}.target{fill:#c05621}.ann{fill:#8a94a3}.chip{fill:none;stroke:#dde2e8;stroke-width:1.5}"
    ".line{stroke:#2b6cb0;fill:none;stroke-width:1.8}.band{fill:#2b6cb0;opacity:.18}"
    "text.dark{fill:#111}text.bright{fill:#fff}"
)
"""The look of a picture outside of its page: that of the page on paper."""


def figures(data: dict[str, Any]) -> dict[str, str]:
    """All pictures of a report by name (see data.report_data); those that there are."""
    target = target_of(data)
    cores = data["cores"]
    found = {
        "energies": _energies(data),
        "static": svg.shares(_static(data), "energy on the target") if data["static"] else "",
        "kinds": svg.shares(target["shares"], "kinds of numbers") if target else "",
        "roles": svg.shares(target["roles"], "roles of numbers") if target else "",
        "layers": _layers(data) if data["time"] else "",
        "rates": _rates(data),
        **_curves(data["run"]["by_step"]),
        "confusion": _matrix(data["classes"]),
        "parts": _parts(data["time"]),
        "steps": _columns(data["steps"]),
        "cores": svg.core_map(cores),
        "placement": svg.core_map(cores, by_layer=True),
    }
    return {name: picture for name, picture in found.items() if picture}


def narrow_energies(data: dict[str, Any]) -> str:
    """The energies of all conventions for a narrow page."""
    return _energies(data, narrow=True)


def alone(picture: str) -> str:
    """A picture as a file of its own."""
    return picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{STYLE}</style>", 1
    )


def target_of(data: dict[str, Any]) -> dict[str, Any] | None:
    """The energy under the convention of the target's nominal corner."""
    return next((e for e in data["energies"] if e["convention"] == "profile"), None)


def _binned(values: Sequence[float], most: int) -> tuple[list[str], list[float]]:
    """At most `most` means of consecutive values, with the steps that each is of."""
    each = -(-len(values) // most)
    firsts = range(0, len(values), each)
    parts = [values[first : first + each] for first in firsts]
    names = [
        str(first) if len(part) == 1 else f"{first}-{first + len(part) - 1}"
        for first, part in zip(firsts, parts, strict=True)
    ]
    return names, [sum(part) / len(part) for part in parts]


def _energies(data: dict[str, Any], narrow: bool = False) -> str:
    rows = [bar for energy in data["energies"] for bar in _bars(energy)]
    said = "; ".join(f"{row.label}: {_said(row)}" for row in rows)
    return svg.bars(rows, "mJ", f"energy of an image by convention and boundary: {said}", narrow)


def _said(row: svg.Bar) -> str:
    return f"likely {svg.interval(*row.likely)} mJ" if row.likely else f"{svg.si(row.nominal)} mJ"


def _bars(energy: dict[str, Any]) -> Iterator[svg.Bar]:
    """A bar for each boundary of a convention."""
    name = energy["convention"]
    kind = "ann" if "ann" in name else "target" if name.startswith("profile") else "spiking"
    within = energy["boundaries"]
    for boundary, figure in within.items():
        label = f"{name}, {boundary}" if len(within) > 1 else name
        sure = figure["low"] == figure["high"]
        likely = None if sure else (figure["likely_low"], figure["likely_high"])
        envelope = None if sure else (figure["low"], figure["high"])
        yield svg.Bar(label, figure["nominal"], kind, likely, envelope)


def _static(data: dict[str, Any]) -> dict[str, float]:
    """Shares of dynamic and static energy."""
    share = data["static"]["static_share"]
    return {} if share is None else {"dynamic": 1 - share, "static": share}


def _layers(data: dict[str, Any]) -> str:
    rows = [
        (layer["name"], layer["dynamic_mj"], layer["static_mj"], joules(layer["energy_mj"]))
        for layer in data["layers"]
        if layer["energy_mj"] is not None
    ]
    return grids.stacked(rows, "nominal energy of an image by layer, dynamic and static: the table says the figures")


def _rates(data: dict[str, Any]) -> str:
    layers = [layer for layer in data["layers"] if layer["firing_rate"] is not None]
    binned = [_binned(layer["rate_by_step"], MOST_STEPS) for layer in layers]
    label = f"firing rates of {len(layers)} layers over {len(data['steps'])} time steps"
    return grids.rate_map([layer["name"] for layer in layers], binned[0][0], [rates for _, rates in binned], label)


def _matrix(classes: dict[str, Any] | None) -> str:
    if classes is None or classes["matrix"] is None:
        return ""
    wrong = sum(row["images"] - row["right"] for row in classes["by_class"])
    label = f"images by label and prediction, {len(classes['names'])} classes, {wrong} images off the diagonal"
    return grids.matrix(classes["names"], classes["matrix"], label)


def _parts(time: dict[str, Any] | None) -> str:
    if time is None:
        return ""
    parts = {name.replace("_", " "): value for name, value in time["parts_us"].items() if value > 0}
    said = ", ".join(f"{name} {micro(value)}" for name, value in parts.items())
    rows = [(name, value, 0.0, micro(value)) for name, value in parts.items()]
    return grids.stacked(rows, f"parts of a step: {said}") if rows else ""


def _columns(steps: list[dict[str, Any]]) -> str:
    names, values = _binned([step["synaptic_ops"] for step in steps], MOST_BARS)
    return svg.columns(values, [f"t = {name}" for name in names], "", "synaptic operations a time step")


def _curves(by_step: list[dict[str, Any]]) -> dict[str, str]:
    """Pictures over the time steps of what there is; none of a single step."""
    if len(by_step) < 2:
        return {}
    steps = [after["step"] for after in by_step]
    synops = [after["synaptic_ops"] for after in by_step]
    title = "synaptic operations an image"
    out = {"operations-by-step": plots.curve(plots.Line(steps, synops), svg.si, title)}
    if by_step[0]["accuracy"] is not None:
        accuracies = [after["accuracy"] for after in by_step]
        out = {"accuracy-by-step": plots.curve(plots.Line(steps, accuracies), percent, "accuracy")} | out
    timed = [after for after in by_step if "profile" in (after["energy_mj"] or {})]
    if timed:
        energies = [after["energy_mj"]["profile"] for after in timed]
        band = [(energy["likely_low"], energy["likely_high"]) for energy in energies]
        line = plots.Line([after["step"] for after in timed], [energy["nominal"] for energy in energies], band)
        out["energy-by-step"] = plots.curve(line, joules, "energy an image")
    return out
