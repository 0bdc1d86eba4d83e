"""Checkpoints come in as they are in the wild, and nothing in them is executed."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.executions import assert_equal_executions
from support.models import SMALL, model_and_images

from spikformer_deploy.base.errors import InputError, ModelError, SpikdeployError
from spikformer_deploy.converters.checkpoints.read import CIFAR10, _recognised, load, save
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.nn.zoo import build, named, published
from spikformer_deploy.pipeline.stages import compile_model

OFFICIAL = {
    "cifar": named("v1-4-384", dim=64, depth=1, heads=2),
    "imagenet": named("v1-8-512", dim=64, depth=1, heads=1, num_classes=10),
    "dvs": named("v1-2-256-dvs", dim=64, depth=1),
}


def test_ours_comes_back_with_everything(tmp_path: Path) -> None:
    config = SMALL["v2"]
    module = build(config)
    preprocess = Preprocess(3, 16, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    for name in ("a", "b"):
        save(tmp_path / name, module, config, preprocess, tuple("vwxyz"), {"seed": 3})
    loaded = load(tmp_path / "a")
    assert (loaded.config, loaded.preprocess, loaded.labels) == (config, preprocess, tuple("vwxyz"))
    assert loaded.training == {"seed": 3}
    assert not loaded.module.training
    for key, value in module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[key], value), key
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.long
def test_pooling_comes_back_and_runs_in_integers(tmp_path: Path) -> None:
    """Early pooling, in the CIFAR form: the compiled program has its tokens, and the engine equals the reference."""
    config = replace(SMALL["cifar"], pooling="1100")
    module, _ = model_and_images(config)
    preprocess = Preprocess(3, 16, (0.5,) * 3, (0.25,) * 3)
    save(tmp_path / "early", module, config, preprocess, (), {})
    loaded = load(tmp_path / "early")
    assert loaded.config == config
    network = compile_model(tmp_path / "early").program.network
    assert network["patch_embed.proj_lif1"].shape == (8, 8, 8)
    assert network["patch_embed.proj_lif3"].shape == (32, 4, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16)).astype(np.uint8)
    names = [population.name for population in network]
    ours = engine.execute(network, pixels, record=names)
    plain = reference.execute(network, pixels, record=names)
    assert_equal_executions(ours, plain)
    assert ours.spikes["patch_embed.rpe_lif"].any()


def test_pooling_of_the_form_is_none_of_its_own(tmp_path: Path) -> None:
    """A header that says "0011" of a CIFAR form, that says nothing, or that is older than the field: one model."""
    module = build(SMALL["cifar"])
    preprocess = Preprocess(3, 16, (0.5,) * 3, (0.25,) * 3)
    for pooling in ("0011", ""):
        save(tmp_path / "model", module, replace(SMALL["cifar"], pooling=pooling), preprocess, (), {})
        assert load(tmp_path / "model").config == SMALL["cifar"]
    save(tmp_path / "bad", module, replace(SMALL["cifar"], pooling="2"), preprocess, (), {})
    with pytest.raises(InputError, match="pooling: '2' does not say"):
        load(tmp_path / "bad")
    assert load("digits-v1").config.pooling == ""


@pytest.mark.parametrize("form", OFFICIAL)
@pytest.mark.parametrize(
    "wrapper", ["bare", "timm", "ema", "parallel", "parallel in timm", "dvs trainer", "safetensors"]
)
def test_official_v1(tmp_path: Path, form: str, wrapper: str) -> None:
    config = OFFICIAL[form]
    state = build(config).state_dict()
    arguments = argparse.Namespace(num_heads=config.heads, T=config.time_steps, img_size=config.image_size)
    parallel = {f"module.{key}": value for key, value in state.items()}
    content = {
        "bare": state,
        "safetensors": state,
        "parallel in timm": {"epoch": 3, "state_dict": parallel, "args": arguments, "version": 2},
        "timm": {"epoch": 3, "state_dict": state, "optimizer": {}, "args": arguments, "version": 2},
        "ema": {"state_dict": {}, "state_dict_ema": state, "args": arguments},
        "parallel": parallel,
        "dvs trainer": {"model": state, "epoch": 3, "args": arguments, "max_test_acc1": 80.9},
    }[wrapper]
    if wrapper == "safetensors":
        save_file(content, tmp_path / "model.pth")
    else:
        torch.save(content, tmp_path / "model.pth")
    loaded = load(tmp_path / "model.pth")
    assert loaded.config == config
    with_arguments = wrapper in ("timm", "ema", "dvs trainer", "parallel in timm")
    # of event data the position embedding tells the size
    assert len(loaded.notes) == (0 if with_arguments else 2 + (form != "dvs"))
    assert torch.equal(loaded.module.state_dict()["head.weight"], state["head.weight"])


@pytest.mark.parametrize("name", [n for n, c in published().items() if c.family == "v1"])
def test_published_sizes_are_recognised(name: str) -> None:
    """From keys and shapes, with the paper's heads, T and images where a state_dict does not tell them."""
    with torch.device("meta"):
        state = build(named(name)).state_dict()
    config, notes = _recognised(Path(name), state, {}, None)
    assert config == named(name)
    assert len(notes) == 2 + (config.form != "dvs")


def test_what_no_forward_pass_reads_may_be_missing(tmp_path: Path) -> None:
    for form, config in OFFICIAL.items():
        state = build(config).state_dict()
        used = {key: value for key, value in state.items() if "norm" not in key and key != "pos_embed"}
        torch.save({"state_dict": used, "args": argparse.Namespace(T=2, num_heads=config.heads)}, tmp_path / form)
        assert load(tmp_path / form).config == replace(config, time_steps=2)


def test_what_the_arguments_and_shapes_tell_of_images(tmp_path: Path) -> None:
    arguments = argparse.Namespace(mean=[0.5, 0.4, 0.3], std=(0.2, 0.2, 0.1))
    torch.save({"state_dict": build(OFFICIAL["cifar"]).state_dict(), "args": arguments}, tmp_path / "a")
    assert load(tmp_path / "a").preprocess == Preprocess(3, 32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    torch.save(build(replace(OFFICIAL["dvs"], image_size=64)).state_dict(), tmp_path / "b")
    assert (load(tmp_path / "b").preprocess.size, load(tmp_path / "b").config.image_size) == (64, 64)
    torch.save(build(replace(OFFICIAL["cifar"], in_channels=1)).state_dict(), tmp_path / "c")
    loaded = load(tmp_path / "c")
    assert loaded.preprocess == Preprocess(1, 32, (0.0,), (1.0,))
    assert "no script normalises 1 channels" in loaded.notes[-1]


def test_options_win_over_the_paper(tmp_path: Path) -> None:
    torch.save(build(OFFICIAL["cifar"]).state_dict(), tmp_path / "model.pth")
    loaded = load(tmp_path / "model.pth", heads=4, time_steps=6)
    assert (loaded.config.heads, loaded.config.time_steps, loaded.preprocess) == (4, 6, CIFAR10)


class Payload:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_a_pickle_with_code_is_listed_and_never_run(tmp_path: Path) -> None:
    state = build(OFFICIAL["cifar"]).state_dict()
    torch.save({"state_dict": state, "extra": Payload(tmp_path / "executed")}, tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"would run code of the file: (posix|nt)\.system"):
        load(tmp_path / "model.pth")
    assert not (tmp_path / "executed").exists()


def state_with(**changes) -> dict[str, torch.Tensor]:
    """An official state_dict with some tensors replaced, or left out (None); "__" stands for "." in their keys."""
    state = dict(build(OFFICIAL["cifar"]).state_dict())
    for key, value in changes.items():
        state[key.replace("__", ".")] = value
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (state_with(head__weight=torch.full((10, 64), float("nan"))), "head.weight: .* not all finite"),
        (state_with(head__bias=torch.ones(10, dtype=torch.int64)), "head.bias: torch.int64 values"),
        (state_with(head__bias=torch.ones(11)), r"head.bias: its shape is \(11,\)"),
        (state_with(block__0__attn__q_linear__bias=None), "missing keys: block.0.attn.q_linear.bias"),
        (state_with(extra=torch.ones(1)), "unknown keys: extra"),
        ({"conv1.weight": torch.ones(1)}, "of no official checkpoint that is known here"),
        ({"model": torch.ones(3)}, "of no official checkpoint that is known here"),
    ],
)
def test_wrong_contents_are_named(tmp_path: Path, state: dict, message: str) -> None:
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "model.pth")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "ours", build(SMALL["cifar"]), SMALL["cifar"], CIFAR10, (), {})
    torch.save(build(OFFICIAL["cifar"]).state_dict(), tmp_path / "official")
    for name in ("ours", "official"):
        content = (tmp_path / name).read_bytes()
        for length in (0, 1, 8, 9, 100, len(content) // 2, len(content) - 1):
            (tmp_path / "cut").write_bytes(content[:length])
            with pytest.raises(SpikdeployError):
                load(tmp_path / "cut")
    with pytest.raises(InputError, match="there is no such file"):
        load(tmp_path / "missing")


def test_a_header_with_absurd_sizes_is_refused(tmp_path: Path) -> None:
    module = build(SMALL["cifar"])
    save(tmp_path / "huge", module, replace(SMALL["cifar"], dim=2**30), CIFAR10, (), {})
    with pytest.raises(InputError, match="dim = 1073741824"):
        load(tmp_path / "huge")


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "nowhere" / "model", build(SMALL["cifar"]), SMALL["cifar"], CIFAR10, (), {})
    assert list(tmp_path.iterdir()) == []
