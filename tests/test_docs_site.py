"""The site of the documents: it is built without a warning, has every public name and command, loads nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import spikformer_deploy as sd
from spikformer_deploy.cli.main import cli

pytest.importorskip("sphinx", reason="the extra `docs` is not installed: the site of the documents is NOT tested")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a warning is an error."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(DOCS), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return place


@pytest.mark.long
def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    index = (site / "index.html").read_text()
    missing = [str(page) for page in pages if not (site / page).exists() or f'href="{page}"' not in index]
    assert [page for page in missing if page != "index.html"] == []


@pytest.mark.long
def test_every_public_name_and_command_has_its_place(site: Path) -> None:
    python = (site / "reference" / "python.html").read_text()
    assert [name for name in sd.__all__ if f'id="spikformer_deploy.{name}"' not in python] == []
    shell = (site / "reference" / "cli.html").read_text()
    assert [name for name in cli.commands if f'id="spikdeploy-{name}"' not in shell] == []


@pytest.mark.long
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loading = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^"']+""")
    found = {match for page in site.rglob("*.html") for match in loading.findall(page.read_text())}
    assert found == set()
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert not re.search(r"url\(\s*['\"]?(?:https?:)?//", styles)
