"""A model of one's own: the function that makes it, its arguments, its weights, and what is told of its images."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError, ModelError, SpikdeployError
from spikformer_deploy.converters.factory import arguments_of, make
from spikformer_deploy.converters.own import about, graph_of
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.shapes import shape_of

NET = '''
import torch
from torch import nn

from spikformer_deploy.nn.lif import LIF


class Net(nn.Module):
    """Convolution, LIF over all steps, linear layer; images to mean logits."""

    def __init__(self, channels=4, T=3, classes=10):
        super().__init__()
        self.T = T
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.lif = LIF(v_threshold=0.2)
        self.head = nn.Linear(channels * 64, classes)

    def forward(self, x):
        currents = self.conv(x).unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        return self.head(self.lif(currents).flatten(2)).mean(0)


def build(channels=4, *, dropout=0.0):
    print("building")
    return Net(channels)


def needs(depth, width=2):
    return Net(depth)


def raises():
    raise ValueError("a depth of 3\\nis not possible")


def pair():
    return Net(), {"epoch": 3}


def kind():
    return Net


def nothing():
    Net()


def scripted():
    return torch.jit.script(nn.Linear(2, 2))


def leaves():
    raise SystemExit("usage: net.py")


model = Net()
number = 3
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the user's net.py in it, which is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(NET)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("net", "broken", "script", "missing_part", "wrong_syntax"):
            del sys.modules[name]


def test_only_the_word_on_triton_is_left_out_of_what_an_import_logs(folder: Path) -> None:
    logger = logging.getLogger("torch._library.triton")
    words: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: words.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    lines = ["import logging", "log = logging.getLogger('torch._library.triton').warning"]
    lines += ["log('Triton not available, x')", "log('other')", NET]
    (folder / "net.py").write_text("\n".join(lines))
    make("net:build")
    logger.warning("Triton not available, y")
    logger.removeHandler(handler)
    assert words == ["other", "Triton not available, y"]


# --- the function and its arguments ---------------------------------------------------------------------------------


def test_a_function_a_class_and_a_module_make_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make("net:build", {"channels": 6})
    assert made.module.conv.weight.shape[0] == 6
    assert not made.module.training
    # what the user's code prints is not the output of a command
    assert capsys.readouterr() == ("", "building\n")
    assert make("net:Net", {"T": 7}).module.T == 7
    assert make("net:model").module is sys.modules["net"].model


def test_without_weights_the_same_model_is_made_again(folder: Path) -> None:
    first, second = make("net:build"), make("net:build")
    assert torch.equal(first.module.conv.weight, second.module.conv.weight)
    assert "without --weights" in first.notes[0]


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("nowhere:build", {}, "there is no module 'nowhere', in the current folder or installed"),
        ("net.py:build", {}, "Write --factory net:build"),
        ("net", {}, "'net' is no module:function"),
        ("net:built", {}, "net has no function 'built'\n  Functions and classes of net: Net, build, kind, leaves"),
        ("net:number", {}, "it is of type int"),
        ("net:raises", {}, "it raises ValueError: a depth of 3 is not possible (net.py:33: raise ValueError("),
        ("net:pair", {}, "it returns a tuple of 2 (Net, dict), and no torch.nn.Module"),
        ("net:kind", {}, "it returns the class Net, and no torch.nn.Module"),
        ("net:nothing", {}, "it returns nothing, and no torch.nn.Module"),
        ("net:leaves", {}, "it raises SystemExit: usage: net.py (net.py:53: "),
        ("net:scripted", {}, "it returns TorchScript, whose operators cannot be seen"),
        ("net:needs", {}, "it needs depth\n  It is needs(depth, width=2): give --arg depth=..."),
        ("net:needs", {"heigth": 2}, "it has no argument heigth and it needs depth"),
        ("net:build", {"depth": 2}, "it has no argument depth\n  It is build(channels=4, *, dropout=0.0)."),
        ("net:model", {"depth": 2}, "it has no argument depth"),
    ],
)
def test_what_is_wrong_with_a_factory_is_one_message(
    folder: Path, factory: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpikdeployError) as raised:
        make(factory, arguments)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("broken", "x = 1\ny = x / 0\n", "importing broken raises ZeroDivisionError: division by zero (broken.py:2: y"),
        ("missing_part", "import no_such_part\n", "importing missing_part raises ModuleNotFoundError: No module named"),
        ("wrong_syntax", "def build(:\n    pass\n", "SyntaxError: invalid syntax (wrong_syntax.py, line 1)"),
        ("script", "import argparse\nargparse.ArgumentParser().parse_args(['--lr'])\n", "raises SystemExit: 2"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_line(
    folder: Path, name: str, code: str, message: str
) -> None:
    (folder / f"{name}.py").write_text(code)
    with pytest.raises(ModelError) as raised:
        make(f"{name}:build")
    assert message in str(raised.value)
    assert f"{name}.py" in str(raised.value)


def test_arguments_are_plain_values() -> None:
    pairs = ("a=4", "b=-1.5e-3", "c=true", "d=False", "e=none", "f=lif", "g='4'", "h=[1, 2]", "i=('x', 2.0)", "j=a=b")
    values = [4, -0.0015, True, False, None, "lif", "4", [1, 2], ("x", 2.0), "a=b"]
    assert list(arguments_of(pairs).values()) == values
    assert arguments_of(["empty="]) == {"empty": ""}


@pytest.mark.parametrize(
    "pair",
    [
        "depth",
        "=4",
        "2x=4",
        "a={'x': 1}",
        "a=[1, {2}]",
        "a=[1",
        "a=b'x'",
        "a=1j",
        "a=" + "[" * 300,
        f"a=[{'1,' * 5000}]",
    ],
)
def test_other_arguments_are_refused(pair: str) -> None:
    with pytest.raises(InputError, match="--arg"):
        arguments_of([pair])


def test_an_argument_is_never_evaluated() -> None:
    assert arguments_of(["a=__import__('os').getcwd()"]) == {"a": "__import__('os').getcwd()"}
    with pytest.raises(InputError, match="given twice"):
        arguments_of(["a=1", "a=2"])


# --- weights --------------------------------------------------------------------------------------------------------


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: torch.full_like(value, 0.5) for key, value in module.state_dict().items()}


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_state_dict_is_unwrapped_and_that_is_said(folder: Path, wrapper: str, prefix: str) -> None:
    state = {f"{prefix}{key}": value for key, value in weights_of(make("net:build").module).items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, folder / "w.pth")
    made = make("net:build", weights="w.pth")
    assert all((value == 0.5).all() for value in made.module.state_dict().values())
    said = " ".join(made.notes)
    assert (f"'{wrapper}'" in said) == bool(wrapper)
    assert (f"'{prefix}' is taken off" in said) == bool(prefix)


def test_safetensors_are_weights_as_well(folder: Path) -> None:
    save_file(weights_of(make("net:build").module), folder / "w.safetensors")
    made = make("net:build", weights="w.safetensors")
    assert (made.module.head.bias == 0.5).all()
    assert made.notes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv.bias"), "missing keys: conv.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected keys: extra"),
        (lambda state: state.update({"conv.weight": torch.zeros(9, 1, 3, 3)}), "conv.weight is (9, 1, 3, 3), and the"),
        (lambda state: state.update({f"more.{i}": torch.zeros(1) for i in range(9)}), "more.3 and 5 more"),
    ],
)
def test_other_keys_and_shapes_are_named(folder: Path, change: Any, message: str) -> None:
    state = weights_of(make("net:build").module)
    change(state)
    torch.save(state, folder / "w.pth")
    with pytest.raises(ModelError) as raised:
        make("net:build", weights="w.pth")
    assert message in str(raised.value)


class Payload:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_weights_run_no_code_and_must_be_there(folder: Path) -> None:
    torch.save({"state_dict": {"conv.weight": Payload(folder / "executed")}}, folder / "evil.pth")
    with pytest.raises(InputError, match="would run code of the file: posix"):
        make("net:build", weights="evil.pth")
    assert not (folder / "executed").exists()
    with pytest.raises(InputError, match="there is no such file\n  Give a state_dict"):
        make("net:build", weights="none.pth")
    (folder / "text.pth").write_text("not weights")
    with pytest.raises(InputError, match="it is no model file that is known here"):
        make("net:build", weights="text.pth")


def test_making_a_model_draws_no_random_number_of_the_caller(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make("net:build")
    assert torch.equal(torch.rand(1), expected)


def test_a_whole_pickled_model_is_refused_and_factory_named(folder: Path) -> None:
    module = make("net:build").module
    torch.save(module, folder / "whole.pth")
    with pytest.raises(InputError, match=r"would run code of the file: net\.Net") as refused:
        sd.load("whole.pth")
    assert "--factory module:function --weights FILE" in str(refused.value)
    del sys.modules["net"]
    (folder / "net.py").rename(folder / "other.py")
    with pytest.raises(InputError, match="its pickle needs code that is not here: No module named 'net'") as missing:
        sd.load("whole.pth", allow_pickle=True)
    assert "--factory" in str(missing.value)
    assert "Copy the file again" not in str(missing.value)


def test_a_state_dict_of_an_unknown_model_names_factory(folder: Path) -> None:
    torch.save(make("net:build").module.state_dict(), folder / "w.pth")
    with pytest.raises(ModelError, match="its keys are of no official checkpoint") as raised:
        sd.load("w.pth")
    assert "--factory module:function --weights FILE" in str(raised.value)


# --- images and time steps ------------------------------------------------------------------------------------------


def test_attributes_say_images_and_steps(folder: Path) -> None:
    module = make("net:build").module
    module.preprocess = Preprocess(1, 8, (0.5,), (0.25,))
    module.labels = ["a", "b", "c", "d", "e"]
    known = about(module, "net")
    assert known.preprocess == Preprocess(1, 8, (0.5,), (0.25,))
    assert (known.time_steps, known.per_step, known.labels) == (3, False, ("a", "b", "c", "d", "e"))
    assert known.notes == ()
    assert about(module, "net", 7).time_steps == 7
    module.preprocess = {"channels": 1, "size": 8, "mean": [0.5], "std": [0.25]}
    assert about(module, "net").preprocess == Preprocess(1, 8, (0.5,), (0.25,))


def test_else_the_data_say_the_shape_and_pixels_are_taken_as_they_are(folder: Path) -> None:
    module = make("net:build").module
    known = about(module, "net:build", None, np.zeros((4, 8, 8), np.uint8))
    assert known.preprocess == Preprocess(1, 8, (0.0,), (1.0,), width=8)
    assert "pixels / 255" in known.notes[0]
    events = about(module, "net:build", None, np.zeros((4, 6, 2, 8, 8), np.uint8))
    assert (events.time_steps, events.per_step, events.preprocess.std) == (6, True, (1 / 255,) * 2)
    with pytest.raises(InputError, match=r"which images it takes\n  Set model\.preprocess"):
        about(module, "net:build")
    module.preprocess = {"channels": 1, "size": 8, "mean": [0.5, 0.5], "std": [0.25]}
    with pytest.raises(ModelError, match="its preprocess makes no sense: one mean and one positive std a channel"):
        about(module, "net:build")


def test_a_method_called_preprocess_is_no_record(folder: Path) -> None:
    module = make("net:build").module
    module.preprocess = lambda image: image
    assert about(module, "net", None, "digits").preprocess.channels == 1


def test_shapes_of_data(tmp_path: Path) -> None:
    from PIL import Image

    assert shape_of("digits") == (1, 8, 8)
    for stored, shape in (((5, 6), (1, 5, 6)), ((5, 6, 3), (3, 5, 6)), ((3, 5, 6), (3, 5, 6)), ((4, 2, 5, 6),) * 2):
        assert shape_of(np.zeros((2, *stored), np.uint8)) == shape
        np.savez(tmp_path / "x.npz", images=np.zeros((2, *stored), np.uint8))
        assert shape_of(tmp_path / "x.npz") == shape
    for mode, channels in (("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 3)):
        (tmp_path / mode / "class").mkdir(parents=True)
        Image.new(mode, (7, 5)).save(tmp_path / mode / "class" / "a.png")
        assert shape_of(tmp_path / mode) == (channels, 5, 7)
    (tmp_path / "events" / "class").mkdir(parents=True)
    np.savez(tmp_path / "events" / "class" / "a.npz", frames=np.zeros((4, 2, 5, 6), np.uint8))
    assert shape_of(tmp_path / "events") == (4, 2, 5, 6)
    with pytest.raises(InputError, match="no such file"):
        shape_of(tmp_path / "nothing")
    with pytest.raises(InputError, match="no images"):
        shape_of(np.zeros((4, 2), np.uint8))


# --- compiled -------------------------------------------------------------------------------------------------------


def test_a_plain_module_becomes_the_graph_of_its_logits(folder: Path) -> None:
    made = make("net:build")
    model = graph_of(made, None, "digits")
    assert (model.time_steps, model.input_shape, model.kind) == (3, (1, 8, 8), "factory")
    program = sd.compile(model, calibrate_on="digits")
    assert program.network.time_steps == 3
    again = graph_of(make("net:build"), None, "digits")
    assert program.provenance["model_sha256"] == again.sha256
    assert sd.verify(program, "digits", model=again, limit=4).passed


def test_steps_that_nothing_tells_are_asked_for(folder: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    from spikformer_deploy.converters.factory import Made

    with pytest.raises(ModelError, match="how many time steps an image has\n  Give --time-steps"):
        graph_of(Made(module.eval(), "net:x"), None, "digits")


def test_a_module_that_is_no_function_of_its_images_is_refused(folder: Path) -> None:
    made = make("net:build")
    made.module.head.register_forward_hook(lambda layer, _, out: out if torch.compiler.is_exporting() else out * 2)
    with pytest.raises(ModelError, match="the logits of its graph differ from its own"):
        graph_of(made, None, "digits")
