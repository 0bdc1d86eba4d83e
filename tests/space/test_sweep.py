"""Sweeps of design spaces: rows are what commands by themselves give, and an interrupted sweep gives the same ones."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.values import digest
from spikformer_deploy.cli import sweep as sweep_cli
from spikformer_deploy.cli.main import cli
from spikformer_deploy.inference import together
from spikformer_deploy.pipeline.stages import float_graph
from spikformer_deploy.space import axes, study
from spikformer_deploy.space.axes import SETTINGS, Space, point_of, read_space, space_of
from spikformer_deploy.space.commands import command_of
from spikformer_deploy.space.folder import RESULTS
from spikformer_deploy.space.sweep import sweep_space

SPACE = {
    "models": ["digits-v2"],
    "input": "digits",
    "limit": 4,
    "weight_bits": (3, 4),
    "time_steps": (2,),
    "targets": ("loihi1", "loihi2", "kapoho_point"),
}
NOT_IN_A_ROW = ("predictions", "seconds", "peak_memory_mib")


def space(**changed: Any) -> Space:
    return space_of(**{**SPACE, **changed})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    sweep_space(space(), folder)
    return folder


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]


def test_rows_come_in_order_and_refusals_are_rows(swept: Path) -> None:
    rows = rows_in(swept)
    points = [point_of(row) for row in rows]
    assert points == sorted(points)
    assert len(points) == len(set(points)) == 6
    for row in rows:
        assert tuple(row)[: len(SETTINGS)] == SETTINGS
        if row["target"] == "loihi1":
            assert "graded" in row["refused"]
        else:
            assert row["by_step"][-1]["accuracy"] == row["accuracy"]
            assert len(row["by_step"]) == row["time_steps"]
    of_4_bits = [row for row in rows if row["weight_bits"] == 4 and "cores" in row]
    assert len(of_4_bits) == 2
    assert of_4_bits[0]["logits_sha256"] == of_4_bits[1]["logits_sha256"]


@pytest.mark.long
def test_a_row_is_what_its_command_gives(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = next(row for row in rows_in(swept) if row["time_steps"] == 2 and row["target"] == "kapoho_point")
    compiled, run = command_of(point_of(row), space(), {}).split(" && ")
    for command in (f"{compiled} --no-check", f"{run} -o run.json"):
        program, *arguments = shlex.split(command)
        assert program == "spikdeploy"
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
    expected = json.loads((tmp_path / "run.json").read_text())
    for name in NOT_IN_A_ROW:
        del expected[name]
    assert {name: row[name] for name in expected} == expected


@pytest.mark.long
def test_an_interrupted_sweep_gives_the_same_rows(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (swept / RESULTS).read_bytes()

    def stop(done: int, total: int, note: str) -> None:
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep_space(space(), tmp_path, progress=stop)
    partial = (tmp_path / RESULTS).read_bytes()
    assert 0 < len(partial) < len(whole)
    # a process that is killed while it writes leaves a torn line
    (tmp_path / RESULTS).write_bytes(partial[:-40])
    sweep_space(space(), tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == whole
    # nothing is left to do
    monkeypatch.setattr(study, "quantized", None)
    done: list[tuple[int, int]] = []
    sweep_space(space(), tmp_path, progress=lambda *args: done.append(args[:2]))
    assert done == [(6, 6)]
    assert (tmp_path / RESULTS).read_bytes() == whole


@pytest.mark.long
def test_a_network_runs_once_and_is_quantized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 3 bits the networks of 2 and 4 steps share a run: one serves all points, of both boards."""
    runs: list[int] = []
    fronts: list[int] = []
    prepare, quantized = together.prepare, study.quantized
    monkeypatch.setattr(together, "prepare", lambda *a: runs.append(1) or prepare(*a))
    monkeypatch.setattr(study, "quantized", lambda *a: fronts.append(1) or quantized(*a))
    found = sweep_space(space(weight_bits=(3,), time_steps=(2, 4), targets=("loihi2", "kapoho_point"), limit=2))
    assert len(found.rows) == 4
    assert (len(runs), len(fronts)) == (1, 2)


@pytest.mark.long
def test_a_graph_is_that_of_one_time_step() -> None:
    """Why a published architecture is traced once for all numbers of steps."""
    one, four = (float_graph(sd.load("digits-v2", time_steps=steps)) for steps in (1, 4))
    assert digest(replace(one, time_steps=4)) == digest(four)


def test_a_folder_of_another_sweep_is_refused(swept: Path) -> None:
    with pytest.raises(InputError, match="its rows are of another sweep: limit was '4', and is '9' now"):
        sweep_space(space(limit=9), swept)
    with pytest.raises(InputError, match="runtime was 'lava', and is 'bare' now"):
        sweep_space(space(runtime="bare"), swept)


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{}", "model is None"),
        ('{"model": 1}', "model is 1"),
        ("[1, 2]", "is no table"),
        ("no json", "is no row of a sweep"),
        ('{"a": NaN}', "NaN is no number"),
    ],
)
def test_a_damaged_folder_is_refused(swept: Path, tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / RESULTS).write_text(f"{line}\n")
    (tmp_path / "sweep.json").write_bytes((swept / "sweep.json").read_bytes())
    with pytest.raises(InputError, match=problem):
        sweep_space(space(), tmp_path)


def test_a_row_without_figures_is_refused(swept: Path, tmp_path: Path) -> None:
    rows = rows_in(swept)
    row = next(row for row in rows if "cores" in row)
    (tmp_path / "sweep.json").write_bytes((swept / "sweep.json").read_bytes())
    for damaged in ({**row, "cores": "many"}, {**row, "time": None}, {**row, "energy_mj": {}}):
        (tmp_path / RESULTS).write_text(json.dumps(damaged) + "\n")
        with pytest.raises(InputError, match="line 1 is no row of a sweep"):
            sweep_space(space(), tmp_path)


def test_a_space_is_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('models = ["digits-v2"]\ninput = "digits"\nweight_bits = [4, 3, 4]\nschedule = ["token-serial"]\n')
    assert read_space(file) == space_of(
        models=("digits-v2",), input="digits", weight_bits=(4, 3), schedule=("token-serial",)
    )
    for text, problem in (
        ('models = ["a"]\ninput = "digits"\nbits = [4]', "bits"),
        ('models = []\ninput = "digits"', "models"),
        ('models = ["a"]\ninput = "digits"\nweight_bits = [9]', "<= 8"),
        ('models = ["a"]\ninput = "digits"\nrounding = ["up"]', "rounding"),
        ('models = ["a"]\ninput = "digits"\nweight_bits = ["4"]', "no whole number"),
        ("models = [", "no readable TOML"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=problem):
            read_space(file)
    with pytest.raises(InputError, match="points, and at most"):
        space_of(models=tuple("abcdefghij"), input="x", time_steps=tuple(range(1, 1024)))


def test_the_command_line(swept: Path, tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('models = ["digits-v2"]\ninput = "digits"\nlimit = 4\nweight_bits = [3, 4]\ntime_steps = [2]\n'
                    'targets = ["loihi1", "loihi2", "kapoho_point"]\n')  # fmt: skip
    done = CliRunner().invoke(cli, ["sweep", str(file), "-o", str(swept), "--budget", "accuracy>=0", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == rows_in(swept)
    for wrong, problem in (
        (["digits-v2"], "--input"),
        ([], "give MODEL, or --factory"),
        (["digits-v2", "--input", "digits", "--weight-bits", "8,x"], "whole numbers"),
        (["digits-v2", "--input", "digits", "--targets", "loihi2,,loihi1"], "empty place"),
        ([str(file), "--weight-bits", "8"], "leave --weight-bits out"),
        ([str(file), "digits-v1"], "leave digits-v1 out"),
    ):
        done = CliRunner().invoke(cli, ["sweep", *wrong, "-o", str(tmp_path / "none")])
        assert done.exit_code == 2, done.output
        assert problem in done.output
    assert not (tmp_path / "none").exists()


def test_the_words_of_the_command_are_those_of_a_space() -> None:
    assert (sweep_cli.ROUNDINGS, sweep_cli.GRANULARITIES) == (axes.ROUNDINGS, axes.GRANULARITIES)
    assert {p.name for p in sweep_cli.sweep_command.params} >= {f.name for f in attrs.fields(Space)} - {"input"}


def test_from_python(swept: Path) -> None:
    rows = sd.sweep(
        "digits-v2", "digits", output=swept, **{k: v for k, v in SPACE.items() if k not in ("models", "input")}
    )
    assert rows == rows_in(swept)
    assert {path.name for path in swept.iterdir()} == {RESULTS, "sweep.json", "index.html", "results.csv"}
