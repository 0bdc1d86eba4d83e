"""Fewer channels: those inside MLPs and stems that never fire, and on request those that matter least, go.

A channel that never fires adds nothing to any sum, so that without it all others do what they did: in floats but for
the order of sums, in integers exactly, where the scale groups of the two layers stay.  Whether they did is said.

What channels that fire tell the next layer, its other weights tell it from then on as well as they can, with a constant
in its bias, or out of the mean that the next normalisation takes off (refit.py).  Those go that are missed the least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikformer_deploy.accounting.target import NEURO_CORES
from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import check_output
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.converters.checkpoints.read import Loaded, load, save
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.inference.run import run
from spikformer_deploy.network.bounds import weighted_range
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import DECAY_BITS, Lif, LifKind
from spikformer_deploy.network.synapses import Conv, Window
from spikformer_deploy.nn.layers import MembraneMLP, Stem
from spikformer_deploy.nn.zoo import FAMILIES, build
from spikformer_deploy.optimization.refit import POSITIONS, as_maps, moments, without
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.sample import CALIBRATION_IMAGES
from spikformer_deploy.pipeline.stages import compile_model

BATCH = 64
"""Images that the float model takes at once."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The hidden channels of one layer.

    lif     the neurons that fire for them, by the name of their population
    before, after  how many there are; kept: which are left
    proven   gone: their integers reach no threshold, whatever the input (bounds of the program)
    silent   gone: neither the integers nor the float model fired on any of the images
    least    gone: they did fire, and matter least
    """

    lif: str
    before: int
    after: int
    kept: tuple[int, ...]
    proven: int
    silent: int
    least: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A program on the images: accuracy (None without labels), synaptic operations and mJ (neuro cores) an image."""

    accuracy: float | None
    synops: float
    dynamic_mj: float


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """What prune found.

    checkpoint  the file of the smaller model; model: what is in it
    cuts        a row a block: its MLP; stem: a row a layer inside the stem
    before, after  the programs on the images
    moved       populations whose integers of what is left are others than before, as a scale group changed; () where
                all spikes and accumulators of what is left are equal, if no channel that fired has gone
    """

    checkpoint: Path
    model: Loaded
    cuts: tuple[Cut, ...]
    stem: tuple[Cut, ...]
    before: Measured
    after: Measured
    moved: tuple[str, ...]


class _Hidden(NamedTuple):
    """A hidden layer: the layers in front of its neurons and behind them, by name, and these neurons."""

    into: str
    norm: str
    out: str
    norm_out: str
    lif: str


def prune(
    model: Loaded,
    images: ImageSet,
    *,
    output: str | Path,
    share: float = 0.0,
    stem_share: float = 0.0,
    target: str = "loihi2",
    progress: Progress = silent,
) -> Pruned:
    """Cut hidden channels of MLPs and of the stem away and write the smaller checkpoint, which loads as any.

    model       of a family whose layers may have widths of their own: Spikformer V1 and V2, Spikingformer
    images      what channels are judged by: those that the model learnt from
    output      the file of the smaller model
    share       of the hidden channels of each block that go at least: those first that never fire, then those without
                which the next layer's currents can be kept closest to what they are; 0: those that never fire alone
    stem_share  the same of each layer inside the stem
    target      a name of a profile or a TOML file
    progress    called with (images done, in all, a note)
    Raises ModelError for another family, InputError for no images, a share that makes no sense, and an output that
    cannot be written.
    """
    for option, value in (("--share", share), ("--stem-share", stem_share)):
        if not 0 <= value < 1:
            raise InputError(option, f"{value} of the channels", "Give 0 to below 1.")
    if not len(images):
        raise InputError("images", "there are none", "Give at least one.")
    check_widths(model)
    check_output(Path(output))
    images = images.of_classes(model.labels, model.config.num_classes)
    stem = list(_stem_layers(model.module.get_submodule("patch_embed")))
    blocks = list(_hidden_layers(model.module))
    program = _compiled(model, images, target)
    refitted = [layer.out for layer in stem if stem_share] + [layer.out for layer in blocks if share]
    fired, together = _inputs_of(model, images, [layer.out for layer in (*stem, *blocks)], refitted, progress)
    done = run(program, images)
    state = dict(model.module.state_dict())

    def cut(layer: _Hidden, share: float) -> Cut:
        active = done.events.populations[layer.lif].active
        assert active is not None
        proven = never_fires(program.network, layer.lif)
        quiet = proven | (~active.any((1, 2)) & ~fired[layer.out])
        gone = _all_but_one(quiet)
        count = min(int(share * gone.size), gone.size - 1)
        if count > gone.sum():
            weight = state[f"{layer.out}.weight"]
            gone, chosen, constant = without(_by_channel(weight), together[layer.out], gone, count)
            state[f"{layer.out}.weight"] = torch.from_numpy(chosen).reshape(weight.shape).to(weight.dtype)
            _add_constant(state, layer, constant)
        _cut(state, layer, gone)
        kept = tuple(np.flatnonzero(~gone).tolist())
        of_kind = (gone & proven, gone & quiet & ~proven, gone & ~quiet)
        return Cut(layer.lif, gone.size, len(kept), kept, *(int(which.sum()) for which in of_kind))

    of_stem = tuple(cut(layer, stem_share) for layer in stem)
    cuts = tuple(cut(layer, share) for layer in blocks)
    smaller = _built(model, state, [cut.after for cut in cuts], [cut.after for cut in of_stem])
    save(output, smaller.module, smaller.config, model.preprocess, model.labels, smaller.training, model.layer_bits)
    written = load(output)
    other = _compiled(written, images, target)
    kept = {cut.lif: np.array(cut.kept) for cut in (*of_stem, *cuts)}
    moved = moved_integers(program.network, other.network, kept)
    return Pruned(Path(output), written, cuts, of_stem, _measured(program, images), _measured(other, images), moved)


def never_fires(network: Network, name: str) -> NDArray[np.bool_]:
    """(C,) whether no input of the network makes a neuron of the channel fire: its potential stays below the threshold.

    False of stock neurons, of which nothing is claimed here.
    """
    neuron = network[name].neuron
    (projection,) = network.into(name)
    synapse = projection.synapse
    channels = network[name].shape[0]
    if not isinstance(neuron, Lif) or neuron.kind != LifKind.PROGRAMMABLE or not isinstance(synapse, Conv):
        return np.zeros(channels, bool)
    _, most = weighted_range(synapse.weight, network[projection.sources[0]].max_out)
    bias = neuron.bias.reshape(channels, -1).max(1)
    drive = (most << (synapse.shift + neuron.shift)) + bias
    potential = np.zeros(channels, np.int64)
    silent_so_far = np.ones(channels, bool)
    # the largest drive in every step: as long as it does not fire there is no reset, and all else is below it
    for _ in range(network.time_steps):
        potential = (potential * neuron.decay + neuron.round_up >> DECAY_BITS) + drive
        silent_so_far &= potential < neuron.fires_from
    return silent_so_far


def moved_integers(before: Network, after: Network, kept: Mapping[str, Int]) -> tuple[str, ...]:
    """Populations of `after` whose neurons or weights are not those of `before` less the channels that went.

    kept  by population: the channels of `before` that are left, ascending; all of the others
    """
    out = []
    kept = dict(kept)
    for population in after:
        old = before[population.name]
        former_into = before.into(population.name)
        # a pool has the channels of what it sees
        if former_into and isinstance(former_into[0].synapse, Window) and former_into[0].sources[0] in kept:
            kept.setdefault(population.name, kept[former_into[0].sources[0]])
        mine = kept.get(population.name, np.arange(old.shape[0]))
        same = _same_neurons(old.neuron, population.neuron, mine)
        for new, former in zip(after.into(population.name), former_into, strict=True):
            if isinstance(new.synapse, Conv) and isinstance(former.synapse, Conv):
                theirs = kept.get(new.sources[0], np.arange(former.synapse.weight.shape[1]))
                same &= np.array_equal(new.synapse.weight, former.synapse.weight[mine][:, theirs])
                same &= new.synapse.shift == former.synapse.shift
        if not same:
            out.append(population.name)
    return tuple(out)


def check_widths(model: Loaded) -> None:
    """Raise ModelError for a model whose MLPs and stem cannot have widths of their own."""
    if not FAMILIES[model.config.family].hidden_by_block or model.config.levels:
        titles = ", ".join(family.title for family in FAMILIES.values() if family.hidden_by_block)
        raise ModelError("model", "its MLPs are all of one width, or send integers", f"Give one of {titles}.")


def _same_neurons(before: object, after: object, kept: Int) -> bool:
    """Whether LIFs are equal but for channels that went; neurons of other kinds have nothing that a cut changes."""
    if not isinstance(before, Lif) or not isinstance(after, Lif):
        return True
    arrays = ((after.threshold, before.threshold[kept]), (after.bias, before.bias[kept]))
    return all(np.array_equal(*pair) for pair in arrays) and (after.decay, after.shift) == (before.decay, before.shift)


def _hidden_layers(module: nn.Module) -> Iterator[_Hidden]:
    """The hidden layers of the blocks, in their order."""
    blocks = module.get_submodule("block")
    for number, block in enumerate(blocks.children()):
        mlp = block.get_submodule("mlp")
        first, second = (getattr(mlp, name, unit) for name, unit in (("first", "fc1_{}"), ("second", "fc2_{}")))
        layer = "conv" if hasattr(mlp, first.format("conv")) else "linear"
        place = f"block.{number}.mlp."
        # a membrane shortcut has its neurons in front of the layers
        firing = second if isinstance(mlp, MembraneMLP) else first
        yield _between(place, first, second, firing, layer)


def _stem_layers(stem: nn.Module) -> Iterator[_Hidden]:
    """The hidden layers of a stem, in their order; of those whose channels are a residual's none."""
    if isinstance(stem, Stem):
        for inner in stem.inner_channels():
            yield _between("patch_embed.", inner.before, inner.behind, inner.lif)


def _between(place: str, first: str, second: str, firing: str, layer: str = "conv") -> _Hidden:
    """The hidden layer between two units of the module at `place`; firing: the unit that its neurons are of."""
    return _Hidden(
        into=place + first.format(layer),
        norm=place + first.format("bn"),
        out=place + second.format(layer),
        norm_out=place + second.format("bn"),
        lif=place + firing.format("lif"),
    )


def _compiled(model: Loaded, images: ImageSet, target: str) -> Program:
    calibration = images.pixels_in(slice(0, CALIBRATION_IMAGES))
    return compile_model(model, target, calibrate_on=calibration, check=False).program


@torch.no_grad()
def _inputs_of(
    model: Loaded, images: ImageSet, layers: list[str], refitted: list[str], progress: Progress
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, Float]]:
    """What layers see in the float model: by layer (C,) whether a channel ever fires, and moments of those refitted."""
    fired: dict[str, NDArray[np.bool_]] = {}
    together: dict[str, Float] = {}
    # a seed of its own: the same model and images give the same file
    generator = torch.Generator().manual_seed(0)

    def add(name: str, layer: nn.Module, x: Tensor) -> None:
        maps = as_maps(layer, x)
        fired[name] = fired.get(name, False) | maps.any(0).flatten(1).any(1).numpy()
        if name in refitted:
            positions = max(1, POSITIONS * len(maps) // (model.time_steps * len(images)))
            together[name] = together.get(name, 0.0) + moments(layer, maps, positions, generator)

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: add(name, layer, inputs[0]))
        for name, layer in ((name, model.module.get_submodule(name)) for name in layers)
    ]
    try:
        for first in range(0, len(images), BATCH):
            pixels = images.pixels_in(slice(first, min(first + BATCH, len(images))))
            model.module(torch.from_numpy(model.preprocess.normalised(pixels)))
            progress(min(first + BATCH, len(images)), len(images), "spikes of hidden channels")
    finally:
        for hook in hooks:
            hook.remove()
    return fired, together


def _all_but_one(quiet: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(C,) the channels that are quiet, but for the last one where all are: a layer without any is none."""
    gone = quiet.copy()
    gone[-1] &= not quiet.all()
    return gone


def _by_channel(weight: Tensor) -> Float:
    """(D, C, K) weights of a layer, of D outputs, C channels and K taps."""
    by_channel: Float = weight.detach().double().reshape(*weight.shape[:2], -1).numpy()
    return by_channel


def _add_constant(state: dict[str, Tensor], layer: _Hidden, constant: Float) -> None:
    """(D,) to each current, in the bias, or without one out of the mean that the normalisation behind it takes off."""
    bias, mean = f"{layer.out}.bias", f"{layer.norm_out}.running_mean"
    more = torch.from_numpy(constant)
    if bias in state:
        state[bias] = state[bias] + more.to(state[bias].dtype)
    else:
        state[mean] = state[mean] - more.to(state[mean].dtype)


def _cut(state: dict[str, Tensor], layer: _Hidden, gone: NDArray[np.bool_]) -> None:
    """Take channels out of a state_dict."""
    keep = torch.from_numpy(np.flatnonzero(~gone))
    state[f"{layer.out}.weight"] = state[f"{layer.out}.weight"][:, keep].contiguous()
    for key in [key for key in state if key.startswith((f"{layer.into}.", f"{layer.norm}."))]:
        if state[key].ndim:
            state[key] = state[key][keep].contiguous()


def _built(model: Loaded, state: dict[str, Tensor], hidden: list[int], stem_hidden: list[int]) -> Loaded:
    """The model with so many hidden channels a block, and so many in each layer inside the stem."""
    config = model.config
    usual = FAMILIES[config.family].stem_hidden
    assert usual is not None
    blocks, stem = tuple(hidden), tuple(stem_hidden)
    config = replace(
        config,
        hidden=() if set(blocks) == {config.mlp_ratio * config.dim} else blocks,
        stem_hidden=() if stem == usual(config) else stem,
    )
    module = build(config)
    module.load_state_dict(state)
    return replace(model, module=module.eval(), config=config)


def _measured(program: Program, images: ImageSet) -> Measured:
    found = run(program, images)
    (energy,) = (e for e in found.energies if e.convention == "profile")
    return Measured(found.accuracy, found.events.synops, energy.within(NEURO_CORES).nominal)
