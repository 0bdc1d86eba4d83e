"""A training recipe: a TOML file, validated as a whole, every error with its path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
import cattrs
from attrs import field, frozen, validators

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import text_of
from spikformer_deploy.base.validation import problems, strict_converter
from spikformer_deploy.network.neurons import MOST_LEVELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_WEIGHTS = 2**31
"""Of the blocks of a model: the largest of the papers has a tenth of that."""
LARGEST_EXTENT = 2**15
"""Of what memory is taken for: more than any model of the papers has of anything."""
positive: Any = validators.gt(0)
not_negative: Any = validators.ge(0)
extent: Any = validators.and_(validators.gt(0), validators.le(LARGEST_EXTENT))
few: Any = validators.and_(validators.ge(0), validators.le(LARGEST_EXTENT))
share: Any = validators.and_(validators.ge(0), validators.lt(1))
probability: Any = validators.and_(validators.ge(0), validators.le(1))


@frozen
class Model:
    """The architecture; see nn.family.ModelConfig.  The form "dvs" takes event data, a frame for every time step."""

    family: str = field(validator=validators.in_(["v1", "v2"]))
    form: str = field(validator=validators.in_(["cifar", "imagenet", "dvs"]))
    depth: int = field(validator=extent)
    dim: int = field(validator=extent)
    heads: int = field(validator=extent)
    time_steps: int = field(validator=extent)
    mlp_ratio: int = field(default=4, validator=extent)
    stem_stages: int = field(default=4, validator=extent)
    levels: int = field(default=0, validator=validators.and_(validators.ge(0), validators.le(MOST_LEVELS)))
    pooling: str = field(default="", validator=validators.matches_re("([01]{4})?"))


@frozen
class Data:
    """What it is trained on: `source` as in data.read.read, with the size of its square images.

    test        the held-out images; by default the test split of `source`
    validation  number of training images that are kept apart and looked at after every epoch
    fraction    share of the images of each class that is trained on, always the same ones
    resize      images of any size, in a folder or zip: read when they are needed, the shorter side resized to that
                many pixels and the middle cut out; in training, a random part resized (augment.crop_share).  0: all
                images have the right size, and are kept in memory
    mean, std   one a channel, in units of the largest pixel; by default those of the images to train on
    workers     processes that prepare batches ahead of time (0: none); the result does not depend on it
    """

    source: str
    channels: int = field(validator=extent)
    size: int = field(validator=extent)
    test: str = ""
    validation: int = field(default=0, validator=not_negative)
    fraction: float = field(default=1.0, validator=validators.and_(validators.gt(0), validators.le(1)))
    resize: int = field(default=0, validator=few)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = field(default=(), validator=validators.deep_iterable(positive))
    workers: int = field(default=0, validator=few)


@frozen
class Augment:
    """What happens to a training image; each image its own way.

    flip            probability of a mirror image
    crop_padding    pixels of padding, from which a crop of the old size is taken
    shift           pixels, and rotate_degrees: bilinear, each up to that much
    erase           probability that a random rectangle (2 % to 33 %) is replaced by the mean colour
    randaugment     number of operations of RandAugment, of `magnitude` (0 to 10) +- `magnitude_spread`
    crop_share      least share of the area of an image that a random part has; of images with data.resize
    mixup, cutmix   alpha of their Beta distributions, 0: off; both are off from epoch `mix_epochs` on (0: never)
    """

    flip: float = field(default=0.0, validator=probability)
    crop_padding: int = field(default=0, validator=not_negative)
    shift: int = field(default=0, validator=not_negative)
    rotate_degrees: float = field(default=0.0, validator=not_negative)
    erase: float = field(default=0.0, validator=probability)
    crop_share: float = field(default=0.08, validator=validators.and_(validators.gt(0), validators.le(1)))
    randaugment: int = field(default=0, validator=not_negative)
    magnitude: float = field(default=9.0, validator=validators.and_(validators.ge(0), validators.le(10)))
    magnitude_spread: float = field(default=0.4, validator=not_negative)
    mixup: float = field(default=0.0, validator=not_negative)
    cutmix: float = field(default=0.0, validator=not_negative)
    mix_epochs: int = field(default=0, validator=not_negative)


@frozen
class Optimiser:
    """AdamW under a cosine schedule with warm-up; `ema` decays the average of the weights that is kept in the end.

    weight_bits    multiply with weights rounded to that many bits, as the compiler rounds them (0: not rounded)
    layer_decay    factor of the learning rate from one block to the one before it (fine-tuning)
    vector_factor  factor of the learning rate of biases and normalisation
    bf16           multiply in bfloat16 (autocast); weights, averages and the loss stay float32
    checkpointing  keep no activations inside the blocks, compute them again on the way back
    tensorboard    write what the log says for TensorBoard too
    """

    epochs: int = field(validator=positive)
    batch: int = field(validator=extent)
    learning_rate: float = field(validator=positive)
    weight_decay: float = field(default=0.05, validator=not_negative)
    warmup_epochs: float = field(default=0.0, validator=not_negative)
    label_smoothing: float = field(default=0.0, validator=share)
    ema: float = field(default=0.0, validator=share)
    layer_decay: float = field(default=1.0, validator=validators.and_(validators.gt(0), validators.le(1)))
    vector_factor: float = field(default=1.0, validator=positive)
    weight_bits: int = field(default=0, validator=validators.in_([0, 2, 3, 4, 5, 6, 7, 8]))
    bf16: bool = False
    checkpointing: bool = False
    tensorboard: bool = False
    seed: int = field(default=0, validator=not_negative)


@frozen
class Start:
    """What the weights are in the beginning.

    checkpoint  a file of an earlier training, of the same sizes; its time steps may be others
    encoder     such a file, of which all but the head is taken: what `pretrain` makes
    norm_gain   weight of every BatchNorm before a LIF. 1 leaves a unit normal current, of which decay and threshold
                let hardly a spike through in one step; tau * threshold makes the normalisation threshold-dependent
                (Zheng et al. 2021, arXiv 2011.05280, section "Threshold-Dependent Batch Normalization")
    """

    checkpoint: str = ""
    encoder: str = ""
    norm_gain: float = field(default=1.0, validator=positive)


@frozen
class Mask:
    """Masked pre-training: the share of patches that the encoder does not see, and the size of the ANN decoder."""

    ratio: float = field(default=0.6, validator=validators.and_(validators.gt(0), validators.lt(1)))
    decoder_dim: int = field(default=256, validator=extent)
    decoder_depth: int = field(default=4, validator=extent)
    decoder_heads: int = field(default=4, validator=extent)


@frozen
class Recipe:
    """A whole recipe; `output` is the checkpoint it makes.  Paths are relative to the working folder."""

    output: str
    model: Model
    data: Data
    optimiser: Optimiser
    augment: Augment = Augment()
    start: Start = Start()
    mask: Mask = Mask()


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file.  Raises InputError that lists everything that is wrong with it."""
    path = Path(path)
    try:
        raw: dict[str, Any] = tomllib.loads(text_of(path, "Examples: examples/digits_v2.toml."))
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"it is no readable TOML: {error}") from None
    try:
        recipe = strict_converter().structure(raw, Recipe)
    except cattrs.BaseValidationError as error:
        listed = "; ".join(problems(error))
        raise InputError(str(path), listed, "See examples/digits_v2.toml for a complete recipe.") from None
    model = recipe.model
    # before the model is built: queries, keys, values and the projection, and the two layers of the MLP
    weights = model.depth * model.dim**2 * (4 + 2 * model.mlp_ratio)
    if weights > MOST_WEIGHTS:
        raise InputError(str(path), f"{weights:,} weights in its blocks, and at most {MOST_WEIGHTS:,} are possible")
    return recipe


def describe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for the checkpoint's header."""
    return attrs.asdict(recipe)


def identity(recipe: Recipe) -> str:
    """What the result of a recipe depends on: what it says beyond the defaults, but not how fast batches are made."""
    same = attrs.evolve(recipe, data=attrs.evolve(recipe.data, workers=0))
    return str(cattrs.Converter(omit_if_default=True).unstructure(same))
