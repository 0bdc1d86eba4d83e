"""Files of published sizes with random weights: the official layout, the published counts, neurons that fire."""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.deep import some, thinned
from support.official import OFFICIAL, V1_COUNTS, V2_MILLIONS

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.formats import RANDOM_NOTE
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.checkpoints import random_weights, read
from spikformer_deploy.converters.checkpoints.random_weights import (
    is_official,
    random_inputs,
    random_model,
    save_random,
    script_arguments,
    size_of,
    sizes,
)
from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.nn.lif import SPIKING
from spikformer_deploy.nn.zoo import build, plain

PARAMETERS = {name: counts[0] for name, counts in (V1_COUNTS | OFFICIAL).items()}
MOST_PARAMETERS, LARGEST_SIDE = 12_000_000, 64
"""Of a size whose file is written here; of others only the shapes."""
SMALL = [
    name
    for name, config in sizes().items()
    if config.image_size <= LARGEST_SIDE and PARAMETERS[name] <= MOST_PARAMETERS
]
FEW = ["v1-4-256", "sdt1-2-256"]


def test_every_published_size_of_images_is_there() -> None:
    assert sizes().keys() == PARAMETERS.keys() | V2_MILLIONS.keys()
    assert set(FEW) < set(SMALL)


@pytest.mark.parametrize("name", some(FEW, sorted(set(SMALL) - set(FEW))))
def test_a_small_size_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    """Loading refuses any key too many or too few, and any other shape."""
    saved = save_random(name, tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth")
    assert loaded.config == plain(size_of(name)) == plain(saved.config)
    assert loaded.preprocess == saved.preprocess
    # nothing has to be assumed but the size of frames of events, of which the official arguments are not believed
    assumed = [note for note in loaded.notes[1:] if not (loaded.per_step and note.startswith("image_size = "))]
    assert (loaded.notes[0], assumed) == (RANDOM_NOTE, [])
    assert sum(p.numel() for p in loaded.module.parameters()) == PARAMETERS[name]
    assert all(torch.equal(value, saved.module.state_dict()[key]) for key, value in loaded.module.state_dict().items())
    assert {type(value) for value in vars(torch.load(tmp_path / "m.pth", weights_only=False)["args"]).values()} <= {
        str, int, bool
    }  # fmt: skip


@pytest.mark.parametrize("name", thinned(sizes(), 4))
def test_what_a_file_of_any_size_tells(name: str) -> None:
    config = size_of(name)
    with torch.device("meta"):
        module = build(config)
    count = sum(p.numel() for p in module.parameters())
    if not is_official(config):
        assert abs(count / 1e6 - V2_MILLIONS[name]) < 0.02
        return
    assert count == PARAMETERS[name]
    found, _notes = read._recognised(Path(name), module.state_dict(), script_arguments(config), None)
    assert plain(found) == plain(config)


@pytest.mark.parametrize("name", some(FEW, ["qkformer-4-384", "spiking-resformer-gesture"]))
def test_all_neurons_fire(name: str) -> None:
    loaded = random_model(name)
    rates: dict[str, float] = {}
    for path, layer in loaded.module.named_modules():
        if isinstance(layer, SPIKING):
            layer.register_forward_hook(
                lambda _layer, _inputs, sent, path=path: rates.update({path: float((sent != 0).float().mean())})
            )
    pixels = random_inputs(loaded.config, 2, seed=5)
    batch = pixels.astype(np.float32) if loaded.config.per_step else loaded.preprocess.normalised(pixels)
    with torch.no_grad():
        loaded.module(torch.from_numpy(batch))
    assert len(rates) > 10
    assert min(rates.values()) > 0.005
    assert 0.03 < np.median(list(rates.values())) < 0.4


def test_a_seed_decides_every_byte_and_nothing_else_does(tmp_path: Path) -> None:
    name, digests = FEW[1], []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        save_random(name, tmp_path / "m.pth", seed)
        assert torch.equal(torch.random.get_rng_state(), before), "the caller's random numbers go on as they were"
        digests.append(hashlib.sha256((tmp_path / "m.pth").read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_a_family_without_official_code_is_written_as_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(size_of("v2-8-384"), dim=32, depth=1, heads=4, image_size=32, num_classes=5)
    monkeypatch.setattr(random_weights, "published", lambda: {"small": small})
    save_random("small", tmp_path / "m.safetensors", seed=3)
    loaded = load(tmp_path / "m.safetensors")
    assert (loaded.config, loaded.notes, loaded.training) == (small, (RANDOM_NOTE,), {"random_weights": 3})


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["random-checkpoint", FEW[1], "--images", "x.npy", "--seed", "2", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["file"], facts["images_file"]) == (f"{FEW[1]}.pth", "x.npy")
    assert (facts["parameters"], facts["weights"], facts["layout"]) == (
        PARAMETERS[FEW[1]],
        "random, seed 2",
        "official",
    )
    assert facts["bytes"] == (tmp_path / f"{FEW[1]}.pth").stat().st_size
    assert np.load("x.npy").shape == (4, 3, 32, 32)
    recordings = random_inputs(size_of("statten-2-256-dvs"), 3)
    assert (recordings.shape, recordings.max()) == ((3, 16, 2, 64, 64), 1)
    arguments = torch.load(f"{FEW[1]}.pth", weights_only=False)["args"]
    assert isinstance(arguments, argparse.Namespace)
    assert arguments.random_weights == 2


def test_the_list(tmp_path: Path) -> None:
    rows = json.loads(CliRunner().invoke(cli, ["random-checkpoint", "--list", "--json"]).stdout)
    assert [row["size"] for row in rows] == list(sizes())
    by_name = {row["size"]: row for row in rows}
    assert by_name["v1-4-384"]["images"] == "3x32x32"
    assert by_name["v2-8-512"]["layout"] == "ours"
    assert "v1-4-384" in CliRunner().invoke(cli, ["random-checkpoint", "--list"]).stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "give SIZE, or --list"),
        (("v1-4-385",), "no published size of images is called that; did you mean v1-4-384?"),
        (("seqsnn-spikformer-solar",), "no published size of images is called that"),
        (("v1-4-384", "--list"), "--list writes nothing"),
        (("v1-4-384", "-o", "nowhere/m.pth"), "there is no such folder"),
        (("v1-4-384", "--images", "x.npz"), "images are written as .npy"),
        (("v1-4-384", "-o", "m.npy", "--images", "m.npy"), "the same command reads it, or writes something else"),
        (("v1-4-384", "--seed", "-1"), "--seed"),
    ],
)
def test_what_is_wrong_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(random_weights, "random_model", None)
    done = CliRunner().invoke(cli, ["random-checkpoint", *arguments])
    said = str(done.exception) if isinstance(done.exception, InputError) else done.output
    assert problem in said
    assert list(tmp_path.iterdir()) == []
