"""`spikdeploy energy` and --factory, as users of four libraries type them: tables, files, JSON, one clear message."""

import csv
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from spikformer_deploy.cli.main import main

PLAIN = '''
import torch
from torch import nn


class Fire(torch.autograd.Function):
    """Heaviside forward, a triangle backward."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v >= 1.0).float()

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad * (1 - (v - 1).abs()).clamp(min=0)


class Net(nn.Module):
    def __init__(self, hidden=12, T=4, classes=10):
        super().__init__()
        self.T = T
        self.first = nn.Linear(64, hidden)
        self.last = nn.Linear(hidden, classes)

    def forward(self, x):
        current = self.first(x.flatten(1)) * 6
        v, out = torch.zeros_like(current), 0
        for _ in range(self.T):
            v = v + (current - v) / 2
            spikes = Fire.apply(v)
            v = v * (1 - spikes)
            out = out + self.last(spikes)
        print("forward")
        return out / self.T


def build(hidden=12):
    return Net(hidden)


def raises():
    raise KeyError("depth")


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x
'''

SPIKINGJELLY = """
import torch
from torch import nn
from spikingjelly.activation_based import functional, layer, neuron


class Step(nn.Module):
    def __init__(self, hidden=12):
        super().__init__()
        self.first = layer.Linear(64, hidden)
        self.neurons = neuron.LIFNode(v_threshold=0.1)
        self.last = layer.Linear(hidden, 10)

    def forward(self, x):
        return self.last(self.neurons(self.first(x.flatten(-3))))


def single(hidden=12):
    return Step(hidden)


def multi(hidden=12):
    model = Step(hidden)
    functional.set_step_mode(model, "m")
    return model


class Looped(nn.Module):
    def __init__(self, hidden=12, T=4):
        super().__init__()
        self.T = T
        self.step = Step(hidden)

    def forward(self, x):
        functional.reset_net(self)
        return torch.stack([self.step(x) for _ in range(self.T)])
"""

SNNTORCH = """
import snntorch as snn
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=12, num_steps=4):
        super().__init__()
        self.num_steps = num_steps
        self.first = nn.Linear(64, hidden)
        self.lif = snn.Leaky(beta=0.5, threshold=0.1)
        self.last = nn.Linear(hidden, 10)

    def forward(self, x):
        mem = self.lif.init_leaky()
        out = []
        for _ in range(self.num_steps):
            spikes, mem = self.lif(self.first(x.flatten(1)), mem)
            out.append(self.last(spikes))
        return torch.stack(out)


def hidden():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), snn.Leaky(beta=0.5, threshold=0.1, init_hidden=True), nn.Linear(12, 10)
    )
"""


class Done(NamedTuple):
    """What a command ended with, and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs a command in a folder with models of four kinds, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for name, code in (("plain", PLAIN), ("jelly", SPIKINGJELLY), ("snn_net", SNNTORCH)):
        (tmp_path / f"{name}.py").write_text(code)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["spikdeploy", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    yield run
    for name in ("plain", "jelly", "snn_net"):
        sys.modules.pop(name, None)


def counted(done: Done) -> dict:
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_bundled_model_has_all_conventions_in_tables_and_files(command: Command, tmp_path: Path) -> None:
    files = ("--csv", "e.csv", "--latex", "e.tex")
    done = command("energy", "digits-v2", "--input", "digits", "--limit", "8", *files)
    assert done.code == 0, done.err
    for name in ("spikformer-paper", "syops-counter", "neurobench", "Effective_ACs", "ann-equivalent-int8"):
        assert name in done.out
    assert "wrote e.csv and e.tex" in done.out
    rows = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    values = counted(command("energy", "digits-v2", "--input", "digits", "--limit", "8", "--json"))
    assert len(rows) == len(values["energy_mj"]) > 5
    for row in rows:
        energy = next(float(value) for name, value in row.items() if "uJ" in name)
        assert energy == pytest.approx(1e3 * values["energy_mj"][row["convention"]]["nominal"])
    latex = (tmp_path / "e.tex").read_text()
    for row in rows:
        assert sum(line.startswith(f"{row['convention']} & ") for line in latex.splitlines()) == 1
    assert "Zhou et al. 2023" in latex


def test_by_layer_and_one_convention(command: Command, tmp_path: Path) -> None:
    one = ("--convention", "spikformer-paper", "--by-layer", "--csv", "e.csv")
    done = command("energy", "digits-v2", "--input", "digits", "--limit", "4", *one)
    assert done.code == 0, done.err
    assert "left out by spikformer-paper: 18 norm (" in done.out
    rows = list(csv.DictReader((tmp_path / "e.csv").read_text().splitlines()))
    (heading,) = [name for name in rows[0] if name.startswith("spikformer-paper") and "uJ" in name]
    energies = [float(row[heading] or 0) for row in rows]
    assert rows[-1]["place"] == "all"
    assert energies[-1] == pytest.approx(sum(energies[:-1]))
    # the sums of the convention stand on the screen, before the layers
    assert "one image, estimated" in done.out.partition("by layer")[0]


@pytest.mark.parametrize("factory", ["jelly:single", "jelly:multi", "jelly:Looped", "snn_net:Net", "snn_net:hidden"])
def test_libraries_agree(command: Command, tmp_path: Path, factory: str) -> None:
    """The same two layers with neurons between them: the counts are those of the spikes of each layer by hand."""
    library = {"jelly": "spikingjelly", "snn_net": "snntorch"}[factory.partition(":")[0]]
    pytest.importorskip(library)
    values = counted(
        command("energy", "--factory", factory, "--input", "digits", "--limit", "20", "--time-steps", "4", "--json")
    )
    (neurons,) = values["neurons"]
    figures = values["conventions"]["spikformer-paper"]["figures"]
    assert values["time_steps"] == 4
    assert values["images"] == 20
    assert figures["MACs"] == 4 * 64 * 12
    assert sum(neurons["updates"]) == 4 * 20 * 12
    assert len(neurons["firing_rate"]) == 4
    assert 0 < sum(neurons["spikes"]) < sum(neurons["updates"])
    assert figures["ACs"] == pytest.approx(sum(neurons["spikes"]) * 10 / 20)


def test_single_and_multi_step_count_the_same(command: Command) -> None:
    pytest.importorskip("spikingjelly")
    common = ("--input", "digits", "--limit", "20", "--time-steps", "4", "--json")
    values = [
        counted(command("energy", "--factory", f"jelly:{name}", *common)) for name in ("single", "multi", "Looped")
    ]
    assert [value["takes"] for value in values] == [
        "(N, C, Y, X), T times; outputs averaged",
        "(T, N, C, Y, X), once",
        "(N, C, Y, X), once",
    ]
    spikes = [value["neurons"][0]["spikes"] for value in values]
    assert spikes[0] == spikes[1] == spikes[2]


def test_weights_and_arguments_reach_the_model(command: Command, tmp_path: Path) -> None:
    """Weights of which every neuron fires in every step: the synaptic operations are known."""
    state = {
        "first.weight": torch.zeros(7, 64),
        "first.bias": torch.ones(7),
        "last.weight": torch.ones(10, 7),
        "last.bias": torch.zeros(10),
    }
    torch.save({"model_state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    own = ("--factory", "plain:build", "--arg", "hidden=7", "--weights", "w.pth")
    done = command("energy", *own, "--input", "digits", "--limit", "5", "--json")
    assert counted(done)["conventions"]["spikformer-paper"]["figures"]["ACs"] == 4 * 7 * 10
    assert "w.pth: the state_dict is its 'model_state_dict'" in done.err
    assert "w.pth: 'module.' is taken off its keys" in done.err
    # what the model itself prints is not among the results
    assert "forward" in done.err


def test_the_accuracy_shows_whether_images_are_what_the_model_takes(command: Command) -> None:
    values = counted(command("energy", "digits-v1", "--input", "digits", "--limit", "40", "--json"))
    assert values["accuracy"] > 0.9


NO_MODEL = "give MODEL, or --factory module:function"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["energy", "--input", "digits"], NO_MODEL),
        (["compile"], NO_MODEL),
        (["compare", "--targets", "loihi2", "--input", "digits"], NO_MODEL),
        (["export", "--to", "nir", "-o", "a.nir"], NO_MODEL),
        (["inspect"], NO_MODEL),
        (["energy", "digits-v1", "--factory", "plain:build", "--input", "digits"], "leave 'digits-v1' out"),
        (["energy", "digits-v1", "--arg", "x=1", "--input", "digits"], "--arg and --weights are for --factory"),
        (["energy", "--factory", "plain:build", "--heads", "3", "--input", "digits"], "--heads: give such settings to"),
        (["energy", "--factory", "plain:raises", "--input", "digits"], "raises KeyError: 'depth' (plain.py:44: raise"),
        (["energy", "--factory", "plain:Pair", "--input", "digits"], "its forward returns a tuple of 2"),
        (["energy", "--factory", "plain:build", "--input", "wrong.npy"], "on images of 3x8x8 its forward pass raises"),
        (["energy", "--factory", "plain:build", "--input", "drawn"], "Say it in the model's `preprocess`"),
        (["energy", "--factory", "plain:build", "--input", "nothing"], "no such file or folder"),
        (["energy", "--factory", "plain:build", "--arg", "depth=3", "--input", "digits"], "has no argument depth"),
        (["energy", "--factory", "plain:build", "--arg", "hidden", "--input", "digits"], "is no name=value"),
        (["energy", "digits-v1", "--input", "digits", "--convention", "paper"], "there is none called 'paper'"),
        (["energy", "digits-v1", "--input", "digits", "--csv", "no/a.csv"], "it cannot be written"),
        (["energy", "digits-v1", "--input", "digits", "--csv", "a", "--latex", "a"], "or writes something else to it"),
        (["energy", "--factory", "plain:build", "--time-steps", "7", "--input", "digits"], "its own 4 time steps"),
        (["energy", "digits-v1", "--input", "digits", "--convention", "neurobench", "--csv", "n.csv"], "has no prices"),
        (["energy", "missing.pth", "--input", "digits"], "there is no such file"),
        (["compile", "--factory", "plain:build", "--calibrate", "digits"], "is not supported"),
        (["inspect", "--factory", "plain:build"], "it does not say which images it takes"),
    ],
)
def test_bad_input_is_one_clear_message(command: Command, tmp_path: Path, arguments: list[str], message: str) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((2, 3, 8, 8), np.uint8))
    before = sorted(tmp_path.iterdir())
    done = command(*arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


def test_help_says_that_the_users_code_runs(command: Command) -> None:
    for name in ("compile", "verify", "compare", "export", "inspect", "energy"):
        done = command(name, "--help")
        assert done.code == 0
        words = " ".join(done.out.split())
        assert "This imports MODULE from the current folder and runs its code." in words


def test_a_model_of_spikingjelly_is_compiled_verified_compared_and_exported(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("spikingjelly")
    own = ("--factory", "jelly:multi", "--arg", "hidden=6", "--time-steps", "3")
    compiled = counted(command("compile", *own, "--calibrate", "digits", "--json"))
    assert compiled["program"] == "jelly.spk"
    verified = counted(command("verify", "jelly.spk", *own, "--input", "digits", "--limit", "8", "--json"))
    assert verified["passed"]
    assert verified["layers"][0]["equal_spikes"] > 0.9
    compared = counted(command("compare", *own, "--targets", "loihi2", "--input", "digits", "--limit", "4", "--json"))
    assert compared["model"] == "jelly:multi"
    assert compared["targets"][0]["cores"] > 0
    (tmp_path / "stated.py").write_text(
        "import spikformer_deploy as sd\nimport jelly\n\n"
        "def build():\n    model = jelly.multi(6)\n    model.time_steps = 3\n"
        "    model.preprocess = sd.Preprocess(1, 8, (0.0,), (1.0,))\n    return model\n"
    )
    exported = command("export", "--factory", "stated:build", "--to", "onnx", "-o", "m.onnx")
    assert exported.code == 0, exported.err
    inspected = counted(command("inspect", "--factory", "stated:build", "--json"))
    assert inspected["time_steps"] == 3
    sys.modules.pop("stated")
    same = counted(command("energy", "m.onnx", "--input", "digits", "--limit", "4", "--json"))
    assert same["conventions"]["spikformer-paper"]["figures"]["MACs"] == 3 * 64 * 6
