"""Blocks of code of the documents: what a reader would type, with the line where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ("spikdeploy", "python", "make", "pip", "torchrun", "dask", "srun", "cd", "eval", "jupytext")
"""A line that begins with one of these is typed into a shell; other lines of such a block are output."""
FILE = re.compile(r"# (\w+\.(?:py|toml))\n")
EXCUSE = re.compile(r"<!-- not run: (\S.*?) -->\s*", re.DOTALL)


class Block(NamedTuple):
    """A block of a page: the kind, its text, the line where it begins, and why it is not run, if it is not."""

    page: str
    line: int
    kind: str
    text: str
    excuse: str | None

    @property
    def file(self) -> str | None:
        """The file that a reader makes of it, which its first line names."""
        named = FILE.match(self.text)
        return named and named.group(1)

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, each in one line, without comments."""
        joined = re.sub(r"\s*\\\n\s*", " ", self.text)
        lines = (re.sub(r"\s+#\s.*$", "", line.strip()) for line in joined.splitlines())
        return [line for line in lines if line.split(" ")[0] in COMMANDS]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks that are code of Python or commands, in order."""
    excuse = None
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block":
            said = EXCUSE.fullmatch(token.content)
            excuse = said and said.group(1)
        elif token.type in ("fence", "code_block"):
            kind = _kind(token)
            if kind:
                where = page.relative_to(ROOT).as_posix()
                yield Block(where, (token.map or [0])[0] + 1, kind, token.content, excuse)
            excuse = None
        elif token.level == 0:
            excuse = None


def _kind(token: Token) -> str | None:
    """`python`, `shell`, or `toml` of a recipe that a command takes; None for what is no code: output, formulas."""
    if token.type == "fence" and token.info.strip() == "python":
        return "python"
    if token.info.strip() == "toml" and FILE.match(token.content):
        return "toml"
    if token.content.startswith(("import ", "from ")):
        return "python"
    first = token.content.split(maxsplit=1)[:1]
    return "shell" if first and (first[0] in COMMANDS or first[0] == "#!/bin/bash") else None
