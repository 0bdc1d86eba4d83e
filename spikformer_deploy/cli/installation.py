"""About this installation: its version, what pip cannot install by itself, and completion for shells."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.cli.printing import print_line

PACKAGE = "spikformer-deploy"
ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where this is one."""
SHELLS = ("bash", "zsh", "fish")
GIT_SECONDS = 10
"""Until a git that does not answer is left alone."""

NEEDS = {
    "lava": (("asteval>=0.9.31", "networkx>=2.8", "scikit-learn>=1.4", "scipy>=1.11"), "lava-nc==0.10.0"),
    "spikingjelly": (("loguru>=0.7,<1", "tqdm>=4.60"), "spikingjelly>=2.0,<3"),
    "tonic": (("expelliarmus>=1.1", "importRosbag>=1.0", "requests>=2.30", "tqdm>=4.60"), "tonic>=1.6"),
}
"""Libraries whose metadata asks for what they do not need: (what they do need, the library without the rest)."""
WITH_RELEASED_METADATA = (3, 11)
"""Before this version of Python, lava-nc is installed as it was released."""


# --- the version -------------------------------------------------------------------------------------------------


def shown_version() -> str:
    """The version, and in a checkout with git what its commit is called."""
    try:
        released = version(PACKAGE)
    except PackageNotFoundError:
        released = "unknown"
    commit = described(ROOT)
    return f"{released} (checkout {commit})" if commit else released


def described(root: Path) -> str:
    """`git describe` of the checkout in a folder; nothing where it is none, and where git is missing or fails."""
    if not ((root / ".git").exists() and (root / "pyproject.toml").exists()):
        return ""
    # those variables would name another repository, as they do in hooks
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "describe", "--tags", "--always", "--dirty"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Print the version and end: git is asked here alone, and never at import."""
    if wanted and not context.resilient_parsing:
        print_line(f"spikdeploy, version {shown_version()}")
        context.exit()


# --- what pip cannot install by itself ---------------------------------------------------------------------------


@click.command("setup")
@click.argument("libraries", nargs=-1, required=True, type=click.Choice(list(NEEDS)))
def setup_command(libraries: tuple[str, ...]) -> None:
    """Install LIBRARIES that pip cannot install as an extra, with the pip of this Python: lava, spikingjelly, tonic.

    Their metadata asks for versions of Python, numpy or CUDA that they do not need, and stops pip.
    """
    if importlib.util.find_spec("pip") is None:
        problem = f"{sys.executable} has no pip, which installs them"
        raise InputError("setup", problem, f"Run: {shlex.quote(sys.executable)} -m ensurepip")
    for library in libraries:
        for arguments in pip_arguments(library, sys.version_info[:2]):
            command = [sys.executable, "-m", "pip", "install", *arguments]
            print_line(f"$ {shlex.join(command)}")
            sys.stdout.flush()
            code = subprocess.run(command).returncode
            if code:
                problem = f"pip ended with {code}; what it said stands above"
                raise InputError(f"setup {library}", problem, "Mend that, and run the same command again.")
    print_line(f"installed: {', '.join(libraries)}")


def pip_arguments(library: str, python: tuple[int, int]) -> list[list[str]]:
    """What `pip install` is called with, one call after the other."""
    needs, alone = NEEDS[library]
    if library == "lava" and python < WITH_RELEASED_METADATA:
        return [[*needs], [alone]]
    without_the_rest = ["--no-deps", "--ignore-requires-python"] if library == "lava" else ["--no-deps"]
    return [[*needs], [*without_the_rest, alone]]


# --- shells ------------------------------------------------------------------------------------------------------


class FileOrWord(click.types.StringParamType):
    """A text that is often a file: shells complete it as one."""

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The word so far, to be completed by the files that begin with it."""
        return [CompletionItem(incomplete, type="file")]


FILE_OR_WORD = FileOrWord()


def complete_files(group: click.Group) -> None:
    """Let shells complete files wherever a command takes any text: click by itself would offer nothing there."""
    for command in group.commands.values():
        for parameter in command.params:
            if isinstance(parameter.type, click.types.StringParamType):
                parameter.type = FILE_OR_WORD


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print what completes commands, options and files in SHELL, for its start-up file.

    bash: eval "$(spikdeploy completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc; fish: spikdeploy
    completion fish > ~/.config/fish/completions/spikdeploy.fish
    """
    program = context.find_root().info_name or "spikdeploy"
    complete = get_completion_class(shell)
    assert complete is not None
    source = complete(context.find_root().command, {}, program, f"_{program.upper()}_COMPLETE").source()
    print_line(source.rstrip("\n"))
