"""Official checkpoints of families of integer neurons: told apart, compiled, their integers kept, and run."""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.deep import some, thinned
from support.models import INTEGERS, model_and_images

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.converters.checkpoints.read import Loaded, load
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels
from spikformer_deploy.network.synapses import Conv
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.zoo import build, published, recognise
from spikformer_deploy.pipeline.stages import compile_model

FAMILIES = {name: config for name, config in published().items() if config.levels}
NAMES = {
    "gesture": "Efficient_Spiking_Transformer_scaling_2_8M_gesture",
    "dvs": "Efficient_Spiking_Transformer_scaling_8_19M",
}
"""Of the official models of event data, whose arguments alone say what integers are divided by."""
SMALL = replace(INTEGERS["qsd"], depth=1)

State = dict[str, torch.Tensor]


@pytest.mark.parametrize("name", thinned(FAMILIES, 3))
def test_published_sizes_are_recognised(name: str) -> None:
    config = FAMILIES[name]
    with torch.device("meta"):
        state = build(config).state_dict()
    recognised = recognise(name, state, {"model": NAMES.get(config.form)})
    assert recognised is not None
    assert replace(recognised.usual, **recognised.fields) == config


def saved(folder: Path, name: str, state: State | None = None) -> Loaded:
    """A small model of a family through a file as the official scripts write it."""
    config = replace(INTEGERS[name], depth=1)
    state = model_and_images(config)[0].state_dict() if state is None else state
    # models of images have no time axis, and scripts have a T all the same
    steps = config.time_steps if config.per_step else 8
    arguments = argparse.Namespace(model=NAMES.get(config.form, ""), time_steps=steps)
    torch.save({"model": state, "epoch": 1, "args": arguments}, folder / "checkpoint-best.pth")
    loaded = load(folder / "checkpoint-best.pth", heads=config.heads)
    assert replace(loaded.config, image_size=config.image_size) == config
    return replace(loaded, config=config, preprocess=replace(loaded.preprocess, size=config.image_size))


@pytest.mark.long
@pytest.mark.parametrize("name", some(["qsd"], [name for name in INTEGERS if name != "qsd"]))
def test_checkpoints_are_compiled_and_run(name: str, tmp_path: Path) -> None:
    """No pass changes an integer (compile checks), the program fits cores, and the executors agree."""
    loaded = saved(tmp_path, name)
    network = compile_model(loaded, "loihi2").program.network
    steps = (loaded.config.time_steps,) if loaded.config.per_step else ()
    images = (
        np.random.default_rng(0).integers(0, 2 if steps else 256, (2, *steps, *loaded.input_shape)).astype(np.uint8)
    )
    record = [population.name for population in network]
    ours = engine.execute(network, images, record=record)
    for executor in (reference, onnx_backend):
        theirs = executor.execute(network, images, record=record)
        np.testing.assert_array_equal(ours.accumulators, theirs.accumulators)
        for population in record:
            np.testing.assert_array_equal(ours.spikes[population], theirs.spikes[population], err_msg=population)
            np.testing.assert_array_equal(ours.membranes[population], theirs.membranes[population])
    if name == "qsd":
        check_integers(network, loaded)


def check_integers(network: Network, loaded: Loaded) -> None:
    """The 4-bit integers of every layer in front of integer neurons are those of the file, up to sign and divisor."""
    layers = dict(loaded.module.named_modules())
    kept = {
        "ConvBlock1_1.0.Conv.lif2": "ConvBlock1_1.0.Conv.pwconv1",
        "ConvBlock2_2.0.lif2": "ConvBlock2_2.0.conv1",
        "block3.0.mlp.fc2_spike": "block3.0.mlp.fc1_conv",
    }
    for neurons, layer in kept.items():
        weight = layers[layer].weight.detach().numpy()
        alpha = layers[layer].alpha.detach().numpy().reshape(-1, *(1,) * (weight.ndim - 1))
        assert (alpha < 0).any()
        official = np.rint(np.clip(weight / alpha, -8, 7)).astype(np.int64).reshape(len(weight), -1)
        assert {official.min(), official.max()} == {-8, 7}
        (projection,) = network.into(f"{neurons}.levels")
        assert isinstance(projection.synapse, Conv)
        ours = projection.synapse.weight.astype(np.int64).reshape(official.shape)
        divisors = np.gcd.reduce(official, axis=1)
        signs = np.sign((ours * official).sum(1))
        np.testing.assert_array_equal(ours * divisors[:, None] * signs[:, None], official)
    requantised = {p.name for p in network if isinstance(p.neuron, Levels) and p.rounding}
    assert requantised == {f"block3.0.attn.{n}_lif.levels" for n in "qkv"}
    assert any("rounded anew" in note for note in loaded.notes)


def test_unread_steps_may_hold_anything(tmp_path: Path) -> None:
    state = build(SMALL).state_dict()
    for key, value in state.items():
        if ".act." in key:
            value.fill_(torch.nan if "alpha" in key else torch.inf)
    del state["head.act.signed"]
    assert saved(tmp_path, "qsd", state).config == SMALL
    state["head.alpha"][0] = torch.nan
    with pytest.raises(ModelError, match=r"head\.alpha: .*not all finite"):
        saved(tmp_path, "qsd", state)


@pytest.mark.parametrize(
    ("key", "words"), [("block3.0.attn.q_conv.0.body.0.init_state", "never set"), ("head.alpha", "a step of zero")]
)
def test_untrained_steps_are_refused(key: str, words: str, tmp_path: Path) -> None:
    state = build(SMALL).state_dict()
    state[key][0] = 0
    with pytest.raises(ModelError, match=f"{re.escape(key)}: .*{words}"):
        saved(tmp_path, "qsd", state)


def test_what_a_file_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    """What integers are divided by on event data; D of the large ones; nothing of a QSD-Transformer."""
    config = INTEGERS["sdt3-hardvs"]
    torch.save(build(config).state_dict(), tmp_path / "events.pth")
    with pytest.raises(ModelError, match="--arch, one of sdt3-19m-hardvs, sdt3-8m-gesture"):
        load(tmp_path / "events.pth")
    assert load(tmp_path / "events.pth", arch="sdt3-8m-gesture").config.form == "gesture"
    torch.save(build(INTEGERS["sdt3-large"]).state_dict(), tmp_path / "large.pth")
    assert any("levels = 4 is the paper's default" in note for note in load(tmp_path / "large.pth", heads=4).notes)
    assert load(tmp_path / "large.pth", heads=4, levels=8).config.levels == 8
    told = {"model": build(INTEGERS["sdt3-large"]).state_dict(), "args": argparse.Namespace(D=8)}
    torch.save(told, tmp_path / "told.pth")
    assert load(tmp_path / "told.pth", heads=4, levels=8).config.levels == 8
    with pytest.raises(InputError, match="--levels: the arguments in the file say that integers go up to 8"):
        load(tmp_path / "told.pth", heads=4, levels=4)
    torch.save(build(SMALL).state_dict(), tmp_path / "qsd.pth")
    with pytest.raises(InputError, match=r"--levels: .* count to 4"):
        load(tmp_path / "qsd.pth", heads=4, levels=8)


def told(config: ModelConfig) -> str:
    recognised = recognise("m.pth", build(config).state_dict(), {"model": NAMES["dvs"]})
    assert recognised is not None
    return str(recognised.fields["family"])


def test_families_of_like_keys_are_told_apart() -> None:
    """QSD-Transformer has all keys of the second Spike-driven Transformer."""
    second = replace(published()["sdt2-8-384"], dim=32, heads=2, depth=3)
    assert told(second) == "sdt2"
    assert {name: told(config) for name, config in INTEGERS.items()} == {
        "sdt3-large": "sdt3-large",
        "qsd": "qsd",
        "sdt3-hardvs": "sdt3",
    }


def test_detectors_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model.26.dfl.conv.weight": torch.arange(16.0).reshape(1, 16, 1, 1)}, tmp_path / "yolo.pt")
    with pytest.raises(ModelError, match=r"it is a SpikeYOLO, .* maps of boxes and classes"):
        load(tmp_path / "yolo.pt")
