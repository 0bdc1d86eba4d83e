"""Image files in folders and zips: their names, classes and splits, their bytes, and what those decode to."""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_content

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
MOST_PACKED = 200
"""Images are never packed as far as that; what is, unpacks to fill the memory."""
SMALL_PACKED = 2**20
"""Bytes below which any packing is harmless, and a few zeros may well be packed further."""
TRAIN = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation")
"""Names of the folders of splits, in small or capital letters."""
ZIP = b"PK"
"""What a zip file begins with."""
MOST_KINDS = 6
"""Kinds of files that a note names."""
MODES = {1: "L", 3: "RGB"}
"""What an image file is read as, for a model of that many channels: luminance, or colour."""
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What Pillow may take a file for, whatever it is called: some of its other readers start other programs."""
MOST_PIXELS = 2**26
"""Of one image that is to be resized: 8192 x 8192.  It takes 192 MiB in colour."""
MOST_BYTES = 4 * MOST_PIXELS
"""Of the file of such an image: as many pixels with an alpha channel, not packed."""
BITS = 258
PHOTOMETRIC = 262
SAMPLE_FORMAT = 339
"""Tags of TIFF."""
WHITE_IS_ZERO = 0
SIGNED = 2
"""Values of the last two of them."""
PNG_BITS_AT = 24
"""Where the header of a PNG, which comes first, has the bits of a channel."""
LARGEST_8 = 2**8 - 1
LARGEST_12 = 2**12 - 1
LARGEST_16 = 2**16 - 1
"""White in 8, 12 and 16 bits."""

Load = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Files:
    """The image files of one split, in order; the folder right above a file is its class.

    names    of the files; marks: what tells a file from another of its name: its size and the time of its last change,
             which are trusted (in a zip, its checksum)
    labels   (N,) int64, or None; classes: their names, in the order of the labels
    load     the bytes of a file, by its name and how many it may have, from any thread or process
    others   names of files of another split; notes: what was left out
    """

    names: tuple[str, ...]
    marks: tuple[str, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    load: Load = field(repr=False)
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Archive:
    """A zip file that threads and forked processes read at once: each process has a file handle of its own.

    entries  what it holds, without folders
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = os.getpid()
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # zipfile fails in many ways on what is damaged
            raise InputError(str(path), f"it is no readable zip file: {error or type(error).__name__}") from None
        self.entries = [entry for entry in self._zip.infolist() if not entry.filename.endswith("/")]

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def read(self, name: str, most: int) -> bytes:
        """One entry.  Raises InputError for a damaged one, and for one of more than `most` bytes."""
        # a forked process shares the position in the file with its parent, and each would move the other's
        if self._process != os.getpid():
            self._zip.fp = self.path.open("rb")
            self._process = os.getpid()
        place = f"{self.path}: {name}"
        try:
            size = self._zip.getinfo(name).file_size
        except KeyError:  # the file was another one when its entries were listed
            raise InputError(place, "it is no longer there", "Leave the file as it is while it is read.") from None
        _check_size(place, size, most)
        try:
            return self._zip.read(name)
        except Exception as error:
            raise InputError(place, f"it cannot be read: {error}", "Pack the images again.") from None


def in_folder(path: Path, split: str, suffixes: tuple[str, ...] = SUFFIXES, by_folder: bool = True) -> Files:
    """The files of a folder and those below it.

    by_folder  whether the folder of a file is its class
    Raises InputError where there are none, or where one, or a folder, cannot be read.
    """
    files = dict(sorted((file.relative_to(path).as_posix(), file) for file in _below(path)))
    chosen = _chosen(str(path), files, suffixes)
    marks = {name: size_and_time(files[name]) for name in chosen.names}
    return _of_split(chosen, marks, split, partial(bytes_of, path), by_folder)


def in_archive(archive: Archive, split: str, suffixes: tuple[str, ...] = SUFFIXES, by_folder: bool = True) -> Files:
    """The files in a zip, as in_folder.  Raises InputError where there are none, or two of the same name."""
    checksums = {entry.filename: f"{entry.CRC:08x}" for entry in sorted(archive.entries, key=lambda e: e.filename)}
    if any("\\" in name for name in checksums):  # then no folder is seen, and no class
        raise InputError(str(archive.path), "its folders are written with backslashes", "Pack the images again.")
    if len(checksums) < len(archive.entries):
        raise InputError(str(archive.path), "two files in it have the same name", "Pack the images again.")
    chosen = _chosen(str(archive.path), checksums, suffixes)
    marks = {name: checksums[name] for name in chosen.names}
    return _of_split(chosen, marks, split, archive.read, by_folder)


def single(path: Path) -> Files:
    """One file, without a class."""
    return Files((path.name,), (size_and_time(path),), None, (), partial(bytes_of, path.parent))


def size_and_time(path: Path) -> str:
    """What tells a file from another of its name: bytes, and nanoseconds of its last change."""
    try:
        status = path.stat()
    except OSError as error:  # a link to nothing, or to itself
        raise InputError(str(path), f"it cannot be read: {error.strerror}", "Leave it out, or mend it.") from None
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device could keep a reader waiting for ever
        raise InputError(str(path), "it is neither a file nor a folder", "Leave it out.")
    return f"{status.st_size} {status.st_mtime_ns}"


def check_mark(place: str, raw: bytes, mark: str) -> None:
    """Raise InputError for the content of a file that is not the one whose mark (see Files) was taken.

    The time is left out: a copy on another machine has its own.
    """
    size, _, time = mark.partition(" ")
    if time and int(size) != len(raw):
        problem = f"it has {len(raw):,} bytes, and had {int(size):,} when the images were listed"
    elif not time and f"{zlib.crc32(raw):08x}" != mark:
        problem = "it is another one than when the images were listed"
    else:
        return
    raise InputError(place, problem, "Let all workers read the same files, and leave them as they are meanwhile.")


def _below(path: Path) -> Iterator[Path]:
    """Files in a folder and those below it, and hidden folders unopened; links to folders are followed.

    Raises InputError for a folder that cannot be listed, and where two ways lead to one, as a loop of links does.
    """

    def refuse(error: OSError) -> NoReturn:
        raise InputError(str(error.filename), f"it cannot be listed: {error.strerror}") from None

    seen: dict[str, str] = {}
    for folder, below, files in os.walk(path, onerror=refuse, followlinks=True):
        first = seen.setdefault(os.path.realpath(folder), folder)
        if first != folder:
            raise InputError(folder, f"it leads to the same folder as {first}", "Leave one of the two out.")
        hidden = [name for name in below if _hidden(name)]
        # os.walk goes on into what is left in its own list
        below[:] = sorted(set(below) - {*hidden})
        yield from (Path(folder, name) for name in files + hidden)


class _Chosen(NamedTuple):
    """Files of a kind, and a note on those that are left out."""

    place: str
    names: list[str]
    suffixes: tuple[str, ...]
    notes: tuple[str, ...]


def _chosen(place: str, names: Iterable[str], suffixes: tuple[str, ...]) -> _Chosen:
    """Those files of a listing that are of the kind, and notes on all others."""
    every = list(names)
    visible = [name for name in every if not _hidden(name)]
    chosen = [name for name in visible if name.lower().endswith(suffixes)]
    notes = []
    hidden = len(every) - len(visible)
    if hidden:
        notes.append(f"{place}: {hidden:,} hidden files or folders are left out")
    others = [name for name in visible if not name.lower().endswith(suffixes)]
    if others:
        kinds = sorted({Path(name).suffix or "no suffix" for name in others})[:MOST_KINDS]
        notes.append(f"{place}: {len(others):,} files of other kinds are left out ({', '.join(kinds)})")
    return _Chosen(place, chosen, suffixes, tuple(notes))


def _hidden(name: str) -> bool:
    """Whether a file, or a folder above it, is hidden: previews, caches and what macOS adds to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def from_anywhere(load: Load) -> Load:
    """The `load` of some Files that finds them from any working folder."""
    if isinstance(load, partial):
        return partial(bytes_of, load.args[0].absolute())
    archive = getattr(load, "__self__", None)
    assert isinstance(archive, Archive)
    return Archive(archive.path.absolute()).read


def _check_size(place: str, size: int, most: int) -> None:
    """Before it is read."""
    if size > most:
        raise InputError(place, f"{size:,} bytes, and {most:,} are read at most")


def decoded(name: str, raw: bytes, channels: int, extent: tuple[int, int] | None = None) -> Image.Image:
    """An image of that many channels, in 8 bits, opaque and upright.

    extent  (height, width) that it must have; None: any, of at most MOST_PIXELS.  It is looked at before decoding.
    Raises InputError, with its name, for what is no such image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if channels not in MODES:
        raise InputError(name, f"an image file for a model of {channels} channels", "Give an .npz of frames.")
    check_content(name, raw)
    try:
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        _check_extent(name, image, extent)
        if image.format != "MPO" and _has_another(raw):  # of an MPO, as telephones write it, the first is the picture
            raise InputError(name, "it holds 2 images or more", "Save each as a file of its own.")
        bits = _check_depth(name, image, raw)
        return eight_bits(name, ImageOps.exif_transpose(image), bits).convert(MODES[channels])
    except UnidentifiedImageError:
        raise InputError(name, f"it cannot be decoded: it is none of {', '.join(FORMATS)}, or is damaged") from None
    except InputError:
        raise
    except Exception as error:  # decoders fail in many ways on what is damaged
        raise InputError(name, f"it cannot be decoded: {error or type(error).__name__}") from None


def _check_extent(name: str, image: Image.Image, extent: tuple[int, int] | None) -> None:
    """Before a pixel is decoded: a few bytes may announce any number of them."""
    width, height = image.size
    if extent is None and width * height > MOST_PIXELS:
        problem = f"it is {height}x{width}: {width * height:,} pixels, and an image may have {MOST_PIXELS:,}"
        raise InputError(name, problem, "Make it smaller before.")
    if extent is not None and (height, width) not in (extent, extent[::-1]):  # it may be turned later
        problem = f"it is {height}x{width}, and the model takes {extent[0]}x{extent[1]}"
        raise InputError(name, problem, "Resize the images before.")


def _has_another(raw: bytes) -> bool:
    """Whether a file goes on after its first image; that costs no look at all of them."""
    from PIL import Image

    try:
        Image.open(io.BytesIO(raw), formats=FORMATS).seek(1)
    except EOFError:
        return False
    return True


def _check_depth(name: str, image: Image.Image, raw: bytes) -> int:
    """Bits of a channel that the file has, where Pillow keeps them all or scales them; else InputError."""
    bits = 16 if image.format == "PPM" and image.mode == "I" else 8
    if image.format == "PNG":
        bits = raw[PNG_BITS_AT]
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = max(tags.get(BITS, (1,)))
        if SIGNED in tags.get(SAMPLE_FORMAT, ()) and bits <= 16:
            raise InputError(name, "its pixels have signs", "Save them as 8 or 16 bits without.")
        if bits > 8 and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow turns that round in 8 bits only
            raise InputError(name, f"it says that white is 0, in {bits} bits", "Save it with black as 0.")
    if bits > 8 and not image.mode.startswith(("I", "F")):
        problem = f"it has {bits} bits a channel and several channels, of which only 8 bits would be read"
        raise InputError(name, problem, "Save it with 8 bits, or in gray.")
    return bits


def eight_bits(name: str, image: Image.Image, bits: int) -> Image.Image:
    """The image in 8 bits a channel, opaque; docs/images.md has the rule of each mode.

    bits  that a channel has in the file
    Raises InputError, with its name, where a depth has no rule: nothing is cut or stretched by a guess.
    """
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and bits == 16):
        return Image.fromarray(_from_sixteen(name, np.asarray(image).astype(np.int64), image.info, bits))
    if image.mode == "F":
        real = np.asarray(image)
        if not (np.isfinite(real).all() and real.min() >= 0 and real.max() <= 1):
            problem = f"its pixels are real numbers from {real.min():g} to {real.max():g}, and only 0 to 1 has a rule"
            raise InputError(name, problem, "Scale them to 0 to 1, or save 8 bits.")
        return Image.fromarray(np.rint(real * LARGEST_8).astype(np.uint8))
    if image.mode == "I":
        raise InputError(name, "its pixels are integers of 32 bits, whose range is not known", "Save 8 or 16 bits.")
    if image.mode == "LAB":
        raise InputError(name, "its pixels are in the colours of LAB", "Save it as RGB.")
    if "A" in image.mode.upper() or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, (0, 0, 0, 255)), opaque).convert("RGB")
    return image


def _from_sixteen(name: str, values: NDArray[np.int64], info: dict[Any, Any], bits: int) -> NDArray[np.uint8]:
    """Gray of 16 bits (or 12, where a file says so) in 8; a transparent gray lies on black."""
    # no pixel is -1: nothing is transparent
    values = np.where(values == info.get("transparency", -1), 0, values)
    # cameras write 10 or 12 bits into files of 16 that do not say so: as 16 bits they would be nearly black
    if bits != 12 and 0 < values.max() <= LARGEST_12:
        problem = f"its pixels have 16 bits and reach only {values.max()}, as those of 10 or 12 bits do"
        raise InputError(name, problem, "Scale them to 16 or to 8 bits before.")
    white = LARGEST_12 if bits == 12 else LARGEST_16
    return np.rint(values * LARGEST_8 / white).astype(np.uint8)


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """(C, Y, X) uint8."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))


def bytes_of(folder: Path, name: str, most: int) -> bytes:
    """A file, whole.  Raises InputError where it cannot be read, or has more than `most` bytes."""
    try:
        _check_size(str(folder / name), (folder / name).stat().st_size, most)
        return (folder / name).read_bytes()
    except OSError as error:
        raise InputError(str(folder / name), f"it cannot be read: {error.strerror}") from None


def _of_split(chosen: _Chosen, marks: dict[str, str], split: str, load: Load, by_folder: bool) -> Files:
    """Those of one split, where the outermost folders are train and test (or val); else all."""
    outermost = {name.split("/")[0].lower(): name.split("/")[0] for name in marks if "/" in name}
    train = _first_of(TRAIN, outermost)
    held_out = _first_of(HELD_OUT, outermost)
    root = ""
    others: tuple[str, ...] = ()
    split_note: tuple[str, ...] = ()
    if train is not None and held_out is not None:
        root = f"{train if split == 'train' else held_out}/"
        others = tuple(name for name in marks if not name.startswith(root))
        marks = {name: mark for name, mark in marks.items() if name.startswith(root)}
        split_note = (f"{chosen.place}: of its folders {train} and {held_out}, the images are those of {root[:-1]}",)
    if not marks:
        raise InputError(chosen.place, f"no images in it (looked for {', '.join(chosen.suffixes)})")
    folders = [name[len(root) :].rpartition("/")[0] for name in marks]
    labels, classes = _classes(chosen.place, folders) if by_folder else (None, ())
    return Files(tuple(marks), tuple(marks.values()), labels, classes, load, others, chosen.notes + split_note)


def _first_of(names: tuple[str, ...], folders: dict[str, str]) -> str | None:
    """The first of the names that is a folder, as it is spelt there; folders  by their names in small letters."""
    return next((folders[name] for name in names if name in folders), None)


def _classes(place: str, folders: list[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels, and the names of the classes, from the folder of each file, whose last part is its class.

    Raises InputError where some files have no folder, or stand beside folders of others: which is the class?
    """
    distinct = set(folders)
    for folder in sorted(distinct):
        above = next((parent for parent in _parents(folder) if parent in distinct), None)
        if above is not None:
            where = f"in {above}" if above else "outside all folders"
            problem = f"some images are {where} and some in {folder}, so that their classes are not known"
            raise InputError(place, problem, "Put every image into the folder of its class.")
    if distinct == {""}:
        return None, ()
    names = [folder.rpartition("/")[2] for folder in folders]
    classes = tuple(sorted(set(names)))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in names], np.int64), classes


def _parents(folder: str) -> list[str]:
    """The folders above one, the root, which is "", first."""
    parts = folder.split("/") if folder else []
    return ["/".join(parts[:depth]) for depth in range(len(parts))]
