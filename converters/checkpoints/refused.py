"""Official checkpoints of families that are known and not supported: each is refused by its name, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.chips.profile import load_profile

CHIP = "loihi2"
"""The target whose single chip sizes are compared with."""
DUAL_ATTENTION = re.compile(r"layers\.(\d+)\.\d+\.firing_rate_x")
"""The keys of SpikingResformer's attentions, with their stage."""


DETECTION_HEAD = "model.26.dfl.conv.weight"
"""The key of what turns SpikeYOLO's outputs into distances, in its last layer."""


def refuse_known(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError where the keys of a state_dict are those of a family that is known and not supported."""
    if DETECTION_HEAD in tensors:
        raise ModelError(
            path,
            "it is a SpikeYOLO, which detects objects: it gives maps of boxes and classes at three sizes, and a "
            "program has one output of classes",
            "Count it as a float model, with the code that makes it: spikdeploy energy --factory module:function.",
        )
    if "layers.0.0.firing_rate_x" in tensors:
        _refuse_resformer(path, tensors)


def _refuse_resformer(path: str, tensors: Mapping[str, Tensor]) -> None:
    """ModelError for a SpikingResformer, with its size."""
    size = _image_size(tensors)
    neurons = sum(_attention_neurons(tensors, size))
    profile = load_profile(CHIP)
    chip = profile.cores_per_chip * int(profile.core.neurons.value)
    raise ModelError(
        path,
        "it is a SpikingResformer, whose attention multiplies sums of any size and sign with spikes, which has no "
        f"integer form here; its attention maps alone have {neurons:,} neurons at {size}x{size}, "
        f"{neurons / chip:.1f} times the {chip:,} of a {CHIP} chip",
        "Count it as a float model, with the code that makes it: spikdeploy energy --factory module:function.",
    )


def _image_size(tensors: Mapping[str, Tensor]) -> int:
    """Rows of the official input: ImageNet by its 7x7 stem, events by learned time constants, else CIFAR."""
    if tensors["prologue.0.weight"].shape[-1] == 7:
        return 224
    events = any(key.endswith(".w") and value.ndim == 0 for key, value in tensors.items())
    return 64 if events else 32


def _attention_neurons(tensors: Mapping[str, Tensor], size: int) -> Iterator[int]:
    """Neurons of each attention map: every token, each patch of p x p tokens, each head.

    Source: Shi et al. 2024 (CVPR), arXiv 2403.14302, and its code (xyshi2000/SpikingResformer).
    """
    # the 7x7 stem strides and pools, the 3x3 one keeps the size
    first = size // 4 if tensors["prologue.0.weight"].shape[-1] == 7 else size
    for key, rates in tensors.items():
        if match := DUAL_ATTENTION.fullmatch(key):
            side = first >> int(match[1])
            patch = tensors[key.replace("firing_rate_x", "W.weight")].shape[-1]
            yield side**2 * (side // patch) ** 2 * rates.shape[2]
