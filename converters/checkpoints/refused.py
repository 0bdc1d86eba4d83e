"""Official checkpoints of families that are known and not supported: each is refused by its name, with the reason."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from spikformer_deploy.base.errors import ModelError

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
