"""Standard streams that are closed, full or left by their reader, and names that would steer a terminal."""

import contextlib
import io
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.corpus import good_program
from hypothesis import given
from hypothesis import strategies as st
from support.deep import some
from support.networks import preprocess_of, random_network

from spikformer_deploy.base.errors import InputError, printable
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.cli.main import READER_GONE
from spikformer_deploy.cli.printing import SECONDS_A_LINE, print_tables, progress_bar, progress_lines
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.pipeline.program import Program, from_bytes
from spikformer_deploy.report.tables import facts_table

COMMAND = [sys.executable, "-c", "from spikformer_deploy.cli.main import main; main()"]
HOSTILE = "[/x][bold]:skull:\x1b[31m\x1b]0;title\x07\r\x9b2J\u202e"
"""Markup of rich, a word of it for an emoji, colours, a window's title, a line overwritten, text turned round."""


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a line in which $X is the command."""
    script = f"set -o pipefail; {line}".replace("$X", '"$0" -c "$1"')
    return subprocess.run(
        ["bash", "-c", script, COMMAND[0], COMMAND[2]],
        capture_output=True, text=True, cwd=folder, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "good.spk").write_bytes(good_program())
    shape = from_bytes(good_program(), "good").network.input.shape
    np.save(folder / "images.npy", np.zeros((1, *shape), np.uint8))
    (folder / "hostile.spk").write_bytes(hostile_program())
    return folder


def hostile_program() -> bytes:
    """A program whose layers, classes and provenance have names that mean harm; its checksum is right."""
    from spikformer_deploy.pipeline.program import to_bytes

    network = renamed(random_network(1, blocks=0, state_bits=24))
    profile = load_profile("kapoho_point")
    labels = tuple(f"{HOSTILE}{i}" for i in range(network.output.size))
    about = {"model_sha256": HOSTILE, "training": {HOSTILE: HOSTILE}}
    return to_bytes(Program(network, map_network(network, profile, {}), profile, preprocess_of(network), labels, about))


def renamed(network: Network) -> Network:
    """The network with `HOSTILE` before every name but that of the images."""
    source = network.input.name

    def new(name: str) -> str:
        return name if name == source else f"{HOSTILE}{name}"

    return replace(
        network,
        populations=tuple(replace(p, name=new(p.name)) for p in network.populations),
        projections=tuple(
            replace(p, sources=tuple(map(new, p.sources)), target=new(p.target)) for p in network.projections
        ),
    )


# --- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbuffered", some([""], long=["1"]))
@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("$X targets | true", READER_GONE, ""),
        ("$X targets --json | true", READER_GONE, ""),
        ("$X targets --help | true", READER_GONE, ""),
        ("$X targets >&-", 0, ""),
        ("$X targets --json >&-", 0, ""),
        ("$X targets <&- >&- 2>&-", 0, ""),
        ("$X targets > /dev/full", 2, "error: standard output: it cannot be written: No space left on device\n"),
        ("$X targets nothing 2> /dev/full", 2, ""),
        ("$X targets nothing 2>&-", 2, ""),
        ("$X nonsense 2>&1 | true", 2, ""),
        ("$X report nothing --input digits -o /dev/null", 2, "error: /dev/null: it cannot be written: it is a pipe"),
    ],
)
def test_streams(tmp_path: Path, line: str, code: int, message: str, unbuffered: str) -> None:
    done = shell(line, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(message)
    assert message or not done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_reader_that_goes_early_ends_no_work(folder: Path) -> None:
    """What is written to a file is whole, though nobody hears of it."""
    done = shell("$X run good.spk --input images.npy --json -o run.json 2>&1 | true", folder)
    assert done.returncode == READER_GONE
    assert json.loads((folder / "run.json").read_text())["images"] == 1


@pytest.mark.long
def test_a_closed_stream_gets_no_file(folder: Path, here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptor 1 is free where standard output is closed: the next file must not get what is printed."""
    done = shell("$X export good.spk --to onnx -o closed.onnx >&- 2>&-", folder)
    assert done.returncode == 0
    monkeypatch.chdir(folder)
    assert here("export", "good.spk", "--to", "onnx", "-o", "open.onnx").returncode == 0
    assert (folder / "closed.onnx").read_bytes() == (folder / "open.onnx").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("$X report good.spk --input images.npy -o good.spk", "error: good.spk: the same command reads it"),
        ("$X report good.spk --input x -o a --json ./a", "error: ./a: the same command"),
        ("$X report good.spk --input x -o a --timeline a", "error: a: the same command"),
        ("$X compile good.spk -o ./good.spk", "error: ./good.spk: the same command"),
        ("$X export good.spk --to onnx -o good.spk", "error: good.spk: the same command"),
        ("$X run good.spk --input x -o ''", "error: -o: the name is empty"),
        ("$X run good.spk --input x -o new/", "error: new/: it names a folder"),
        ("$X compile good.spk --dump-ir good.spk -o new.spk", "error: good.spk: "),
    ],
)
def test_nothing_is_written_over_what_is_read(
    folder: Path, line: str, message: str, here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = (folder / "good.spk").read_bytes()
    done = here(*shlex.split(line)[1:])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert (folder / "good.spk").read_bytes() == before


# --- names --------------------------------------------------------------------------------------------------------


def unsafe(text: str) -> set[str]:
    """Characters that are no part of plain lines."""
    return {c for c in text if not c.isprintable() and c != "\n"}


@pytest.mark.long
def test_names_of_a_program_reach_no_terminal(folder: Path) -> None:
    shown = shell("$X inspect hostile.spk", folder, PYTHONIOENCODING="utf-8")
    assert shown.returncode == 0, shown.stderr
    assert not unsafe(shown.stdout + shown.stderr)
    assert "[/x][bold]:skull:\\x1b[31m" in shown.stdout


def test_names_of_a_program_reach_no_page(folder: Path) -> None:
    from spikformer_deploy.inference.run import run
    from spikformer_deploy.report.data import report_data
    from spikformer_deploy.report.html import render
    from spikformer_deploy.report.tables import run_tables

    program = from_bytes(hostile_program(), "hostile")
    result = run(program, np.zeros((1, *program.network.input.shape), np.uint8))
    page = render(report_data(result))
    assert not unsafe(page)
    assert "\\x1b[31m" in page
    assert json.loads(json.dumps(report_data(result)))
    assert run_tables(result)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_shown_as_it_is(title: str, value: str) -> None:
    """In tables, in messages, beside the bar and in lines instead of it, whatever it holds."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_tables([facts_table(title, {"name": value})])
    assert not unsafe(out.getvalue())
    if value == value.strip() and "\n" not in value and value.isascii() and "_" not in value:
        assert printable(value) in out.getvalue()
    with contextlib.redirect_stderr(io.StringIO()) as err, progress_bar("run", False) as progress:
        progress(1, 2, value)
        progress_lines("run", itertools.count(0.0, SECONDS_A_LINE).__next__)(1, 2, value)
    assert err.getvalue().startswith("run  50 %")
    assert not any(c in err.getvalue() for c in unsafe(value) - {"\x1b", "\r"})
    message = printable(str(InputError(title, value, "Do this.")))
    assert not unsafe(message)
    assert message.splitlines()[-1] == "  Do this."


def test_a_name_makes_no_second_message() -> None:
    error = InputError("a\nerror: b", "c\nerror: d", "Do this.")
    assert [line.startswith("  ") for line in str(error).splitlines()] == [False, True]


def test_names_in_warnings_reach_no_terminal(tmp_path: Path) -> None:
    warn = f"import warnings; from spikformer_deploy.cli.main import cli, main; h = {HOSTILE!r}; "
    warn += "cli.main = lambda **_: warnings.warn(h + chr(10) + 'error: x'); main()"
    done = subprocess.run([sys.executable, "-c", warn], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: [/x][bold]:skull:\\x1b[31m")
    assert done.stderr.endswith(" error: x\n")
    assert not unsafe(done.stderr)


def test_the_bar_takes_markup_as_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("run", False) as progress:
        progress(1, 2, HOSTILE)
    printed = capsys.readouterr().err
    assert "[/x][bold]" in printed
    assert "\x1b]0;title" not in printed
    assert "\u202e" not in printed


def test_without_a_terminal_a_line_comes_every_thirty_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    progress = progress_lines("run", lambda: now)
    said = {}
    for now in range(100, 231):
        progress(now - 100, 130, "a\x1bnote" if now < 150 else "")
        if printed := capsys.readouterr().err:
            said[now] = printed
    assert said == {
        130: "run  23 %  a\\x1bnote\n", 160: "run  46 %\n", 190: "run  69 %\n", 220: "run  92 %\n",
    }  # fmt: skip
    now = 300.0
    progress(0, 0, "nothing to do")
    assert not capsys.readouterr().err


def test_a_short_run_without_a_terminal_says_nothing_of_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for quiet in (False, True):
        with progress_bar("run", quiet) as progress:
            progress(1, 2, "a note")
        assert not capsys.readouterr().err
    monkeypatch.setattr("spikformer_deploy.cli.printing.SECONDS_A_LINE", 0.0)
    with progress_bar("run", False) as progress:
        progress(1, 2, "a note")
    assert capsys.readouterr().err == "run  50 %  a note\n"


@pytest.mark.parametrize("encoding", some(["latin-1"], long=["utf-8", "ascii"]))
def test_a_name_that_is_no_text_is_shown(tmp_path: Path, encoding: str) -> None:
    """Names of files are bytes: those that are no UTF-8, and words that an encoding lacks, are shown by escapes."""
    profile = os.path.join(os.fsencode(tmp_path), b"bad-\xff\x1b.toml")
    Path(os.fsdecode(profile)).write_text('name = "mine"\nbase = "loihi2"\ndescription = "\\u0101\\u001b"\n')
    for arguments, code in ((["targets", profile], 0), (["targets", profile + b"."], 2)):
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, timeout=300,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith(b"error: " if code else b"")
        assert b"\x1b" not in done.stdout + done.stderr


def test_what_our_functions_warn_of_is_a_note(tmp_path: Path) -> None:
    """As of images of which some were not chosen; other libraries warn."""
    warn = "import warnings; from spikformer_deploy.cli import main; "
    warn += "main.cli.main = lambda **_: warnings.warn_explicit('less', UserWarning, main.__file__, 1); main.main()"
    done = subprocess.run([sys.executable, "-c", warn], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert (done.returncode, done.stderr) == (0, "note: less\n")
