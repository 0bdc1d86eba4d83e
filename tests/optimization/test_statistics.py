"""Statistics of normalisation: a model of another scale computes the same, and can be trained."""

import copy

import pytest
import torch
from support.models import SIBLINGS, SMALL, model_and_images
from torch import nn

from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.data.read import read
from spikformer_deploy.optimization.spike_cost import watched
from spikformer_deploy.optimization.statistics import with_statistics_of
from spikformer_deploy.training.supervised import NORMS


def rates(module: nn.Module, x: torch.Tensor) -> dict[str, float]:
    with torch.no_grad(), watched(module) as sent:
        module(x)
    return {name: float(spikes.mean()) for name, spikes in sent.items()}


@pytest.mark.parametrize("name", [*SMALL, "spikingformer"])
def test_what_the_module_computes_stays(name: str) -> None:
    module, images = model_and_images((SMALL | SIBLINGS)[name])
    norms = [layer for layer in module.modules() if isinstance(layer, NORMS)]
    with torch.no_grad():
        for layer in norms:
            # as if the weights were of another scale: a gain that makes up for wrong statistics
            factor = torch.rand(layer.num_features) * 10 + 5
            layer.weight *= factor
            layer.running_var.copy_((layer.running_var + layer.eps) * factor**2 - layer.eps)
    before = copy.deepcopy(module)
    changed = with_statistics_of(module, images)
    # nothing reaches the projection of a silent attention
    assert len(norms) - 1 <= len(changed) <= len(norms)
    in_old, in_new = rates(before, images), rates(module, images)
    assert in_new == pytest.approx(in_old, abs=2e-3)
    # in training it sends as much, where the old one does not
    in_training = rates(module.train(), images)
    assert sum(in_training.values()) == pytest.approx(sum(in_old.values()), rel=0.3)


def test_a_model_of_its_own_statistics_is_left_alone() -> None:
    model = load("digits-v2")
    state = {key: value.clone() for key, value in model.module.state_dict().items()}
    x = torch.from_numpy(model.preprocess.normalised(read("digits", model.preprocess, limit=128, split="train").pixels))
    assert with_statistics_of(model.module, x) == ()
    assert all(torch.equal(value, state[key]) for key, value in model.module.state_dict().items())


def test_the_bundled_cifar10_can_be_trained() -> None:
    """Its weights are stored as integers, under statistics that no batch has."""
    model = load("cifar10")
    x = torch.from_numpy(model.preprocess.normalised(read("drawn", model.preprocess, limit=16).pixels))
    before = rates(model.module, x)
    assert rates(copy.deepcopy(model.module).train(), x)["patch_embed.proj_lif1"] == 0
    assert len(with_statistics_of(model.module, x)) > 5
    assert rates(model.module, x) == pytest.approx(before, abs=1e-3)
    assert rates(model.module.train(), x)["patch_embed.proj_lif1"] == pytest.approx(
        before["patch_embed.proj_lif1"], rel=0.2
    )
