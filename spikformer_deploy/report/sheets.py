"""The tables of a report as rows, from which its page, CSV and LaTeX files are made.

Rows are plain dicts whose keys are the headings, units included, as in operations.py.  A cell that does not apply is
None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spikformer_deploy.report.operations import Row, csv_text, latex_text

ENDS = ("likely_low", "likely_high", "nominal", "low", "high")
"""Of a figure with its likely interval and its envelope."""
OF_TIME = {"step_us": "us", "latency_us": "us", "fall_through_us": "us", "images_per_second": "1/s"}
ALL = "all"
TABLES = (
    *("layers", "rates", "levers", "energies", "parts", "operations", "times", "spread", "steps"),
    *("classes", "confusion", "confused", "sites", "cores", "constants"),
)
"""All that `sheets` may have."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table with what must be said of it."""

    caption: str
    rows: list[Row]

    @property
    def csv(self) -> str:
        """As CSV, with one line of headings."""
        return csv_text(self.rows)

    @property
    def latex(self) -> str:
        """For LaTeX with booktabs."""
        return latex_text(self.rows, self.caption)


def sheets(data: dict[str, Any]) -> dict[str, Sheet]:
    """All tables of a report by name; those that have rows."""
    title, images = data["title"], data["accuracy"]["images"]
    of = f"{title}, mean over {images:,} images, estimated"
    found = {
        "layers": Sheet(f"Layers of {of}; energies nominal.", _layers(data)),
        "rates": Sheet(f"Firing rates by time step of {of}.", _rates(data)),
        "levers": Sheet(f"What would help most: {of}.", _levers(data)),
        "energies": Sheet(f"Energy an image by convention and boundary: {of}.", _energies(data)),
        "parts": Sheet(f"Summands of the energy of an image: {of}.", _parts(data)),
        "operations": Sheet(f"Synaptic operations beside the SOPs of the Spikformer paper: {of}.", _operations(data)),
        "times": Sheet(f"Times under each runtime: {of}.", _times(data)),
        "spread": Sheet(
            f"From image to image, nominal, by the closed form: {title}, {images:,} images.", _spread(data)
        ),
        "steps": Sheet(f"After every time step: {of}.", _steps(data)),
        "classes": Sheet(f"Accuracy by class: {title}, {images:,} images.", _classes(data)),
        "confusion": Sheet(f"Images by label (rows) and prediction: {title}.", _confusion(data)),
        "confused": Sheet(f"The confusions that happen most: {title}.", _confused(data)),
        "sites": Sheet(f"What stands on cores: {of}.", _sites(data)),
        "cores": Sheet(f"Every core in use: {of}.", _cores(data)),
        "constants": Sheet(f"Numbers of the target of {title}.", _constants(data)),
    }
    return {name: sheet for name, sheet in found.items() if sheet.rows}


def _ends(figure: dict[str, float], unit: str) -> Row:
    return {f"{end.replace('_', ' ')} ({unit})": figure[end] for end in ENDS}


def _layers(data: dict[str, Any]) -> list[Row]:
    rows: list[Row] = [
        {
            "layer": layer["name"],
            "kind": layer["kind"],
            "shape": "x".join(map(str, layer["shape"])),
            "neurons": layer["neurons"],
            "cores": layer["cores"],
            "firing rate (share)": layer["firing_rate"],
            "mean sent": layer["mean_sent"] if layer["graded"] else None,
            "synaptic operations (1/image)": layer["synaptic_ops"],
            "dense (MACs/image)": layer["dense_macs"],
            "never fired (neurons)": layer["silent"],
            "energy (mJ/image)": layer["energy_mj"],
            "dynamic (mJ/image)": layer["dynamic_mj"],
            "static (mJ/image)": layer["static_mj"],
            "busiest core (us/step)": layer["busy_us"],
            "spikes equal to the float model's (share)": layer["equal_spikes"],
        }
        for layer in data["layers"]
    ]
    # columns that this run has nothing for are left out
    rows = [{h: row[h] for h in row if any(other[h] is not None for other in rows)} for row in rows]
    sums: Row = {heading: None for heading in rows[0]} | {"layer": ALL}
    for heading in rows[0]:
        if heading in ("neurons", "cores") or heading.endswith("/image)"):
            sums[heading] = sum(row[heading] for row in rows)
    return [*rows, sums]


def _rates(data: dict[str, Any]) -> list[Row]:
    return [
        {"layer": layer["name"]} | {f"t = {step}": rate for step, rate in enumerate(layer["rate_by_step"])}
        for layer in data["layers"]
        if layer["firing_rate"] is not None
    ]


def _levers(data: dict[str, Any]) -> list[Row]:
    return [
        {
            "lever": lever["name"],
            **_ends(lever["energy_mj"], "mJ/image"),
            "saves (share)": lever["saves"],
            "latency (us)": lever["latency_us"],
            "accuracy (share)": lever["accuracy"],
            "rests on": lever["rests_on"],
            "way": lever["way"],
        }
        for lever in data["levers"]
    ]


def _energies(data: dict[str, Any]) -> list[Row]:
    return [
        {
            "convention": energy["convention"],
            "boundary": name,
            **_ends(figure, "mJ/image"),
            "on guesses (share)": figure["shares"].get("guess", 0.0),
        }
        for energy in data["energies"]
        for name, figure in energy["boundaries"].items()
    ]


def _parts(data: dict[str, Any]) -> list[Row]:
    return [
        {
            "convention": energy["convention"],
            "part": part["name"],
            "events (1/image)": part["events"] if part["unit"] == "1" else None,
            "duration (us/image)": part["events"] * 1e6 if part["unit"] == "s" else None,
            **_ends(part, "mJ/image"),
            **{name: part[name] for name in ("boundary", "kind", "role", "source")},
        }
        for energy in data["energies"]
        for part in energy["parts"]
    ]


def _operations(data: dict[str, Any]) -> list[Row]:
    found = data["operations"]
    rows = [
        ("SOPs of the paper", found["paper_sops"]),
        *((f"beyond them: {name}", count) for name, count in found["beyond_sops"].items()),
        ("synaptic operations", found["synaptic_ops"]),
        ("MACs of the first layer", found["first_layer_macs"]),
    ]
    return [{"operations": name, "count (1/image)": count} for name, count in rows]


def _times(data: dict[str, Any]) -> list[Row]:
    if data["time"] is None:
        return []
    return [
        {
            "time": key.removesuffix("_us").replace("_", " "),
            "unit": unit,
            "model": data["time"]["model"],
            "runtime": runtime,
            **{end.replace("_", " "): figures[key][end] for end in ENDS},
        }
        for runtime, figures in data["time"]["under"].items()
        for key, unit in OF_TIME.items()
    ]


def _spread(data: dict[str, Any]) -> list[Row]:
    return [{heading.replace("_", " "): value for heading, value in row.items()} for row in data["spread"]]


def _steps(data: dict[str, Any]) -> list[Row]:
    rows = []
    for after in data["run"]["by_step"]:
        energy = (after["energy_mj"] or {}).get("profile")
        rows.append(
            {
                "time steps": after["step"],
                "accuracy (share)": after["accuracy"],
                "synaptic operations (1/image)": after["synaptic_ops"],
                **{f"energy, {end.replace('_', ' ')} (mJ/image)": energy and energy[end] for end in ENDS[:3]},
            }
        )
    return rows


def _classes(data: dict[str, Any]) -> list[Row]:
    found = data["classes"]
    if found is None:
        return []
    return [{heading.replace("_", " "): value for heading, value in row.items()} for row in found["by_class"]]


def _confusion(data: dict[str, Any]) -> list[Row]:
    found = data["classes"]
    if found is None or found["matrix"] is None:
        return []
    names = found["names"]
    # no class is called as the heading of the first column
    headings = [f"predicted {name}" for name in names]
    rows = zip(names, found["matrix"], strict=True)
    return [{"label": name} | dict(zip(headings, row, strict=True)) for name, row in rows]


def _confused(data: dict[str, Any]) -> list[Row]:
    return [] if data["classes"] is None else data["classes"]["confused"]


def _sites(data: dict[str, Any]) -> list[Row]:
    """What the map of the cores says, by what stands on them."""
    rows: dict[str, Row] = {}
    for core in data["cores"]["used"]:
        row = rows.setdefault(core["site"], dict.fromkeys(SITE_HEADINGS, 0) | {"on cores": core["site"]})
        row["parts"] += 1
        row["synaptic operations (1/step)"] += core["synaptic_ops_per_step"]
        row["most of a part (1/step)"] = max(row["most of a part (1/step)"], core["synaptic_ops_per_step"])
        row["memory of the fullest (words)"] = max(row["memory of the fullest (words)"], core["words"])
    return list(rows.values())


SITE_HEADINGS = (
    "on cores",
    "parts",
    "synaptic operations (1/step)",
    "most of a part (1/step)",
    "memory of the fullest (words)",
)


def _cores(data: dict[str, Any]) -> list[Row]:
    names = {"core": "core", "x": "tile x", "y": "tile y", "site": "on it", "words": "memory (words)"}
    return [
        {heading: core[name] for name, heading in names.items()}
        | {"synaptic operations (1/step)": core["synaptic_ops_per_step"]}
        for core in data["cores"]["used"]
    ]


def _constants(data: dict[str, Any]) -> list[Row]:
    return [{heading.replace("_", " "): value for heading, value in row.items()} for row in data["constants"]]
