"""Official checkpoints of the families beside Spikformer: recognised by keys and shapes, compiled, run everywhere."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.deep import some
from support.models import HIERARCHIES, RESFORMERS, SIBLINGS, model_and_images

from spikformer_deploy.base.errors import InputError, MappingError, ModelError, QuantizeError
from spikformer_deploy.converters.checkpoints.read import Loaded, load
from spikformer_deploy.converters.models import load as load_any
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.spiking_resformer import DualSpikeAttention
from spikformer_deploy.nn.zoo import build, published, recognise, stem_pooling
from spikformer_deploy.pipeline.program import from_bytes, to_bytes
from spikformer_deploy.pipeline.stages import compile_model

FAMILIES = {
    name: config
    for name, config in published().items()
    if config.family in ("spikingformer", "sdt1", "sdt2", "qkformer", "max-former", "ms-qkformer", "spiking-resformer")
}


@pytest.mark.parametrize("name", FAMILIES)
def test_published_sizes_are_recognised(name: str) -> None:
    config = FAMILIES[name]
    with torch.device("meta"):
        state = build(config).state_dict()
    state |= {key: torch.full(value.shape, 0.1) for key, value in state.items() if ".firing_rate_" in key}
    recognised = recognise(name, state, arguments_of(config) if config.family == "sdt1" else {})
    assert recognised is not None
    assert replace(recognised.usual, **recognised.fields) == config


def arguments_of(config: ModelConfig) -> dict[str, object]:
    """What the training script of a Spike-driven Transformer, or of a STAtten, says of a model."""
    of_chunks = {"attention_mode": "STAtten", "chunk_size": config.chunk} if config.attention else {}
    return {"pooling_stat": stem_pooling(config), "dvs_mode": config.form == "dvs", **of_chunks}


def saved(folder: Path, name: str) -> Loaded:
    """A small model of a family through a file as timm writes it, arguments and all."""
    config = (SIBLINGS | HIERARCHIES | RESFORMERS)[name]
    module, _ = model_and_images(config)
    arguments = argparse.Namespace(
        num_heads=config.heads,
        time_step=config.time_steps,
        **arguments_of(config),
    )
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    torch.save({"epoch": 1, "arch": name, "state_dict": state, "version": 2, "args": arguments}, folder / "m.pth.tar")
    loaded = load(folder / "m.pth.tar", heads=config.heads)
    assert replace(loaded.config, image_size=config.image_size) == config
    sized = replace(loaded.preprocess, size=config.image_size)
    return replace(loaded, config=config, preprocess=sized)


@pytest.mark.parametrize(
    "name", some(["sdt1-dvs"], ["sdt1-imagenet", "qkformer"], long=["spikingformer", "max-former", "resformer"])
)
def test_checkpoints_are_compiled_and_run(name: str, tmp_path: Path) -> None:
    """No pass flips a spike (compile checks), the program fits cores, and the executors agree."""
    loaded = saved(tmp_path, name)
    program = compile_model(loaded, "loihi2").program
    assert from_bytes(to_bytes(program), name).digest() == program.digest()
    steps = (loaded.config.time_steps,) if loaded.config.per_step else ()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2 if steps else 256, (2, *steps, *loaded.input_shape)).astype(np.uint8)
    record = [p.name for p in program.network]
    ours = engine.execute(program.network, images, record=record)
    for executor in (reference, onnx_backend):
        theirs = executor.execute(program.network, images, record=record)
        np.testing.assert_array_equal(ours.accumulators, theirs.accumulators)
        for population in record:
            np.testing.assert_array_equal(ours.spikes[population], theirs.spikes[population], err_msg=population)
            np.testing.assert_array_equal(ours.membranes[population], theirs.membranes[population])


@pytest.mark.long
def test_targets_of_binary_spikes_refuse_streams(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "spikingformer-dvs")
    with pytest.raises((QuantizeError, MappingError), match="stream"):
        compile_model(loaded, "loihi1", check=False)


def test_what_is_not_official_is_refused(tmp_path: Path) -> None:
    module, _ = model_and_images(SIBLINGS["qkformer"])
    state = module.state_dict()
    torch.save({**state, "stage1.0.extra": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(ModelError, match=r"unknown keys: stage1\.0\.extra"):
        load(tmp_path / "more.pth")
    del state["head.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ModelError, match=r"head\.weight: it is missing"):
        load(tmp_path / "less.pth")


@pytest.mark.parametrize("name", ["max-former", "max-former-dvs", "ms-qkformer-imagenet", "ms-qkformer-dvs"])
def test_only_time_steps_are_in_no_key(name: str, tmp_path: Path) -> None:
    """Heads are those of the official code, which reads no argument for them; T is an argument, an option, or usual."""
    form = HIERARCHIES[name].form
    heads = {"cifar": 8, "imagenet": 1, "dvs": 16}[form]
    state = build(replace(HIERARCHIES[name], heads=heads)).state_dict()
    torch.save(state, tmp_path / "bare.pth")
    usual = load(tmp_path / "bare.pth")
    assert (usual.config.heads, usual.time_steps) == (heads, 16 if form == "dvs" else 4)
    size = f"image_size = {usual.config.image_size}"
    assert [note.split(" is ")[0] for note in usual.notes] == [f"time_steps = {usual.time_steps}", size]
    assert load(tmp_path / "bare.pth", time_steps=2).time_steps == 2
    arguments = argparse.Namespace(num_heads=12, **{"T" if form == "dvs" else "time_step": 6})
    torch.save({"state_dict": state, "args": arguments}, tmp_path / "m.pth.tar")
    told = load(tmp_path / "m.pth.tar")
    assert (told.config.heads, told.time_steps) == (heads, 6)
    assert [note.split(" is ")[0] for note in told.notes] == [size]


def test_rates_that_are_none_are_refused(tmp_path: Path) -> None:
    """An attention divides by their roots: those of a model that never trained, or of one that fires nowhere."""
    state = model_and_images(RESFORMERS["resformer-cifar"])[0].state_dict()
    for value in (0.0, -0.5, 1.5, float("nan")):
        key = "layers.1.3.firing_rate_attn"
        forged = {**state, key: state[key].clone().index_fill_(2, torch.tensor([1]), value)}
        torch.save({"model": forged}, tmp_path / "r.pth")
        with pytest.raises(ModelError, match=r"layers\.1\.3\.firing_rate_attn: a firing rate of"):
            load(tmp_path / "r.pth")
    torch.save({"model": {"layers.0.0.firing_rate_x": torch.ones(1)}}, tmp_path / "r.pth")
    with pytest.raises(ModelError, match=r"it is missing from the state_dict"):
        load(tmp_path / "r.pth")


def test_images_are_of_the_size_that_the_user_says(tmp_path: Path) -> None:
    """No key tells it; attention of a SpikingResformer is scaled by the patches of an image."""
    file = tmp_path / "r.pth"
    state = model_and_images(RESFORMERS["resformer"])[0].state_dict()

    def seen(**options: int) -> tuple[int, int, set[int], bool]:
        loaded = load(file, **options)
        patches = {m.patches for m in loaded.module.modules() if isinstance(m, DualSpikeAttention)}
        return loaded.config.image_size, loaded.preprocess.size, patches, any("--image-size" in n for n in loaded.notes)

    torch.save({"model": state}, file)
    assert seen() == (224, 224, {28 * 28}, True)
    assert seen(image_size=48) == (48, 48, {6 * 6}, False)
    for option in ("img_size", "input_size"):
        torch.save({"model": state, "args": argparse.Namespace(**{option: 288})}, file)
        assert seen() == (288, 288, {36 * 36}, False)
        assert seen(image_size=48) == (48, 48, {6 * 6}, False)
    with pytest.raises(InputError, match=r"--image-size: images of 44 pixels .*\n  Give a multiple of 8"):
        load(file, image_size=44)
    with pytest.raises(InputError, match=r"image size = -16, and it must be 1 to .*\n  Give --image-size"):
        load(file, image_size=-16)


def test_models_that_tell_the_size_of_their_images_are_left_alone(tmp_path: Path) -> None:
    assert load("digits-v2", image_size=16).config.image_size == 16
    with pytest.raises(InputError, match="--image-size: the model learnt on images of 16x16"):
        load("digits-v2", image_size=32)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08\x3a\x00")
    with pytest.raises(InputError, match=r"--image-size: .* is an ONNX model, and the option is for official"):
        load_any(tmp_path / "m.onnx", image_size=32)


def test_learnt_time_constants_are_said_to_be_inexact(tmp_path: Path) -> None:
    module, _ = model_and_images(RESFORMERS["resformer-dvs"])
    torch.save({"model": module.state_dict()}, tmp_path / "r.pth")
    loaded = load(tmp_path / "r.pth", time_steps=2)
    assert (loaded.config.form, loaded.config.plif, loaded.preprocess.std) == ("dvs", True, (1 / 255,) * 3)
    assert any("image_size = 64 is the paper's default" in note for note in loaded.notes)
