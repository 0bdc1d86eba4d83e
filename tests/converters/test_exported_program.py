"""Programs of torch.export in and out: the same graph, and nothing of a file is ever run."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.deep import some
from support.models import SIBLINGS, SMALL, graph_of, model_and_images

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.checkpoints.read import Loaded, load
from spikformer_deploy.converters.kinds import Kind, kind_of
from spikformer_deploy.converters.pt2 import read_model, write_model
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.pipeline.program import to_bytes
from spikformer_deploy.pipeline.stages import compile_model


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits-v1, whose name has no suffix."""
    path = tmp_path_factory.mktemp("pt2") / "model"
    write_model(load("digits-v1"), path)
    return path


@pytest.mark.long
def test_it_compiles_to_the_same_program(good: Path, tmp_path: Path) -> None:
    """Apart from its provenance, byte for byte."""
    model = read_model(good)
    original = load("digits-v1")
    assert kind_of(good) is Kind.PT2
    assert (model.preprocess, model.labels, model.training, model.notes) == (
        original.preprocess,
        original.labels,
        original.training,
        (),
    )
    programs = [compile_model(m, check=False).program for m in (model, original)]
    for program in programs:
        program.provenance.clear()
    assert to_bytes(programs[0]) == to_bytes(programs[1])
    write_model(original, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == good.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in good.read_bytes()


@pytest.mark.long
def test_torch_reads_what_is_written(good: Path) -> None:
    """The LIFs are single nodes there, and the logits those of the module."""
    with good.open("rb") as stream:
        program = torch.export.load(stream)
    lifs = [node for node in program.graph.nodes if str(node.target) == "spikformer.lif.default"]
    module = load("digits-v1").module
    assert len(lifs) == sum(isinstance(m, LIF) for m in module.modules())
    images = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(program.module()(images), module(images))


@pytest.mark.long
@pytest.mark.parametrize("form", some(["dvs", "qkformer"], ["imagenet", "spikingformer", "sdt1-dvs", "sdt2"]))
def test_every_form_of_the_models(form: str, tmp_path: Path) -> None:
    config = {**SMALL, **SIBLINGS}[form]
    size = config.image_size
    channels = config.in_channels
    preprocess = Preprocess(channels, size, (0.0,) * channels, (1.0,) * channels)
    module, _ = model_and_images(config)
    write_model(Loaded(module, config, preprocess, (), "", {}, ()), tmp_path / "a.pt2")
    assert read_model(tmp_path / "a.pt2").graph.digest() == graph_of(config).digest()


class Small(torch.nn.Module):
    """Images (B, C, Y, X) or frames (B, T, C, Y, X) -> mean spikes of 3 channels."""

    def __init__(self, steps: int | None = 2) -> None:
        super().__init__()
        self.steps, self.conv, self.lif = steps, torch.nn.Conv2d(2, 3, 3), LIF()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(0, 1) if self.steps is None else x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)
        x = self.conv(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
        return self.lif(x).mean((3, 4)).mean(0)


class Stateful(Small):
    """A membrane potential that an earlier run has left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.v = torch.ones(1, 1, 3, 6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(0).repeat(2, 1, 1, 1, 1)
        x = self.conv(x.flatten(0, 1)).unflatten(0, (2, -1)) + self.v
        return self.lif(x).mean((3, 4)).mean(0)


def exported(module: torch.nn.Module, path: Path, *shape: int, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    with torch.no_grad():
        program = torch.export.export(module.eval(), (torch.zeros(2, *shape),), dynamic_shapes=shapes)
    with path.open("wb") as stream:
        torch.export.save(program, stream)
    return path


def test_files_of_others(tmp_path: Path) -> None:
    path = exported(Small(), tmp_path / "a.pt2", 2, 8, 8)
    with pytest.raises(ModelError, match="--time-steps"):
        read_model(path)
    model = read_model(path, time_steps=2)
    assert (model.time_steps, model.per_step, model.input_shape, len(model.notes)) == (2, False, (2, 8, 8), 1)
    frames = read_model(exported(Small(None), tmp_path / "b.pt2", 5, 2, 8, 8))
    assert (frames.time_steps, frames.per_step, frames.preprocess.std) == (5, True, (1 / 255, 1 / 255))
    with pytest.raises(ModelError, match="it takes 2 images at a time"):
        read_model(exported(Small(), tmp_path / "c.pt2", 2, 8, 8, dynamic=False), time_steps=2)
    with pytest.raises(ModelError, match="v: a tensor that is no parameter is baked into the model"):
        read_model(exported(Stateful(), tmp_path / "d.pt2", 2, 8, 8), time_steps=2)
    unsupported = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Tanh())
    with pytest.raises(ModelError, match=r"tanh of .* is not supported"):
        read_model(exported(unsupported, tmp_path / "e.pt2", 2, 8, 8), time_steps=2)


class Fused(Small):
    """Two layers of neurons that were one convolution."""

    def __init__(self, cut: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> None:
        super().__init__()
        self.cut, self.conv = cut, torch.nn.Conv2d(2, 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(0).repeat(2, 1, 1, 1, 1)
        first, second = self.cut(self.lif(self.conv(x.flatten(0, 1)).unflatten(0, (2, -1))))
        return (first + second).mean((3, 4)).mean(0)


@pytest.mark.parametrize("cut", [lambda x: x.chunk(2, 2), lambda x: x.split([3, 3], 2)])
def test_parts_of_a_layer_in_a_file(cut: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], tmp_path: Path) -> None:
    module = Fused(cut)
    model = read_model(exported(module, tmp_path / "a.pt2", 2, 8, 8), time_steps=2)
    assert model.graph.digest() == trace(module, (2, 8, 8), time_steps=2).digest()


# --- hostile files ---


class Payload:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


def changed(source: Path, path: Path, **changes: Callable[[bytes], bytes]) -> Path:
    """A copy of an archive whose members that end with a key are changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            for end, change in changes.items():
                if entry.filename.endswith(end):
                    content = change(content)
            new.writestr(entry.filename, content)
    return path


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.long
def test_sample_inputs_are_never_looked_at(good: Path, tmp_path: Path) -> None:
    """torch.export.load would run them."""
    evil = pickled((Payload(tmp_path / "executed"),))
    path = changed(good, tmp_path / "evil.pt2", **{"sample_inputs/model.pt": lambda _: evil})
    assert read_model(path).graph.digest() == read_model(good).graph.digest()
    assert not (tmp_path / "executed").exists()


def test_sizes_are_not_evaluated_as_python(good: Path, tmp_path: Path) -> None:
    """torch.export.load hands them to sympify, which evaluates them, pickles forbidden or not."""
    call = f"__import__('os').system('touch {tmp_path / 'executed'}')"
    size = "Symbol('s77', positive=True, integer=True)"
    path = changed(good, tmp_path / "evil.pt2", **{"models/model.json": replaced(size, call)})
    with pytest.raises(InputError, match=r"its graph is damaged: ValueError a size of __import__\('os'\)\.system"):
        read_model(path)
    assert not (tmp_path / "executed").exists()


def test_a_program_that_takes_a_number_is_refused(good: Path, tmp_path: Path) -> None:
    def of_a_scalar(content: bytes) -> bytes:
        model = json.loads(content)
        (image,) = [spec for spec in model["graph_module"]["signature"]["input_specs"] if "user_input" in spec]
        name = image["user_input"]["arg"]["as_tensor"]["name"]
        model["graph_module"]["graph"]["tensor_values"][name]["sizes"] = []
        return json.dumps(model).encode()

    path = changed(good, tmp_path / "a.pt2", **{"models/model.json": of_a_scalar})
    with pytest.raises(ModelError, match="it takes 1 images at a time"):
        read_model(path)


def test_operators_are_not_looked_up(good: Path, tmp_path: Path) -> None:
    path = changed(
        good, tmp_path / "a", **{"models/model.json": replaced("torch.ops.aten.matmul.default", "torch.save")}
    )
    with pytest.raises(ModelError, match=r"operation torch\.save of .* is not supported"):
        read_model(path)


def with_pickled_weight(good: Path, path: Path, content: bytes) -> Path:
    def change(config: bytes) -> bytes:
        values = json.loads(config)
        entry = values["config"]["head.bias"]
        entry["use_pickle"] = True
        change.name = entry["path_name"]  # type: ignore[attr-defined]
        return json.dumps(values).encode()

    changed(good, path.with_suffix(".first"), **{"model_weights_config.json": change})
    name = f"weights/{change.name}"  # type: ignore[attr-defined]
    return changed(path.with_suffix(".first"), path, **{name: lambda _: content})


@pytest.mark.long
def test_pickled_weights_only_where_the_user_says_so(good: Path, tmp_path: Path) -> None:
    evil = with_pickled_weight(good, tmp_path / "evil.pt2", pickled(Payload(tmp_path / "executed")))
    with pytest.raises(InputError, match=r"the weight head.bias is a pickle, which would call (posix|nt)\.system"):
        read_model(evil)
    assert not (tmp_path / "executed").exists()
    bias = load("digits-v1").module.state_dict()["head.bias"]
    kind = with_pickled_weight(good, tmp_path / "kind.pt2", pickled(torch.nn.Parameter(bias)))
    with pytest.raises(InputError, match="--allow-pickle"):
        read_model(kind)
    assert read_model(kind, allow_pickle=True).graph.digest() == read_model(good).graph.digest()


def test_other_things_that_only_torch_can_load(good: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.pt2"
    with zipfile.ZipFile(old, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("data/serialized_state_dict.pt", pickle.dumps(Payload(tmp_path / "executed")))
    native = tmp_path / "native.pt2"
    changed(good, native)
    with zipfile.ZipFile(native, "a") as archive:
        name = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{name}/data/aotinductor/model/model.so", b"\x7fELF")
    newer = changed(good, tmp_path / "newer.pt2", **{"models/model.json": replaced('"major": 8', '"major": 9')})
    for path, message in ((old, "before 2.8"), (native, "compiled code"), (newer, "version 9 of torch's schema")):
        with pytest.raises(InputError, match=f"{message}.*\n.*--allow-pickle"):
            read_model(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("member", "old", "new"),
    [
        ("models/model.json", '"as_int": 8}', '"as_int": 9000000000000}'),
        ("models/model.json", '"name": "conv2d"', '"name": "lost"'),
        ("model_weights_config.json", '"dtype": 7', '"dtype": 99'),
        ("model_weights_config.json", '"as_int": 8}', '"as_int": 800000}'),
        ("model_weights_config.json", "weight_0", "../../../../etc/passwd"),
        ("model_weights_config.json", '"use_pickle"', '"use"'),
        ("models/model.json", '"graph_module"', '"graph"'),
        ("extra/spikformer_deploy.json", '"time_steps": 4', '"time_steps": "many"'),
        ("extra/spikformer_deploy.json", '"size": 16', '"size": 17'),
    ],
)
def test_damaged_files(good: Path, tmp_path: Path, member: str, old: str, new: str) -> None:
    path = changed(good, tmp_path / "a.pt2", **{member: replaced(old, new)})
    with pytest.raises((InputError, ModelError)):
        read_model(path)


@pytest.mark.long
def test_the_command_line(tmp_path: Path) -> None:
    model = str(tmp_path / "a.pt2")
    program = str(tmp_path / "a.spk")
    for arguments in (
        ["export", "digits-v1", "--to", "pt2", "-o", model],
        ["compile", model, "-o", program, "--calibrate", "digits"],
        ["inspect", model, "--json"],
    ):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
    assert json.loads(done.output)["format"] == "pt2"
    assert np.prod(json.loads(done.output)["input"]) == 256
    done = CliRunner().invoke(cli, ["export", model, "--to", "pt2", "-o", str(tmp_path / "b.pt2")])
    assert "has no module to export" in str(done.exception)
