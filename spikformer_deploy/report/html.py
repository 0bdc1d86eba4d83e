"""The report as one HTML page that works offline: everything is in it, and everything inserted is escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spikformer_deploy.base.errors import printable
from spikformer_deploy.report import plots, svg
from spikformer_deploy.report.tables import number


def render(data: dict[str, Any]) -> str:
    """The page of `data` (see data.report_data)."""
    target = _on_target(data)
    pictures = {
        "energy": svg.bars([bar for e in data["energies"] for bar in _bars(e)], "mJ"),
        "shares": svg.shares(target["shares"]) if target else "",
        "roles": svg.shares(target["roles"]) if target else "",
        "cores": svg.core_map(data["cores"]),
        "placement": svg.core_map(data["cores"], by_layer=True),
        "scale": svg.scale(),
        "steps": svg.columns(
            [s["synaptic_ops"] for s in data["steps"]], [f"t = {s['step']}" for s in data["steps"]], ""
        ),
        "parts": _parts(data),
    }
    rates = {layer["name"]: Markup(svg.rates(layer["rate_by_step"])) for layer in data["layers"]}
    roles = {constant["path"]: constant["role"] for constant in data["constants"]}
    curves = {title: Markup(picture) for title, picture in _curves(data["run"]["by_step"]).items()}
    return (
        pages()
        .get_template("report.html.j2")
        .render(
            data,
            target=target,
            role_of=roles,
            rates=rates,
            curves=curves,
            pictures={k: Markup(v) for k, v in pictures.items()},
        )
    )


def pages() -> Environment:
    """The templates, with what shows figures; everything inserted is escaped."""
    environment = Environment(
        loader=PackageLoader("spikformer_deploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"si": svg.si, "percent": percent, "joules": joules, "micro": micro, "score": number}
    environment.filters |= {"likely": _likely, "nominal": _nominal, "envelope": _envelope}
    return environment


def _curves(by_step: list[dict[str, Any]]) -> dict[str, str]:
    """Pictures over the time steps, by title, of what there is."""
    steps = [after["step"] for after in by_step]
    synops = [after["synaptic_ops"] for after in by_step]
    out = {"synaptic operations an image": plots.curve(plots.Line(steps, synops), svg.si)}
    if by_step[0]["accuracy"] is not None:
        accuracies = [after["accuracy"] for after in by_step]
        out = {"accuracy": plots.curve(plots.Line(steps, accuracies), percent)} | out
    timed = [after for after in by_step if "profile" in (after["energy_mj"] or {})]
    if timed:
        energies = [after["energy_mj"]["profile"] for after in timed]
        band = [(energy["likely_low"], energy["likely_high"]) for energy in energies]
        line = plots.Line([after["step"] for after in timed], [energy["nominal"] for energy in energies], band)
        out["energy an image"] = plots.curve(line, joules)
    return out


def _shown(value: Any) -> Any:
    """What stands in the page for a value: control characters, which may hide or turn text, as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _on_target(data: dict[str, Any]) -> dict[str, Any] | None:
    """The energy under the convention of the target's nominal corner."""
    return next((e for e in data["energies"] if e["convention"] == "profile"), None)


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


def _parts(data: dict[str, Any]) -> str:
    if data["time"] is None:
        return ""
    parts = data["time"]["parts_us"]
    return svg.bars([svg.Bar(name, value, "spiking") for name, value in parts.items() if value > 0], "us")


def _likely(figure: dict[str, float], what: str) -> str:
    """The likely interval of a figure; what: one of SHOWN."""
    return _interval(figure["likely_low"], figure["likely_high"], what)


def _nominal(figure: dict[str, float], what: str) -> str:
    """Its nominal value; what: one of SHOWN."""
    return SHOWN[what](figure["nominal"])


def _envelope(figure: dict[str, float], what: str) -> str:
    """From its low to its high end; what: one of SHOWN."""
    return _interval(figure["low"], figure["high"], what)


def _interval(low: float, high: float, what: str) -> str:
    """Both ends with their prefixes, once where it is the same; one of them where they read alike."""
    first, last = SHOWN[what](low), SHOWN[what](high)
    if first == last:
        return first
    number, _, unit = first.partition(" ")
    return f"{number if unit == last.partition(' ')[2] else first} to {last}"


def percent(value: float | None) -> str:
    """A share, or a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"


def joules(millijoules: float) -> str:
    """Energy with the prefix that suits it."""
    for factor, unit in ((1e-3, "J"), (1.0, "mJ"), (1e3, "uJ")):
        if millijoules * factor >= 0.1 or unit == "uJ":
            return f"{millijoules * factor:.3g} {unit.replace('u', 'µ')}"
    raise AssertionError("the last unit takes every value")


def micro(microseconds: float) -> str:
    """Time with the prefix that suits it."""
    if microseconds >= 1e3:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds:.3g} µs"


SHOWN: dict[str, Callable[[float], str]] = {"energy": joules, "time": micro, "rate": svg.si}
"""How what is shown."""
