"""What the command line says about its installation: version, completion, libraries that pip cannot install alone."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import click
import pytest
from click.shell_completion import get_completion_class

from spikformer_deploy.base.progress import say_through
from spikformer_deploy.chips.profile import tomllib
from spikformer_deploy.cli import demo, installation
from spikformer_deploy.cli.commands import cli
from spikformer_deploy.cli.installation import NEEDS, SHELLS, described, pip_arguments

ROOT = Path(__file__).parents[2]


def test_the_version_names_the_commit_of_a_checkout(here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "described", lambda root: "v0.1-3-gabc")
    assert here("--version").stdout == f"spikdeploy, version {version('spikformer-deploy')} (checkout v0.1-3-gabc)\n"
    monkeypatch.setattr(installation, "described", lambda root: "")
    assert here("--version").stdout == f"spikdeploy, version {version('spikformer-deploy')}\n"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_commit_is_called_as_git_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where the package stands in a repository of something else, and not where git does not answer."""
    assert described(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"], ["tag", "v7"]):
        subprocess.run([*git, *arguments], check=True)
    assert described(tmp_path) == ""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert described(tmp_path) == "v7"
    monkeypatch.setenv("PATH", "")
    assert described(tmp_path) == ""


# --- setup -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be called; nothing is installed.  That of tonic fails."""
    called: list[list[str]] = []

    def call(command: list[str]) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, int("tonic>=1.6" in command))

    monkeypatch.setattr(installation.subprocess, "run", call)
    return called


def test_libraries_are_installed_by_the_pip_of_this_python(here: Callable[..., Any], pip: list[list[str]]) -> None:
    done = here("setup", "lava", "spikingjelly")
    assert done.returncode == 0, done.stderr
    assert [call[:4] for call in pip] == [[sys.executable, "-m", "pip", "install"]] * 4
    assert done.stdout.count("$ ") == 4
    assert done.stdout.endswith("installed: lava, spikingjelly\n")


def test_a_pip_that_fails_is_one_clear_message(here: Callable[..., Any], pip: list[list[str]]) -> None:
    done = here("setup", "tonic")
    assert done.returncode == 2
    assert "setup tonic: pip ended with 1; what it said stands above" in done.stderr


def test_a_python_without_pip_is_told_the_way_out(
    here: Callable[..., Any], pip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    done = here("setup", "lava")
    assert (done.returncode, pip) == (2, [])
    assert "-m ensurepip" in done.stderr


def test_lava_is_installed_past_its_metadata() -> None:
    assert pip_arguments("lava", (3, 11))[1] == ["--no-deps", "--ignore-requires-python", "lava-nc==0.10.0"]
    assert pip_arguments("lava", (3, 10))[1] == ["lava-nc==0.10.0"]
    assert pip_arguments("spikingjelly", (3, 10))[1][0] == "--no-deps"


def test_setup_and_extras_ask_for_the_same() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["spikingjelly"]) == set(NEEDS["spikingjelly"][0])
    of_lava = {word for word in extras["lava"] if not word.startswith("lava-nc")}
    assert of_lava <= set(NEEDS["lava"][0])
    assert any(word.startswith(NEEDS["lava"][1]) for word in extras["lava"])
    assert {word for word in extras["events"] if "tonic" not in word} <= set(NEEDS["tonic"][0])
    of_all = set(re.findall(r"[\w-]+", extras["all"][0].split("[")[1]))
    assert of_all < set(extras) - {"all", "dev", "bench", "compare"}


def test_the_demo_without_lava_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mocked = ("compile_model", "run", "verify", "compile_summary", "program_table")
    for name in (*mocked, "run_tables", "verify_tables", "write_report"):
        monkeypatch.setattr(demo, name, MagicMock())
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    said: list[str] = []
    say_through(said.append)
    demo.demo("digits-v1", tmp_path / "report.html", None, lambda *_: None)
    assert said == ["Lava is not installed, and nothing is compared with it: `spikdeploy setup lava` installs it"]


# --- completion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_what_click_makes(shell: str, here: Callable[..., Any]) -> None:
    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(cli, {}, "spikdeploy", "_SPIKDEPLOY_COMPLETE").source()
    assert here("completion", shell).stdout.strip() == source.strip()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("spikdeploy comp", {"plain,compile", "plain,compare", "plain,completion"}),
        ("spikdeploy completion ", {"plain,bash", "plain,zsh", "plain,fish"}),
        ("spikdeploy compile --weight", {"plain,--weight-bits", "plain,--weights"}),
        ("spikdeploy compile dig", {"file,dig"}),
        ("spikdeploy compile x --target my", {"file,my"}),
        ("spikdeploy compile x --objective t", {"plain,tiles"}),
    ],
)
def test_words_and_files_are_completed(
    typed: str, offered: set[str], here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_SPIKDEPLOY_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(re.findall(r"\s", typed))))
    assert set(here().stdout.split()) == offered


def test_every_text_may_be_a_file() -> None:
    parameters = [p for command in cli.commands.values() for p in command.params]
    texts = [p for p in parameters if isinstance(p.type, click.types.StringParamType)]
    assert len(texts) > 30
    assert all(p.type is installation.FILE_OR_WORD for p in texts)
