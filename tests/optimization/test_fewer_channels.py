"""Fewer channels with fine-tuning: which shares are tried, and what comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spikformer_deploy as sd
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.converters.checkpoints.read import Loaded, load
from spikformer_deploy.data.digits import digits
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors import reference
from spikformer_deploy.nn.zoo import FAMILIES
from spikformer_deploy.optimization import fewer_channels as searching
from spikformer_deploy.optimization.fewer_channels import next_share
from spikformer_deploy.optimization.prune import Pruned, prune
from spikformer_deploy.optimization.stages import Tried

Images = tuple[np.ndarray, np.ndarray]


def images(split: str, count: int) -> Images:
    pixels, labels = digits(split)
    return pixels[:count, None], labels[:count]


def tried(*rows: tuple[float, bool]) -> list[Tried]:
    return [Tried(i, share, i > 1, 0.9, holds, 1.0, 1.0, 1.0, 1.0, f"{i}") for i, (share, holds) in enumerate(rows)]


def test_silent_channels_first_and_then_shares_between() -> None:
    original = (0.0, True)
    assert next_share(tried(original)) == (0.0, tried(original)[0])
    assert next_share(tried(original, original))[0] == 0.5
    # it may be that integers moved and cost more than is allowed
    assert next_share(tried(original, (0.0, False)))[0] == 0.5
    assert next_share(tried(original, original, (0.5, True)))[0] == 0.75
    assert next_share(tried(original, original, (0.5, False)))[0] == 0.25
    assert next_share(tried(original, original, (0.5, True), (0.75, False))) is None
    assert next_share(tried(original, original, (0.5, True), (0.75, True))) is None
    rows = tried(original, original, (0.5, True))
    assert next_share(rows)[1] is rows[0]


def test_shares_that_are_given_are_tried_until_one_does_not_hold() -> None:
    shares = (0.25, 0.5)
    original = (0.0, True)
    assert next_share(tried(original), shares) == (0.25, tried(original)[0])
    rows = tried(original, (0.25, True))
    assert next_share(rows, shares) == (0.5, rows[0])
    assert next_share(tried(original, (0.25, False)), shares) is None
    assert next_share(tried(original, (0.25, True), (0.5, True)), shares) is None
    # the original is no share of 0
    assert next_share(tried(original), (0.0, 0.5))[0] == 0.0


def silenced(model: Path) -> Loaded:
    """The model with hidden channels that never fire: a gain of 0 and a bias below everything."""
    loaded = load(model)
    mlp = loaded.module.get_submodule("block.0.mlp")
    norm = next(child for name, child in mlp.named_children() if name in ("fc1_bn", "mlp1_bn"))
    with torch.no_grad():
        norm.weight[:5] = 0.0
        norm.bias[:5] = -1.0
    return loaded


@pytest.mark.long
def test_a_share_is_cut_and_compiles_to_what_was_measured(tiny: Path, tmp_path: Path) -> None:
    loaded = silenced(tiny)
    folder = tmp_path / "out"
    options = {"max_drop": 100.0, "epochs": 0.5, "batch": 32}
    found = sd.fewer_channels(loaded, images("train", 48), images("test", 30), folder=folder, **options)
    assert [row.setting for row in found.rows] == [0.0, 0.0, 0.5, 0.75]
    before = loaded.config.mlp_ratio * loaded.config.dim
    widths = [load(folder / row.checkpoint).config.hidden or (before,) for row in found.rows]
    assert widths[0] == (before,)
    assert widths[1][0] <= before - 5
    assert widths[2][0] <= before // 2
    assert widths[3][0] <= before // 4
    # those that never fire go without training, if integers that moved do not lose accuracy
    assert found.rows[1].trained or found.rows[1].accuracy >= found.rows[0].accuracy
    costs = [row.dynamic_mj for row in found.rows]
    assert found.chosen.dynamic_mj == min(costs) < costs[0]
    again = sd.compile(found.checkpoint, calibrate_on=images("train", 48)[0])
    assert again.network.digest() == found.program.network.digest()
    pixels = images("test", 30)[0]
    accumulators = reference.execute(again.network, pixels).accumulators
    assert np.array_equal(sd.run(found.program, pixels).accumulators, accumulators)
    assert sd.run(found.program, images("test", 30)).accuracy == found.chosen.accuracy
    # what was not cut is as it was
    assert loaded.config.hidden == ()
    again = sd.fewer_channels(loaded, images("train", 48), images("test", 30), folder=folder, **options)
    assert again.rows == found.rows


@pytest.mark.long
def test_shares_of_the_stem_are_not_those_of_blocks(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def told(model: Loaded, judging: ImageSet, **options: Any) -> Pruned:
        asked.append((options["share"], options["stem_share"]))
        return prune(model, judging, **options)

    monkeypatch.setattr(searching, "prune", told)
    options = {"max_drop": 100.0, "epochs": 0.5, "batch": 32, "shares": [0.5], "stems": True}
    found = sd.fewer_channels(tiny, images("train", 48), images("test", 30), folder=tmp_path / "out", **options)
    assert asked == [(0.0, 0.5)]
    assert [row.setting for row in found.rows] == [0.0, 0.5]
    before = load(tiny).config
    inside = FAMILIES[before.family].stem_hidden
    assert inside is not None
    widths = load(tmp_path / "out" / found.rows[1].checkpoint).config.stem_hidden
    assert all(after <= width // 2 for after, width in zip(widths, inside(before), strict=True))
    assert found.rows[1].synops < found.rows[0].synops


def test_families_of_one_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model: its MLPs are all of one width"):
        sd.fewer_channels("digits-levels", "digits", "digits", folder=tmp_path)
