"""The files that the documents speak of, small: a checkpoint, images, a program, code of one's own."""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.converters.checkpoints.read import save
from support.models import SMALL, model_and_images

ROOT = Path(__file__).parents[2]
CONFIG = replace(SMALL["cifar"], image_size=32)
PREPROCESS = sd.Preprocess(3, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FACTORY = '''\
"""A network of spikingjelly's layers, as a user has it."""

import spikformer_deploy as sd
from spikingjelly.activation_based import layer, neuron
from torch import nn


def build(depth=4):
    lif = lambda: neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m")
    blocks = [x for _ in range(depth) for x in (layer.Conv2d(8, 8, 3, padding=1, step_mode="m"), lif())]
    model = nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1, stride=2, step_mode="m"),
        layer.BatchNorm2d(8, step_mode="m"),
        lif(),
        *blocks,
        layer.Flatten(step_mode="m"),
        layer.Linear(2048, 10, step_mode="m"),
    )
    model.preprocess = sd.Preprocess(3, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model.time_steps = 2
    return model
'''


def make(folder: Path) -> None:
    """Put all of it into `folder`."""
    checkpoint = {"state_dict": _module().state_dict(), "args": SimpleNamespace(T=4, num_heads=4).__dict__}
    for name in ("model.pth", "checkpoint.pth"):
        torch.save(checkpoint, folder / name)
    shutil.copy(ROOT / "examples" / "own_target.toml", folder / "mine.toml")
    _nir(folder / "model.nir")
    save(folder / "model.safetensors", _module(), CONFIG, PREPROCESS, (), {})
    for name in ("model.spk", "program.spk"):
        (folder / name).write_bytes(_program())
    rng = np.random.default_rng(0)
    for i in range(8):
        place = folder / "images" / str(i)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{i}.png")
    (folder / "net.py").write_text(FACTORY)
    torch.save(_own(folder).state_dict(), folder / "best.pth")
    (folder / "examples").symlink_to(ROOT / "examples")


def _own(folder: Path) -> nn.Module:
    """The model that the factory makes."""
    return runpy.run_path(str(folder / "net.py"))["build"]()


@cache
def _program() -> bytes:
    """The program of the checkpoint, as a file; compiled once."""
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.safetensors"
        save(checkpoint, _module(), CONFIG, PREPROCESS, (), {})
        sd.compile(checkpoint).save(Path(folder) / "model.spk")
        return (Path(folder) / "model.spk").read_bytes()


@cache
def _module() -> nn.Module:
    return model_and_images(CONFIG)[0]


def _nir(path: Path) -> None:
    """A network of the library of NIR, which knows neither steps nor their duration."""
    import nir

    rng = np.random.default_rng(1)
    one = np.ones(6)
    neurons = nir.LIF(tau=2e-3 * one, r=one, v_leak=0 * one, v_reset=0 * one, v_threshold=0.1 * one)
    layers = [nir.Linear(rng.normal(size=(6, 4))), neurons, nir.Linear(rng.normal(size=(3, 6)))]
    nir.write(path, nir.NIRGraph.from_list(nir.Input(np.array([4])), *layers, nir.Output(np.array([3]))))


def names(folder: Path) -> dict[str, Any]:
    """What blocks of Python find: a model of spikingjelly's layers, images for it, the program of the checkpoint."""
    model = _own(folder)
    return {
        "model": model,
        "module": model,
        "preprocess": PREPROCESS,
        "images": torch.rand(2, 2, 3, 32, 32),
        "__name__": "page",
    }
