"""How a value shows itself: a few lines at a prompt, a small table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from spikformer_deploy.base.errors import printable


def as_text(title: str, facts: Mapping[str, str]) -> str:
    """The title, and an indented line for each fact."""
    width = max(map(len, facts), default=0)
    return printable("\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in facts.items())]))


def as_html(title: str, facts: Mapping[str, str]) -> str:
    """The same as a table, all text escaped; it has no script and no style that needs one."""
    rows = "".join(f"<tr><th>{_safe(name)}</th><td>{_safe(value)}</td></tr>" for name, value in facts.items())
    return f"<table><caption>{_safe(title)}</caption><tbody>{rows}</tbody></table>"


def _safe(text: str) -> str:
    return escape(printable(text))
