"""The wheel holds what the checkout has, and works outside of it."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from spikformer_deploy.chips.profile import tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # not imported: in a process that has distutils already, setuptools refuses to be
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("building a wheel without network needs setuptools >= 77")
    # a copy: setuptools would pack what an earlier build has left in `build`, and leave its own there
    kept = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "docs", "benchmarks")
    tree = shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=kept)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
        str(tree),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("*.whl"))


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "spikformer_deploy").rglob("__init__.py")}
    for folder in ("converters", "hw_profiles"):  # links inside spikformer_deploy, which rglob does not follow
        parts = [p.parent.relative_to(ROOT).parts for p in (ROOT / folder).rglob("__init__.py")]
        found |= {".".join(("spikformer_deploy", *names)) for names in parts}
    assert listed == found


@pytest.mark.long
def test_the_wheel_holds_every_file_of_the_packages_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    # the folders that are links stand under their own names in the wheel
    rooms = {"spikformer_deploy": ROOT / "spikformer_deploy"}
    rooms |= {f"spikformer_deploy/{name}": ROOT / name for name in ("converters", "hw_profiles")}
    there = {
        f"{room}/{file.relative_to(folder).as_posix()}"
        for room, folder in rooms.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert there == {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"spikformer_deploy", "spikformer_deploy-0.1.0.dist-info"}


@pytest.mark.long
def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 6 * 2**20


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # what the format asks for (Citation File Format 1.2.0)
    assert cited.keys() >= {"cff-version", "message", "title", "authors"}
    assert cited["cff-version"] == "1.2.0"
    assert (cited["title"], str(cited["version"])) == (project["name"], project["version"])
    assert (cited["license"], cited["abstract"]) == (project["license"], project["description"])
    assert cited["keywords"] == project["keywords"]
    assert cited["authors"] == project["authors"]


def test_issue_templates_are_forms() -> None:
    yaml = pytest.importorskip("yaml")
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 4
    for form in forms:
        said = yaml.safe_load(form.read_text())
        if form.stem == "config":
            assert said == {"blank_issues_enabled": True}
            continue
        assert said["name"]
        assert said["description"]
        identifiers = [field["id"] for field in said["body"]]
        assert len(set(identifiers)) == len(identifiers)
        assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in said["body"])


@pytest.mark.long
def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    images = ("bundled/digits.npz", "bundled/digits.txt")
    for needed in (
        "hw_profiles/loihi2.toml",
        "bundled/digits_v2.safetensors",
        "report/templates/report.html.j2",
        *images,
    ):
        assert f"spikformer_deploy/{needed}" in names
    assert not any(name.startswith(("converters/", "tests/")) for name in names)
    code = (
        "import spikformer_deploy, spikformer_deploy.converters.checkpoints.read as c\n"
        "from spikformer_deploy.chips.profile import load_profile\n"
        "print(spikformer_deploy.__file__, load_profile('loihi2').cores, c.load('digits-v2').config.dim)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
    assert done.stdout.split()[1:] == ["120", "48"]


STAND_IN = """#!/bin/sh
case "$*" in
    *venv*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *first_use*) exit 1 ;;
esac
"""
"""An interpreter that makes environments and installs everything, but cannot compile."""


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_setup_goes_on_where_loops_cannot_be_compiled_ahead(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    command = ["make", "--silent", "setup", f"PYTHON={tmp_path / 'python'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "loops were not compiled ahead: what is missing is compiled when it is first used\n"
    assert (tmp_path / ".venv" / ".ready").exists()
