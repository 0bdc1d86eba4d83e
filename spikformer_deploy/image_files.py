"""Image files in folders and zips: their names, classes and splits, their bytes, and what those decode to."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
MOST_PACKED = 200
"""Images are never packed as far as that; what is, unpacks to fill the memory."""
MODES = {1: "L", 3: "RGB"}
"""What an image file is read as, for a model of so many channels: luminance, or colour."""


@dataclass(frozen=True, slots=True, eq=False)
class Files:
    """The image files of one split, in order; the folder right above a file is its class.

    names    of the files; marks: a number (size or checksum) that tells a file from another of its name
    labels   (N,) int64, or None; classes: their names, in the order of the labels
    load     the bytes of a file, by its name, from any thread or process
    """

    names: tuple[str, ...]
    marks: tuple[int, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    load: Callable[[str], bytes] = field(repr=False)


class Archive:
    """A zip file that threads and forked processes read at once: each process has a file handle of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self._process = path, os.getpid()
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise InputError(str(path), f"it is no readable zip file: {error}") from None
        self.entries = self._zip.infolist()

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def read(self, name: str) -> bytes:
        """One entry.  Raises InputError for a damaged one."""
        if self._process != os.getpid():
            self._zip.fp, self._process = self.path.open("rb"), os.getpid()
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise InputError(f"{self.path}: {name}", f"it cannot be read: {error}", "Pack the images again.") from None


def in_folder(path: Path, split: str, suffixes: tuple[str, ...] = SUFFIXES) -> Files:
    """The files of a folder and those below it.  Raises InputError where there are none."""
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes)
    sizes = {p.relative_to(path).as_posix(): p.stat().st_size for p in found}
    return _of_split(path, sizes, split, partial(bytes_of, path), suffixes)


def in_archive(archive: Archive, split: str, suffixes: tuple[str, ...] = SUFFIXES) -> Files:
    """The files in a zip.  Raises InputError where there are none."""
    found = sorted((e.filename, e.CRC) for e in archive.entries if e.filename.lower().endswith(suffixes))
    return _of_split(archive.path, dict(found), split, archive.read, suffixes)


def single(path: Path) -> Files:
    """One file, without a class."""
    return Files((path.name,), (path.stat().st_size,), None, (), partial(bytes_of, path.parent))


def decoded(name: str, raw: bytes, channels: int) -> Image.Image:
    """An image of so many channels.  Raises InputError, with its name, for what is none."""
    from PIL import Image, UnidentifiedImageError

    if channels not in MODES:
        raise InputError(name, f"an image file for a model of {channels} channels", "Give an .npz of frames.")
    try:
        return Image.open(io.BytesIO(raw)).convert(MODES[channels])
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(name, f"it cannot be decoded: {error}") from None


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """(C, Y, X) uint8."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))


def bytes_of(folder: Path, name: str) -> bytes:
    """A file, whole.  Raises InputError where it cannot be read."""
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise InputError(str(folder / name), f"it cannot be read: {error.strerror}") from None


def _of_split(
    path: Path, marks: dict[str, int], split: str, load: Callable[[str], bytes], suffixes: tuple[str, ...]
) -> Files:
    """Those of one split, where the outermost folders are train and test (or val); else all."""
    outermost = {name.split("/")[0] for name in marks}
    held_out = next((folder for folder in ("test", "val", "validation") if folder in outermost), None)
    if "train" in outermost and held_out is not None:
        folder = "train" if split == "train" else held_out
        marks = {name: mark for name, mark in marks.items() if name.startswith(f"{folder}/")}
    if not marks:
        raise InputError(str(path), f"no images in it (looked for {', '.join(suffixes)})")
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in marks]
    classes = tuple(sorted(set(folders)))
    number = {name: i for i, name in enumerate(classes)}
    labels = None if "" in number else np.array([number[folder] for folder in folders], np.int64)
    return Files(tuple(marks), tuple(marks.values()), labels, classes if labels is not None else (), load)
