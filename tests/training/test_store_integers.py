"""A checkpoint stored as the integers of its program."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from store_integers import integers, main, network_of
from support.models import SMALL, model_and_images

from spikformer_deploy.converters.checkpoints.read import bundled, load, save
from spikformer_deploy.data.images import Preprocess


@pytest.mark.long
def test_the_program_keeps_its_integers_and_the_file_has_them(tmp_path: Path) -> None:
    config = replace(SMALL["imagenet"], time_steps=1, pooling="0111")
    module, _ = model_and_images(config)
    trained, stored = (str(tmp_path / name) for name in ("trained.safetensors", "stored.safetensors"))
    save(trained, module, config, Preprocess(3, 32, (0.5,) * 3, (0.25,) * 3), (), {"epochs": 3})
    done = CliRunner().invoke(main, [trained, stored])
    assert done.exit_code == 0, done.output
    after = load(stored)
    assert after.training == {"epochs": 3}
    network = network_of(after)
    assert integers(network)[:12] in done.output
    quantized = network.into("block.0.attn.q_lif")[0].synapse.weight
    weight = after.module.get_submodule("block.0.attn.q_conv").weight.detach().numpy().reshape(len(quantized), -1)
    np.testing.assert_array_equal(np.rint(weight), quantized.reshape(weight.shape))
    peaks = np.abs(weight).max(1, keepdims=True)
    assert ((weight == np.rint(weight)) | (np.abs(weight) == peaks)).all()


def test_the_model_in_the_box_is_stored_so() -> None:
    module = load(bundled("cifar10")).module
    for name in ("patch_embed.rpe_conv", "block.0.mlp.fc1_conv"):
        weight = module.get_submodule(name).weight.flatten(1)
        peaks = weight.abs().amax(1, keepdim=True)
        assert bool(((weight == torch.round(weight)) | (weight.abs() == peaks)).all())


@pytest.mark.long
def test_another_model_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(bundled("digits-levels")), str(tmp_path / "stored.safetensors")])
    assert done.exit_code == 2
    assert "Give a checkpoint of a Spikformer V1" in done.output
    assert not list(tmp_path.iterdir())
