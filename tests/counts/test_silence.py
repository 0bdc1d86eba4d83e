"""A dead model is exact too, and cheap: compile, run, verify and energy say that nothing fires."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import spikformer_deploy as sd
from spikformer_deploy.converters.models import Model
from spikformer_deploy.counts.silence import note_on_silence


def test_the_note_names_four_and_counts_the_others() -> None:
    assert note_on_silence([], 3) == ()
    (one,) = note_on_silence(["a"], 3)
    assert one == "neurons never fire on these images in 1 of 3 layers: a"
    (many,) = note_on_silence(list("abcdef"), 9, "the calibration images")
    assert many == "neurons never fire on the calibration images in 6 of 9 layers: a, b, c, d and 2 more"
    (all_of_them,) = note_on_silence(["a", "b"], 2)
    assert all_of_them.startswith("no neuron fires on these images, in any of 2 layers")


@pytest.fixture(scope="module")
def dead() -> Model:
    """digits-v2 whose normalization gives nothing any more, and that names no images to calibrate on."""
    loaded = replace(sd.load("digits-v2"), training={})
    for name, value in loaded.module.state_dict().items():
        if "bn" in name and name.endswith(("weight", "bias")):
            value.zero_()
    return loaded


def dies(notes: tuple[str, ...], images: str) -> bool:
    return any(note.startswith(f"no neuron fires on {images}, in any of") for note in notes)


@pytest.mark.long
def test_a_dead_model_says_so(dead: Model, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 17, (3, 1, 16, 16)).astype(np.uint8)
    compiled = sd.compile_model(dead, check=False)
    assert dies(compiled.notes, "random pixels")
    calibrated = sd.compile_model(dead, calibrate_on=pixels, check=False)
    assert dies(calibrated.notes, "the calibration images")
    assert dies(sd.run(compiled.program, pixels).notes, "these images")
    assert dies(sd.run(compiled.program, pixels, early_exit=1).notes, "these images")
    assert dies(sd.verify(compiled.program, pixels, model=dead).notes, "these images")
    assert dies(sd.energy(dead, pixels, conventions=["syops"]).notes, "these images")


@pytest.mark.long
def test_layers_that_random_pixels_do_not_wake_are_no_news(dead: Model) -> None:
    with torch.no_grad():
        dead.module.state_dict()["patch_embed.stages.0.down_bn.bias"].fill_(5.0)
    assert not any("fire" in note for note in sd.compile_model(dead, check=False).notes)
    pixels = np.zeros((2, 1, 16, 16), np.uint8)
    assert any(note.startswith("neurons never fire") for note in sd.run(sd.compile(dead, check=False), pixels).notes)
