"""Mutated files without end: good files of every format with a few changes, of their bytes or of what they mean.

A mutant follows from its kind and seed alone.  Those with a checksum get one that fits.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import h5py
import numpy as np
import onnx
import torch
from hostile import corpus
from PIL import Image

from spikformer_deploy.base.flat import checksum

Rng = np.random.Generator

NUMBERS = (0, 1, -1, 2, 7, 2**15, 2**31, -(2**31), 2**53, 2**63, -(2**62), 2**64, 10**400, 0.5, -0.0, 1e-320, 1e308)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
WORDS = ("", "x", "[/x]", "\x1b[31m", "\ud800", "a" * 2000, "1", "../../etc/passwd", "é", "a\nb", "\0")
NESTED: tuple[Any, ...] = (
    [],
    {},
    [1],
    [None],
    [[1, 2], [3]],
    {"a": 1},
    [2**40] * 3,
    [-1, -1],
    ["x"],
    None,
    True,
    False,
)
VALUES: tuple[Any, ...] = (*NUMBERS, *NOT_FINITE, *WORDS, *NESTED)


def mutant(kind: str, seed: int) -> bytes:
    """The mutant of a kind (see KINDS) with a number; same numbers, same bytes."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    return KINDS[kind][0](rng)


# --- bytes --------------------------------------------------------------------------------------------------------


def mangled(good: bytes, rng: Rng) -> bytes:
    """Bytes changed, cut, repeated or put in, most of them where headers are."""
    content = bytearray(good)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(0, max(1, min(len(content), 4096 if rng.random() < 0.5 else len(content)))))
        place = len(content) - place if rng.random() < 0.3 else place
        match int(rng.integers(0, 6)):
            case 0:
                del content[place:]
            case 1:
                content[place:place] = content[place : place + int(rng.integers(1, 64))]
            case 2:
                content[place:place] = rng.bytes(int(rng.integers(1, 16)))
            case 3:
                del content[place : place + int(rng.integers(1, 64))]
            case 4:
                content[place : place + 8] = struct.pack("<q", int(rng.choice([-1, 2**62, 2**31, 0, 255])))
            case _:
                content[place : place + 1] = bytes([int(rng.integers(0, 256))])
    return bytes(content)


# --- JSON ---------------------------------------------------------------------------------------------------------


def edited(value: Any, rng: Rng) -> Any:
    """The value with one to three places of it changed."""
    holder = [json.loads(json.dumps(value))]
    for _ in range(int(rng.integers(1, 4))):
        parent, key = _place(holder, rng)
        match int(rng.integers(0, 8)):
            case 0:
                del parent[key]
                if not holder:
                    return None
            case 1 if isinstance(parent, dict):
                parent[str(rng.choice(["extra", "kind", "type", "", "x"]))] = _value(rng)
            case 2 if isinstance(parent, list):
                parent.append(parent[key])
            case 3 if isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
                parent[key] = parent[key] * int(rng.choice([-1, 2, 1000])) + int(rng.choice([-1, 0, 1]))
            case 4 if isinstance(parent[key], list):
                parent[key] = parent[key][::-1]
            case _:
                parent[key] = _value(rng)
    return holder[0]


def _value(rng: Rng) -> Any:
    return json.loads(json.dumps(VALUES[int(rng.integers(0, len(VALUES)))]))


def _place(value: list[Any], rng: Rng) -> tuple[Any, Any]:
    """A place somewhere below a list: what holds it, and its key there."""
    parent: Any = value
    key: Any = 0
    while isinstance(inner := parent[key], (dict, list)) and inner and rng.random() < 0.85:
        parent = inner
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        key = keys[int(rng.integers(0, len(keys)))]
    return parent, key


def _checksum(structure: dict[str, Any], tensors: dict[str, Any]) -> str:
    """The one that fits, where there is one: JSON has no NaN."""
    try:
        return checksum(structure, tensors)
    except ValueError:
        return "0" * 64


def program_json(rng: Rng) -> bytes:
    from safetensors.numpy import load, save

    good = _program()
    size = int.from_bytes(good[:8], "little")
    structure = json.loads(json.loads(good[8 : 8 + size])["__metadata__"]["spikformer_deploy"])
    tensors = load(good)
    structure.pop("sha256")
    structure = edited(structure, rng)
    structure = structure if isinstance(structure, dict) else {"network": structure}
    structure["sha256"] = _checksum(structure, tensors)
    return save(tensors, {"spikformer_deploy": json.dumps(structure, sort_keys=True)})


def program_arrays(rng: Rng) -> bytes:
    from safetensors.numpy import load, save

    good = _program()
    size = int.from_bytes(good[:8], "little")
    structure = json.loads(json.loads(good[8 : 8 + size])["__metadata__"]["spikformer_deploy"])
    tensors = load(good)
    name = sorted(tensors)[int(rng.integers(0, len(tensors)))]
    tensors[name] = _array(tensors[name], rng)
    structure.pop("sha256")
    structure["sha256"] = _checksum(structure, tensors)
    return save(tensors, {"spikformer_deploy": json.dumps(structure, sort_keys=True)})


def _array(array: Any, rng: Rng) -> Any:
    """An array with other values, another type or another shape."""
    array = np.array(array)
    match int(rng.integers(0, 6)):
        case 0:
            array = array.astype([np.float32, np.int64, np.uint8, np.float64, np.bool_, np.int16][rng.integers(0, 6)])
        case 1:
            array = array.reshape(-1)
        case 2:
            array = array[..., :-1] if array.ndim else array.reshape(1)
        case 3:
            array = np.zeros((0,), array.dtype)
        case _ if array.size and array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            places = rng.integers(0, array.size, int(rng.integers(1, 4)))
            array.reshape(-1)[places] = int(rng.choice([limits.min, limits.max, 0, 1, limits.max // 2]))
        case _ if array.size and array.dtype.kind == "f":
            array.reshape(-1)[int(rng.integers(0, array.size))] = float(rng.choice([*NOT_FINITE, 1e30, -1e30, 0.0]))
    return np.ascontiguousarray(array)


def checkpoint_json(rng: Rng) -> bytes:
    good = _ours()
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    if rng.random() < 0.25:
        header = edited(header, rng)
    else:
        entry = json.loads(header["__metadata__"]["spikformer_deploy"])
        header["__metadata__"]["spikformer_deploy"] = json.dumps(edited(entry, rng))
    return corpus._header(header, good[8 + size :])


_ours = cache(corpus._ours)

# --- torch --------------------------------------------------------------------------------------------------------


@cache
def _state() -> dict[str, Any]:
    return corpus._state()


def torch_state(rng: Rng) -> bytes:
    """A state_dict with tensors of other types and shapes, or with something else in it."""
    state = dict(_state())
    for _ in range(int(rng.integers(1, 4))):
        name = list(state)[int(rng.integers(0, len(state)))]
        match int(rng.integers(0, 6)):
            case 0:
                del state[name]
            case 1:
                state[name] = _value(rng)
            case 2:
                state[f"{name}{rng.choice(['.x', '[/x]', ''])}x"] = state.pop(name)
            case 3:
                state[name] = state[name].to(
                    [torch.int8, torch.bfloat16, torch.complex64, torch.bool][rng.integers(0, 4)]
                )
            case _:
                state[name] = torch.from_numpy(_array(state[name].float().numpy(), rng))
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            break
    wrapped: Any = {"state_dict": state, "args": edited({"T": 4, "num_heads": 2}, rng)}
    return corpus._saved(wrapped if rng.random() < 0.5 else state)


# --- HDF5 ---------------------------------------------------------------------------------------------------------


@cache
def _nir() -> bytes:
    return corpus._nir()


@cache
def _netx() -> bytes:
    return corpus.good_netx()


def hdf5(good: Callable[[], bytes]) -> Callable[[Rng], bytes]:
    """Edits of members, each of another kind."""

    def make(rng: Rng) -> bytes:
        buffer = io.BytesIO(good())
        with h5py.File(buffer, "a") as file:
            for _ in range(int(rng.integers(1, 4))):
                _edit_member(file, rng)
        return buffer.getvalue()

    return make


def _edit_member(file: Any, rng: Rng) -> None:
    names: list[str] = []
    file.visit(names.append)
    if not names:
        return
    name = names[int(rng.integers(0, len(names)))]
    other = names[int(rng.integers(0, len(names)))]
    item = file[name]
    old = item[()] if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" else np.ones(3, np.float32)
    item.attrs["x"] = np.bytes_("[/x]")
    if rng.random() < 0.1:
        file.move(name, f"{name}{rng.choice(['x', '[', '0'])}")
        return
    del file[name]
    numbers = [0, 1, -1, 2**31, -(2**31), 2**53, 2**62, 0.5, 1e308, *NOT_FINITE]
    makers: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: file.__setitem__(name, numbers[int(rng.integers(0, len(numbers)))]),
        lambda: file.__setitem__(name, numbers[int(rng.integers(0, len(numbers)))]),
        lambda: file.__setitem__(name, _array(old, rng)),
        lambda: file.__setitem__(name, np.full(np.shape(old), numbers[int(rng.integers(0, len(numbers)))], "f8")),
        lambda: file.__setitem__(name, np.bytes_(str(rng.choice(["", "x", "[/x]", "conv", "\x1b[31m", "Affine"])))),
        lambda: file.__setitem__(name, [b"a", b"b", b"conv1"]),
        lambda: file.create_group(name),
        lambda: file.create_group(f"{name}/inner"),
        lambda: file.__setitem__(name, h5py.SoftLink(f"/{other}")),
        lambda: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/x")),
        lambda: file.__setitem__(name, h5py.Empty("f4")),
        lambda: file.__setitem__(name, np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")])),
        lambda: file.__setitem__(name, np.ones(2, np.complex64)),
        lambda: file.__setitem__(name, np.ones((2, 2), np.bool_)),
        lambda: file.__setitem__(name, np.float16(1.5)),
        lambda: file.__setitem__(name, np.array([file["/"].ref], dtype=h5py.ref_dtype)),
        lambda: file.__setitem__(name, np.dtype("i4")),
        lambda: file.create_dataset(name, (2**40,), "i1", chunks=(2**20,)),
        lambda: file.create_dataset(name, (2**24,), "f4", chunks=(2**22,), compression="gzip"),
        lambda: file.create_dataset(name, np.shape(old), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]),
        lambda: file.create_virtual_dataset(name, _virtual(np.shape(old))),
        lambda: file.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype()),
        lambda: file.create_dataset(name, shape=(1,), dtype=h5py.vlen_dtype("i4")),
        lambda: file.create_dataset(name, data=1, dtype=h5py.enum_dtype({"A": 1})),
        lambda: file.__setitem__(name, file["/"]),
    )
    try:
        makers[int(rng.integers(0, len(makers)))]()
    except (TypeError, ValueError, OSError, RuntimeError, KeyError):  # what HDF5 itself cannot hold there
        file.require_group("nothing")


def _virtual(shape: tuple[int, ...]) -> Any:
    layout = h5py.VirtualLayout(shape or (1,), "f4")
    layout[...] = h5py.VirtualSource("/etc/other.h5", "x", shape or (1,))
    return layout


# --- ONNX ---------------------------------------------------------------------------------------------------------


@cache
def _onnx() -> bytes:
    return corpus._onnx()


def onnx_fields(rng: Rng) -> bytes:
    """A model with fields of its messages changed, wherever they are."""
    model = onnx.ModelProto.FromString(_onnx())
    for _ in range(int(rng.integers(1, 4))):
        holder, field = _field(model, rng)
        _set(holder, field, rng)
    return bytes(model.SerializePartialToString())


def _field(message: Any, rng: Rng) -> tuple[Any, Any]:
    while True:
        fields = [field for field, _ in message.ListFields()]
        if not fields:
            return message, message.DESCRIPTOR.fields[int(rng.integers(0, len(message.DESCRIPTOR.fields)))]
        field = fields[int(rng.integers(0, len(fields)))]
        if field.type != field.TYPE_MESSAGE or rng.random() < 0.1:
            return message, field
        value = getattr(message, field.name)
        message = value[int(rng.integers(0, len(value)))] if _repeated(value) else value


def _repeated(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes))


def _set(message: Any, field: Any, rng: Rng) -> None:
    values: dict[Any, tuple[Any, ...]] = {
        str: ("", "x", "[/x]", "\x1b", "images", "Expand", "Loop", "Conv", "logits"),
        bytes: (b"", b"x", b"\xff" * 7, bytes(100)),
        float: (0.0, -1.0, 1e30, *NOT_FINITE),
        int: (0, 1, -1, 2, 7, 8, 16, 2**31 - 1, 100),
    }
    kinds = {field.TYPE_STRING: str, field.TYPE_BYTES: bytes, field.TYPE_FLOAT: float, field.TYPE_DOUBLE: float}
    if field.type == field.TYPE_MESSAGE or rng.random() < 0.15:
        message.ClearField(field.name)
        return
    choice = values[kinds.get(field.type, int)]
    value = choice[int(rng.integers(0, len(choice)))]
    if field.type == field.TYPE_INT64 and rng.random() < 0.5:
        value = int(rng.choice([2**62, -(2**62), 2**40, 2**31]))
    held = getattr(message, field.name)
    if not _repeated(held):
        setattr(message, field.name, value)
    elif held and rng.random() < 0.7:
        held[int(rng.integers(0, len(held)))] = value
    else:
        held.append(value)


# --- archives -----------------------------------------------------------------------------------------------------


def pt2_json(rng: Rng) -> bytes:
    """An exported program with its graph or the description of its weights changed."""
    members = dict(corpus._members(corpus.good_pt2()))
    names = [name for name in members if name.endswith(".json")]
    name = names[int(rng.integers(0, len(names)))]
    try:
        members[name] = json.dumps(edited(json.loads(members[name]), rng)).encode()
    except ValueError:
        members[name] = mangled(members[name], rng)
    return corpus._zipped(members)


def archive_members(good: Callable[[], bytes]) -> Callable[[Rng], bytes]:
    """A zip file with a member that is changed, packed, doubled, renamed or gone."""

    def make(rng: Rng) -> bytes:
        members = corpus._members(good())
        name = list(members)[int(rng.integers(0, len(members)))]
        content = members.pop(name)
        choice = int(rng.integers(0, 5))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for other, held in members.items():
                archive.writestr(zipfile.ZipInfo(other), held)
            if choice == 1:
                archive.writestr(zipfile.ZipInfo(f"../{name}"), content)
            elif choice == 2:
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
            elif choice == 3:
                archive.writestr(zipfile.ZipInfo(name), b"")
            elif choice == 4:
                archive.writestr(zipfile.ZipInfo(name), mangled(content, rng))
        return buffer.getvalue()

    return make


# --- images -------------------------------------------------------------------------------------------------------


@cache
def _pixels() -> Any:
    from spikformer_deploy.pipeline.program import from_bytes

    shape = from_bytes(_program(), "good").network.input.shape
    return np.random.default_rng(0).integers(0, 200, (3, *shape)).astype(np.uint8)


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=_pixels(), labels=np.array([0, 1, 0]))
    return buffer.getvalue()


def npy(rng: Rng) -> bytes:
    """An array with a header that says something else."""
    buffer = io.BytesIO()
    words = ["|u1", "<f4", "|O", "<i8", "|b1", "<U3", "<M8[s]", "<c8", "|V4", [("a", "|u1")], "x", 7]
    shapes: list[Any] = [_pixels().shape, (3,), (), (-1, 2), (2**40, 1), (0, 1, 6, 7), (3.0, 1), "x", [3, 1], (True,)]
    header = {
        "descr": words[int(rng.integers(0, len(words)))] if rng.random() < 0.5 else "|u1",
        "fortran_order": [False, True, 3][int(rng.integers(0, 3))] if rng.random() < 0.3 else False,
        "shape": shapes[int(rng.integers(0, len(shapes)))] if rng.random() < 0.5 else _pixels().shape,
    }
    text = (repr(header) + "\n").encode()
    version = int(rng.choice([1, 1, 1, 2, 3, 9]))
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    buffer.write(b"\x93NUMPY" + bytes([version, 0]) + size + text + _pixels().tobytes())
    content = buffer.getvalue()
    if rng.random() < 0.3:
        content = mangled(content, rng)
    if rng.random() < 0.5:
        return content
    return corpus._zipped({"images.npy": content, "labels.npy": content if rng.random() < 0.2 else _npy_labels(rng)})


def _npy_labels(rng: Rng) -> bytes:
    buffer = io.BytesIO()
    labels: list[Any] = [
        [0, 1, 0],
        [-1, 0, 0],
        [2**40, 0, 0],
        [0.5, 0, 0],
        [0],
        ["a", "b", "c"],
        [[0, 1, 2]],
        [np.nan] * 3,
    ]
    np.save(buffer, np.array(labels[int(rng.integers(0, len(labels)))]))
    return buffer.getvalue()


def picture(rng: Rng) -> bytes:
    """A PNG with a chunk that is changed, and checksums that fit; or bytes of another format that are mangled."""
    image = Image.fromarray(_pixels()[0, 0])
    mode = str(rng.choice(["L", "RGB", "P", "1", "LA", "RGBA", "CMYK", "I;16", "F"]))
    formats = {"CMYK": ["JPEG", "TIFF"], "F": ["TIFF"], "I;16": ["PNG", "TIFF"], "LA": ["PNG"], "RGBA": ["PNG", "WEBP"]}
    kind = str(rng.choice(formats.get(mode, ["PNG", "BMP", "GIF"])))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind)
    content = buffer.getvalue()
    if kind != "PNG" or rng.random() < 0.4:
        return mangled(content, rng)
    out, place = bytearray(content[:8]), 8
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        name, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        if rng.random() < 0.4:
            body = mangled(body, rng) if body else body
        if name == b"IHDR" and rng.random() < 0.2 and len(body) >= 8:
            body = struct.pack(">II", *map(int, rng.choice([0, 1, 2**31 - 1, 20000, 6], 2))) + body[8:]
        out += len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        place += 12 + size
    return bytes(out)


# --- TOML ---------------------------------------------------------------------------------------------------------

TOML_VALUES = (
    *("0", "1", "-1", "7", "9223372036854775807", "1e400", "1e308", "-0.0", "nan", "inf", "-inf", "0.5", "true"),
    *(
        '""',
        '"x"',
        '"[/x]"',
        '"\\u001b[31m"',
        "[]",
        "[1]",
        "[nan]",
        '["x"]',
        "{}",
        "{a = 1}",
        "1979-05-27",
        "10000000000",
    ),
    *("0x7fffffffffffffff", "9" * 5000, '"""a\nb"""', "[[1, 2], [3]]", '"../../etc/passwd"', '"/dev/zero"'),
)

RECIPE = """output = "made.safetensors"

[model]
family = "v1"
form = "cifar"
depth = 1
dim = 16
heads = 2
time_steps = 2

[data]
source = "digits"
channels = 1
size = 8
validation = 10
fraction = 0.1
mean = [0.3]
std = [0.4]

[augment]
shift = 1
mixup = 0.5

[optimiser]
epochs = 1
batch = 1000
learning_rate = 0.001
ema = 0.9
"""
"""Its batch is larger than there are images: everything is looked at, and nothing learnt."""


def recipe(rng: Rng) -> bytes:
    return _toml(RECIPE, rng)


@cache
def _profile() -> str:
    from importlib.resources import files

    return (files("spikformer_deploy") / "hw_profiles" / "loihi2.toml").read_text(encoding="utf-8")


def profile(rng: Rng) -> bytes:
    return _toml(_profile() if rng.random() < 0.8 else 'base = "loihi2"\ncore.neurons.value = 7\n', rng)


def _toml(text: str, rng: Rng) -> bytes:
    lines = text.splitlines()
    for _ in range(int(rng.integers(1, 4))):
        if not lines:
            return b""
        chosen = int(rng.integers(0, len(lines)))
        match int(rng.integers(0, 8)):
            case 0:
                lines.pop(chosen)
            case 1:
                lines.insert(chosen, lines[int(rng.integers(0, len(lines)))])
            case 2:
                return mangled("\n".join(lines).encode(), rng)
            case _:
                value = TOML_VALUES[int(rng.integers(0, len(TOML_VALUES)))]
                lines[chosen] = re.sub(r"= .*", lambda _, value=value: f"= {value}", lines[chosen])
    return "\n".join(lines).encode()


# --- all ----------------------------------------------------------------------------------------------------------

Maker = Callable[[Rng], bytes]


def _of_bytes(good: Callable[[], bytes]) -> Maker:
    return lambda rng: mangled(good(), rng)


_program = cache(corpus.good_program)
_torch = cache(lambda: corpus._saved(_state()))

INSPECT = (("inspect", "{}"),)
COMPILE = (("inspect", "{}"), ("compile", "{}", "--no-check", "-o", "{}.made"))
RUN = (("inspect", "{}"), ("run", "{}", "--input", "images.npy", "-o", "{}.made"))
IMAGES = (("run", "good.spk", "--input", "{}", "-o", "{}.made"),)
TRAIN = (("train", "{}"),)
PROFILE = (("inspect", "{}"), ("compile", "good.net", "--target", "{}", "-o", "{}.made"))

KINDS: dict[str, tuple[Maker, tuple[tuple[str, ...], ...], str]] = {
    "program-json": (program_json, RUN, ".spk"),
    "program-arrays": (program_arrays, RUN, ".spk"),
    "program-bytes": (_of_bytes(_program), RUN, ".spk"),
    "checkpoint-json": (checkpoint_json, INSPECT, ".safetensors"),
    "checkpoint-bytes": (_of_bytes(_ours), INSPECT, ".safetensors"),
    "torch-state": (torch_state, INSPECT, ".pth"),
    "torch-bytes": (_of_bytes(_torch), INSPECT, ".pth"),
    "torch-members": (archive_members(_torch), INSPECT, ".pth"),
    "nir-members": (hdf5(_nir), COMPILE, ".nir"),
    "nir-bytes": (_of_bytes(_nir), COMPILE, ".nir"),
    "netx-members": (hdf5(_netx), COMPILE, ".net"),
    "netx-bytes": (_of_bytes(_netx), COMPILE, ".net"),
    "onnx-fields": (onnx_fields, COMPILE, ".onnx"),
    "onnx-bytes": (_of_bytes(_onnx), COMPILE, ".onnx"),
    "pt2-json": (pt2_json, INSPECT, ".pt2"),
    "pt2-members": (archive_members(corpus.good_pt2), INSPECT, ".pt2"),
    "pt2-bytes": (_of_bytes(corpus.good_pt2), INSPECT, ".pt2"),
    "npy": (npy, IMAGES, ".npz"),
    "npz-bytes": (_of_bytes(_npz), IMAGES, ".npz"),
    "picture": (picture, IMAGES, ".png"),
    "recipe": (recipe, TRAIN, ".toml"),
    "profile": (profile, PROFILE, ".toml"),
}
"""Name -> (maker, the commands that a user would give such a file to, the end of its name)."""


def commands(kind: str, name: str) -> Iterator[list[str]]:
    """What a user would do with a mutant that is called `name`."""
    for command in KINDS[kind][1]:
        yield [word.format(name) for word in command]


def good_files() -> dict[str, bytes]:
    """What the commands need beside a mutant."""
    buffer = io.BytesIO()
    np.save(buffer, _pixels())
    return {"good.spk": _program(), "good.net": _netx(), "images.npy": buffer.getvalue()}
