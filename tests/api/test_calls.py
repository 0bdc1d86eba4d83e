"""The calls of the API: all options in the signature, none that drifts from its room, and what people pass."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import SMALL, model_and_images
from support.networks import random_images
from support.programs import program_of
from support.scene import CONFIG
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError, ModelError, QuantizeError
from spikformer_deploy.base.formats import RANDOM, RANDOM_NOTE
from spikformer_deploy.converters import models
from spikformer_deploy.data.given import gathered, whole
from spikformer_deploy.inference import energy, run, verify
from spikformer_deploy.inference.verify import RANDOM_AGREEMENT
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.operators import count
from spikformer_deploy.optimization import bits, exits, fewer_channels, fewer_steps, sparser
from spikformer_deploy.optimization import prune as pruning
from spikformer_deploy.optimization.stages import Tuning
from spikformer_deploy.pipeline import export, stages
from spikformer_deploy.space.axes import Space
from spikformer_deploy.space.sweep import sweep_space

CALLS = [sd.compile, sd.choose_bits, sd.run, sd.choose_exit, sd.verify, sd.energy, sd.export, sd.sweep, sd.load]
CALLS += [sd.count_operations, sd.make_sparser, sd.fewer_steps, sd.fewer_channels, sd.prune]


def options_of(*functions: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of some functions by name, with their defaults; what takes all the rest is left out."""
    parameters = [p for function in functions for p in inspect.signature(function).parameters.values()]
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


@pytest.mark.parametrize(
    ("call", "rooms", "added"),
    [
        (sd.compile, (stages.compile_model, models.load), {"path"}),
        (sd.choose_bits, (bits.choose_bits, models.load), {"path"}),
        (sd.run, (run.run,), {"record", "early_exit"}),
        (sd.choose_exit, (exits.choose_exit,), set()),
        (sd.verify, (verify.verify, models.load), {"path"}),
        (sd.energy, (energy.energy, models.load), {"path"}),
        (sd.export, (export.export, models.load), {"path"}),
        (sd.load, (models.load,), set()),
        (sd.count_operations, (count.count_operations,), set()),
        (sd.make_sparser, (sparser.make_sparser, Tuning), {"tuning"}),
        (sd.fewer_steps, (fewer_steps.fewer_steps, Tuning), {"tuning"}),
        (sd.fewer_channels, (fewer_channels.fewer_channels, Tuning), {"tuning"}),
        (sd.prune, (pruning.prune,), set()),
    ],
)
def test_a_call_has_the_options_of_its_room(call: Callable, rooms: tuple, added: set[str]) -> None:
    """By name and default: `path` is where the room of models has what the call names `model`."""
    ours, theirs = options_of(call), options_of(*rooms)
    assert set(ours) ^ set(theirs) == added
    assert {n: d for n, d in ours.items() if n in theirs} == {n: d for n, d in theirs.items() if n in ours}


def test_a_sweep_has_the_fields_of_a_space() -> None:
    ours = set(options_of(sd.sweep))
    fields = {field.name for field in Space.__attrs_attrs__} - {"input"}
    assert ours == fields | {"data", "output"} | (set(options_of(sweep_space)) - {"space", "folder", "own"})


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_help_says_every_option_and_the_errors(call: Callable) -> None:
    text = inspect.getdoc(call) or ""
    options = inspect.signature(call).parameters
    undocumented = [name for name in options if not re.search(rf"(^\s*|, |; ){name}[\s,:]", text, re.M)]
    assert not set(undocumented) - {"path"}
    assert "Raises InputError" in text
    assert all(p.annotation is not p.empty and p.kind is not p.VAR_KEYWORD for p in options.values())


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_unknown_options_are_refused_with_the_nearest(call: Callable) -> None:
    known = list(inspect.signature(call).parameters)[-1]
    wrong = known[:2] + known[3] + known[2] + known[4:]
    with pytest.raises(sd.OptionError, match=rf"{call.__name__}: unknown option '{wrong}'; did you mean {known}\?"):
        call("digits-v2", **{wrong: 1})
    with pytest.raises(TypeError, match="unknown option 'zzz'\n"):
        call("digits-v2", zzz=1)


@pytest.mark.long
def test_errors_name_the_options_of_the_call() -> None:
    with pytest.raises(InputError, match=r"^limit: 0 images"):
        sd.run(program_of("digits-v2"), "digits", limit=0)
    with pytest.raises(InputError, match=r"^backend: 'gear' is none of"):
        sd.run(program_of("digits-v2"), "digits", limit=1, backend="gear")
    with pytest.raises(InputError, match=r"^neuron: there are no 'x' neurons"):
        sd.compile("digits-v2", neuron="x")


@pytest.mark.long
def test_words_and_numbers_without_a_meaning_are_refused() -> None:
    program, image = program_of("digits-v2"), np.ones((1, 1, 16, 16), np.uint8)
    for call, problem in (
        (lambda: sd.compile("digits-v2", rounding="calibrate"), "rounding: 'calibrate' is none of .*mean calibrated"),
        (lambda: sd.compile("digits-v2", granularity="layer"), "granularity: 'layer' is none of group, tensor, cha"),
        (lambda: sd.compile("digits-v2", time_steps=0), "time_steps: 0, and it is above 0"),
        (lambda: sd.compile(Own(), calibrate_on=image, time_steps=0), "time_steps: 0, and it is above 0"),
        (lambda: sd.compile("digits-v2", dt=-1), "dt: -1, and it is above 0"),
        (lambda: sd.compile("digits-v3"), "digits-v3: there is no such file.*did you mean digits-v2"),
        (lambda: sd.run(program, image, timing="cycles"), "timing: 'cycles' is none of .*did you mean cycle"),
        (lambda: sd.run(program, image, task="cls"), "task: 'cls' is none of classification, regression"),
        (lambda: sd.run("digits-v2", image), "digits-v2: it is the name of a bundled model, and no program"),
        (lambda: sd.run(program, image[:0]), "there are no images"),
        (lambda: sd.run(program, np.full((1, 1, 16, 16), np.nan)), "some of its values are no finite numbers"),
        (lambda: sd.export(program, "lva", "x"), "to: 'lva' is none of lava, netx, onnx, nir, pt2"),
        (lambda: sd.energy(sd.load("digits-v2"), image, time_steps=2), "time_steps: the model is loaded already"),
    ):
        with pytest.raises(InputError, match=rf"^(images: )?{problem}"):
            call()
    with pytest.raises(QuantizeError, match=r"weight_bits: 1 weight bits asked for.*\n  Use 2 to 8"):
        sd.compile("digits-v2", weight_bits=1, check=False)


def test_values_of_another_type_are_refused_by_their_option() -> None:
    program, image = program_of("digits-v2"), np.ones((1, 1, 16, 16), np.uint8)
    for call, problem in (
        (lambda: sd.run(program, image, limit="3"), "limit: '3' is a str\n  Give a whole number"),
        (lambda: sd.run(program, image, limit=True), "limit: True is a bool"),
        (lambda: sd.run(program, image, timing=True), "timing: True is a bool\n  Give a string"),
        (lambda: sd.run(program, image, record=5), "record: 5 is a int\n  Give a string or a list, each of them a st"),
        (lambda: sd.run(program, image, record=["a", 5]), r"record: \['a', 5\] is a list"),
        (lambda: sd.run(program, image, memory_limit="2GiB"), "memory_limit: '2GiB' is a str"),
        (lambda: sd.run(program, image, progress=5), "progress: 5 is a int\n  Give a function"),
        (lambda: sd.run(program, image, "x"), "run: too many positional .*\n  Give program, data, and all others by"),
        (lambda: sd.run(program), "run: missing a required argument: 'data'"),
        (lambda: sd.compile("digits-v2", weight_bits=4.0), "weight_bits: 4.0 is a float"),
        (lambda: sd.compile("digits-v2", report=5), "report: 5 is a int\n  Give a function"),
        (lambda: sd.compile("digits-v2", check=1), "check: 1 is a int\n  Give True or False"),
        (lambda: sd.Preprocess(chanels=3), "Preprocess: unknown option 'chanels'; did you mean channels"),
        (lambda: sd.Preprocess(1, 8, 0.5, 0.5), "mean: 0.5 is a float\n  Give a list, each of them a number"),
        (lambda: sd.Stream(program, recrd="output"), "Stream: unknown option 'recrd'; did you mean record"),
        (lambda: sd.load(3), "path: 3 is a int\n  Give a string or a path"),
    ):
        with pytest.raises(sd.OptionError, match=f"^{problem}"):
            call()
    assert sd.verify(program, image, backends="reference", limit=np.int64(1)).backends == {"reference": True}
    assert sd.energy("digits-v2", image, conventions="syops").accounts[0].convention == "syops"


def test_a_module_without_names_of_classes_says_so_by_none() -> None:
    module = Own()
    module.labels = None
    image = np.ones((1, 1, 8, 8), np.uint8)
    with pytest.warns(UserWarning, match="pixels / 255"):
        assert sd.compile(module, calibrate_on=image, time_steps=2, check=False).labels == ()
    module.labels = "abc"
    with pytest.raises(ModelError, match="its labels are a str"):
        sd.compile(module, calibrate_on=image, time_steps=2)


def test_the_package_is_typed_and_says_its_version() -> None:
    assert (Path(sd.__file__).parent / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+.*", sd.__version__)
    assert set(dir(sd)) == {*sd.__all__, "__doc__", "__version__"}


# --- what people pass ---------------------------------------------------------------------------------------------


class Items(Dataset):
    """Pairs, as datasets give them."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pairs = list(zip(pixels, labels.tolist(), strict=True))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.pairs[index][0]) / 255, self.pairs[index][1]

    def __len__(self) -> int:
        return len(self.pairs)


class Endless(IterableDataset):
    """Images without an end, and without labels."""

    def __iter__(self) -> Any:
        while True:
            yield np.zeros((1, 16, 16), np.uint8)


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    return random_images(program_of("digits-v2").network, 0, 5), np.array([1, 2, 3, 4, 5])


def test_a_program_runs_on_what_people_have(images: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    program, (pixels, labels) = program_of("digits-v2"), images
    program.save(tmp_path / "p.spk")
    expected = sd.run(program, pixels, timing="none")
    normalised = torch.from_numpy(program.preprocess.normalised(pixels))
    tensors = torch.from_numpy(pixels)
    for data, labelled in (
        (tensors, False),
        (tensors.float().requires_grad_(), False),
        (normalised, False),
        ((pixels, labels), True),
        ((tensors, torch.from_numpy(labels)), True),
        ((pixels, labels.tolist()), True),
        (Items(pixels, labels), True),
        (TensorDataset(normalised, torch.from_numpy(labels)), True),
        (DataLoader(Items(pixels, labels), batch_size=2), True),
        (DataLoader(TensorDataset(tensors), batch_size=2).dataset.tensors[0], False),
    ):
        found = sd.run(tmp_path / "p.spk", data, timing="none")
        np.testing.assert_array_equal(found.accumulators, expected.accumulators)
        assert (found.labels is not None) is labelled
        if labelled:
            assert found.labels.tolist() == labels.tolist()
    assert len(sd.run(str(tmp_path / "p.spk"), Endless(), limit=3, timing="none").predictions) == 3
    assert sd.verify(tmp_path / "p.spk", DataLoader(Items(pixels, labels)), backends=(), limit=2).images == 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (3, "data: it is a int"),
        ([1, 2], "data: it is a list"),
        ((1, 2, 3), "data: a tuple of 3"),
        (DataLoader([{"x": 1}, {"x": 2}]), "its items are a dict"),
        (DataLoader([np.zeros((1, 16, 16)), np.zeros((1, 8, 16))], batch_size=1), r"image 1 is \(1, 8, 16\)"),
        (torch.rand(2, 1, 16, 16), "real numbers from .* not all whole"),
        ((np.zeros((2, 1, 16, 16), np.uint8), [1]), "labels of shape"),
        (({"a": 1}, None), "a dict is no array of numbers"),
    ],
)
def test_other_data_is_refused_by_its_kind(data: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        sd.run(program_of("digits-v2"), data, timing="none")


def test_pixels_are_found_in_real_images_only_where_all_of_them_tell() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4))
    preprocess = sd.Preprocess(3, 4, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_array_equal(whole(pixels / np.float32(255), preprocess), pixels)
    np.testing.assert_array_equal(whole(preprocess.normalised(pixels), preprocess), pixels)
    other = sd.Preprocess(3, 4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).normalised(pixels)
    for images in (other, pixels / 255 + 0.001, pixels.astype(np.float32), pixels[0, 0] / 255, pixels * 0.0):
        assert whole(images, preprocess) is images
    many = np.random.default_rng(1).integers(0, 256, (9, 1, 400, 400))
    np.testing.assert_array_equal(whole(many / np.float32(255), sd.Preprocess(1, 400, (0.3,), (0.7,))), many)
    assert gathered("digits") == "digits"


def test_real_images_that_may_be_either_are_refused() -> None:
    """Bright images, normalised by halves, are multiples of 1 / 255 too; black and white ones are whole numbers."""
    halves = sd.Preprocess(1, 4, (0.5,), (0.5,))
    pixels = np.random.default_rng(0).integers(128, 256, (2, 1, 4, 4))
    with pytest.raises(InputError, match="pixels / 255, or normalised: they could be either"):
        whole(halves.normalised(pixels), halves)
    pixels[0, 0, 0, 0] = 3
    np.testing.assert_array_equal(whole(halves.normalised(pixels), halves), pixels)
    with pytest.raises(InputError, match="0 and 1 alone"):
        sd.run(program_of("digits-v2"), np.eye(16)[None, None], timing="none")
    with pytest.raises(InputError, match="0 and 1 alone"):
        sd.Stream(program_of("digits-v2")).step(torch.eye(16))
    quarters = sd.Preprocess(1, 4, (0.5,), (0.25,), max_value=255)
    bright = np.full((1, 1, 4, 4), 255)
    with pytest.raises(InputError, match="pixels, or normalised: they could be either"):
        whole(quarters.normalised(bright), quarters)  # 2 everywhere
    bright[..., 0] = 0
    np.testing.assert_array_equal(whole(quarters.normalised(bright), quarters), bright)  # -2 is no pixel
    with pytest.raises(InputError, match="0 and 1 alone, which are pixels or pixels / 16"):
        whole(np.eye(4)[None], sd.Preprocess(1, 4, (0.3,), (0.7,), max_value=16))
    plain = sd.Preprocess(1, 4, (0.0,), (1.0,))
    np.testing.assert_array_equal(whole(plain.normalised(pixels), plain), pixels)


def test_options_of_files_are_refused_where_there_is_no_file() -> None:
    module, pixels = model_and_images(SMALL["cifar"])
    for call in (lambda: sd.compile(sd.load("digits-v2"), heads=2), lambda: sd.energy(module, pixels, arch="x")):
        with pytest.raises(sd.OptionError, match=r"^(heads|arch): the model is no file"):
            call()
    with pytest.raises(sd.OptionError, match=r"^heads: there is no model"):
        sd.verify(program_of("digits-v2"), "digits", limit=1, heads=2)
    for wrong, problem in ((3, "it is a int"), (program_of("digits-v2"), "it is a program already")):
        with pytest.raises(InputError, match=rf"^model: {problem}, and no model"):
            sd.compile(wrong)
    with pytest.raises(InputError, match=r"^program: it is a int, and no program"):
        sd.run(3, "digits")
    with pytest.raises(InputError, match=r"^data: a Tensor, and points of a sweep read files"):
        sd.sweep("digits-v1", pixels)


@pytest.mark.filterwarnings("ignore:.*pixels / 255")
def test_verify_counts_the_predictions_that_rounding_changes() -> None:
    torch.manual_seed(0)
    module, images = Own(), np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8)).astype(np.uint8)
    program = sd.compile(module, calibrate_on=images, time_steps=2, weight_bits=2, granularity="channel", check=False)
    verdict = sd.verify(program, images, model=module, time_steps=2, backends=())
    with torch.no_grad():
        floats = module(torch.from_numpy(images / np.float32(255))).argmax(1).numpy()
    changed = int((floats != sd.run(program, images, timing="none").predictions).sum())
    assert verdict.predictions_changed == verdict.to_dict()["predictions_changed"] == changed > 0
    assert f"predictions changed  {changed} of 60" in repr(verdict)
    assert sd.verify(program, images[:1], backends=()).predictions_changed is None


@pytest.mark.filterwarnings("ignore:.*pixels / 255")
def test_verify_refuses_a_module_of_the_same_weights_and_another_structure() -> None:
    torch.manual_seed(0)
    module, images = Own(), np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8)).astype(np.uint8)
    program = sd.compile(module, calibrate_on=images, time_steps=2, check=False)
    assert sd.verify(program, images, model=module, time_steps=2, backends=()).notes == ()
    module.lif = LIF(v_threshold=0.2, tau=3.0)
    with pytest.raises(InputError, match=r"^Own: it .* of the same weights, whose neurons, heads or layers differ"):
        sd.verify(program, images, model=module, time_steps=2, backends=())
    longer = Own(steps=3)
    longer.load_state_dict(module.state_dict())
    with pytest.raises(InputError, match=r"^Own: its time steps are 3, and those of the program are 2") as refused:
        sd.verify(program, images, model=longer, time_steps=3, backends=())
    assert "Give time_steps 2 " in refused.value.way_out
    provenance = {**program.provenance, "versions": {"torch": "1"}}
    of_others = replace(program, provenance=provenance)
    assert "other versions" in sd.verify(of_others, images, model=module, time_steps=2, backends=()).notes[0]
    del provenance["graph_sha256"]  # as programs of before
    assert sd.verify(of_others, images, model=module, time_steps=2, backends=()).notes == ()


@pytest.mark.long
def test_verify_refuses_a_checkpoint_with_other_options(tmp_path: Path) -> None:
    """Weights of an official file fit other heads and other time steps as well."""
    module, _ = model_and_images(CONFIG)
    file, images = tmp_path / "bare.pth", np.zeros((1, 3, 32, 32), np.uint8)
    torch.save(module.state_dict(), file)
    program = sd.compile(file, heads=4, time_steps=4, calibrate_on=images, check=False)
    before = replace(program, provenance={k: v for k, v in program.provenance.items() if k != "graph_sha256"})
    assert sd.verify(program, images, model=file, heads=4, time_steps=4, backends=()).predictions_changed is not None
    with pytest.raises(InputError, match="of the same weights, whose neurons, heads or layers differ"):
        sd.verify(program, images, model=file, backends=(), heads=2, time_steps=4)
    for of_program in (program, before):
        with pytest.raises(InputError, match=r"^model: its time steps are 2, and those of the program are 4"):
            sd.verify(of_program, images, model=file, heads=4, time_steps=2, backends=())


class Own(nn.Module):
    """A network of one's own, that makes two time steps of an image."""

    def __init__(self, steps: int = 2) -> None:
        super().__init__()
        self.steps = steps
        self.conv, self.lif, self.head = nn.Conv2d(1, 4, 3, padding=1), LIF(v_threshold=0.2), nn.Linear(4 * 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        currents = self.conv(x).unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)
        return self.head(self.lif(currents).flatten(2)).mean(0)


def test_a_module_of_ones_own_is_compiled_on_its_loader() -> None:
    torch.manual_seed(0)
    module = Own().train()
    pixels = np.random.default_rng(1).integers(0, 256, (6, 1, 8, 8)).astype(np.uint8)
    loader = DataLoader(Items(pixels, np.zeros(6, np.int64)), batch_size=4)
    with pytest.warns(UserWarning, match="pixels / 255"):
        program = sd.compile(module, calibrate_on=loader, time_steps=2)
    assert module.training
    assert program.network.time_steps == 2
    found = sd.run(program, loader)
    assert len(found.predictions) == 6
    counted = sd.energy(module, loader, conventions=["spikformer-paper"], time_steps=2)
    assert counted.counts.images == 6


def test_limits_of_memory_that_hold_nothing_are_refused_before_the_run() -> None:
    program = program_of("digits-v2")
    image, head = np.zeros((1, 1, 16, 16), np.uint8), program.network.output.name
    for limit, record, problem in (
        (-1, (), "^memory_limit: .* one image at a time takes"),
        (-1, head, "^record: 1 layers of 1 images"),
        (1000, "block.0.attn.q_lif", r"larger memory_limit\.$"),
        (2**20, head, "^memory_limit: .* one image at a time takes"),
    ):
        with pytest.raises(InputError, match=problem):
            sd.run(program, image, timing="none", record=record, memory_limit=limit)


def test_paths_are_no_options_and_lists_have_their_names(tmp_path: Path) -> None:
    program, path = program_of("digits-v2"), str(tmp_path / "no--limit.spk")
    with pytest.raises(InputError, match=r"no--limit\.spk"):
        sd.run(path, "digits")
    with pytest.raises(InputError, match=r"^backends: 'x' is none of"):
        sd.verify(program, "digits", backends=("x",), limit=1)
    with pytest.raises(InputError, match=r"^model: the program was compiled from another model"):
        sd.verify(program, "digits", model="digits-v1", backends=(), limit=1)
    with pytest.raises(InputError, match=r"^x --limit\.npz: "):
        sd.run(program, "x --limit.npz")


@pytest.mark.long
def test_a_comparison_says_that_weights_are_random() -> None:
    program = program_of("digits-v1")
    images = random_images(program.network, 0, 2)
    assert RANDOM_NOTE not in sd.verify(program, images, backends=()).notes
    of_random = replace(program, provenance={**program.provenance, "training": {RANDOM: 0}})
    assert RANDOM_NOTE in sd.verify(of_random, images, backends=()).notes
    assert RANDOM_AGREEMENT not in sd.verify(of_random, images, backends=()).notes
    assert RANDOM_AGREEMENT in sd.verify(of_random, images, model="digits-v1", backends=()).notes
    assert RANDOM_AGREEMENT not in sd.verify(program, images, model="digits-v1", backends=()).notes
