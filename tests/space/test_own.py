"""Sweeps of code of one's own: rows are what the commands of a factory give, and folders know the code again."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from support import scene
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.api.given import models_by_name
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.progress import silent
from spikformer_deploy.cli.main import cli, main
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.space import study
from spikformer_deploy.space.axes import space_of
from spikformer_deploy.space.folder import RESULTS
from spikformer_deploy.space.own import of_factory, of_loaded, of_module
from spikformer_deploy.space.study import Study
from spikformer_deploy.space.sweep import sweep_space

NET = """
import torch
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.nn.lif import LIF


class Net(nn.Module):
    def __init__(self, channels, T):
        super().__init__()
        self.T = T
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.lif = LIF(v_threshold=0.2)
        self.head = nn.Linear(channels * 64, 10)
        self.preprocess = sd.Preprocess(1, 8, (0.3,), (0.4,))

    def forward(self, x):
        currents = self.conv(x).unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        return self.head(self.lif(currents).flatten(2)).mean(0)


def build(channels=2, T=4):
    return Net(channels, T)


def fixed(channels=2):
    return Net(channels, 3)


def says_nothing():
    model = Net(2, 3)
    del model.preprocess
    return model


def ignores(T=4):
    return Net(2, 3)
"""
AXES = ("--input", "digits", "--limit", "4", "--weight-bits", "8,3")
NOT_IN_A_ROW = ("predictions", "seconds", "peak_memory_mib")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the user's ournet.py in it, which is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "ournet.py").write_text(NET)
    yield tmp_path
    sys.modules.pop("ournet", None)


def swept(*arguments: str, folder: str = "sweep") -> Result:
    return CliRunner().invoke(cli, ["sweep", *arguments, *AXES, "-o", folder])


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_row_is_what_the_commands_of_the_factory_give(folder: Path) -> None:
    torch.manual_seed(1)
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    module = namespace["build"](3)
    torch.save(module.state_dict(), folder / "w.pth")
    done = swept("--factory", "ournet:build", "--arg", "channels=3", "--weights", "w.pth", "--time-steps", "1,2")
    assert done.exit_code == 0, done.output
    assert "without --weights" not in done.output
    rows = rows_in(folder / "sweep")
    assert [(row["model"], row["time_steps"], row["weight_bits"]) for row in rows] == [
        ("ournet:build", steps, bits) for steps in (1, 2) for bits in (3, 8)
    ]
    commands = [row["command"] for row in csv.DictReader(io.StringIO((folder / "sweep" / "results.csv").read_text()))]
    assert all("--factory ournet:build --arg channels=3 --arg T=2 --weights w.pth" in text for text in commands[2:])
    for row, command in ((rows[0], commands[0]), (rows[3], commands[3])):
        compiled, run = command.split(" && ")
        for words in (compiled, f"{run} -o run.json"):
            done = CliRunner().invoke(cli, shlex.split(words)[1:])
            assert done.exit_code == 0, done.output
        expected = json.loads((folder / "run.json").read_text())
        for name in NOT_IN_A_ROW:
            del expected[name]
        assert {name: row[name] for name in expected} == expected


@pytest.mark.long
def test_a_sweep_of_a_factory_goes_on_while_its_code_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert swept("--factory", "ournet:build", "--time-steps", "2").exit_code == 0
    whole = (folder / "sweep" / RESULTS).read_bytes()
    with monkeypatch.context() as nothing_runs:
        nothing_runs.setattr(study, "quantized", None)
        assert swept("--factory", "ournet:build", "--time-steps", "2").exit_code == 0
    assert (folder / "sweep" / RESULTS).read_bytes() == whole
    # more time steps are more points of the same folder
    assert swept("--factory", "ournet:build", "--time-steps", "1,2").exit_code == 0
    assert (folder / "sweep" / RESULTS).read_bytes().endswith(whole)
    for changed in (
        NET.replace("v_threshold=0.2", "v_threshold=0.25"),
        NET.replace("(0.3,), (0.4,)", "(0.3,), (0.5,)"),
        NET.replace("channels=2, T=4", "channels=3, T=4"),
    ):
        (folder / "ournet.py").write_text(changed + "\n" * len(changed))  # of another size: no stale bytecode
        del sys.modules["ournet"]
        done = swept("--factory", "ournet:build", "--time-steps", "2")
        assert "its rows are of another sweep: " in str(done.exception)
    assert swept("--factory", "ournet:build", "--time-steps", "2", folder="other").exit_code == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("function", "way_out"),
    [
        ("fixed", "Let fixed have an argument T or time_steps: each number of them is then given to it."),
        ("ignores", "Let ignores make a model of as many as its argument T says."),
    ],
)
def test_time_steps_that_a_model_cannot_have_are_rows_that_say_so(folder: Path, function: str, way_out: str) -> None:
    name = f"ournet:{function}"
    done = swept("--factory", name, "--time-steps", "2,3")
    assert done.exit_code == 0, done.output
    two, three = rows_in(folder / "sweep")[:2], rows_in(folder / "sweep")[2:]
    assert all("refused" not in row for row in three)
    for row in two:
        assert row["refused"].startswith(f"{name}: it is made for 3 time steps, and not for 2 (")
        assert row["refused"].endswith(way_out)
        assert "1000003" not in row["refused"]
    assert "4 points, 2 refused" in done.output
    assert f"refused: time steps 2, weight bits 3 and 1 more: {name}: it is made for 3 time steps" in done.output
    # and where no point can be, there is nothing to sweep
    done = swept("--factory", name, "--time-steps", "2", folder="none")
    assert isinstance(done.exception, ModelError)
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "give MODEL, or --factory module:function"),
        (("digits-v2", "--factory", "ournet:build"), "--factory makes the model: leave 'digits-v2' out"),
        (("space.toml", "--factory", "ournet:build"), "--factory makes the model: leave 'space.toml' out"),
        (("digits-v2", "--arg", "T=2"), "--arg and --weights are for --factory"),
        (("--factory", "ournet:build", "--heads", "2"), "--heads: give such settings to your function"),
        (("--factory", "ournet:build", "--levels", "2"), "--levels: give such settings to your function"),
        (("--factory", "ournet:built"), "ournet has no function 'built'"),
        (("--factory", "ournet.py:build"), "Write --factory ournet:build"),
        (("--factory", "ournet:build", "--arg", "depth=2"), "it has no argument depth"),
        (("--factory", "ournet:build", "--weights", "none.pth"), "none.pth"),
        (
            ("--factory", "ournet:build", "--arg", "T=2", "--time-steps", "1,2"),
            "--arg T: it is the number of time steps, which --time-steps",
        ),
        (("--factory", "ournet:says_nothing"), "in the factory, or give --calibrate."),
    ],
)
def test_what_is_wrong_is_one_message(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    problem: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["spikdeploy", "sweep", *arguments, *AXES])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert problem in said
    assert "Traceback" not in said
    assert not (folder / "sweep").exists()


def test_images_to_calibrate_on_say_what_a_model_takes(folder: Path) -> None:
    done = swept("--factory", "ournet:says_nothing", "--calibrate", "digits")
    assert done.exit_code == 0, done.output
    assert "the input is taken as pixels / 255" in done.output
    assert [row["time_steps"] for row in rows_in(folder / "sweep")] == [3, 3]


def test_a_checkpoint_is_told_what_its_file_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[dict[str, Any]] = []

    def stop(name: str, **loading: Any) -> Any:
        seen.append(loading)
        raise InputError(name, "far enough")

    monkeypatch.setattr("spikformer_deploy.space.sweep.load", stop)
    CliRunner().invoke(cli, ["sweep", "x.pth", *AXES, "--image-size", "64", "--levels", "4"])
    assert (seen[0]["image_size"], seen[0]["levels"]) == (64, 4)


# --- Python -----------------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Images to logits in T steps; the number of them is in its code."""

    def __init__(self, steps: int = 2) -> None:
        super().__init__()
        self.T = steps
        self.preprocess = sd.Preprocess(1, 8, (0.3,), (0.4,))
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.lif = LIF(v_threshold=0.2)
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lif(self.conv(x).unsqueeze(0).repeat(self.T, 1, 1, 1, 1)).flatten(2)).mean(0)


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def test_a_module_is_swept_as_it_is_compiled(tiny: Tiny) -> None:
    tiny.train()
    (row,) = sd.sweep(tiny, "digits", limit=4, weight_bits=3)
    assert tiny.training, "it is left as it was"
    run = sd.run(sd.compile(tiny, weight_bits=3), "digits", limit=4)
    expected = run.to_dict()
    assert (row["model"], row["time_steps"]) == ("Tiny", 2)
    assert "budget" not in row
    assert {name: row[name] for name in expected if name not in NOT_IN_A_ROW} == {
        name: value for name, value in json.loads(json.dumps(expected)).items() if name not in NOT_IN_A_ROW
    }


@pytest.mark.long
def test_what_time_steps_cannot_vary_is_swept_by_names(tiny: Tiny, tmp_path: Path) -> None:
    four = Tiny(4)
    four.load_state_dict(tiny.state_dict())
    models = {"two": tiny, "four": four, "loaded": of_module("it", tiny).model(None)}
    rows = sd.sweep(models, "digits", limit=4, output=tmp_path)
    assert [(row["model"], row["time_steps"]) for row in rows] == [("four", 4), ("loaded", 2), ("two", 2)]
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [line["command"] for line in lines] == ["", "", ""], "no command makes a module"
    assert "<summary>show" not in (tmp_path / "index.html").read_text()
    # another module by a known name is another sweep
    with pytest.raises(InputError, match="its rows are of another sweep: model four of 4 steps was"):
        sd.sweep({"four": Tiny(4)}, "digits", limit=4, output=tmp_path)
    names, own = models_by_name([tiny, "digits-v1"])
    assert (names, list(own)) == (["Tiny", "digits-v1"], ["Tiny"])


def test_time_steps_of_a_module_and_of_a_loaded_model(tiny: Tiny) -> None:
    rows = sd.sweep(tiny, "digits", limit=4, time_steps=(2, 3), budget="cores<1000")
    assert "refused" not in rows[0]
    assert [row["budget"] for row in rows] == ["yes", "no"], "what is refused keeps to nothing"
    assert rows[1]["refused"].startswith("Tiny: it is made for 2 time steps, and not for 3 (")
    assert "Give a module for each number of steps, by names of yours: {'Tiny T=2': " in rows[1]["refused"]
    loaded = of_module("it", tiny).model(None)
    rows = sd.sweep(loaded, "digits", limit=4, time_steps=(1, 2))
    assert rows[0]["refused"].endswith("Give its file: it is then loaded for each number of them.")
    assert "refused" not in rows[1]


@pytest.mark.long
def test_spikingjelly_layers_have_any_number_of_steps(folder: Path) -> None:
    pytest.importorskip("spikingjelly")
    scene.make(folder)
    module = scene.names(folder)["model"]
    rows = sd.sweep(module, "images", limit=2, time_steps=(1, 3), calibrate="images")
    assert [row["time_steps"] for row in rows if "refused" not in row] == [1, 3]


@pytest.mark.parametrize(
    ("models", "options", "problem"),
    [
        ([Tiny(), Tiny()], {}, "models: two are called Tiny"),
        ({"": Tiny()}, {}, "models: the name '' is no word"),
        ({"a": "a.pth"}, {}, "models: 'a' is a file, whose path is its name"),
        ({"a": 3}, {}, "models: it is a int, and no model"),
        (3, {}, "models: it is a int, and no model"),
        (Tiny(), {"heads": 2}, "heads: the model is no file"),
        (Tiny(), {"image_size": 2}, "image_size: the model is no file"),
    ],
)
def test_what_is_no_model_is_refused_by_name(models: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=f"^{problem}"):
        sd.sweep(models, "digits", **options)


def test_a_module_that_does_not_say_its_images_is_taken_with_a_warning(tiny: Tiny) -> None:
    del tiny.preprocess
    with pytest.raises(InputError, match=r"in the factory, or give calibrate\."):
        sd.sweep(tiny, "digits", limit=2)
    with pytest.warns(UserWarning, match="the input is taken as pixels / 255"):
        assert len(sd.sweep(tiny, "digits", limit=2, calibrate="digits")) == 1


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_workers_need_no_code_of_the_user(folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker is sent are graphs: a study that was pickled gives the same rows where the code is gone."""
    class_of_nowhere = type("Nowhere", (Tiny,), {"__module__": "not_there"})()
    class_of_nowhere.load_state_dict(tiny.state_dict())
    own = {
        "a": of_factory("ournet:build"),
        "b": of_module("b", class_of_nowhere),
        "c": of_loaded("c", of_module("it", tiny).model(None)),
    }
    space = space_of(models=list(own), input="digits", limit=2, time_steps=(2, 4))
    here = sweep_space(space, own=own).rows
    call = Study.__call__

    def elsewhere(self: Study, group: Any) -> Any:
        sent = pickle.dumps(replace(self, progress=silent))
        monkeypatch.delitem(sys.modules, "ournet", raising=False)
        return call(pickle.loads(sent), group)

    monkeypatch.setattr(Study, "__call__", elsewhere)
    assert sweep_space(space, own=own).rows == here
    assert [("refused" in row, row["model"]) for row in here] == [
        (False, "a"), (False, "a"), (False, "b"), (True, "b"), (False, "c"), (True, "c")
    ]  # fmt: skip
