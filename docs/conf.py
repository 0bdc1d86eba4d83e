"""What `make docs` builds: the pages of this folder, the command line and the Python API, as a site in build/docs."""

import re
from importlib.metadata import version as installed

project = "spikformer_deploy"
copyright = "spikformer_deploy developers"
version = release = installed("spikformer-deploy")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
myst_heading_anchors = 4
# options keep their two hyphens
smartquotes = False

html_theme = "furo"
html_title = f"{project} {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = []

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

NAMED = re.compile(r"^(\s*)(\w+(?:, \w+)*) {2,}(\S.*)$")
"""A line of a docstring that says what an argument or a field is: its names, two spaces or more, its meaning."""


ADDRESS = re.compile(r"(?<!`)tcp://HOST:PORT")


def names_as_list(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """Make a list of the lines of a docstring that name arguments, and paragraphs of what stands around them."""
    written: list[str] = []
    inside = False
    for line in lines:
        match = NAMED.match(line)
        if match:
            indent, names, meaning = match.groups()
            written += [*([] if inside else [""]), f"{indent}* ``{names}``: {meaning}"]
            inside = True
        elif inside and line.startswith("  "):
            written.append(f"  {line.strip()}")
        else:
            written += [*([""] if inside and line.strip() else []), line]
            inside = False
    # what Python writes with stars is no markup, and a pattern of addresses is no link
    lines[:] = [ADDRESS.sub(r"``\g<0>``", line.replace("**", r"\*\*")) for line in written]


def addresses_as_code(_app, _context, lines: list[str]) -> None:
    """A pattern of addresses in the words of an option is no link."""
    lines[:] = [ADDRESS.sub(r"``\g<0>``", line) for line in lines]


def setup(app) -> None:
    app.connect("autodoc-process-docstring", names_as_list)
    app.connect("sphinx-click-process-options", addresses_as_code)
