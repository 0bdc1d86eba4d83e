"""Channels inside stems: those that never fire go without a trace, and of others the mean stays."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from support.deep import some
from support.models import SIBLINGS, SMALL, model_and_images
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.network.network import Network
from spikformer_deploy.nn.zoo import FAMILIES
from spikformer_deploy.optimization import prune as pruning
from spikformer_deploy.optimization.prune import Pruned
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model

TINY = {"dim": 16, "heads": 2, "image_size": 8, "time_steps": 2}
CASES = {name: replace(config, **TINY) for name, config in {**SMALL, **SIBLINGS}.items() if config.family != "sdt1"}
INSIDE = {
    "v1": [(f"proj_bn{a}", f"proj_conv{b}") for a, b in (("", 1), (1, 2), (2, 3))],
    "v2": [(f"stages.{stage}.bn1", f"stages.{stage}.conv2") for stage in (0, 1)],
    "spikingformer": [(f"block{i}_bn", f"block{i + 1}_conv") for i in range(4)],
}
"""Of each hidden layer of a stem the normalisation in front of its neurons, and the convolution behind them."""
MLPS = {
    "v1": ("fc1_bn", "fc2_linear"),
    "v2": ("fc1_bn", "fc2_conv"),
    "spikingformer": ("mlp1_bn", "mlp2_conv"),
}


class Case(NamedTuple):
    """A model whose first channels inside never fire, what pruning made of it, and both networks."""

    loaded: Loaded
    images: np.ndarray
    found: Pruned
    before: Network
    after: Network


def model_of(name: str) -> tuple[Loaded, np.ndarray, np.ndarray]:
    """A tiny model in which all hidden channels fire, images of it and labels."""
    config = CASES[name]
    module, _ = model_and_images(config)
    for norm, _ in hidden(module, config.family):
        nn.init.constant_(norm.bias, 1.5)
        norm.weight.data.clamp_(min=0.5)
    preprocess = Preprocess(3, config.image_size, (0.5,) * 3, (0.25,) * 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 3, config.image_size, config.image_size)).astype(np.uint8)
    return Loaded(module, config, preprocess, (), "0" * 64, {}, ()), images, rng.integers(0, config.num_classes, 6)


def hidden(module: nn.Module, family: str) -> list[tuple[nn.Module, nn.Module]]:
    """The normalisation in front of all hidden neurons, and the layer behind them."""
    places = [tuple(f"patch_embed.{name}" for name in pair) for pair in INSIDE[family]]
    places.append(tuple(f"block.0.mlp.{name}" for name in MLPS[family]))
    return [(module.get_submodule(norm), module.get_submodule(out)) for norm, out in places]


@pytest.fixture(scope="module", params=some((), long=("cifar", "v2", "spikingformer")))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    loaded, images, labels = model_of(request.param)
    with torch.no_grad():
        for norm, out in hidden(loaded.module, loaded.config.family):
            # with its weights: the threshold of one without would be the largest there is, and move bits of the layer
            norm.bias[0] = -3.0
            # thresholds are chosen for all weights of a scale group: these are 0 in integers, whatever is chosen
            out.weight[:, 0] *= 1e-5
    made: list[Program] = []

    def by_channel(model: Loaded, judging: ImageSet, target: str) -> Program:
        """As prune compiles, but for scale groups: those of many channels are cut elsewhere where some have gone."""
        pixels = judging.pixels_in(slice(0, len(judging)))
        compiled = compile_model(model, target, calibrate_on=pixels, granularity="channel", check=False)
        made.append(compiled.program)
        return compiled.program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "_compiled", by_channel)
        file = tmp_path_factory.mktemp("stems") / "smaller.safetensors"
        found = sd.prune(loaded, (images, labels), output=file)
    return Case(loaded, images, found, *(program.network for program in made))


def test_what_never_fires_goes_and_the_header_says_the_widths(case: Case) -> None:
    config = case.loaded.config
    usual = FAMILIES[config.family].stem_hidden
    assert usual is not None
    assert tuple(row.before for row in case.found.stem) == usual(config)
    assert len(case.found.stem) == len(INSIDE[config.family])
    for row in (*case.found.stem, *case.found.cuts):
        assert row.kept == tuple(range(1, row.before))
        assert (row.proven + row.silent, row.least, row.after) == (1, 0, row.before - 1)
    widths = tuple(row.after for row in case.found.stem)
    assert case.found.model.config == replace(config, hidden=(case.found.cuts[0].after,), stem_hidden=widths)
    assert case.found.after.synops <= case.found.before.synops
    # what was given is as it was
    assert config.stem_hidden == ()


def test_all_else_is_equal_in_floats_and_integers(case: Case) -> None:
    """Spikes of what is left, pools among them, up to the first layer whose integers moved, and else accumulators."""
    x = torch.from_numpy(case.loaded.preprocess.normalised(case.images))
    with torch.no_grad():
        torch.testing.assert_close(case.found.model.module(x), case.loaded.module(x), rtol=1e-4, atol=1e-5)
    names = [population.name for population in case.after if population is not case.after.output]
    before, after = (reference.execute(n, case.images, record=names) for n in (case.before, case.after))
    if not case.found.moved:
        np.testing.assert_array_equal(before.accumulators, after.accumulators)
    smaller = set()
    for name in names:
        if name in case.found.moved:
            break
        spikes = before.spikes[name]
        if spikes.shape != after.spikes[name].shape:
            assert not spikes[:, :, 0].any()
            spikes = spikes[:, :, 1:]
            smaller.add(name)
        np.testing.assert_array_equal(spikes, after.spikes[name], err_msg=name)
    assert case.found.stem[0].lif in smaller


@pytest.mark.long
def test_of_a_channel_that_fires_the_mean_current_stays(tmp_path: Path) -> None:
    """Twin of the convolution of means: currents of the whole model before and after, borders included."""
    loaded, images, labels = model_of("v2")
    found = sd.prune(loaded, (images, labels), output=tmp_path / "smaller.safetensors", stem_share=0.5)
    first = found.stem[0]
    assert first.after == first.before // 2
    assert first.least == first.before - first.after - first.proven - first.silent > 0
    assert [row.least for row in found.cuts] == [0]
    x = torch.from_numpy(loaded.preprocess.normalised(images))
    means = [_mean_of_second(model.module, x) for model in (loaded, found.model)]
    torch.testing.assert_close(*means, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_positions_that_are_drawn_give_the_same_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, images, labels = model_of("v2")
    every = sd.prune(loaded, (images, labels), output=tmp_path / "every.safetensors", stem_share=0.5)
    monkeypatch.setattr(pruning, "POSITIONS", 50)
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "again")]
    for file in files:
        sd.prune(loaded, (images, labels), output=file, stem_share=0.5)
    assert files[0].read_bytes() == files[1].read_bytes() != every.checkpoint.read_bytes()


def _mean_of_second(module: nn.Module, x: Tensor) -> Tensor:
    """(C,) what the normalisation behind the first stage's hidden layer is left with, mean over all positions."""
    norm = module.get_submodule("patch_embed.stages.0.bn2")
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _norm, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        module(x)
    hook.remove()
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    return seen[0].mean((0, 2, 3)) - norm.running_mean
