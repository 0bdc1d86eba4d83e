"""What a family of published models is: its sizes, the module of a size, and how its checkpoints are recognised.

A new family is a module beside this one that ends with a FAMILY, and one line in the table of zoo.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from spikformer_deploy.base.values import SAID_IF_SET
from spikformer_deploy.nn.keys import Tensors


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that defines a model but its weights.

    family       a name in zoo.FAMILIES: "v1", "v2" (Spikformer), "spikingformer", "sdt1", "sdt2", "sdt3", "sdt3-large"
                 (Spike-driven Transformer V1, V2, V3), "qsd" (QSD-Transformer), "qkformer", "max-former",
                 "ms-qkformer", "spiking-resformer", "seqsnn" (on time series)
    form         "cifar", "imagenet", "dvs" or "gesture": the layout of the official code for that kind of data;
                 "spikformer" or "ispikformer" of "seqsnn"
    depth        blocks; dim: channels of the last of them; heads: of each attention
    time_steps   T
    image_size   height and width of the (square) input, in pixels; "seqsnn": points of a window
    mlp_ratio    hidden channels of an MLP for each of its inputs
    hidden       "v1", "v2", "spikingformer": hidden channels of the MLP of each block, where they are fewer than
                 `mlp_ratio` says; (): as it says
    stem_hidden  channels inside the stem, where they are fewer than `dim` says; (): as it says.  "v1", "spikingformer":
                 of each convolution but the last; "v2": between the two of each stage
    stem_stages  stages of V2's stem, each halving the image
    distilled    "sdt2", "sdt3-large": there is a second head, of its distillation
    pooling      "v1", "sdt1": after which of the stem's four stages a 3x3 max-pooling halves the map ("0011": after
                 the last two); "": as the form has it.  No weight depends on it
    plif         "sdt1", "spiking-resformer": the neurons have learnt time constants, a weight each
    attention    "sdt1": "statten": attention over the tokens of all steps of a chunk (STAtten); "": masks, as its paper
    chunk        "sdt1" with "statten": steps of a chunk
    widths       channels of each stage, where they do not follow from `dim`
    levels       D, the largest integer that a neuron sends; 0: neurons send spikes
    rep_width    "sdt3-large": hidden channels of the two layers in front of each attention; 0: there are none
    encoder      "seqsnn": "conv", "delta" or "repeat", what makes spikes of values
    positions    "seqsnn": what becomes of spikes that mark positions: "" (none), "add" or "concat"
    position_neurons  how many mark a position
    in_channels of "seqsnn" are variables, and num_classes the outputs of its last layer: points that are forecast, of
    all variables ("spikformer") or of each one ("ispikformer")
    """

    family: str
    form: str
    depth: int
    dim: int
    heads: int
    time_steps: int
    in_channels: int
    image_size: int
    num_classes: int
    mlp_ratio: int = 4
    stem_stages: int = 4
    distilled: bool = False
    pooling: str = ""
    plif: bool = False
    attention: str = ""
    chunk: int = 1
    widths: tuple[int, ...] = ()
    levels: int = 0
    encoder: str = ""
    positions: str = ""
    position_neurons: int = 1
    rep_width: int = 0
    hidden: tuple[int, ...] = field(default=(), metadata={SAID_IF_SET: True})
    stem_hidden: tuple[int, ...] = field(default=(), metadata={SAID_IF_SET: True})

    def hidden_of(self, block: int) -> int:
        """Hidden channels of the MLP of that block, where all blocks have `dim` channels."""
        return self.hidden[block] if self.hidden else self.mlp_ratio * self.dim

    @property
    def per_step(self) -> bool:
        """Whether the input is a frame for every time step: event data, and series whose weights depend on the step."""
        return self.form in ("dvs", "gesture") or self.encoder in ("conv", "delta")


class Recognised(NamedTuple):
    """What an official state_dict tells, and what the rest is taken from.

    fields   of a ModelConfig, from keys, shapes and the arguments of the training script
    usual    the published configuration whose heads, time steps and image size are assumed where nothing tells them
    notes    what else had to be assumed
    choices  names of published configurations that have these keys and do other things: --arch must name one, and says
             all that is not in `fields`; empty where the file tells
    untold   further fields that no key tells, and the options that say them
    """

    fields: dict[str, Any]
    usual: ModelConfig
    notes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    untold: Mapping[str, str] = {}


Recognise: TypeAlias = Callable[[str, Tensors, Mapping[str, Any]], Recognised | None]
"""(place for errors, state_dict, arguments of the training script) -> what they tell; None for another family's keys.

Raises ModelError for a form that is not supported, and for keys of the family that are incomplete.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of published models, said in one place.

    title      for people
    forms      the official layouts that are supported
    published  sizes of the papers and of the official configurations, by name
    build      the module of a configuration in one of the forms, freshly initialised; in: images (B, C, Y, X), or
               frames (B, T, C, Y, X) where ModelConfig.per_step says so; out: logits (B, classes)
    recognise  None where there is no official code
    pooling    the value that ModelConfig.pooling has in each form; empty where the stem has no such choice
    hidden_by_block  whether ModelConfig.hidden is known there
    stem_hidden  ModelConfig.stem_hidden as `dim` says it; None: it is not known there
    unread     keys of parameters that no forward pass reads: a file may lack them
    """

    title: str
    forms: tuple[str, ...]
    published: Mapping[str, ModelConfig]
    build: Callable[[ModelConfig], nn.Module]
    recognise: Recognise | None = None
    pooling: Mapping[str, str] = field(default_factory=dict)
    unread: re.Pattern[str] | None = None
    hidden_by_block: bool = False
    stem_hidden: Callable[[ModelConfig], tuple[int, ...]] | None = None
