"""Files of the Spike-driven Transformer V1 and of STAtten: what their arguments tell, and what must be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.executions import assert_equal_executions
from support.models import model_and_images

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.converters.checkpoints.read import Loaded, load
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.nn.zoo import build, named, recognise
from spikformer_deploy.pipeline.stages import compile_model

SMALL: dict[str, Any] = {"dim": 32, "depth": 1, "heads": 4, "time_steps": 3, "image_size": 16}
TOLD = [
    ("sdt1-2-256-dvs", {"dataset": "cifar10-dvs"}, {"form": "dvs"}),
    ("sdt1-2-256-dvs", {"dataset": "gesture"}, {"form": "gesture"}),
    ("sdt1-2-256-dvs", {"dataset": "cifar10-dvs-tet", "dvs_mode": False, "num_heads": 8}, {"form": "gesture"}),
    ("sdt1-2-256-dvs", {"pooling_stat": "0111"}, {"form": "gesture"}),
    ("sdt1-2-256-gesture", {"pooling_stat": "0011"}, {"form": "dvs"}),
    ("sdt1-2-256-gesture", {"TET": False}, {"form": "gesture"}),
    ("sdt1-2-256-dvs", {"TET": True}, {"form": "dvs"}),
    ("sdt1-2-256-gesture", {"dvs_mode": False, "pooling_stat": "0110"}, {"form": "gesture", "pooling": "0110"}),
    ("sdt1-2-256-dvs", {"dvs_mode": True, "img_size": 48}, {"form": "dvs", "image_size": 48}),
    ("sdt1-8-768", {"pooling_stat": "1111", "img_size": 288}, {"form": "imagenet", "image_size": 288}),
    ("sdt1-2-512", {"pooling_stat": "0110"}, {"form": "cifar", "pooling": "0110"}),
    ("sdt1-2-512", {"attention_mode": "SDT"}, {"form": "cifar", "attention": ""}),
    (
        "sdt1-2-512",
        {"attention_mode": "STAtten", "chunk_size": 2},
        {"form": "cifar", "attention": "statten", "chunk": 2},
    ),
]
"""Shapes, arguments, and what they tell."""


def meta_state(name: str, **changed: Any) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build(named(name, **changed)).state_dict()


@pytest.mark.parametrize(("name", "arguments", "told"), TOLD)
def test_arguments_tell_the_form(name: str, arguments: dict[str, Any], told: dict[str, Any]) -> None:
    recognised = recognise("file", meta_state(name), arguments)
    assert recognised is not None
    assert not recognised.choices
    config = replace(recognised.usual, **recognised.fields)
    assert {key: getattr(config, key) for key in told} == told
    guessed = config.per_step and not {"dataset", "dvs_mode"} & set(arguments)
    assert bool(recognised.notes) == guessed


REFUSED = [
    ("sdt1-2-512", {"attention_mode": "softmax"}, "attention_mode = 'softmax'"),
    ("sdt1-2-512", {"attention_mode": "STAtten"}, "chunk_size = None"),
    ("sdt1-2-512", {"attention_mode": "STAtten", "chunk_size": 0}, "chunk_size = 0"),
    ("sdt1-2-256-dvs", {"attention_mode": "SDT", "dvs_mode": True}, "pools q too"),
    ("sdt1-2-512", {"pooling_stat": "0011", "img_size": 2**20}, "img_size = 1048576"),
]


@pytest.mark.parametrize(("name", "arguments", "problem"), REFUSED)
def test_arguments_that_ask_for_something_else_are_refused(name: str, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        recognise("file", meta_state(name), arguments)


def saved(folder: Path, name: str, arguments: dict[str, Any] | None = None, **changed: Any) -> Path:
    """A small model in a file, with arguments of the training script or as its state_dict alone."""
    module, _ = model_and_images(named(name, **{**SMALL, **changed}))
    state = module.state_dict()
    path = folder / f"{name}.pth"
    torch.save(state if arguments is None else {"state_dict": state, "args": arguments}, path)
    return path


def test_a_bare_state_dict_must_be_told(tmp_path: Path) -> None:
    """Masks and attention over chunks, with a pool of neighbours or without: all have the same keys."""
    path = saved(tmp_path, "sdt1-2-256-dvs")
    with pytest.raises(ModelError, match="several models have its keys") as refused:
        load(path)
    assert "sdt1-2-256-dvs, sdt1-2-256-gesture, statten-2-256-dvs" in str(refused.value)
    for arch in ("sdt1-2-512", "v1-2-256-dvs"):
        with pytest.raises(InputError, match=f"--arch: '{arch}' is none of those"):
            load(path, arch=arch)
    for arch, told in {
        "sdt1-2-256-dvs": ("dvs", "", 1),
        "sdt1-2-256-gesture": ("gesture", "", 1),
        "statten-2-256-dvs": ("dvs", "statten", 4),
    }.items():
        config = load(path, arch=arch, time_steps=4).config
        assert (config.form, config.attention, config.chunk) == told
        assert (config.dim, config.depth, config.heads, config.num_classes) == (32, 1, 4, 10)
    # a data set of 7 classes is neither, whatever other arguments say
    other = saved(tmp_path, "sdt1-2-256-gesture", {"TET": False}, num_classes=7)
    with pytest.raises(ModelError, match="several models have its keys"):
        load(other)


def test_bytes_over_255_are_no_counts(tmp_path: Path) -> None:
    counts = load(saved(tmp_path, "sdt1-2-256-dvs", {"dataset": "cifar10-dvs"})).preprocess
    shares = load(saved(tmp_path, "sdt1-2-256-dvs", {"dataset": "cifar10-dvs-tet"})).preprocess
    frame = np.full((2, 64, 64), 3, np.uint8)
    assert (counts.size, counts.channels) == (64, 2)
    np.testing.assert_allclose(counts.normalised(frame), 3)
    np.testing.assert_allclose(shares.normalised(frame), 3 / 255)


def test_keys_of_learnt_time_constants_are_strict(tmp_path: Path) -> None:
    arguments = {"dataset": "gesture", "time_steps": 3}
    path = saved(tmp_path, "sdt1-2-256-gesture", arguments, plif=True)
    content = torch.load(path, weights_only=True)
    state = content["state_dict"]
    state["head_lif.w"] = torch.tensor(-1.0)
    state.pop("block.0.attn.attn_lif.w")  # which nothing reads
    torch.save(content, path)
    assert load(path).module.head_lif.tau == pytest.approx(1 + np.e)
    state.pop("block.0.attn.q_lif.w")
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"missing keys: block\.0\.attn\.q_lif\.w"):
        load(path)
    state["block.0.attn.q_lif.w"] = torch.tensor(-1e5)
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"block\.0\.attn\.q_lif\.w: a learnt time constant"):
        load(path)


def small(path: Path) -> Loaded:
    """The model in a file, for images as small as it was made for."""
    loaded = load(path)
    config = replace(loaded.config, image_size=SMALL["image_size"])
    return replace(loaded, config=config, preprocess=replace(loaded.preprocess, size=SMALL["image_size"]))


@pytest.mark.long
def test_learnt_time_constants_are_exact_where_they_halve(tmp_path: Path) -> None:
    arguments = {"dataset": "cifar10-dvs", "time_steps": 3}
    path = saved(tmp_path, "sdt1-2-256-dvs", arguments, plif=True)
    assert compile_model(small(path), check=False).program.network.exact
    content = torch.load(path, weights_only=True)
    content["state_dict"]["block.0.mlp.fc1_lif.w"] = torch.tensor(0.3)
    torch.save(content, path)
    assert not compile_model(small(path)).program.network.exact


@pytest.mark.long
@pytest.mark.parametrize("name", ["statten-2-512", "statten-2-256-dvs"])
def test_chunks_of_one_step_run_and_others_look_ahead(name: str, tmp_path: Path) -> None:
    """The threshold of an attention within a step is whole; with events it and the shortcut add up to 0, 1 and 2."""
    arguments = {"attention_mode": "STAtten", "chunk_size": 1, "time_steps": 4, "dataset": "cifar10-dvs"}
    loaded = small(saved(tmp_path, name, arguments, chunk=1, time_steps=4))
    network = compile_model(loaded).program.network
    side = SMALL["image_size"] // 4
    threshold = network["block.0.attn.attn_lif"].neuron.threshold
    assert np.unique(threshold).tolist() == [side * side if loaded.per_step else side]
    steps = (4,) if loaded.per_step else ()
    images = (
        np.random.default_rng(0).integers(0, 2 if steps else 256, (2, *steps, *loaded.input_shape)).astype(np.uint8)
    )
    record = [p.name for p in network]
    ours, plain, onnx = (e.execute(network, images, record=record) for e in (engine, reference, onnx_backend))
    assert_equal_executions(ours, plain)
    assert_equal_executions(ours, onnx)
    assert ours.spikes["block.0.attn.attn_lif"].any()
    if loaded.per_step:
        assert set(np.unique(ours.spikes["block.0.attn.add"])) == {0, 1, 2}
    ahead = small(saved(tmp_path, name, {**arguments, "chunk_size": 2}, chunk=2, time_steps=4))
    with pytest.raises(ModelError, match=r"block\.0\.attn.*not causal"):
        compile_model(ahead)
