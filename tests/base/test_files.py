"""What is no file is neither read nor replaced, and a file is written whole or not at all."""

import errno
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikformer_deploy.base import files
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import (
    LARGEST_TEXT,
    check_file,
    check_folder,
    check_folder_output,
    check_new_folder,
    check_output,
    text_of,
    write_whole,
)
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.kinds import kind_of
from spikformer_deploy.converters.models import load
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.executors.lava.export import export as export_lava
from spikformer_deploy.inference.tally import load as load_tally
from spikformer_deploy.pipeline.export import export
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.training.recipe import read_recipe

if not sys.platform.startswith("linux"):
    pytest.skip("pipes and devices are made by Linux's means", allow_module_level=True)

WORDS = "what was there before"


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A folder of what is no file, one name a kind."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "file").write_text(WORDS)
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(tmp_path)  # the names of sockets are short
        try:
            listener.bind("socket")
        finally:
            os.chdir(before)
    return tmp_path


NO_FILES = {
    "folder": "it is a folder",
    "pipe": "it is a pipe, a socket or a device",
    "socket": "it is a pipe, a socket or a device",
    "device": "it is a pipe, a socket or a device",
    "dangling": "a link that leads to nothing",
    "file/below": "Not a directory",
    "x" * 300: "File name too long",
    "nul\0": "null",
}
READERS: dict[str, Callable[[Path], Any]] = {
    "kind_of": kind_of,
    "model": load,
    "program": Program.load,
    "profile": lambda path: load_profile(f"{path.parent}/{path.name}"),
    "recipe": read_recipe,
    "tally": lambda path: load_tally(path, {}),
}


@pytest.fixture(autouse=True)
def _no_wait() -> Any:
    """A reader that waits on a pipe is a failure, and not a test without an end."""

    def late(*_: object) -> None:
        raise TimeoutError("it waited")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_by_every_reader(places: Path, reader: str) -> None:
    for name, message in {**NO_FILES, "loop": "symbolic links", "absent": "there is no such file"}.items():
        with pytest.raises(InputError, match=message) as caught:
            READERS[reader](places / name)
        assert caught.value.place == str(places / name)


@pytest.mark.parametrize("reader", READERS)
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, reader: str) -> None:
    for suffix in ("", ".spk", ".net", ".nir", ".onnx", ".pt2", ".pth", ".safetensors", ".toml"):
        path = tmp_path / f"model{suffix}"
        path.write_text(f"{files.POINTER.decode()}\noid sha256:{'0' * 64}\nsize 123456\n")
        with pytest.raises(InputError, match=r"pointer of Git LFS(.|\n)*git lfs pull"):
            READERS[reader](path)


def test_images_that_are_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    preprocess = Preprocess(1, 8, (0.0,), (1.0,))
    pointer = f"{files.POINTER.decode()}\noid sha256:{'0' * 64}\nsize 123456\n"
    for name in ("a.npz", "a.npy", "a.png", "train.bin", "a-idx3-ubyte"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(InputError, match="git lfs pull"):
            read(tmp_path / name, preprocess).pixels()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text(pointer)
    with pytest.raises(InputError, match=r"a\.png.*pointer of Git LFS"):
        read(tmp_path / "images", preprocess).pixels()


def test_a_text_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "long.toml").open("wb") as stream:
        stream.truncate(LARGEST_TEXT + 1)
    with pytest.raises(InputError, match="4,194,305 bytes"):
        text_of(tmp_path / "long.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        text_of(tmp_path / "binary.toml")


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("no file is closed to root")
    path = tmp_path / "closed"
    path.write_text(WORDS)
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        check_file(path)


# --- writing ------------------------------------------------------------------------------------------------------


def state(folder: Path) -> dict[str, Any]:
    """Everything in a folder, with what it is."""
    return {
        path.name: (os.lstat(path).st_mode, path.read_text() if path.is_file() and not path.is_symlink() else "")
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("write", [check_output, lambda path: write_whole(path, b"new")])
def test_what_is_no_file_is_not_replaced(places: Path, write: Callable[[Path], None]) -> None:
    before = state(places)
    for name, message in {**NO_FILES, "loop": "a link that leads to nothing"}.items():
        with pytest.raises(InputError, match=message):
            write(places / name)
    with pytest.raises(InputError, match=r"no such folder|No such file"):
        write(places / "absent" / "file")
    assert state(places) == before


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_a_name_that_the_system_takes_is_written(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """The longest names too, though a temporary name is longer; all others are refused before the work."""
    folder = tmp_path_factory.mktemp("names")
    path = folder / name
    fits = len(os.fsencode(name)) <= 255 and name not in (".", "..")
    if not fits:
        with pytest.raises(InputError):
            check_output(path)
        return
    check_output(path)
    assert not list(folder.iterdir())
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"
    assert [p.name for p in folder.iterdir()] == [name]


def test_a_link_stays_and_leads_to_the_new_content(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text(WORDS)
    (tmp_path / "link").symlink_to("there/file")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "link", "there"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_the_old_file_stays_where_the_folder_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    (tmp_path / "file").write_text(WORDS)
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", refuses)
    for write in (check_output, lambda path: write_whole(path, b"new")):
        with pytest.raises(InputError, match=os.strerror(code)):
            write(tmp_path / "file")
    for write in (check_folder_output, check_new_folder):
        with pytest.raises(InputError, match=os.strerror(code)):
            write(tmp_path / "new")
    assert state(tmp_path).keys() == {"file"}
    assert (tmp_path / "file").read_text() == WORDS


FULL = """
import sys
from pathlib import Path
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_output, write_whole
for write in (check_output, lambda path: write_whole(path, bytes(10000))):
    try:
        write(Path(sys.argv[1]))
    except InputError as error:
        print(error)
"""


def test_the_old_file_stays_where_there_is_no_room(tmp_path: Path) -> None:
    """The system says so in the middle of a real write."""
    (tmp_path / "file").write_text(WORDS)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "file"], capture_output=True, text=True, preexec_fn=no_room, timeout=60
    )
    assert done.stdout.splitlines() == [f"{tmp_path}/file: it cannot be written: File too large"] * 2, done.stderr
    assert (tmp_path / "file").read_text() == WORDS
    assert state(tmp_path).keys() == {"file"}


def test_a_read_only_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text(WORDS)
    (tmp_path / "file").chmod(0o444)
    monkeypatch.setattr(files.os, "access", lambda path, mode: bool(os.stat(path).st_mode & 0o200))
    with pytest.raises(InputError, match="it is read-only"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == WORDS


def test_folders_to_write(places: Path) -> None:
    before = state(places)
    for name in ("file", "pipe", "device", "loop", "dangling", "file/below"):
        for check in (check_folder_output, check_new_folder):
            with pytest.raises(InputError):
                check(places / name)
    check_folder_output(places / "new" / "below")
    check_new_folder(places / "new")
    check_new_folder(places / "folder")
    check_new_folder(places / "new" / "below")
    with pytest.raises(InputError, match="no such folder"):
        check_folder(places / "new" / "below")
    with pytest.raises(InputError, match="too long"):
        check_folder_output(places / ("x" * 300))
    assert state(places) == before


def test_an_export_looks_at_its_output_first(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worked(*_: Any, **__: Any) -> Any:
        raise AssertionError("the work began")

    monkeypatch.setattr("spikformer_deploy.pipeline.export.load", worked)
    for to in ("lava", "onnx", "nir", "pt2", "netx"):
        for name in ("pipe", "dangling", "absent/file"):
            with pytest.raises(InputError):
                export("digits-v1", to, places / name)


def test_a_lava_folder_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.networks import random_network

    def full(path: Path, *_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    network = random_network(1, blocks=0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match="No space left"):
            export_lava(network, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    export_lava(network, tmp_path / ("x" * 255))
    assert (tmp_path / ("x" * 255) / "network.json").exists()


def test_a_program_is_not_written_over_a_device(places: Path) -> None:
    from hostile.corpus import good_program

    (places / "good.spk").write_bytes(good_program())
    program = Program.load(places / "good.spk")
    with pytest.raises(InputError, match="no file"):
        program.save(places / "device")
    assert (places / "device").is_symlink()


def test_headers_say_what_they_hold() -> None:
    """The pointer is one of the few texts that begins as no format does: nothing else is taken for one."""
    for head in (b"version 1", b"PK\3\4", struct.pack("<Q", 10) + b"{", json.dumps({"version": 1}).encode()):
        files.check_content("x", head)
    files.check_content("x", np.arange(10).tobytes())
    with pytest.raises(InputError, match="pointer of Git LFS"):
        files.check_content("x", files.POINTER + b"\noid sha256:0")
