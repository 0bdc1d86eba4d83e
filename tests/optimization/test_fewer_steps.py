"""Fewer time steps: what is tried, when it is trained, and what comes out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import SMALL, model_and_images

import spikformer_deploy as sd
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.converters.checkpoints.read import Loaded, load
from spikformer_deploy.data.digits import digits
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.optimization import stages
from spikformer_deploy.optimization.fewer_steps import next_steps
from spikformer_deploy.optimization.spike_cost import watched
from spikformer_deploy.optimization.stages import Tried, Tuned

Images = tuple[np.ndarray, np.ndarray]


def images(split: str, count: int) -> Images:
    pixels, labels = digits(split)
    return pixels[:count, None], labels[:count]


def tried(*rows: tuple[int, bool]) -> list[Tried]:
    return [Tried(i, t, i > 0, 0.9, holds, 1.0, 1.0, 1.0, 1.0, f"{i}") for i, (t, holds) in enumerate(rows)]


@pytest.mark.parametrize("steps", [2, 3, 4, 7, 16])
def test_bisection_finds_the_fewest_that_hold(steps: int) -> None:
    """Whichever number that is; each goes on from the fewest that held so far."""
    for fewest in range(1, steps + 1):
        rows = [(steps, True)]
        while (found := next_steps(tried(*rows))) is not None:
            assert found[1].setting == min(t for t, holds in rows if holds)
            assert found[0] not in [t for t, _ in rows]
            rows.append((int(found[0]), found[0] >= fewest))
        assert min(t for t, holds in rows if holds) == fewest
        assert len(rows) <= 1 + int(np.ceil(np.log2(steps)))


def fewer(model: Path | Loaded, folder: Path, **options: object) -> Tuned:
    options = {"epochs": 0.5, "batch": 32, **options}
    return sd.fewer_steps(model, images("train", 48), images("test", 30), folder=folder, **options)


@pytest.mark.long
def test_the_checkpoint_compiles_to_the_program(tiny: Path, tmp_path: Path) -> None:
    """Of fewer steps, fine-tuned; its integers are the reference's, and a second call reads what is there."""
    found = fewer(tiny, tmp_path / "out", max_drop=100.0)
    assert [row.setting for row in found.rows] == [2.0, 1.0]
    assert found.model.time_steps == found.program.network.time_steps == 1
    assert found.chosen == found.rows[1]
    assert found.rows[1].synops < found.rows[0].synops
    again = sd.compile(found.checkpoint, calibrate_on=images("train", 48)[0])
    assert again.network.digest() == found.program.network.digest()
    pixels = images("test", 30)[0]
    accumulators = reference.execute(again.network, pixels).accumulators
    assert np.array_equal(sd.run(found.program, pixels).accumulators, accumulators)
    assert sd.run(found.program, images("test", 30)).accuracy == found.chosen.accuracy
    assert fewer(tiny, tmp_path / "out", max_drop=100.0).rows == found.rows
    assert found.model.training["fewer_steps"]["setting"] == 1


@pytest.mark.long
def test_spikes_that_cost_more_than_those_of_as_many_steps_are_in_the_loss(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's own cost nothing at its T, and as many at half its T once what they should be."""
    loss: dict[float, float] = {}

    def looked_at(search: stages.Search, kind: stages.Kind) -> Tuned:
        assert kind.beside is not None
        for share in (1.0, 0.5, 2.0):
            with torch.no_grad(), watched(search.model.module.eval()) as sent:
                search.model.module(search.some())
            loss[share] = float(kind.beside(sent, share * search.model.time_steps))
        return running(search, kind)

    running = stages.Search.run
    monkeypatch.setattr(stages.Search, "run", looked_at)
    fewer(tiny, tmp_path, max_drop=0.0)
    assert loss == {1.0: pytest.approx(0.0, abs=1e-6), 0.5: pytest.approx(1.0, abs=1e-5), 2.0: 0.0}


@pytest.mark.long
@pytest.mark.parametrize("wins", [True, False])
def test_training_is_for_what_loses_accuracy_and_kept_where_it_wins(
    wins: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracies as told: the original, T = 1 as it is, T = 1 trained."""
    told = iter([0.9, 0.5, 0.6 if wins else 0.4])
    running = stages.run
    monkeypatch.setattr(stages, "run", lambda *given: _Told(running(*given), next(told)))
    found = fewer(tiny, tmp_path, max_drop=45.0)
    (row,) = found.rows[1:]
    assert (row.accuracy, row.trained, row.holds) == ((0.6, True, True) if wins else (0.5, False, True))
    ours = load(tmp_path / row.checkpoint).module.state_dict()
    same = all(torch.equal(value, ours[key]) for key, value in load(tiny).module.state_dict().items())
    assert same is not wins


@pytest.mark.long
def test_what_loses_nothing_is_not_trained(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = stages.run
    monkeypatch.setattr(stages, "run", lambda *given: _Told(running(*given), 0.9))
    monkeypatch.setattr(stages, "fit", None)
    found = fewer(tiny, tmp_path, max_drop=0.0)
    assert [(row.setting, row.trained, row.holds) for row in found.rows] == [(2.0, False, True), (1.0, False, True)]


class _Told:
    """A run with another accuracy."""

    def __init__(self, run: sd.Run, accuracy: float) -> None:
        self.accuracy, self.events, self.energies = accuracy, run.events, run.energies


@pytest.mark.deep  # of every run is that of make_sparser, whose stages these are
def test_a_killed_stage_goes_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikformer_deploy.training.fit.KEEP_SECONDS", 0)
    # the original, T = 1 as it is, and trained; the killed call sees the first two, the one after it the others
    told = iter([0.9, 0.5, 0.6, 0.9, 0.5, 0.5, 0.6])
    running = stages.run
    monkeypatch.setattr(stages, "run", lambda *given: _Told(running(*given), next(told)))
    whole = fewer(tiny, tmp_path / "whole", epochs=5.0, max_drop=100.0)

    def stop(done: int, *_: object) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fewer(tiny, tmp_path / "killed", epochs=5.0, max_drop=100.0, progress=stop)
    first: list[int] = []
    again = fewer(tiny, tmp_path / "killed", epochs=5.0, max_drop=100.0, progress=lambda done, *_: first.append(done))
    assert first[0] > 1
    assert [replace(row, seconds=0) for row in again.rows] == [replace(row, seconds=0) for row in whole.rows]
    assert again.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_models_that_have_no_fewer_steps_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model: it has one time step"):
        fewer(load(tiny, time_steps=1), tmp_path / "out")
    config = SMALL["dvs"]
    module, _ = model_and_images(config)
    channels = config.in_channels
    preprocess = Preprocess(channels, config.image_size, (0.0,) * channels, (1.0,) * channels)
    loaded = Loaded(module, config, preprocess, (), "0" * 64, {}, ())
    shape = (8, config.time_steps, channels, config.image_size, config.image_size)
    frames = (np.zeros(shape, np.uint8), np.zeros(8, np.int64))
    with pytest.raises(ModelError, match="model: its images are frames"):
        sd.fewer_steps(loaded, frames, frames, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
