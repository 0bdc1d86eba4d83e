"""What kind of file a file is: told by its content and never by its name, in one place."""

from __future__ import annotations

import sys
import zipfile
from enum import Enum
from pathlib import Path
from typing import Any

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import LARGEST_TEXT, check_file
from spikformer_deploy.base.formats import ENTRY
from spikformer_deploy.base.json_text import parsed
from spikformer_deploy.base.plain import table
from spikformer_deploy.converters import hdf5

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_HEADER = 2**27
"""Of a safetensors file (its own limit is 100 MB)."""
MOST_ENTRIES = 2**16
"""Of a zip file: no model has more tensors."""

VARINT = 0
WITH_LENGTH = 2
"""Wire types of protocol buffers: a number, and bytes after their length.  A ModelProto has no others."""
IR_VERSION_FIELD = 1
GRAPH_FIELD = 7
MOST_FIELDS = 64
"""Numbers of fields of a ModelProto; it has fewer than 64, with room for those to come."""


class Kind(Enum):
    """A format that is known; the value says it to a person."""

    PROGRAM = "a program"
    CHECKPOINT = "a checkpoint of ours"
    SAFETENSORS = "a safetensors file"
    TORCH = "a file of torch.save"
    TORCHSCRIPT = "a TorchScript file"
    PT2 = "an exported program (.pt2)"
    ONNX = "an ONNX model"
    NIR = "a NIR graph"
    NETX = "a .net of lava-dl"
    PROFILE = "a hardware profile"


def kind_of(path: Path) -> Kind:
    """The kind of the file.  Raises InputError for what is no file, is missing, damaged or of no kind that is known."""
    check_file(path, "Give a model, a program or a profile.")
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(hdf5.MAGIC):
        return _hdf5(path)
    # a safetensors file: 8 bytes with the length of its header, which is JSON
    if head[8:9] == b"{":
        return _safetensors(path)
    if head.startswith(b"PK"):
        return _zip(path)
    # pickle's opcode PROTO: how torch.save wrote before it wrote zip files
    if head.startswith(b"\x80"):
        return Kind.TORCH
    if _is_onnx(path):
        return Kind.ONNX
    if _is_profile(path):
        return Kind.PROFILE
    raise InputError(
        str(path),
        "it is no model file that is known here",
        "Known: safetensors and torch checkpoints, .pt2, .onnx, .nir, .net of lava-dl, .spk programs, .toml profiles.",
    )


def _hdf5(path: Path) -> Kind:
    members = hdf5.members(path)
    if "node" in members:
        return Kind.NIR
    if "layer" in members:
        return Kind.NETX
    some = ", ".join(sorted(members)[:4]) or "nothing"
    raise InputError(str(path), f"it is an HDF5 file of something else ({some})", "Known: NIR graphs, .net of lava-dl.")


def _safetensors(path: Path) -> Kind:
    entry = safetensors_entry(path)
    if "network" in entry:
        return Kind.PROGRAM
    return Kind.CHECKPOINT if entry else Kind.SAFETENSORS


def safetensors_entry(path: Path) -> dict[str, Any]:
    """Our JSON entry in the header of a safetensors file, {} where it has none; InputError for a damaged header."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        file_size = path.stat().st_size
        # a damaged file may claim any size, and all of it would be read
        if size > min(LARGEST_HEADER, file_size - 8):
            raise InputError(str(path), f"it is damaged: a header of {size:,} bytes in a file of {file_size:,}")
        try:
            header = table("its header", parsed(stream.read(size)))
            metadata = table("its metadata", header.get("__metadata__", {}))
            return table("its entry", parsed(metadata.get(ENTRY, "{}")))
        except (ValueError, TypeError) as error:
            raise InputError(str(path), f"its header is damaged: {error}", "Copy the file again.") from None


def _zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(str(path), f"it is damaged: {error}", "Copy the file again.") from None
    if len(names) > MOST_ENTRIES:
        raise InputError(str(path), f"it is a zip file of {len(names):,} entries, and no model has that many")
    # torch puts all members into a folder, whose name may be anything
    inner = {name.partition("/")[2] for name in names} | set(names)
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return Kind.PT2
    if "constants.pkl" in inner:
        return Kind.TORCHSCRIPT
    if "data.pkl" in inner:
        return Kind.TORCH
    raise InputError(str(path), "it is a zip file of something else than a model", "Known: torch.save, .pt2.")


def _is_onnx(path: Path) -> bool:
    """Whether the file is a ModelProto: fields one after the other up to its end, a version and a graph among them."""
    fields = set()
    size = path.stat().st_size
    with path.open("rb") as stream:
        while stream.tell() < size:
            tag = _varint(stream)
            field = tag >> 3
            wire_type = tag & 7
            if wire_type == VARINT:
                _varint(stream)
            elif wire_type == WITH_LENGTH and 0 <= (length := _varint(stream)) <= size - stream.tell():
                # only where fields begin is looked at: a model of a gigabyte takes as long as a small one
                stream.seek(length, 1)
            else:
                return False
            if not 0 < field < MOST_FIELDS:
                return False
            fields.add(field)
    return {IR_VERSION_FIELD, GRAPH_FIELD} <= fields


def _varint(stream: Any) -> int:
    """A number of protocol buffers; -1 at the end of the file or where it has no end."""
    value = 0
    # 7 bits a byte, at most 64 bits: ten bytes
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            return -1
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    return -1


def _is_profile(path: Path) -> bool:
    if path.stat().st_size > LARGEST_TEXT:
        return False
    try:
        return bool(tomllib.loads(path.read_text("utf-8")))
    except (ValueError, RecursionError):
        return False
