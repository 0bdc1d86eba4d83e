"""What all searches by fine-tuning share: the loss and its teacher, and how long a stage is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.data.read import read
from spikformer_deploy.optimization.stages import LEAST_EPOCHS, UPDATES, Kind, Search, Tuning, _loss


def search(model: Path, folder: Path, count: int, **options: object) -> Search:
    """A search of so many images of zeros, which is not run."""
    loaded = load(model)
    images = read((np.zeros((count, 1, 8, 8), np.uint8), np.zeros(count, np.int64)), loaded.preprocess)
    tuning = Tuning(folder, "loihi2", 0.5, None, None, 32, 1e-3, 0, None, lambda *_: None)
    return Search("sparser", loaded, images, images, 0.0, replace(tuning, **options))


@pytest.mark.parametrize(
    ("count", "epochs", "batches"),
    [(64, None, UPDATES), (32 * UPDATES, None, LEAST_EPOCHS * UPDATES), (64, 0.5, 1), (64, 3.0, 6), (64, 0.01, 1)],
)
def test_a_stage_has_enough_batches_unless_epochs_are_told(
    count: int, epochs: float | None, batches: int, tiny: Path, tmp_path: Path
) -> None:
    assert search(tiny, tmp_path, count, epochs=epochs).steps == batches


def test_half_of_the_loss_is_against_the_teacher() -> None:
    """Against the formula, in double precision; what stands beside it is added at the setting of the stage."""
    torch.manual_seed(0)
    student, teacher, x, y = nn.Linear(3, 4), nn.Linear(3, 4), torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        log = student(x).double().log_softmax(1)
        told = teacher(x).double().softmax(1)
    expected = -(log[range(5), y] + (told * log).sum(1)).mean() / 2
    plain = Kind("T", lambda _: None, None, None)
    loss = _loss(student, teacher, (x, y), plain, 2.0)
    torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-6, atol=1e-6)
    priced = replace(plain, beside=lambda sent, setting: torch.tensor(float(len(sent)) + setting))
    torch.testing.assert_close(_loss(student, teacher, (x, y), priced, 2.0), loss + 2.0)


def test_another_teacher_makes_another_search(tiny: Path, tmp_path: Path) -> None:
    ours = search(tiny, tmp_path, 64)
    assert search(tiny, tmp_path, 64, teacher=load(tiny)).identity == ours.identity
    assert search(tiny, tmp_path, 64, teacher=load(tiny, time_steps=3)).identity != ours.identity


def test_a_teacher_of_other_images_is_refused(tiny: Path, tmp_path: Path) -> None:
    images = (np.zeros((8, 1, 8, 8), np.uint8), np.zeros(8, np.int64))
    with pytest.raises(ModelError, match=r"^teacher: it takes other images than the model, or knows other classes"):
        sd.make_sparser(tiny, images, images, folder=tmp_path / "out", teacher="digits-v2")
    with pytest.raises(InputError, match=r"^model: it is a Linear, no checkpoint"):
        sd.make_sparser(tiny, images, images, folder=tmp_path / "out", teacher=nn.Linear(1, 1))
    assert not (tmp_path / "out").exists()
