"""The compiled program: integer network, mapping, the full profile and where it all comes from, in one .spk file.

A .spk is a safetensors file: every array is a tensor, everything else one JSON entry with a sha256 over both.  Saving
is deterministic; loading checks the bytes, the structure and the references, and never executes anything.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from spikformer_deploy import hardware
from spikformer_deploy.errors import InputError, MappingError, ProgramError
from spikformer_deploy.files import write_whole
from spikformer_deploy.hardware import Profile
from spikformer_deploy.images import Preprocess
from spikformer_deploy.mapping import verify_mapping
from spikformer_deploy.mapping.mapping import Mapping
from spikformer_deploy.quantize.check import check_network
from spikformer_deploy.quantize.network import Network

ENTRY = "spikformer_deploy"
FORMAT = 1
LARGEST_FILE = 2**32
"""No program of a known board comes near; a larger file is refused before it is read."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A network compiled for a target.

    labels      class names, may be empty
    provenance  name -> plain value: source file and its sha256, settings, calibration, versions
    """

    network: Network
    mapping: Mapping
    profile: Profile
    preprocess: Preprocess
    labels: tuple[str, ...]
    provenance: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write the program, whole or not at all.  Same program, same bytes."""
        write_whole(Path(path), to_bytes(self))

    def digest(self) -> str:
        """sha256 of the file that save would write."""
        return hashlib.sha256(to_bytes(self)).hexdigest()

    @staticmethod
    def load(path: str | Path) -> Program:
        """Read a program.  Raises ProgramError for a file that is damaged, foreign or of another version."""
        path = Path(path)
        try:
            size = path.stat().st_size
            if size > LARGEST_FILE:
                raise ProgramError(str(path), f"{size:,} bytes; no program is larger than {LARGEST_FILE:,}")
            content = path.read_bytes()
        except OSError as error:
            raise InputError(str(path), f"it cannot be read: {error.strerror}", "Compile a program first.") from None
        return from_bytes(content, str(path))


def to_bytes(program: Program) -> bytes:
    """The content of the .spk file."""
    tensors: dict[str, NDArray[Any]] = {}
    structure = {
        "format": FORMAT,
        "network": _flat(program.network, "network", tensors),
        "mapping": _flat(program.mapping, "mapping", tensors),
        "profile": hardware.to_dict(program.profile),
        "preprocess": _flat(program.preprocess, "preprocess", tensors),
        "labels": list(program.labels),
        "provenance": program.provenance,
    }
    structure["sha256"] = _checksum(structure, tensors)
    text = json.dumps(structure, sort_keys=True, allow_nan=False)
    return save_tensors(tensors, {ENTRY: text})


def from_bytes(content: bytes, place: str) -> Program:
    """The program in the content of a .spk file; `place` names it in errors."""
    try:
        structure, tensors = _parsed(content, place)
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise ProgramError(place, f"it is no readable program: {error}", "Compile it again.") from None
    if structure.get("format") != FORMAT:
        problem = f"it has format {structure.get('format')}, and this version reads {FORMAT}"
        raise ProgramError(place, problem, "Update, or compile it again.")
    told = structure.pop("sha256", None)
    if told != _checksum(structure, tensors):
        raise ProgramError(place, "its content does not match its checksum: it is damaged", "Copy or compile it again.")
    try:
        program = _program(structure, tensors)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise ProgramError(place, f"its structure is not that of a program: {error}", "Compile it again.") from None
    if to_bytes(program) != content:
        raise ProgramError(place, "its bytes are not those of a saved program: it is damaged", "Compile it again.")
    try:
        check_network(program.network)
        verify_mapping(program.mapping, program.network, program.profile)
    except (ValueError, IndexError, KeyError, MappingError) as error:
        raise ProgramError(place, f"it contradicts itself: {error}", "Compile it again.") from None
    return program


def is_program(path: Path) -> bool:
    """Whether a file looks like a program: a safetensors file whose entry has a format and a network."""
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(size, 2**26)))
        return "network" in json.loads(header["__metadata__"][ENTRY])
    except (OSError, ValueError, KeyError, TypeError, MemoryError):
        return False


def _parsed(content: bytes, place: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    if ENTRY not in metadata:
        raise ProgramError(
            place, "it is a safetensors file of something else", "Give a program of `spikdeploy compile`."
        )
    structure = json.loads(metadata[ENTRY])
    if structure.get("kind") == "checkpoint":
        raise ProgramError(place, "it is a model, not a program", "Compile it first: spikdeploy compile.")
    return structure, load_tensors(content)


def _program(structure: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Program:
    for array in tensors.values():
        array.setflags(write=False)
    return Program(
        network=_built(Network, structure["network"], tensors),
        mapping=_built(Mapping, structure["mapping"], tensors),
        profile=hardware.from_dict(structure["profile"]),
        preprocess=_built(Preprocess, structure["preprocess"], tensors),
        labels=tuple(str(label) for label in structure["labels"]),
        provenance=dict(structure["provenance"]),
    )


def _checksum(structure: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    state = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        state.update(f"{name}{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


# --- dataclasses to JSON and tensors, and back --------------------------------------------------------------------


def _flat(value: Any, path: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """Plain JSON for `value`; arrays go to `tensors` under their path, and leave {"tensor": path}."""
    if isinstance(value, np.ndarray):
        tensors[path] = value
        return {"tensor": path}
    if is_dataclass(value):
        kept = {f.name: _flat(getattr(value, f.name), f"{path}.{f.name}", tensors) for f in fields(value) if f.init}
        return {"type": type(value).__name__, **kept}
    if isinstance(value, (tuple, list)):
        return [_flat(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): _flat(item, f"{path}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value


def _built(kind: Any, raw: Any, tensors: dict[str, NDArray[Any]]) -> Any:
    """A value of the annotated type `kind` from what _flat wrote; ValueError or KeyError where it does not fit."""
    origin = get_origin(kind)
    if isinstance(raw, dict) and set(raw) == {"tensor"}:
        return tensors[raw["tensor"]]
    if origin in (Union, UnionType):
        return _built(next(k for k in get_args(kind) if getattr(k, "__name__", "") == raw["type"]), raw, tensors)
    if is_dataclass(kind):
        return _dataclass(kind, raw, tensors)
    if origin is tuple:
        inner = get_args(kind)
        kinds = [inner[0]] * len(raw) if inner[-1] is Ellipsis else inner
        return tuple(_built(k, item, tensors) for k, item in zip(kinds, raw, strict=True))
    if origin is dict:
        return {key: _built(get_args(kind)[1], item, tensors) for key, item in raw.items()}
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if kind in (int, float, str, bool) and type(raw) is kind:
        return raw
    raise ValueError(f"{raw!r} instead of {getattr(kind, '__name__', kind)}")


def _dataclass(kind: Any, raw: Any, tensors: dict[str, NDArray[Any]]) -> Any:
    hints = get_type_hints(kind)
    wanted = [f.name for f in fields(kind) if f.init]
    if set(raw) != {"type", *wanted} or raw["type"] != kind.__name__:
        raise ValueError(f"fields {sorted(raw)} instead of those of {kind.__name__}")
    return kind(**{name: _built(hints[name], raw[name], tensors) for name in wanted})
