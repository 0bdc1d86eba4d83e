"""Sparser spikes: what is tried next, a run that goes on, and what comes out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import spikformer_deploy as sd
from spikformer_deploy.accounting.target import NEURO_CORES
from spikformer_deploy.base.errors import InputError, ModelError, QuantizeError
from spikformer_deploy.converters.checkpoints.read import Loaded, load
from spikformer_deploy.data.digits import digits
from spikformer_deploy.optimization import sparser, stages
from spikformer_deploy.optimization.sparser import FIRST_WEIGHT, LARGEST_WEIGHT, next_weight
from spikformer_deploy.optimization.stages import Tried, Tuned, cheapest

Images = tuple[np.ndarray, np.ndarray]


def images(split: str, count: int) -> Images:
    pixels, labels = digits(split)
    return pixels[:count, None], labels[:count]


def tried(*stages: tuple[float, bool]) -> list[Tried]:
    rows = enumerate([(0.0, True), *stages])
    return [Tried(i, weight, i > 0, 0.9, holds, 1.0, 10.0 - i, 1.0, 1.0, f"{i}") for i, (weight, holds) in rows]


def test_weights_double_until_one_does_not_hold_and_then_lie_between() -> None:
    assert next_weight(tried())[0] == FIRST_WEIGHT
    assert next_weight(tried((1.0, True)))[0] == 2.0
    rows = tried((1.0, True), (2.0, True), (4.0, False))
    weight, before = next_weight(rows)
    assert weight == pytest.approx(8**0.5)
    assert before is rows[2]
    rows = tried((1.0, True), (2.0, True), (4.0, False), (8**0.5, False))
    assert next_weight(rows)[0] == pytest.approx(2 * 2**0.25)
    assert next_weight(tried((2.0, True), (2.3, False))) is None
    assert next_weight(tried((LARGEST_WEIGHT, True))) is None
    assert next_weight(tried(), 0.25, 0.5)[0] == 0.25
    assert next_weight(tried((0.25, True)), 0.25, 0.5)[0] == 0.5
    assert next_weight(tried((0.25, True), (0.5, True)), 0.25, 0.5) is None
    # nothing holds: smaller ones, until training itself costs too much
    rows = tried((1.0, False))
    weights = []
    while (found := next_weight(rows)) is not None:
        weights.append(found[0])
        rows = tried(*((w, False) for w in (1.0, *weights)))
        assert found[1].stage == 0
    assert weights == sorted(weights, reverse=True)
    assert next_weight(tried((4.0, False), (2.0, True)))[0] == pytest.approx(8**0.5)


def test_the_cheapest_that_holds_is_chosen() -> None:
    rows = tried((1.0, True), (2.0, True), (4.0, False))
    assert cheapest(rows).stage == 2
    assert cheapest([*rows[:2], replace(rows[2], dynamic_mj=20.0)]).stage == 1


@pytest.mark.long
def test_a_model_that_never_fires_is_refused(tiny: Path, tmp_path: Path) -> None:
    loaded = load(tiny)
    for name, value in loaded.module.state_dict().items():
        if "bn" in name and name.endswith(("weight", "bias")):
            value.zero_()
    with pytest.raises(ModelError, match="none of its neurons fires"):
        _sparser(loaded, tmp_path / "dead")


def _sparser(model: Path | Loaded, folder: Path, **options: object) -> Tuned:
    options = {"max_drop": 20.0, "epochs": 0.5, "batch": 32, "minutes": None, **options}
    return sd.make_sparser(model, images("train", 128), images("test", 60), folder=folder, **options)


TWO_STAGES = {"epochs": 2.0, "max_drop": 100.0, "largest_weight": 2 * FIRST_WEIGHT}


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Tuned]:
    """A model, and what two stages made of it."""
    model = load(tiny)
    return model, _sparser(model, tmp_path_factory.mktemp("whole") / "out", **TWO_STAGES)


@pytest.mark.long
def test_spikes_become_fewer(whole: tuple[Loaded, Tuned]) -> None:
    _, found = whole
    assert [row.setting for row in found.rows] == [0.0, FIRST_WEIGHT, 2 * FIRST_WEIGHT]
    assert found.rows[2].synops < found.rows[0].synops
    assert found.chosen == cheapest(list(found.rows))
    assert found.notes == ()


@pytest.mark.long
def test_a_killed_run_goes_on(
    whole: tuple[Loaded, Tuned],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spikformer_deploy.training.fit.KEEP_SECONDS", 0)

    def stop(done: int, total: int, note: str) -> None:
        if note.startswith("stage 2") and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _sparser(tiny, tmp_path / "killed", **TWO_STAGES, progress=stop)
    assert (tmp_path / "killed" / "stage-02.safetensors.resume").exists()
    first = []
    again = _sparser(tiny, tmp_path / "killed", **TWO_STAGES, progress=lambda done, *_: first.append(done))
    # 4 batches had been kept
    assert first[0] > 1
    assert [replace(row, seconds=0) for row in again.rows] == [replace(row, seconds=0) for row in whole[1].rows]
    assert again.checkpoint.read_bytes() == whole[1].checkpoint.read_bytes()
    # a third call only reads what is there
    assert _sparser(tiny, tmp_path / "killed", **TWO_STAGES).rows == again.rows


@pytest.mark.long
def test_what_is_saved_compiles_to_what_was_measured(whole: tuple[Loaded, Tuned], tiny: Path) -> None:
    model, found = whole
    # the original is as it was
    original = load(tiny).module.state_dict()
    assert all(torch.equal(value, original[key]) for key, value in model.module.state_dict().items())
    assert not model.module.training
    program = found.program
    of_128 = np.unique(np.linspace(0, 127, 64).astype(int))
    again = sd.compile(found.checkpoint, calibrate_on=images("train", 128)[0][of_128])
    assert again.network.digest() == program.network.digest()
    run = sd.run(program, images("test", 60))
    (energy,) = (e for e in run.energies if e.convention == "profile")
    chosen = found.chosen
    measured = (chosen.accuracy, chosen.synops, chosen.dynamic_mj, chosen.total_mj)
    assert measured == (run.accuracy, run.events.synops, energy.within(NEURO_CORES).nominal, energy.total.nominal)
    verdict = sd.verify(program, images("test", 20), model=found.model, backends=("reference",))
    assert verdict.backends == {"reference": True}
    assert found.model.training["sparser"]["setting"] == chosen.setting if chosen.stage else True


@pytest.mark.long
def test_no_time_leaves_the_original(tiny: Path, tmp_path: Path) -> None:
    found = _sparser(tiny, tmp_path / "out", minutes=1e-6)
    assert [row.stage for row in found.rows] == [0]
    original = load(tiny).module.state_dict()
    assert all(torch.equal(value, original[key]) for key, value in found.model.module.state_dict().items())


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda m, f: _sparser(m, f, max_drop=-1.0), r"^max_drop: -1.0 points of accuracy"),
        (lambda m, f: _sparser(m, f, epochs=0.0), r"^epochs: 0.0, and it is above 0"),
        (lambda m, f: _sparser(m, f, minutes=0.0), r"^minutes: 0.0, and it is above 0"),
        (lambda m, f: _sparser(m, f, batch=0), r"^batch: 0, and it is above 0"),
        (lambda m, f: _sparser(m, f, learning_rate=2.0), r"^learning_rate: 2.0, and it is above 0 and at most 1"),
        (lambda m, f: _sparser(m, f, seed=-1), r"^seed: -1"),
        (lambda m, f: _sparser(m, f, target="loihi9"), r"loihi9"),
        (
            lambda m, f: sd.make_sparser(m, images("train", 8)[0], images("test", 8), folder=f),
            r"^training_images: .*no la",
        ),
        (lambda m, f: sd.make_sparser(m, images("train", 8), images("test", 8)[0], folder=f), r"^validation_images: "),
        (lambda m, f: sd.make_sparser(torch.nn.Linear(1, 1), "digits", "digits", folder=f), r"^model: it is a Linear"),
    ],
)
def test_what_cannot_be_is_refused(
    call: Callable[[Path, Path], object], problem: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=problem):
        call(tiny, tmp_path / "out")


def test_the_folder_of_another_call_is_refused(tiny: Path, tmp_path: Path) -> None:
    _sparser(tiny, tmp_path, minutes=1e-6)
    with pytest.raises(InputError, match=r"sparser\.json: it is of another model, of other images or options"):
        _sparser(tiny, tmp_path, seed=1)
    (tmp_path / "sparser.json").write_text("{")
    with pytest.raises(InputError, match=r"sparser\.json: it is no readable list of stages"):
        _sparser(tiny, tmp_path)


def test_a_damaged_recipe_is_refused(tiny: Path, tmp_path: Path) -> None:
    model = load(tiny)
    recipe = {**model.training["recipe"], "optimiser": {"batch": "many"}}
    damaged = replace(model, training={**model.training, "recipe": recipe})
    with pytest.raises(InputError, match="model: the recipe in its file is damaged"):
        _sparser(damaged, tmp_path / "out")


def test_integer_neurons_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model: it has no LIFs"):
        sd.make_sparser("digits-levels", "digits", "digits", folder=tmp_path)


def test_a_stage_that_no_integers_hold_is_a_row_that_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = stages.compile_model
    made: list[Loaded] = []

    def refusing(model: Loaded, *arguments: object, **options: object) -> object:
        made.append(model)
        if len(made) > 1:
            raise QuantizeError("fc1", "too large")
        return compiled(model, *arguments, **options)

    monkeypatch.setattr(stages, "compile_model", refusing)
    monkeypatch.setattr(sparser, "SMALLEST", 1.0)
    found = _sparser(tiny, tmp_path / "out", epochs=0.3)
    assert [row.refused for row in found.rows] == ["", "fc1: too large"]
    assert (found.rows[1].accuracy, found.rows[1].holds) == (None, False)
    assert found.chosen.stage == 0
