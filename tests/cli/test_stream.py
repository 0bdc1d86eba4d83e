"""`spikdeploy run --stream`: the lines of a stream are what the stream says, whoever sends the frames."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.networks import random_images
from support.programs import program_of

from spikformer_deploy.data.frames import _by_number
from spikformer_deploy.inference.stream import Stream

PROGRAM = "digits-v2"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "p.spk"
    program_of(PROGRAM).save(path)
    return path


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return random_images(program_of(PROGRAM).network, 5, 6)


def lines_of(frames: np.ndarray, reset_every: int = 0) -> list[dict]:
    stream, lines = Stream(program_of(PROGRAM)), []
    for number, frame in enumerate(frames, 1):
        lines.append({"frame": number, **stream.step(frame).to_dict()})
        if reset_every and number % reset_every == 0:
            stream.reset()
    return lines


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    stdin = SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content)), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)


def saved(*arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    for array in arrays:
        np.save(content, array)
    return content.getvalue()


def test_a_folder_of_frames(here: Callable, program: Path, frames: np.ndarray, tmp_path: Path) -> None:
    for number, frame in zip((1, 2, 10, 11, 100), frames[:5], strict=True):
        Image.fromarray(frame[0]).save(tmp_path / f"frame_{number}.png")
    np.save(tmp_path / "frame_101.npy", frames[5])
    (tmp_path / "read.me").write_text("frames")
    done = here("run", program, "--stream", "--input", tmp_path, "--json", "--reset-every", 4)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == lines_of(frames, 4)
    assert "1 files are no frames" in done.stderr


def test_a_file_of_frames(here: Callable, program: Path, frames: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "recording.npy", frames)
    done = here("run", program, "--stream", "--input", tmp_path / "recording.npy", "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == lines_of(frames)
    done = here("run", program, "--stream", "--input", tmp_path / "recording.npz")
    assert done.returncode == 2
    assert "an .npy file of frames (T, C, Y, X)" in done.stderr


def test_a_pipe_of_arrays(here: Callable, program: Path, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, saved(frames[0], frames[1:4], np.asfortranarray(frames[4, 0]), frames[5] / np.float32(255)))
    done = here("run", program, "--stream", "--input", "-", "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == lines_of(frames)


def test_lines_for_a_person(here: Callable, program: Path, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, saved(frames))
    done = here("run", program, "--stream", "--input", "-", "--limit", 2)
    wanted = lines_of(frames)[1]
    assert done.stdout.splitlines()[1].startswith(f"frame 2  step 2  {wanted['class_name']}  ")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (saved(np.zeros((3, 16, 16), np.uint8)), "frame 1: its shape is (3, 16, 16), and it is to be one frame a step"),
        (saved(np.zeros((16, 16), np.uint8), np.full((16, 16), 300)), r"frame 2: pixels in [300, 300]"),
        (saved(np.zeros((16, 16), np.uint8))[:-3], "frame 1: it ends after 253 of 256 bytes"),
        (saved(np.zeros((16, 16), np.uint8)) + b"and more", "frame 2: it cannot be read"),
        (saved(np.zeros((10**4, 10**4), np.uint8))[:500], "frame 1: (10000, 10000) values of type uint8"),
        (saved(np.zeros((16, 16), complex)), "frame 1: (16, 16) values of type complex128"),
        (b"", "there are no frames"),
    ],
)
def test_bad_frames_are_refused_by_their_number(
    content: bytes, problem: str, here: Callable, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, content)
    done = here("run", program, "--stream", "--input", "-")
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_image_is_refused_by_its_number(here: Callable, program: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    done = here("run", program, "--stream", "--input", tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 1)
    assert "error: frame 2 (b.png): " in done.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--stream", "--backend", "reference"), "--backend is not for --stream"),
        (("--stream", "-o", "x.json"), "--output is not for --stream"),
        (("--reset-every", "2"), "--reset-every is for --stream"),
        (("--stream", "--limit", "0"), "--limit: 0 frames"),
        (("--stream",), "it is no folder"),
    ],
)
def test_options_of_a_whole_run_are_refused(
    options: tuple[str, ...], problem: str, here: Callable, program: Path
) -> None:
    done = here("run", program, "--input", "nowhere", *options)
    assert done.returncode == 2
    assert problem in done.stderr


@pytest.mark.long
def test_a_reader_that_is_gone_ends_a_stream(program: Path, frames: np.ndarray) -> None:
    """As `head -1` does: 141, and not a word."""
    command = [sys.executable, "-m", "spikformer_deploy", "run", str(program), "--stream", "--input", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(saved(frames[0]))
        process.stdin.flush()
        # a line comes as soon as its frame is there
        assert process.stdout.readline().startswith(b"frame 1  step 1  ")
        process.stdout.close()
        process.stdin.write(saved(frames))
        process.stdin.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_a_stream_is_interrupted_as_any_command(here: Callable, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_size: int) -> bytes:
        raise KeyboardInterrupt

    piped(monkeypatch, b"")
    monkeypatch.setattr("spikformer_deploy.data.frames.frames_of_pipe", lambda *_: interrupt(0))
    assert here("run", program, "--stream", "--input", "-").returncode == 130


def test_names_are_sorted_as_people_count() -> None:
    names = ["f10.png", "f9.png", "f9a.png", "10.png", "2.png", "g.png", "f.png"]
    assert [p.name for p in sorted(map(Path, names), key=_by_number)] == [
        "2.png", "10.png", "f9.png", "f9a.png", "f10.png", "f.png", "g.png",
    ]  # fmt: skip
