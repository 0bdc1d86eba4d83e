"""Bits by layer are chosen on validation images: within the drop, the same every time, and what was run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.models import load
from spikformer_deploy.data.read import read
from spikformer_deploy.executors import reference
from spikformer_deploy.optimization.bits import ChosenBits, _filled, _losses, _path, _rise
from spikformer_deploy.pipeline.sample import Sample
from spikformer_deploy.pipeline.stages import float_graph
from spikformer_deploy.quantization.settings import Settings

CALIBRATION, VALIDATION = 64, 40

Images = tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]


def images_of(model: str | Path, validation: int) -> Images:
    """Images to calibrate on, and others with labels."""
    training = read("digits", load(model).preprocess, split="train", limit=CALIBRATION + validation)
    pixels = np.asarray(training.pixels)
    assert training.labels is not None
    return pixels[:CALIBRATION], (pixels[CALIBRATION:], training.labels[CALIBRATION:])


@pytest.fixture(scope="module")
def images(tiny: Path) -> Images:
    return images_of(tiny, VALIDATION)


@pytest.fixture(scope="module")
def lossless(tiny: Path, images: Images) -> ChosenBits:
    return sd.choose_bits(tiny, images[1], calibrate_on=images[0], max_drop=0.0)


def assert_was_run_and_holds(chosen: ChosenBits, model: str | Path, images: Images, max_drop: float) -> None:
    calibration, validation = images
    first, *others = chosen.tried
    assert first["layer_bits"] == {}
    assert others
    row = next(row for row in chosen.tried if row["layer_bits"] == chosen.layer_bits)
    assert row["accuracy"] == chosen.accuracy >= first["accuracy"] - max_drop / 100 - 1e-9
    assert row["memory_words"] < first["memory_words"]
    assert all(2 <= bits < 8 for bits in chosen.layer_bits.values())
    # the same program by the calls that a user has
    again = sd.compile(
        model, layer_bits=chosen.layer_bits, calibrate_on=calibration, rounding="calibrated", check=False
    )
    assert again.network.digest() == chosen.program.network.digest()
    assert again.mapping.words.sum() == row["memory_words"]
    assert sd.run(again, validation, timing="none").accuracy == chosen.accuracy


@pytest.mark.long
def test_what_is_chosen_was_run_and_holds(lossless: ChosenBits, tiny: Path, images: Images) -> None:
    assert_was_run_and_holds(lossless, tiny, images, 0.0)


@pytest.mark.deep
def test_what_is_chosen_with_a_drop_was_run_and_holds() -> None:
    images = images_of("digits-v1", 96)
    chosen = sd.choose_bits("digits-v1", images[1], calibrate_on=images[0], max_drop=1.1)
    assert_was_run_and_holds(chosen, "digits-v1", images, 1.1)


@pytest.mark.long
def test_twice_is_the_same(lossless: ChosenBits, tiny: Path, images: Images) -> None:
    notes: list[tuple[int, int, str]] = []
    again = sd.choose_bits(
        tiny, images[1], calibrate_on=images[0], max_drop=0.0, progress=lambda *step: notes.append(step)
    )
    assert again.layer_bits == lossless.layer_bits
    assert again.tried == lossless.tried
    assert again.damage == lossless.damage
    assert notes
    assert all(done <= steps for done, steps, _ in notes)


@pytest.mark.long
def test_images_without_labels_are_refused(tiny: Path, images: Images) -> None:
    with pytest.raises(InputError, match="data: validation images without labels"):
        sd.choose_bits(tiny, images[0])
    with pytest.raises(InputError, match="max_drop: -1 points"):
        sd.choose_bits(tiny, images[1], max_drop=-1)


@pytest.mark.long
def test_labels_that_the_model_has_not_are_refused(tiny: Path, images: Images) -> None:
    pixels, labels = images[1]
    with pytest.raises(InputError, match="10"):
        sd.choose_bits(tiny, (pixels, labels + 1), calibrate_on=images[0])


@pytest.mark.long
def test_what_is_remembered_is_what_would_be_rounded(tiny: Path, images: Images) -> None:
    """One layer's bits after the other, back and forth: the integers of a sample that remembers nothing."""
    loaded = load(tiny)
    graph, limits = float_graph(loaded), load_profile("loihi2").limits
    remembers, forgets = Sample(loaded, images[0], remember=True), Sample(loaded, images[0])
    for bits in ({}, {"head": 3, "block.0.mlp.fc1_linear": 4}, {"block.0.mlp.fc1_linear": 3}, {}):
        networks = [s.quantized(graph, limits, Settings(layer_bits=bits), "calibrated") for s in (remembers, forgets)]
        assert networks[0].digest() == networks[1].digest()


def test_the_loss_is_that_of_torch() -> None:
    network = program_of("digits-v1").network
    pixels, labels = (found[:8] for found in images_of("digits-v1", 8)[1])
    logits = reference.execute(network, pixels).accumulators.reshape(8, -1) * network.output.neuron.scale
    right = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none")
    np.testing.assert_allclose(_losses(network, pixels, labels), right.numpy(), rtol=1e-12, atol=1e-12)


def test_a_rise_has_its_standard_error_and_is_never_less_than_nothing() -> None:
    before = np.zeros(4)
    assert _rise(before, np.array([1.0, 1.0, 3.0, 3.0])) == 2 + 1 / 2
    assert _rise(before, np.array([-1.0, -1.0, -3.0, -3.0])) == 1 / 2
    assert _rise(before, before) == 0


def test_damage_between_what_was_probed_never_falls() -> None:
    filled = _filled({6: 1e-4, 4: 1e-2, 3: 5e-3}, 8)
    assert _filled({6: 1e-4, 4: 1e-2}, 8, 5) == {bits: filled[bits] for bits in (7, 6, 5)}
    assert list(filled) == [7, 6, 5, 4, 3, 2]
    assert list(filled.values()) == pytest.approx([2.5e-5, 1e-4, 1e-3, 1e-2, 1e-2, 2e-2])
    assert _filled({6: 0.0, 4: np.inf, 3: np.inf}, 8)[2] == np.inf
    assert _filled({3: 1.0, 2: np.inf}, 4) == {3: 1.0, 2: np.inf}


def test_the_path_lowers_what_saves_most_for_its_damage_first() -> None:
    """By hand: 'a' saves 10 words a bit, 'b' one; 'c' saves none with one bit less, and cannot have two less."""
    damage = {"a": {3: 1.0, 2: 100.0}, "b": {3: 1.0, 2: 2.0}, "c": {3: 0.1, 2: np.inf}}
    words = {"a": {4: 40, 3: 30, 2: 20}, "b": {4: 40, 3: 39, 2: 38}, "c": {4: 40, 3: 40, 2: 30}}
    assert _path(damage, words, 4, 3) == [{}, {"a": 3}, {"a": 3, "b": 3}]
    assert _path(damage, words, 4) == [{}, {"a": 3}, {"a": 3, "b": 3}, {"a": 3, "b": 2}, {"a": 2, "b": 2}]
