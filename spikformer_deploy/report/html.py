"""The report as one HTML page that works offline: everything is in it, and everything inserted is escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spikformer_deploy.base.errors import printable
from spikformer_deploy.report import svg


def render(data: dict[str, Any]) -> str:
    """The page of `data` (see data.report_data)."""
    environment = Environment(
        loader=PackageLoader("spikformer_deploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"si": svg.si, "percent": _percent, "joules": _joules, "micro": _micro}
    target = _on_target(data)
    pictures = {
        "energy": svg.bars([_bar(e) for e in data["energies"]], "mJ"),
        "shares": svg.shares(target["shares"]) if target else "",
        "cores": svg.core_map(data["cores"]),
        "placement": svg.core_map(data["cores"], by_layer=True),
        "scale": svg.scale(),
        "steps": svg.columns(
            [s["synaptic_ops"] for s in data["steps"]], [f"t = {s['step']}" for s in data["steps"]], ""
        ),
        "parts": _parts(data),
    }
    rates = {layer["name"]: Markup(svg.rates(layer["rate_by_step"])) for layer in data["layers"]}
    return environment.get_template("report.html.j2").render(
        data, target=target, rates=rates, pictures={k: Markup(v) for k, v in pictures.items()}
    )


def _shown(value: Any) -> Any:
    """What stands in the page for a value: control characters, which may hide or turn text, as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _on_target(data: dict[str, Any]) -> dict[str, Any] | None:
    """The energy under the convention of the target's nominal corner."""
    return next((e for e in data["energies"] if e["convention"] == "profile"), None)


def _bar(energy: dict[str, Any]) -> tuple[str, float, float, float, str]:
    name = energy["convention"]
    kind = "ann" if "ann" in name else "target" if name.startswith("profile") else "spiking"
    return name, energy["low"], energy["nominal"], energy["high"], kind


def _parts(data: dict[str, Any]) -> str:
    if data["time"] is None:
        return ""
    return svg.bars([(name, v, v, v, "spiking") for name, v in data["time"]["parts_us"].items() if v > 0], "us")


def _percent(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"


def _joules(millijoules: float) -> str:
    """Energy with the prefix that suits it."""
    for factor, unit in ((1e-3, "J"), (1.0, "mJ"), (1e3, "uJ")):
        if millijoules * factor >= 0.1 or unit == "uJ":
            return f"{millijoules * factor:.3g} {unit.replace('u', 'µ')}"
    raise AssertionError("the last unit takes every value")


def _micro(microseconds: float) -> str:
    """Time with the prefix that suits it."""
    if microseconds >= 1e3:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds:.3g} µs"
