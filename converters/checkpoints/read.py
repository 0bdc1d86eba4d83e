"""Checkpoints: ours (safetensors with the configuration inside) and the official files of every family.

A file is recognised by its content (contents.py), and an official model by its keys and shapes (the families in nn/).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import check_file, write_whole
from spikformer_deploy.base.formats import ENTRY, MOST_STEPS, RANDOM, RANDOM_NOTE
from spikformer_deploy.base.json_text import written
from spikformer_deploy.base.plain import table, training_record
from spikformer_deploy.base.values import SAID_IF_SET
from spikformer_deploy.converters.checkpoints.contents import OWN_CODE, VERSION, Contents, read_contents
from spikformer_deploy.converters.checkpoints.refused import refuse_known
from spikformer_deploy.converters.checkpoints.series import SERIES, of_series, series_notes, series_preprocess
from spikformer_deploy.converters.imported import preprocess_of
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.labels import check_names, class_names
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.zoo import FAMILIES, build, named, plain, recognise, with_official_code

KEYS_OF_A_BLOCK = 10
"""A block has more, so that no more blocks are built than the file has weights for."""
LARGEST_SIZE = 2**20
"""Of a whole number in a configuration: larger than any model's, and small enough for products of two."""
MOST_STEM_STAGES = 16
"""Each halves the image."""
FEW_SAY = tuple(member.name for member in fields(ModelConfig) if member.metadata.get(SAID_IF_SET))
"""Fields of a ModelConfig that a file says where they are set."""
SHOWN_KEYS = 8
"""Keys that an error lists, of all that are wrong."""
LONGEST_PROBLEM = 300
"""Characters of a message of torch's that are passed on."""

ARGUMENTS = {
    "heads": ("num_heads", "heads"),
    "time_steps": ("time_step", "time_steps", "timestep", "T"),
    "levels": ("D",),
}
"""Fields of a ModelConfig, and what the arguments of the official training scripts call them."""
ARGUMENTS_OF_SIZE = ("img_size", "input_size")
"""What they call the height and width of images."""

BUNDLED = {
    "digits-v1": "digits_v1.safetensors",
    "digits-v2": "digits_v2.safetensors",
    "digits-levels": "digits_levels.safetensors",
    "cifar10": "cifar10.safetensors",
}
"""Trained models that come with the package, by the name that stands for them on the command line."""
SHOWN = {"digits-v1": "digits", "digits-v2": "digits", "digits-levels": "digits", "cifar10": "drawn"}
"""The images in the box that each is shown; those of CIFAR-10 may not be passed on."""

CIFAR10 = Preprocess(3, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = Preprocess(3, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DVS = Preprocess(2, 128, (0.0, 0.0), (1 / 255, 1 / 255))
"""Event frames are counts: a standard deviation of 1 / 255 makes the real input the count itself."""
USUAL = {"cifar": CIFAR10, "imagenet": IMAGENET, "dvs": DVS, "gesture": DVS}
"""What the official scripts of a form do to images."""
OVER_255 = ("cifar10-dvs-tet",)
"""Data sets of events whose frames the official scripts take as bytes, over 255: the real input is no count."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model with its weights, in evaluation mode, and what its file says about it.

    sha256      of the file; notes: what had to be assumed
    layer_bits  weight bits of layers that it was made for, by node of the folded graph; of most none
    """

    module: nn.Module
    config: ModelConfig
    preprocess: Preprocess
    labels: tuple[str, ...]
    sha256: str
    training: dict[str, Any]
    notes: tuple[str, ...]
    layer_bits: Mapping[str, int] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, Y, X) of an image."""
        return (self.preprocess.channels, *self.preprocess.extent)

    @property
    def time_steps(self) -> int:
        """T."""
        return self.config.time_steps

    @property
    def per_step(self) -> bool:
        """Whether the input is a frame for every time step."""
        return self.config.per_step


@dataclass(frozen=True, slots=True)
class _About:
    """What a file says of a model beside its weights."""

    config: ModelConfig
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    layer_bits: dict[str, int] = field(default_factory=dict)


def load(
    path: str | Path,
    *,
    arch: str | None = None,
    heads: int | None = None,
    levels: int | None = None,
    time_steps: int | None = None,
    image_size: int | None = None,
    window: int | None = None,
    variables: int | None = None,
    allow_pickle: bool = False,
) -> Loaded:
    """The model in a checkpoint file, or a bundled one by name ("digits-v2").

    arch, heads, levels, time_steps  where an official file does not tell: "v1-4-384", 12, 4, 4
    image_size  height and width of the images that an official model is to be compiled for, in pixels
    window, variables  where a file of a model on time series does not tell: points of a window, variables
    Raises InputError for a file that cannot be read, ModelError for one that holds no Spikformer of ours.
    """
    path = bundled(str(path)) if str(path) in BUNDLED else Path(path)
    check_file(path, f"Bundled models: {', '.join(BUNDLED)}.")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    contents = read_contents(path, allow_pickle=allow_pickle)
    if contents.header:
        about = _from_header(path, contents.header)
        tensors = contents.tensors
    else:
        # DataParallel puts a word before every key
        tensors = {key.removeprefix("module."): value for key, value in contents.tensors.items()}
        about = _of_official(path, replace(contents, tensors=tensors), arch, image_size)
    check_names(str(path), about.labels)
    stated = about.config
    _check_image_size(stated, image_size)
    if levels and not stated.levels:
        raise InputError("--levels", f"the neurons of {stated.family} send spikes, and no integers", "Leave it out.")
    if levels and contents.header and levels != stated.levels:
        problem = f"the model learnt to send integers up to {stated.levels}"
        raise InputError("--levels", problem, "Leave it out: the file tells.")
    of_levels = (contents.arguments.get(key) for key in ARGUMENTS["levels"])
    told = next((count for count in of_levels if isinstance(count, int)), None)
    if levels and told and levels != told:
        problem = f"the arguments in the file say that integers go up to {told}"
        raise InputError("--levels", problem, "Leave it out: the file tells.")
    config = replace(
        stated,
        heads=heads or stated.heads,
        levels=levels or stated.levels,
        time_steps=time_steps or stated.time_steps,
    )
    config = of_series(config, window, variables)
    _check_sizes(path, config, len(tensors))
    preprocess = about.preprocess
    if config.family == SERIES:
        preprocess = series_preprocess(path, config, tensors, preprocess.series)
    module = _module(path, config, tensors)
    said = {"heads": heads, "levels": levels, "time-steps": time_steps, "window": window, "variables": variables}
    said["image-size"] = image_size
    notes = tuple(
        note for note in about.notes if not any(value and f"(--{name})" in note for name, value in said.items())
    )
    training = about.training
    if RANDOM in contents.arguments:
        training = {**training, RANDOM: True}
    if RANDOM in training:
        notes = (RANDOM_NOTE, *notes)
    return Loaded(module, config, preprocess, about.labels, sha256, training, notes, about.layer_bits)


def save(
    path: str | Path,
    module: nn.Module,
    config: ModelConfig,
    preprocess: Preprocess,
    labels: tuple[str, ...],
    training: dict[str, Any],
    layer_bits: Mapping[str, int] | None = None,
) -> None:
    """Write our checkpoint: the state_dict as safetensors, the rest as one JSON entry.  Same input, same bytes.

    layer_bits  weight bits of layers, which a compile then uses; None: it says none
    """
    header = {
        "kind": "checkpoint",
        "version": VERSION,
        # what few models have is said of these alone: other files stay readable by earlier releases
        "config": {name: value for name, value in asdict(config).items() if value or name not in FEW_SAY},
        "preprocess": preprocess.facts(),
        "labels": list(labels),
        "training": training,
    }
    if layer_bits:
        header["layer_bits"] = dict(layer_bits)
    tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    # a training that went astray ends with NaN, and its weights are kept all the same
    write_whole(Path(path), safetensors_bytes(tensors, {ENTRY: written(header, sort_keys=True)}))


def bundled(name: str) -> Path:
    """The file of a bundled model."""
    return Path(str(files("spikformer_deploy"))) / "bundled" / BUNDLED[name]


# --- what model it is --------------------------------------------------------------------------------------------


def _from_header(path: Path, header: dict[str, Any]) -> _About:
    """What our own header says; InputError where it is damaged."""
    with _clear_errors(path):
        stated = table("config", header["config"])
        # JSON knows lists alone
        stated |= {name: tuple(value) for name, value in stated.items() if isinstance(value, list)}
        config = ModelConfig(**stated)
        _check_fields(config)
        preprocess = preprocess_of(header["preprocess"])
        images = (preprocess.channels, *preprocess.extent)
        if config.family != SERIES and images != (config.in_channels, config.image_size, config.image_size):
            raise ValueError(
                f"images of {images} for a model of {config.in_channels} channels, {config.image_size} wide"
            )
        labels = class_names(header["labels"], config.num_classes)
        bits = table("layer_bits", header.get("layer_bits", {}))
        for name, value in bits.items():
            if type(value) is not int or not 2 <= value <= 8:
                raise ValueError(f"layer_bits of {name} = {value!r}")
        return _About(plain(config), preprocess, labels, training_record(header["training"]), layer_bits=bits)


def _check_fields(config: ModelConfig) -> None:
    """ValueError for a field of another type, and for a size that no model has."""
    types = {"int": int, "str": str, "bool": bool, "tuple[int, ...]": tuple}
    for member in fields(config):
        value = getattr(config, member.name)
        # not isinstance: True would pass for the number 1
        right_type = type(value) is types[str(member.type)]
        numbers = value if isinstance(value, tuple) else (value,)
        # none of what most models do not have
        least = 0 if value == member.default else 1
        good = all(type(n) is not int or least <= n < LARGEST_SIZE for n in numbers)
        if not right_type or not good or (isinstance(value, tuple) and any(type(n) is not int for n in value)):
            raise ValueError(f"{member.name} = {value!r}")


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Whatever goes wrong with plain values is a damaged header."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(str(path), f"its header is damaged: {error}", "Copy the file again.") from None


def _of_official(path: Path, contents: Contents, arch: str | None, image_size: int | None) -> _About:
    """What an official state_dict tells, for images of that size; what had to be assumed is in the notes."""
    try:
        config, notes = _recognised(path, contents.tensors, contents.arguments, arch)
    except (LookupError, ValueError, ArithmeticError) as error:
        raise ModelError(str(path), f"its shapes are of no official checkpoint ({error})") from None
    if config.family == SERIES:
        # how windows become frames follows from the tensors, and from what the user says beside them
        return _About(config, Preprocess(1, 1, (0.0,), (1.0,)), notes=(*notes, *series_notes(config)))
    config = config if image_size is None else replace(config, image_size=image_size)
    preprocess, remarks = usual_preprocess(config, contents.arguments)
    return _About(config, preprocess, notes=(*notes, *remarks))


def _recognised(
    path: Path, tensors: Mapping[str, torch.Tensor], arguments: Mapping[str, Any], arch: str | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration of an official state_dict, from its keys and shapes; what they do not tell is noted."""
    recognised = recognise(str(path), tensors, arguments)
    if recognised is None:
        refuse_known(str(path), tensors)
        some = ", ".join(list(tensors)[:4])
        raise ModelError(
            str(path),
            f"its keys are of no official checkpoint that is known here ({some}, ...)",
            f"Known: {', '.join(with_official_code())}.\n  {OWN_CODE}",
        )
    if recognised.choices:
        _check_choice(path, recognised.choices, arch)
    config = named(arch) if arch else recognised.usual
    family = recognised.fields.get("family", config.family)
    if config.family != family:
        raise InputError("--arch", f"'{arch}' is of another family than {path}, which is {family}", "Leave it out.")
    notes = list(recognised.notes)
    for name, keys in ARGUMENTS.items():
        value = next((arguments[k] for k in keys if isinstance(arguments.get(k), int)), None)
        if name == "time_steps" and config.levels and not config.per_step:
            value = None  # the official models of integers on images have no time axis, whatever the script's T is
        if value is not None and getattr(config, name):
            config = replace(config, **{name: value})
        elif arch is None and name not in recognised.fields and getattr(config, name):
            option = name.replace("_", "-")
            notes.append(
                f"{name} = {getattr(config, name)} is the paper's default: the file does not tell (--{option})"
            )
    if "image_size" not in recognised.fields and "image_size" not in recognised.untold:
        told = _told_size(config, arguments)
        config = replace(config, image_size=told or config.image_size)
        if not told and arch is None:
            size = f"image_size = {config.image_size}"
            notes.append(f"{size} is the paper's default: the file does not tell (--image-size)")
    for name, option in recognised.untold.items():
        if arch is None:
            notes.append(f"{option} = {getattr(config, name)} is assumed: the file does not tell (--{option})")
    # last, as what the shapes tell holds against an --arch and the arguments
    return replace(config, **recognised.fields), tuple(notes)


def _told_size(config: ModelConfig, arguments: Mapping[str, Any]) -> int | None:
    """The size of images in the arguments of a training script, of which those for events ignore theirs."""
    told = (arguments.get(key) for key in ARGUMENTS_OF_SIZE)
    return None if config.per_step else next((n for n in told if type(n) is int and 1 <= n < LARGEST_SIZE), None)


def _check_image_size(stated: ModelConfig, image_size: int | None) -> None:
    """Raise InputError where an --image-size is of no use: of a model on time series, and of one that tells its own."""
    if image_size is not None and stated.family == SERIES:
        raise InputError("--image-size", "the model takes time series, and no images", "Give --window.")
    if image_size is None or image_size == stated.image_size:
        return
    problem = f"the model learnt on images of {stated.image_size}x{stated.image_size}"
    raise InputError("--image-size", problem, "Leave it out: the file tells.")


def _check_choice(path: Path, choices: tuple[str, ...], arch: str | None) -> None:
    """Raise an error where a file could be any of several models, and the user has not said which."""
    if arch is None:
        problem = "several models have its keys and do other things with them, and no argument in the file tells which"
        raise ModelError(str(path), problem, f"Give --arch, one of {', '.join(choices)}.")
    if arch not in choices:
        problem = f"'{arch}' is none of those that {path} can be"
        raise InputError("--arch", problem, f"Give one of {', '.join(choices)}.")


def usual_preprocess(config: ModelConfig, arguments: Mapping[str, Any]) -> tuple[Preprocess, tuple[str, ...]]:
    """(preprocessing, what had to be assumed): mean and std of the script's arguments, else the official scripts'."""
    usual = replace(USUAL[config.form], size=config.image_size)
    if config.per_step and arguments.get("dataset") in OVER_255:
        usual = replace(usual, std=(1.0,) * usual.channels)
    with suppress(KeyError, TypeError, ValueError):
        return preprocess_of({**asdict(usual), "mean": arguments["mean"], "std": arguments["std"]}), ()
    channels = config.in_channels
    if usual.channels == channels:
        return usual, ()
    if config.per_step:
        # counts of events, of however many kinds
        return replace(usual, channels=channels, mean=usual.mean[:1] * channels, std=usual.std[:1] * channels), ()
    as_they_are = replace(usual, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    return as_they_are, (f"pixels / 255 are taken as they are: no script normalises {channels} channels",)


# --- its weights -------------------------------------------------------------------------------------------------


def _check_sizes(path: Path, config: ModelConfig, tensors: int) -> None:
    """Raise InputError for sizes that no model has, before one is built; tensors: how many the file holds."""
    limits = {
        "time_steps": MOST_STEPS,
        "heads": config.dim,
        "image_size": LARGEST_SIZE,
        "depth": tensors // KEYS_OF_A_BLOCK,
        "stem_stages": MOST_STEM_STAGES,
    }
    for name, most in limits.items():
        if not 1 <= getattr(config, name) <= most:
            problem = f"{name.replace('_', ' ')} = {getattr(config, name)}, and it must be 1 to {most}"
            has_option = name in ("time_steps", "heads", "image_size")
            raise InputError(str(path), problem, f"Give --{name.replace('_', '-')}." if has_option else "")


def _module(path: Path, config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The module of `config` with `tensors` as its weights; every mismatch is named."""
    try:
        # without values: they would be drawn at random, and replaced
        with torch.device("meta"):
            module = build(config)
    except (RuntimeError, ValueError, ZeroDivisionError, OverflowError, MemoryError) as error:
        problem = f"its sizes make no model: {str(error).splitlines()[0]}"[:LONGEST_PROBLEM]
        raise InputError(str(path), problem) from None
    expected = module.state_dict()
    unread = FAMILIES[config.family].unread
    optional = {key for key in expected if unread and unread.fullmatch(key)}
    _check_keys(path, expected, tensors, optional)
    state = {key: _weight(key, wanted, tensors.get(key), key in optional) for key, wanted in expected.items()}
    module.load_state_dict(state, assign=True)
    return module.eval()


def _check_keys(
    path: Path, expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], optional: set[str]
) -> None:
    """Raise ModelError for keys that the model has not, and for those that the file lacks."""
    # evaluation reads no counter, and older versions of torch saved none
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    if unknown := sorted(set(tensors) - set(expected)):
        problem = f"unknown keys: {', '.join(unknown[:SHOWN_KEYS])}"
        raise ModelError(str(path), problem, "They belong to another architecture.")
    if missing := sorted(set(expected) - set(tensors) - counters - optional):
        problem = f"missing keys: {', '.join(missing[:SHOWN_KEYS])}"
        raise ModelError(str(path), problem, "The checkpoint is incomplete.")


def _weight(key: str, wanted: torch.Tensor, value: torch.Tensor | None, optional: bool) -> torch.Tensor:
    """A tensor of the file as the module takes it, zeros where there is none; ModelError where it does not fit."""
    # what no forward pass reads may be memory that nobody ever set
    if value is None or (optional and (value.shape != wanted.shape or not bool(torch.isfinite(value).all()))):
        value = torch.zeros(wanted.shape, dtype=wanted.dtype)
    if value.shape != wanted.shape:
        raise ModelError(key, f"its shape is {tuple(value.shape)}, and the model has {tuple(wanted.shape)}")
    if wanted.is_floating_point() and not (value.is_floating_point() and bool(torch.isfinite(value).all())):
        raise ModelError(key, f"{value.dtype} values that are not all finite numbers", "The file is damaged.")
    if key.endswith("running_var") and bool((value < 0).any()):
        raise ModelError(key, "a negative running variance", "The file is damaged.")
    return value.to(wanted.dtype)
