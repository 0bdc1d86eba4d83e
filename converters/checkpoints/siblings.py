"""Official checkpoints of the transformers beside Spikformer: which family, form and size, from keys and shapes alone.

Spikingformer and QKFormer (zhouchenlin2096/Spikingformer, /QKFormer), Spike-driven Transformer V1 and V2
(BICLab/Spike-Driven-Transformer, -V2); their state_dicts load strictly into the modules of nn/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.nn.qkformer import CIFAR_HEADS, DVS_HEADS
from spikformer_deploy.nn.zoo import ModelConfig, named

Tensors = Mapping[str, torch.Tensor]

PER_HEAD = 64
"""Channels a head of the ImageNet configurations of Spikingformer-8-512 and of QKFormer."""


def shapes(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of a ModelConfig that an official state_dict of a sibling tells; None where it is of none.

    arguments  of the training script, where the file holds them
    Raises ModelError for a form that is not supported.
    """
    if "block.0.attn.talking_heads.weight" in tensors:
        return _spike_driven(path, tensors, arguments)
    if "block.0.mlp.mlp1_conv.weight" in tensors and "block.0.attn.q_conv.weight" in tensors:
        return _spikingformer(tensors)
    if "stage1.0.tssa.q_conv.weight" in tensors:
        return _qkformer(tensors)
    if "ConvBlock1_1.0.Conv.pwconv1.weight" in tensors:
        return _meta_spikeformer(tensors)
    return None


def published(found: Mapping[str, Any]) -> ModelConfig:
    """The configuration of the official code that heads, time steps and image size are taken from, where untold."""
    match found["family"], found["form"]:
        case "spikingformer", "cifar":
            return named("spikingformer-4-384", heads=max(1, found["dim"] // 32))
        case "spikingformer", "dvs":
            return named("spikingformer-2-256-dvs")
        case "spikingformer", _:
            return named("spikingformer-8-512", heads=min(8, max(1, found["dim"] // PER_HEAD)))
        case "sdt1", "cifar":
            return named("sdt1-2-512")
        case "sdt1", _:
            return named("sdt1-8-512")
        case "sdt2", _:
            return named("sdt2-8-512")
        case "qkformer", "cifar":
            return named("qkformer-4-384")
        case "qkformer", "dvs":
            return named("qkformer-2-256-dvs")
        case _:
            return named("qkformer-10-512", heads=max(1, found["dim"] // PER_HEAD))


def _spikingformer(tensors: Tensors) -> dict[str, Any]:
    hidden = tensors["block.0.mlp.mlp1_conv.weight"]
    cifar = "patch_embed.block0_conv.weight" in tensors
    first = _first(tensors, "patch_embed.block0_conv.weight", "patch_embed.proj_conv.weight")
    form = "cifar" if cifar else "dvs" if first == 2 else "imagenet"
    return _common(tensors, "spikingformer", form, hidden, first) | {"depth": _count(tensors, "block")}


def _spike_driven(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:
    hidden = tensors["block.0.mlp.fc1_conv.weight"]
    first = _first(tensors, "patch_embed.proj_conv.weight")
    if first == 2:
        raise ModelError(
            path,
            "it is a Spike-driven Transformer of event data, whose attention pools over tokens and channels at once",
            "The forms for images are supported.",
        )
    pooling = arguments.get("pooling_stat")
    large = pooling == "1111" if isinstance(pooling, str) else len(tensors["head.weight"]) >= 1000
    found = _common(tensors, "sdt1", "imagenet" if large else "cifar", hidden, first)
    heads = len(tensors["block.0.attn.talking_heads.weight"])
    return found | {"depth": _count(tensors, "block"), "heads": heads}


def _qkformer(tensors: Tensors) -> dict[str, Any]:
    first = _first(tensors, "patch_embed1.proj_conv.weight")
    if "stage3.0.attn.q_conv.weight" in tensors:
        hidden = tensors["stage3.0.mlp.fc1_conv.weight"]
        depth = sum(_count(tensors, f"stage{i}") for i in (1, 2, 3))
        return _common(tensors, "qkformer", "imagenet", hidden, first) | {"depth": depth}
    if "stage3.0.ssa.q_conv.weight" in tensors:
        hidden = tensors["stage3.0.mlp.mlp1_conv.weight"]
        depth = 2 + _count(tensors, "stage3")
        return _common(tensors, "qkformer", "cifar", hidden, first) | {"depth": depth, "heads": CIFAR_HEADS}
    hidden = _required(tensors, "stage2.0.mlp.mlp1_conv.weight")
    return _common(tensors, "qkformer", "dvs", hidden, first) | {"depth": 2, "heads": DVS_HEADS}


def _meta_spikeformer(tensors: Tensors) -> dict[str, Any]:
    hidden = _required(tensors, "block3.0.mlp.fc1_conv.weight")
    first = _first(tensors, "downsample1_1.encode_conv.weight")
    depth = _count(tensors, "block3") + _count(tensors, "block4")
    found = _common(tensors, "sdt2", "imagenet", hidden, first)
    return found | {"depth": depth, "distilled": "head_kd.weight" in tensors}


def _common(tensors: Tensors, family: str, form: str, hidden: torch.Tensor, in_channels: int) -> dict[str, Any]:
    """hidden  weights (ratio D, D, 1, 1) of the first layer of an MLP of the last width."""
    return {
        "family": family,
        "form": form,
        "dim": hidden.shape[1],
        "in_channels": in_channels,
        "num_classes": _required(tensors, "head.weight").shape[0],
        "mlp_ratio": hidden.shape[0] // hidden.shape[1],
    }


def _first(tensors: Tensors, *keys: str) -> int:
    """Input channels of the first convolution, which has one of these keys."""
    return next((tensors[k].shape[1] for k in keys if k in tensors), 0) or _required(tensors, keys[0]).shape[1]


def _required(tensors: Tensors, key: str) -> torch.Tensor:
    if key not in tensors:
        raise ModelError(key, "it is missing from the state_dict", "The checkpoint is incomplete.")
    return tensors[key]


def _count(tensors: Tensors, name: str) -> int:
    """Blocks of a module list."""
    return len({key.split(".")[1] for key in tensors if key.startswith(f"{name}.")})
