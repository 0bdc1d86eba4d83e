"""Fewer channels: what went changes nothing, or is said to; widths by block are loaded, saved and recognised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.deep import some
from support.models import SIBLINGS, SMALL, model_and_images
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.converters.checkpoints.read import Loaded, load, save
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.zoo import build
from spikformer_deploy.optimization.prune import Pruned, never_fires

CASES = {**SMALL, "spikingformer": SIBLINGS["spikingformer"]}


def model_of(config: ModelConfig) -> tuple[Loaded, np.ndarray, np.ndarray]:
    """A small model, images of it and labels."""
    module, _ = model_and_images(config)
    channels = config.in_channels
    preprocess = Preprocess(channels, config.image_size, (0.5,) * channels, (0.25,) * channels)
    steps = (config.time_steps,) if config.per_step else ()
    rng = np.random.default_rng(0)
    shape = (6, *steps, channels, config.image_size, config.image_size)
    images = rng.integers(0, 2 if steps else 256, shape).astype(np.uint8)
    labels = rng.integers(0, config.num_classes, 6)
    return Loaded(module, config, preprocess, (), "0" * 64, {}, ()), images, labels


def silence(module: nn.Module, channels: list[int]) -> None:
    """Hidden channels of the first block never fire: those of a gain of 0 and a bias below everything."""
    mlp = module.get_submodule("block.0.mlp")
    norm = next(child for name, child in mlp.named_children() if name in ("fc1_bn", "mlp1_bn"))
    with torch.no_grad():
        norm.weight[channels] = 0.0
        norm.bias[channels] = -1.0


def pruned(loaded: Loaded, images: np.ndarray, labels: np.ndarray, file: Path, **options: object) -> Pruned:
    return sd.prune(loaded, (images, labels), output=file, **options)


@pytest.mark.long
@pytest.mark.parametrize("name", some(("cifar", "spikingformer"), ("imagenet", "dvs", "v2")))
def test_channels_that_never_fire_go_without_a_trace(name: str, tmp_path: Path) -> None:
    """All spikes and accumulators of what is left are equal, in floats and in integers."""
    loaded, images, labels = model_of(CASES[name])
    channels = [0, 5, 17, 100]
    silence(loaded.module, channels)
    found = pruned(loaded, images, labels, tmp_path / "smaller.safetensors")
    (cut,) = found.cuts
    assert cut.before == 128
    assert cut.after == 128 - cut.proven - cut.silent
    assert cut.proven >= len(channels)
    assert cut.least == 0
    assert found.model.config.hidden == (cut.after,)
    x = torch.from_numpy(loaded.preprocess.normalised(images))
    with torch.no_grad():
        torch.testing.assert_close(found.model.module(x), loaded.module(x), rtol=1e-4, atol=1e-5)
    programs = [sd.compile(m, calibrate_on=images, check=False) for m in (loaded, found.model)]
    names = [p.name for p in programs[1].network if p is not programs[1].network.output]
    before, after = (reference.execute(p.network, images, record=names) for p in programs)
    silent = ~before.spikes[cut.lif].any((0, 1, 3, 4))
    assert silent[channels].all()
    if not found.moved:
        np.testing.assert_array_equal(before.accumulators, after.accumulators)
        for other in names:
            # of what is cut inside a stem test_prune_stems.py compares what is left
            if before.spikes[other].shape == after.spikes[other].shape:
                np.testing.assert_array_equal(before.spikes[other], after.spikes[other], err_msg=other)
    assert found.after.synops < found.before.synops


@pytest.mark.long
def test_scale_groups_that_stay_are_told_from_those_that_move(tmp_path: Path) -> None:
    loaded, images, labels = model_of(SMALL["v2"])
    silence(loaded.module, [3])
    by_channel = [sd.compile(m, calibrate_on=images, check=False, granularity="channel") for m in (loaded,)]
    assert never_fires(by_channel[0].network, "block.0.mlp.fc1_lif")[3]
    # the loudest channel decides the scales of its group: without it they move
    with torch.no_grad():
        loaded.module.get_submodule("block.0.mlp.fc1_conv").weight[3] *= 50
        loaded.module.get_submodule("block.0.mlp.fc1_bn").weight[3] = 1.0
        loaded.module.get_submodule("block.0.mlp.fc1_bn").bias[3] = -1e6
    found = pruned(loaded, images, labels, tmp_path / "smaller.safetensors")
    assert found.cuts[0].proven >= 1
    assert "block.0.mlp.fc1_lif" in found.moved


@pytest.mark.long
@pytest.mark.parametrize("name", ["cifar", "v2"])
def test_integers_are_equal_where_scale_groups_stay(name: str, tmp_path: Path) -> None:
    """Few channels have a scale each, and one that fires nothing and weighs nothing takes no bits from the others."""
    loaded, images, labels = model_of(replace(CASES[name], hidden=(7,)))
    mlp = loaded.module.get_submodule("block.0.mlp")
    with torch.no_grad():
        mlp.get_submodule("fc1_bn").bias[2] = -2.0
        for part, layer in mlp.named_children():
            if part in ("fc2_conv", "fc2_linear"):
                layer.weight[:, 2] = 0.0
    found = pruned(loaded, images, labels, tmp_path / "smaller.safetensors")
    assert (found.cuts[0].after, found.moved) == (6, ())
    programs = [sd.compile(m, calibrate_on=images, check=False) for m in (loaded, found.model)]
    names = [p.name for p in programs[1].network if p is not programs[1].network.output]
    before, after = (reference.execute(p.network, images, record=names) for p in programs)
    np.testing.assert_array_equal(before.accumulators, after.accumulators)
    for other in names:
        kept = np.delete(before.spikes[other], 2, 2) if other == found.cuts[0].lif else before.spikes[other]
        np.testing.assert_array_equal(kept, after.spikes[other], err_msg=other)


def test_a_bound_is_kept_by_the_largest_inputs() -> None:
    """Twin of the proof: a neuron that it clears does not fire at the largest drive in every step."""
    loaded, images, _ = model_of(SMALL["v2"])
    silence(loaded.module, [1, 2])
    network = sd.compile(loaded, calibrate_on=images, check=False).network
    proven = never_fires(network, "block.0.mlp.fc1_lif")
    neuron = network["block.0.mlp.fc1_lif"].neuron
    (into,) = network.into("block.0.mlp.fc1_lif")
    most = network[into.sources[0]].max_out
    for channel in range(len(proven)):
        drive = most * int(np.maximum(into.synapse.weight[channel].astype(int), 0).sum()) << into.synapse.shift
        bias, v, fires = int(np.ravel(neuron.bias.reshape(len(proven), -1)[channel]).max()), 0, False
        for _ in range(network.time_steps):
            v = (v * neuron.decay >> 12) + (drive << neuron.shift) + bias
            fires = fires or v >= int(neuron.threshold[channel])
        assert proven[channel] == (not fires)
    assert proven[[1, 2]].all()


@pytest.mark.long
@pytest.mark.parametrize("name", some(("cifar", "spikingformer"), ("imagenet", "dvs", "v2")))
def test_a_share_of_the_channels_goes(name: str, tmp_path: Path) -> None:
    loaded, images, labels = model_of(CASES[name])
    found = pruned(loaded, images, labels, tmp_path / "smaller.safetensors", share=0.5)
    (cut,) = found.cuts
    # all that never fire go, however many they are
    never = cut.proven + cut.silent
    assert cut.least == max(0, 64 - never)
    assert cut.after == 128 - never - cut.least
    assert cut.least > 0 or name == "dvs"
    assert found.after.synops < found.before.synops
    # the original is as it was
    assert loaded.config.hidden == ()
    again = load(found.checkpoint)
    stem = found.model.config.stem_hidden
    assert again.config == found.model.config == replace(loaded.config, hidden=(cut.after,), stem_hidden=stem)
    assert all(row.least == 0 for row in found.stem)
    state = found.model.module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.module.state_dict().items())


@pytest.mark.parametrize("name", ["cifar", "imagenet", "dvs", "spikingformer"])
def test_widths_by_block_are_recognised_in_a_bare_state_dict(name: str, tmp_path: Path) -> None:
    stem = (3, 8, 16, 5)[: 4 if name == "spikingformer" else 3]
    config = replace(CASES[name], depth=2, hidden=(7, 128), stem_hidden=stem)
    torch.manual_seed(0)
    module = build(config).eval()
    torch.save(module.state_dict(), tmp_path / "bare.pth")
    found = load(tmp_path / "bare.pth", heads=config.heads, time_steps=config.time_steps, image_size=config.image_size)
    assert found.config.hidden == (7, 128)
    assert found.config.stem_hidden == stem
    steps = (config.time_steps,) if config.per_step else ()
    x = torch.randn(1, *steps, config.in_channels, config.image_size, config.image_size)
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), module(x))
    # of one width for all nothing is said
    torch.save(build(replace(config, hidden=(), stem_hidden=())).state_dict(), tmp_path / "whole.pth")
    whole = load(tmp_path / "whole.pth", heads=config.heads, image_size=config.image_size).config
    assert whole.hidden == whole.stem_hidden == ()


def test_a_file_says_widths_where_there_are_some_only(tmp_path: Path) -> None:
    config = replace(SMALL["v2"], depth=2, hidden=(3, 9), stem_hidden=(5, 128))
    preprocess = Preprocess(3, 16, (0.5,) * 3, (0.25,) * 3)
    save(tmp_path / "a.safetensors", build(config), config, preprocess, (), {})
    assert load(tmp_path / "a.safetensors").config == config
    whole = replace(config, hidden=(), stem_hidden=())
    save(tmp_path / "b.safetensors", build(whole), whole, preprocess, (), {})
    assert b'hidden\\"' not in (tmp_path / "b.safetensors").read_bytes()
    assert load(tmp_path / "b.safetensors").config == whole


def test_widths_that_fit_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hidden: hidden channels of 2 blocks, and v2 has 1"):
        build(replace(SMALL["v2"], hidden=(3, 3)))
    with pytest.raises(InputError, match="hidden: sdt1 has one width for all"):
        build(replace(SIBLINGS["sdt1"], hidden=(3,)))
    with pytest.raises(InputError, match="stem_hidden: 3 widths in the stem, and that of v2 has 2"):
        build(replace(SMALL["v2"], stem_hidden=(3, 3, 3)))
    with pytest.raises(InputError, match="stem_hidden: the stem of sdt1 has none of its own"):
        build(replace(SIBLINGS["sdt1"], stem_hidden=(3,)))


def test_what_cannot_be_pruned_is_refused(tmp_path: Path) -> None:
    loaded, images, labels = model_of(SMALL["v2"])
    file = tmp_path / "out.safetensors"
    for share in (-0.1, 1.0):
        with pytest.raises(InputError, match=r"^share: "):
            pruned(loaded, images, labels, file, share=share)
        with pytest.raises(InputError, match=r"^stem_share: "):
            pruned(loaded, images, labels, file, stem_share=share)
    with pytest.raises(InputError, match=r"^images: there are no"):
        pruned(loaded, images[:0], labels[:0], file)
    other, pixels, classes = model_of(SIBLINGS["sdt1"])
    with pytest.raises(
        ModelError, match=r"^model: its MLPs .*\n  Give one of Spikformer V1, Spikformer V2, Spikingformer"
    ):
        pruned(other, pixels, classes, file)
    with pytest.raises(ModelError, match=r"^model: its MLPs are all of one width, or send integers"):
        sd.prune("digits-levels", "digits", output=file)
    assert not file.exists()


@pytest.mark.long
def test_every_channel_may_be_silent_and_one_stays(tmp_path: Path) -> None:
    loaded, images, labels = model_of(SMALL["v2"])
    silence(loaded.module, list(range(128)))
    found = pruned(loaded, images, labels, tmp_path / "out.safetensors")
    assert found.model.config.hidden == (1,)
