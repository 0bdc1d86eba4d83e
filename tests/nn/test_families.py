"""The table of families: each recognises only its checkpoints, and a new one is a module and one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.deep import thinned
from support.models import model_and_images
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.converters import models
from spikformer_deploy.nn import keys, zoo
from spikformer_deploy.nn.attention import ConvAttention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.layers import MLP, Block, add_unit, conv_bn_lif, repeated, token_mean
from spikformer_deploy.nn.lif import LIF


@pytest.mark.parametrize("name", thinned(zoo.published(), 4))
def test_one_family_recognises_a_state_dict(name: str) -> None:
    """So that the order of the table decides nothing."""
    config = zoo.named(name)
    with torch.device("meta"):
        state = zoo.build(config).state_dict()
    recognising = [n for n, f in zoo.FAMILIES.items() if f.recognise and f.recognise(name, state, {}) is not None]
    official = zoo.FAMILIES[config.family].recognise is not None
    assert recognising == ([config.family] if official else [])


def test_sizes_are_of_their_family() -> None:
    """The name in the table is the name in its sizes, and every size has a form that is supported."""
    for name, family in zoo.FAMILIES.items():
        assert {config.family for config in family.published.values()} == {name}
        assert {config.form for config in family.published.values()} == set(family.forms)
        assert set(family.pooling) <= set(family.forms)


# --- a family that is nowhere else -----------------------------------------------------------------------------------


class Toy(nn.Module):
    """One convolution of stride 4, blocks, a head: images (B, C, Y, X) -> logits (B, classes)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.time_steps = config.time_steps
        add_unit(self, "toy_{}", nn.Conv2d(config.in_channels, dim, 4, stride=4, bias=False), LIF())
        self.toys = nn.ModuleList(
            Block(ConvAttention(dim, config.heads), MLP(dim, config.mlp_ratio), norms=dim) for _ in range(config.depth)
        )
        self.head = nn.Linear(dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = conv_bn_lif(self, "toy_{}", repeated(x, self.time_steps))
        for block in self.toys:
            x = block(x)
        return self.head(token_mean(x).mean(0))


SMALLEST = ModelConfig("toy", "cifar", 1, 16, 2, 3, 3, 32, 10, mlp_ratio=2)


def recognise_toy(path: str, tensors: keys.Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    if "toy_conv.weight" not in tensors:
        return None
    hidden = keys.required(tensors, "toys.0.mlp.fc1_conv.weight")
    fields = keys.sizes(tensors, "cifar", hidden, keys.input_channels(tensors, "toy_conv.weight"))
    fields["depth"] = keys.count(tensors, "toys")
    return Recognised(fields, SMALLEST)


TOY = Family(
    title="Toy",
    forms=("cifar",),
    published={"toy-1-16": SMALLEST, "toy-2-16": replace(SMALLEST, depth=2)},
    build=Toy,
    recognise=recognise_toy,
)


@pytest.mark.long
@pytest.mark.parametrize("name", TOY.published)
def test_a_new_family_is_a_module_and_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its official state_dict to the classes of images, and no other file knows of it."""
    monkeypatch.setitem(zoo.FAMILIES, "toy", TOY)
    config = zoo.named(name)
    module, _ = model_and_images(config)
    file = tmp_path / "toy.safetensors"
    save_file(module.state_dict(), file)

    loaded = models.load(file)
    assert isinstance(loaded, models.Loaded)
    assert loaded.config == config
    assert [note.split(" = ")[0] for note in loaded.notes] == ["heads", "time_steps", "image_size"]
    assert isinstance(loaded.module, Toy)

    program = sd.compile(file)
    assert program.network["toy_lif"].shape == (16, 8, 8)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    run = sd.run(program, images)
    reference = sd.run(program, images, backend="reference")
    np.testing.assert_array_equal(run.accumulators, reference.accumulators)
    assert len({tuple(row) for row in run.accumulators}) == 4

    mean = np.array(loaded.preprocess.mean, np.float32)[:, None, None]
    std = np.array(loaded.preprocess.std, np.float32)[:, None, None]
    with torch.no_grad():
        logits = loaded.module(torch.from_numpy((images / np.float32(255) - mean) / std))
    assert (run.predictions == logits.argmax(1).numpy()).mean() >= 0.75


def test_a_new_family_is_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its line there is no such family; with it, errors list it and refuse what it has no choice of."""
    state = Toy(SMALLEST).state_dict()
    save_file(state, tmp_path / "toy.safetensors")
    with pytest.raises(sd.SpikdeployError, match="of no official checkpoint that is known here") as caught:
        models.load(tmp_path / "toy.safetensors")
    assert "Toy" not in str(caught.value)
    with pytest.raises(sd.SpikdeployError, match="there is no toy in the form 'cifar'"):
        zoo.build(SMALLEST)

    monkeypatch.setitem(zoo.FAMILIES, "toy", TOY)
    with pytest.raises(sd.SpikdeployError, match=r"no published size is called 'toy-3' *\n.*toy-1-16, toy-2-16"):
        zoo.named("toy-3")
    with pytest.raises(sd.SpikdeployError, match="there is no toy in the form 'dvs'"):
        zoo.build(replace(SMALLEST, form="dvs"))
    with pytest.raises(sd.SpikdeployError, match="the stem of toy has no choice of it"):
        zoo.build(replace(SMALLEST, pooling="0011"))
    save_file({"other.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(sd.SpikdeployError, match="of no official checkpoint") as caught:
        models.load(tmp_path / "other.safetensors")
    assert "Known: Spikformer V1, Spikingformer, Spike-driven Transformer V1, " in str(caught.value)
    assert "QKFormer, SpikingResformer, Spikformer and iSpikformer of SeqSNN, Toy." in str(caught.value)
    # its LayerNorms are read by no forward pass, and its FAMILY does not say that a file may lack them
    del state["toys.0.norm1.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(sd.SpikdeployError, match=r"missing keys: toys\.0\.norm1\.weight"):
        models.load(tmp_path / "less.safetensors")
