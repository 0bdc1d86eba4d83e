"""What official files tell of a Spike-driven Transformer V1 or a STAtten, whose state_dicts are alike.

Their keys are the same.  The arguments of the training script say what the forward pass does; a bare state_dict says
nothing of it, and must be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.nn import keys
from spikformer_deploy.nn.family import ModelConfig, Recognise, Recognised
from spikformer_deploy.nn.keys import Tensors

POOLING = {"cifar": "0011", "imagenet": "1111", "dvs": "0011", "gesture": "0111"}
"""What the forms pool, as `pooling_stat` of the official script writes it."""
TALKING_HEADS = "block.0.attn.talking_heads.weight"
"""A key that no other family has."""
LEARNT = "head_lif.w"
"""A key of neurons with learnt time constants."""
POOLED_DATASETS = ("cifar10-dvs", "cifar10-dvs-tet", "ncaltech101")
"""Datasets for which the official scripts pool in the attention."""
MANY_CLASSES = 1000
"""As many classes as ImageNet's, or more, stand for its form where no argument tells the pooling."""
LARGEST_IMAGE = 1024
"""Pixels of a side that arguments of a file may ask for."""


def recogniser(published: Mapping[str, ModelConfig]) -> Recognise:
    """What `Family.recognise` is for this family, whose sizes are `published`."""

    def recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
        if TALKING_HEADS not in tensors:
            return None
        in_channels = keys.input_channels(tensors, "patch_embed.proj_conv.weight")
        hidden = keys.required(tensors, "block.0.mlp.fc1_conv.weight")
        fields = keys.sizes(tensors, "", hidden, in_channels)
        fields["depth"] = keys.count(tensors, "block")
        fields["heads"] = len(tensors[TALKING_HEADS])
        fields["plif"] = LEARNT in tensors
        form, notes = _form(fields, arguments)
        if not form or not arguments:
            del fields["form"]
            events = in_channels == 2
            choices = tuple(name for name, config in published.items() if config.per_step == events)
            return Recognised(fields, published[choices[0]], choices=choices)
        usual = next(config for config in published.values() if config.form == form)
        fields |= {"form": form, **_pooling(form, arguments), **_image_size(path, arguments)}
        return Recognised(fields | _attention(path, form, arguments), usual, notes)

    return recognise


def _form(fields: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """(form, what had to be assumed for it); "" where nothing tells the two of events apart."""
    pooling = arguments.get("pooling_stat")
    classes = fields["num_classes"]
    if fields["in_channels"] != 2:
        large = pooling == POOLING["imagenet"] if isinstance(pooling, str) else classes >= MANY_CLASSES
        return "imagenet" if large else "cifar", ()
    pooled = arguments.get("dvs_mode")
    if not isinstance(pooled, bool) and isinstance(arguments.get("dataset"), str):
        pooled = arguments["dataset"] in POOLED_DATASETS
    if isinstance(pooled, bool):
        return "dvs" if pooled else "gesture", ()
    by_pooling = {POOLING["dvs"]: "dvs", POOLING["gesture"]: "gesture"}.get(str(pooling), "")
    form = by_pooling or {10: "dvs", 11: "gesture"}.get(classes, "")
    told_by = f"pooling_stat {pooling}" if by_pooling else f"{classes} classes"
    data = "CIFAR10-DVS, which pools in its attention" if form == "dvs" else "DVS128 Gesture"
    return form, (f"it is taken for a model of {data}, by its {told_by}: its arguments name no dataset (--arch)",)


def _pooling(form: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    """The stem's pooling where it is another one than the form has."""
    pooling = arguments.get("pooling_stat")
    return {"pooling": pooling} if isinstance(pooling, str) and pooling != POOLING[form] else {}


def _image_size(path: str, arguments: Mapping[str, Any]) -> dict[str, int]:
    """The side of the images, where the arguments tell it."""
    side = arguments.get("img_size")
    if type(side) is not int:
        return {}
    if not 1 <= side <= LARGEST_IMAGE:
        raise ModelError(path, f"its arguments say img_size = {side}", f"It must be 1 to {LARGEST_IMAGE}.")
    return {"image_size": side}


def _attention(path: str, form: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The attention that the arguments name: only STAtten's script has a choice of it."""
    mode = arguments.get("attention_mode")
    if mode == "STAtten":
        chunk = arguments.get("chunk_size")
        if type(chunk) is not int or chunk < 1:
            raise ModelError(path, f"its arguments say chunk_size = {chunk!r}", "It must be a number of time steps.")
        return {"attention": "statten", "chunk": chunk}
    if mode == "SDT" and form == "dvs":
        problem = "its arguments say attention_mode = SDT, and STAtten's code then pools q too on event data"
        raise ModelError(path, problem, "Train with the code of the Spike-driven Transformer, which does not.")
    if mode not in (None, "SDT"):
        raise ModelError(path, f"its arguments say attention_mode = {mode!r}", "Known: STAtten, SDT.")
    return {}
