"""The wheel holds what the checkout has, and works outside of it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel without network needs setuptools >= 77")
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
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("*.whl"))


def test_every_package_is_listed() -> None:
    from spikformer_deploy.chips.profile import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "spikformer_deploy").rglob("__init__.py")}
    for folder in ("converters", "hw_profiles"):  # links inside spikformer_deploy, which rglob does not follow
        parts = [p.parent.relative_to(ROOT).parts for p in (ROOT / folder).rglob("__init__.py")]
        found |= {".".join(("spikformer_deploy", *names)) for names in parts}
    assert listed == found


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
