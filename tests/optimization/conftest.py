"""One thread for the trainings among these tests, and the model that they train further."""

from pathlib import Path

import pytest
import torch
from support.threads import threads

from spikformer_deploy.training.recipe import Augment, Data, Model, Optimiser, Recipe
from spikformer_deploy.training.supervised import train

# tiny models: threads would wait for each other most of the time
one_thread = threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows some digits."""
    file = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    recipe = Recipe(
        str(file),
        Model("v1", "cifar", 1, 16, 2, 2),
        Data("digits", 1, 8),
        Optimiser(epochs=2, batch=64, learning_rate=1e-3, warmup_epochs=0.2, ema=0.9),
        augment=Augment(shift=1),
    )
    torch.set_num_threads(1)
    train(recipe)
    return file
