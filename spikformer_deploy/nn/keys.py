"""What the keys and shapes of an official state_dict tell of a model: the questions that all families ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from spikformer_deploy.base.errors import ModelError

Tensors: TypeAlias = Mapping[str, Tensor]


def sizes(tensors: Tensors, form: str, hidden: Tensor, in_channels: int) -> dict[str, Any]:
    """The fields of a ModelConfig that every family has.

    hidden  weights (ratio D, D, ...) of the first layer of an MLP of the last width
    Raises ModelError where there is no head.
    """
    dim = hidden.shape[1]
    return {
        "form": form,
        "dim": dim,
        "in_channels": in_channels,
        "num_classes": required(tensors, "head.weight").shape[0],
        # of one whose channels were cut away, that says less than `hidden_by_block`
        "mlp_ratio": max(1, hidden.shape[0] // dim),
    }


def input_channels(tensors: Tensors, key: str) -> int:
    """Channels of the image, from the first convolution's weights (D, C, Y, X).  Raises ModelError without them."""
    return required(tensors, key).shape[1]


def required(tensors: Tensors, key: str) -> Tensor:
    """The tensor `key`.  Raises ModelError where there is none."""
    if key not in tensors:
        raise ModelError(key, "it is missing from the state_dict", "The checkpoint is incomplete.")
    return tensors[key]


def count(tensors: Tensors, name: str) -> int:
    """Members of the module list `name`, whose keys are "name.0...", "name.1..."."""
    return len({key.split(".")[1] for key in tensors if key.startswith(f"{name}.")})


def hidden_by_block(tensors: Tensors, weight: str, fields: Mapping[str, Any]) -> tuple[int, ...]:
    """ModelConfig.hidden: () where all blocks have the channels that `fields` say of `mlp_ratio` and `dim`.

    weight  the key of the first layer of an MLP, "block.{}.mlp.fc1_conv.weight"
    """
    names = [weight.format(block) for block in range(fields["depth"])]
    return unusual_widths(tensors, names, (fields["mlp_ratio"] * fields["dim"],) * len(names))


def unusual_widths(tensors: Tensors, names: Iterable[str], usual: tuple[int, ...]) -> tuple[int, ...]:
    """Output channels of each of the layers whose weights have these names; () where they are the usual ones.

    Where one is missing, is no matrix or has none, () as well: loading names all keys that are missing, and shapes.
    """
    layers = [tensors.get(name) for name in names]
    found = tuple(int(layer.shape[0]) for layer in layers if layer is not None and layer.dim() > 1)
    return () if len(found) < len(layers) or not all(found) or found == usual else found


def staged(tensors: Tensors, stages: Iterable[str], blocks: Iterable[str]) -> dict[str, Any]:
    """The fields of a Spike-driven Transformer of stages: their widths, and blocks with attention from all `blocks`.

    stages  names of the convolutions before each, "1_1", "1_2", ...; blocks: names of the lists of blocks
    Raises ModelError for keys that are incomplete.
    """
    hidden = required(tensors, "block3.0.mlp.fc1_conv.weight")
    first = input_channels(tensors, "downsample1_1.encode_conv.weight")
    of_stages = widths(tensors, [f"downsample{stage}.encode_conv.weight" for stage in stages])
    depth = sum(count(tensors, name) for name in blocks)
    return {**sizes(tensors, "imagenet", hidden, first), "widths": of_stages, "dim": of_stages[-1], "depth": depth}


def widths(tensors: Tensors, names: Iterable[str]) -> tuple[int, ...]:
    """Output channels of each of the layers whose weights have these names.  Raises ModelError where one is missing."""
    return tuple(int(required(tensors, name).shape[0]) for name in names)
