"""Checkpoints: ours (safetensors with the configuration inside) and the official Spikformer V1 files.

A file is told by its content.  No pickle is executed unless the user says so: torch reads with weights_only, and what
a refused file would have called is listed in the error.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import check_file, write_whole
from spikformer_deploy.base.json_text import parsed, written
from spikformer_deploy.base.plain import table, training_record
from spikformer_deploy.converters.imported import MOST_STEPS, preprocess_of
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.labels import check_names, class_names
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.zoo import FAMILIES, build, named, plain, recognise, with_official_code

ENTRY = "spikformer_deploy"
VERSION = 1
KEYS_OF_A_BLOCK = 10
"""A block has more, so that no more blocks are built than the file has weights for."""

ARGUMENTS = {"heads": ("num_heads", "heads"), "time_steps": ("time_step", "time_steps", "timestep", "T")}
"""Fields of a ModelConfig, and what the arguments of the official training scripts call them."""

BUNDLED = {
    "digits-v1": "digits_v1.safetensors",
    "digits-v2": "digits_v2.safetensors",
    "cifar10": "cifar10.safetensors",
}
"""Trained models that come with the package, by the name that stands for them on the command line."""
SHOWN = {"digits-v1": "digits", "digits-v2": "digits", "cifar10": "drawn"}
"""The images in the box that each is shown; those of CIFAR-10 may not be passed on."""

CIFAR10 = Preprocess(3, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = Preprocess(3, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DVS = Preprocess(2, 128, (0.0, 0.0), (1 / 255, 1 / 255))
"""Event frames are counts: a standard deviation of 1 / 255 makes the real input the count itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model with its weights, in evaluation mode, and what its file says about it.

    sha256  of the file; notes: what had to be assumed
    """

    module: nn.Module
    config: ModelConfig
    preprocess: Preprocess
    labels: tuple[str, ...]
    sha256: str
    training: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, Y, X) of an image."""
        return (self.preprocess.channels, self.preprocess.size, self.preprocess.size)

    @property
    def time_steps(self) -> int:
        """T."""
        return self.config.time_steps

    @property
    def per_step(self) -> bool:
        """Whether the input is a frame for every time step."""
        return self.config.per_step


def load(
    path: str | Path,
    *,
    arch: str | None = None,
    heads: int | None = None,
    time_steps: int | None = None,
    allow_pickle: bool = False,
) -> Loaded:
    """The model in a checkpoint file, or a bundled one by name ("digits-v2").

    arch, heads, time_steps  where an official file does not tell: "v1-4-384", 12, 4
    Raises InputError for a file that cannot be read, ModelError for one that holds no Spikformer of ours.
    """
    path = bundled(str(path)) if str(path) in BUNDLED else Path(path)
    check_file(path, f"Bundled models: {', '.join(BUNDLED)}.")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    tensors, header, arguments = _read(path, allow_pickle)
    _check_tensors(path, tensors)
    if header:
        config, preprocess, labels, training = _from_header(path, header)
        notes: tuple[str, ...] = ()
    else:
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
        try:
            config, notes = _recognised(path, tensors, arguments, arch)
        except (IndexError, ValueError, ArithmeticError) as error:
            raise ModelError(str(path), f"its shapes are of no official checkpoint ({error})") from None
        preprocess, remark = _usual_preprocess(config, arguments)
        labels, training, notes = (), {}, (*notes, *remark)
    check_names(str(path), labels)
    config = replace(config, heads=heads or config.heads, time_steps=time_steps or config.time_steps)
    _check_sizes(path, config, len(tensors))
    return Loaded(_module(path, config, tensors), config, preprocess, labels, sha256, training, notes)


def save(
    path: str | Path,
    module: nn.Module,
    config: ModelConfig,
    preprocess: Preprocess,
    labels: tuple[str, ...],
    training: dict[str, Any],
) -> None:
    """Write our checkpoint: the state_dict as safetensors, the rest as one JSON entry.  Same input, same bytes."""
    header = {
        "kind": "checkpoint",
        "version": VERSION,
        "config": asdict(config),
        "preprocess": asdict(preprocess),
        "labels": list(labels),
        "training": training,
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    # a training that went astray ends with NaN, and its weights are kept all the same
    write_whole(Path(path), safetensors_bytes(tensors, {ENTRY: written(header, sort_keys=True)}))


def bundled(name: str) -> Path:
    """The file of a bundled model."""
    return Path(str(files("spikformer_deploy"))) / "bundled" / BUNDLED[name]


# --- reading ----------------------------------------------------------------------------------------------------


def _read(path: Path, allow_pickle: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any], Mapping[str, Any]]:
    """(tensors, our header or nothing, the arguments of the training script or nothing)."""
    with path.open("rb") as stream:
        head = stream.read(9)
    if len(head) == 9 and head[8:9] == b"{":
        tensors, header = _safetensors(path)
        return tensors, header, {}
    if head.startswith((b"PK", b"\x80")):
        return _torch_file(path, allow_pickle)
    raise InputError(
        str(path), "it is no model file that is known here", "Give a safetensors or torch checkpoint of a Spikformer."
    )


def _safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
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
    return tensors, header


def _torch_file(path: Path, allow_pickle: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any], Mapping[str, Any]]:
    """A file of torch.save: a bare state_dict, timm's wrapper or the DVS trainer's."""
    _check_archive(path, allow_pickle)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError:
        raise _refused(path) from None
    except Exception as error:  # whatever a damaged pickle makes of the functions that it may call
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(str(path), f"it is damaged: {reason}"[:300], "Copy the file again.") from None
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise InputError(str(path), f"it holds a {type(content).__name__}, not a checkpoint")
    state = next((content[k] for k in ("state_dict_ema", "state_dict", "model") if content.get(k)), content)
    state = state.state_dict() if isinstance(state, nn.Module) else state
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(str(path), f"no state_dict in it (keys: {', '.join(map(str, list(content)[:8]))})")
    arguments = content.get("args") if state is not content else None
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    return dict(state), {}, arguments if isinstance(arguments, Mapping) else {}


def _check_archive(path: Path, allow_pickle: bool) -> None:
    """torch.save packs nothing: what is packed, or larger than the file, was made by somebody else."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if not allow_pickle and any(e.filename.endswith("/constants.pkl") for e in entries):
        raise InputError(
            str(path),
            "loading it may run code of the file: it is a TorchScript program",
            "Save the state_dict alone, or, if you trust the file, give --allow-pickle.",
        )
    script = any(e.filename.endswith("/constants.pkl") for e in entries)  # its code is packed
    packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED and not script]
    if packed or max(sum(e.file_size for e in entries), sum(e.compress_size for e in entries)) > path.stat().st_size:
        problem = f"{packed[0]} is packed" if packed else "its entries are larger than the file"
        raise InputError(str(path), f"it is damaged: {problem}, which torch.save never does", "Save the model again.")


def _refused(path: Path) -> InputError:
    calls = sorted(_named(path))
    return InputError(
        str(path),
        f"loading it would run code of the file: {', '.join(calls) or 'what its pickle says'}",
        "Save the state_dict alone, or, if you trust the file, give --allow-pickle.",
    )


def _named(path: Path) -> set[str]:
    """The functions and classes that the pickles of a file name, beyond those of tensors; nothing is called."""
    found: set[str] = set()
    with suppress(Exception):  # of no consequence: it is a list for a person
        if zipfile.is_zipfile(path):
            found |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        else:
            with path.open("rb") as stream:  # one pickle after the other, then raw values
                while stream.tell() < path.stat().st_size:
                    found.update(_globals(stream))
    return {name for name in found if not name.startswith(("torch._utils.", "torch.FloatStorage", "collections."))}


def _globals(stream: Any) -> Iterator[str]:
    """The globals that the pickle at this place of a stream names."""
    words = ["", ""]
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
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
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelError(
                key, f"its shape is {tuple(value.shape)}, and it repeats fewer values", "Save a copy of it."
            )


def _check_sizes(path: Path, config: ModelConfig, tensors: int) -> None:
    """Raise InputError for sizes that no model has, before one is built."""
    limits = {"time_steps": MOST_STEPS, "heads": config.dim, "depth": tensors // KEYS_OF_A_BLOCK, "stem_stages": 16}
    for name, most in limits.items():
        if not 1 <= getattr(config, name) <= most:
            option = name.replace("_", "-")
            problem = f"{name.replace('_', ' ')} = {getattr(config, name)}, and it must be 1 to {most}"
            raise InputError(str(path), problem, f"Give --{option}." if name in ("time_steps", "heads") else "")


# --- what model it is -------------------------------------------------------------------------------------------


def _from_header(path: Path, header: dict[str, Any]) -> tuple[ModelConfig, Preprocess, tuple[str, ...], dict[str, Any]]:
    with _clear_errors(path):
        config = ModelConfig(**table("config", header["config"]))
        for field in fields(config):
            value = getattr(config, field.name)
            kind = {"int": int, "str": str, "bool": bool}[str(field.type)]
            if type(value) is not kind or (isinstance(value, int) and kind is int and not 0 < value < 2**20):
                raise ValueError(f"{field.name} = {value!r}")
        preprocess = preprocess_of(header["preprocess"])
        images = (preprocess.channels, *preprocess.extent)
        if images != (config.in_channels, config.image_size, config.image_size):
            raise ValueError(
                f"images of {images} for a model of {config.in_channels} channels, {config.image_size} wide"
            )
        labels = class_names(header["labels"], config.num_classes)
        return plain(config), preprocess, labels, training_record(header["training"])


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(str(path), f"its header is damaged: {error}", "Copy the file again.") from None


def _recognised(
    path: Path, tensors: Mapping[str, torch.Tensor], arguments: Mapping[str, Any], arch: str | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration of an official state_dict, from its keys and shapes; what they do not tell is noted."""
    recognised = recognise(str(path), tensors, arguments)
    if recognised is None:
        some = ", ".join(list(tensors)[:4])
        raise ModelError(
            str(path),
            f"its keys are of no official checkpoint that is known here ({some}, ...)",
            f"Known: {', '.join(with_official_code())}.",
        )
    config = named(arch) if arch else recognised.usual
    notes = []
    for name, keys in ARGUMENTS.items():
        value = next((arguments[k] for k in keys if isinstance(arguments.get(k), int)), None)
        if value is not None:
            config = replace(config, **{name: value})
        elif arch is None and name not in recognised.fields:
            option = name.replace("_", "-")
            notes.append(
                f"{name} = {getattr(config, name)} is the paper's default: the file does not tell (--{option})"
            )
    # last, as what the shapes tell holds against an --arch and the arguments
    return replace(config, **recognised.fields), tuple(notes)


def _usual_preprocess(config: ModelConfig, arguments: Mapping[str, Any]) -> tuple[Preprocess, tuple[str, ...]]:
    """(preprocessing, what had to be assumed): mean and std of the script's arguments, else the official scripts'."""
    usual = replace({"cifar": CIFAR10, "imagenet": IMAGENET, "dvs": DVS}[config.form], size=config.image_size)
    with suppress(KeyError, TypeError, ValueError):
        return preprocess_of({**asdict(usual), "mean": arguments["mean"], "std": arguments["std"]}), ()
    if usual.channels == config.in_channels:
        return usual, ()
    plain = replace(
        usual, channels=config.in_channels, mean=(0.0,) * config.in_channels, std=(1.0,) * config.in_channels
    )
    return plain, (f"pixels / 255 are taken as they are: no script normalises {config.in_channels} channels",)


def _module(path: Path, config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The module of `config` with `tensors` as its weights; every mismatch is named."""
    try:
        with torch.device("meta"):
            module = build(config)
    except (RuntimeError, ValueError, ZeroDivisionError, OverflowError, MemoryError) as error:
        raise InputError(str(path), f"its sizes make no model: {str(error).splitlines()[0]}"[:300]) from None
    expected = module.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    if unknown := sorted(set(tensors) - set(expected)):
        raise ModelError(str(path), f"unknown keys: {', '.join(unknown[:8])}", "They belong to another architecture.")
    unread = FAMILIES[config.family].unread
    unused = {key for key in expected if unread and unread.fullmatch(key)}
    if missing := sorted(set(expected) - set(tensors) - counters - unused):
        raise ModelError(str(path), f"missing keys: {', '.join(missing[:8])}", "The checkpoint is incomplete.")
    state = {}
    for key, wanted in expected.items():
        value = tensors.get(key, torch.zeros(wanted.shape, dtype=wanted.dtype))
        if key in unused:
            value = torch.zeros(wanted.shape) if value.shape != wanted.shape else value
        if value.shape != wanted.shape:
            raise ModelError(key, f"its shape is {tuple(value.shape)}, and the model has {tuple(wanted.shape)}")
        if wanted.is_floating_point() and not (value.is_floating_point() and bool(torch.isfinite(value).all())):
            raise ModelError(key, f"{value.dtype} values that are not all finite numbers", "The file is damaged.")
        if key.endswith("running_var") and bool((value < 0).any()):
            raise ModelError(key, "a negative running variance", "The file is damaged.")
        state[key] = value.to(wanted.dtype)
    module.load_state_dict(state, assign=True)
    return module.eval()
