"""What a checkpoint file holds: tensors, our header, the arguments of a training script; and nothing in it is executed.

torch reads with weights_only, unless the user says otherwise.  What a refused file would have called is listed.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.formats import ENTRY
from spikformer_deploy.base.json_text import parsed
from spikformer_deploy.base.plain import table

VERSION = 1
"""Of our header in a safetensors file."""
WRAPPERS = ("state_dict_ema", "state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts save a state_dict, the smoothed weights of timm first."""
TRUST = "Save only the state_dict, or, if you trust the file, give --allow-pickle."
OWN_CODE = "Give the code that makes the model, and a state_dict of it: --factory module:function --weights FILE."
"""The way out for a model that only the user's own code can make."""
LONGEST_PROBLEM = 300
"""Characters of a message of torch's that are passed on."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a file; header: {} where it is none of ours; arguments: {} where no training script left any.

    wrapper  the key under which the state_dict was; "" where it was the file's content itself
    """

    tensors: dict[str, torch.Tensor]
    header: dict[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wrapper: str = ""


def read_contents(path: Path, *, allow_pickle: bool) -> Contents:
    """The contents of a safetensors file or of a file of torch.save.

    Raises InputError for other and for damaged files, and for those that would run code, ModelError for tensors that
    are sparse, quantized or larger than what the file holds of them.
    """
    with path.open("rb") as stream:
        head = stream.read(9)
    # a safetensors file begins with the length of its header in 8 bytes, and the header is JSON
    if head[8:9] == b"{":
        contents = _safetensors(path)
    elif head.startswith((b"PK", b"\x80")):
        contents = _torch_file(path, allow_pickle)
    else:
        way_out = "Give a safetensors or torch checkpoint of a Spikformer."
        raise InputError(str(path), "it is no model file that is known here", way_out)
    _check_tensors(path, contents.tensors)
    return contents


def _safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
        header = table("its header", parsed(metadata.get(ENTRY, "{}")))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(str(path), f"it is damaged: {error}", "Copy the file again.") from None
    if header and header.get("kind") != "checkpoint":
        raise InputError(str(path), f"it holds a {header.get('kind', 'foreign file')}, not a model")
    if header and header.get("version") != VERSION:
        raise InputError(str(path), f"it is of version {header.get('version')}, and {VERSION} is known here", "Update.")
    return Contents(tensors, header)


# --- files of torch.save -----------------------------------------------------------------------------------------


def _torch_file(path: Path, allow_pickle: bool) -> Contents:
    """A bare state_dict, timm's wrapper or the DVS trainer's."""
    _check_archive(path, allow_pickle)
    content = _unpickled(path, allow_pickle)
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise InputError(str(path), f"it holds a {type(content).__name__}, not a checkpoint")
    # a state_dict may have a tensor of that name, whose truth torch does not tell
    wrappers = (key for key in WRAPPERS if isinstance(content.get(key), (Mapping, nn.Module)))
    wrapper = next((key for key in wrappers if content[key]), "")
    state = content[wrapper] if wrapper else content
    # a bare state_dict is no wrapper: what it calls "args" is a tensor
    arguments = content.get("args") if state is not content else None
    if isinstance(state, nn.Module):
        state = state.state_dict()
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(str(path), f"no state_dict in it (keys: {', '.join(map(str, list(content)[:8]))})")
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    return Contents(dict(state), arguments=arguments if isinstance(arguments, Mapping) else {}, wrapper=wrapper)


def _unpickled(path: Path, allow_pickle: bool) -> Any:
    """What torch makes of the file."""
    try:
        # timm saves the arguments of its script as a Namespace, which holds nothing but values
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError:
        raise _refused(path) from None
    except Exception as error:  # whatever a damaged pickle makes of the functions that it may call
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # a pickle names the classes of whoever wrote it
        if isinstance(error, ModuleNotFoundError) or reason.startswith("Can't get attribute"):
            problem = f"its pickle needs code that is not here: {reason}"[:LONGEST_PROBLEM]
            raise InputError(str(path), problem, OWN_CODE) from None
        problem = f"it is damaged: {reason}"[:LONGEST_PROBLEM]
        raise InputError(str(path), problem, "Copy the file again.") from None


def _check_archive(path: Path, allow_pickle: bool) -> None:
    """torch.save packs nothing: what is packed, or larger than the file, was made by somebody else."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    script = any(entry.filename.endswith("/constants.pkl") for entry in entries)
    if script and not allow_pickle:
        raise InputError(str(path), "loading it may run code of the file: it is a TorchScript program", TRUST)
    # the code of a TorchScript program is packed by torch itself
    packed = [] if script else [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    # both sizes, since a forged directory may say anything of either
    unpacked_bytes = sum(entry.file_size for entry in entries)
    packed_bytes = sum(entry.compress_size for entry in entries)
    if packed or max(unpacked_bytes, packed_bytes) > path.stat().st_size:
        problem = f"{packed[0]} is packed" if packed else "its entries are larger than the file"
        raise InputError(str(path), f"it is damaged: {problem}, which torch.save never does", "Save the model again.")


def _refused(path: Path) -> InputError:
    calls = sorted(_named_in_pickles(path))
    problem = f"loading it would run code of the file: {', '.join(calls) or 'what its pickle says'}"
    return InputError(str(path), problem, f"{TRUST}\n  {OWN_CODE}")


def _named_in_pickles(path: Path) -> set[str]:
    """The functions and classes that the pickles of a file name, beyond those of tensors; nothing is called."""
    names: set[str] = set()
    with suppress(Exception):  # of no consequence: it is a list for a person
        if zipfile.is_zipfile(path):
            names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        else:
            with path.open("rb") as stream:  # one pickle after the other, then raw values
                while stream.tell() < path.stat().st_size:
                    names.update(_globals(stream))
    return {name for name in names if not name.startswith(("torch._utils.", "torch.FloatStorage", "collections."))}


def _globals(stream: Any) -> Iterator[str]:
    """The globals that the pickle at this place of a stream names."""
    words = ["", ""]
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
            # it takes module and name from the stack, where the last two strings were put
            yield ".".join(words[-2:])
        elif isinstance(argument, str):
            words.append(argument)


def _check_tensors(path: Path, tensors: Mapping[Any, Any]) -> None:
    """Every entry is a dense tensor under a word, as large as what the file holds of it."""
    for key, value in tensors.items():
        if not isinstance(key, str):
            raise InputError(str(path), f"its key {key!r} is no word", "Give a state_dict.")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ModelError(key, "a tensor that is sparse, quantized or without values", "Save dense tensors.")
        # strides of zero make a huge tensor of one number
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            problem = f"its shape is {tuple(value.shape)}, and it repeats fewer values"
            raise ModelError(key, problem, "Save a copy of it.")
