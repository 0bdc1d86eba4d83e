"""The energy of float models on images: how a module is run, what it keeps, and its counts beside independent ones."""

from typing import Any

import numpy as np
import pytest
import torch
from support.deep import some
from support.models import SMALL
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.accounting.operators import CONVENTIONS
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.module import GraphModule
from spikformer_deploy.inference.forward import Forward, forward_of
from spikformer_deploy.inference.state import State
from spikformer_deploy.nn.lif import lif
from spikformer_deploy.nn.zoo import build
from spikformer_deploy.pipeline.stages import float_graph

SHAPE = (1, 8, 8)
STEPS = 4


class IF(nn.Module):
    """Integrate and fire, a step a call; the potential stays until somebody resets it."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.v + x
        spikes = (h >= 0.5).to(x)
        self.v = h * (1 - spikes)
        return spikes


class Step(nn.Module):
    """One time step: images to logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.neurons = IF()
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neurons(self.conv(x)).flatten(1))


class Looped(nn.Module):
    """All time steps of an image, one after the other; (T, N, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Step()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.step(x) for _ in range(STEPS)])


class Sequence(nn.Module):
    """All time steps in one call: (T, N, C, Y, X) to (T, N, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Step()

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5:
            raise ValueError("expected (T, N, C, Y, X)")
        return torch.stack([self.step(frame) for frame in x])


class ByImage(nn.Module):
    """Recordings (N, T, C, Y, X) to (N, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.sequence = Sequence()

    def forward(self, x: Tensor) -> Tensor:
        return self.sequence(x.transpose(0, 1)).mean(0)


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def spikes_by_hand(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spikes (T, N, 3, 8, 8) of a Step in numpy, and logits (N, classes)."""
    step = Step()
    weight, bias = step.conv.weight.detach().numpy(), step.conv.bias.detach().numpy()
    x = np.pad(pixels.astype(np.float32) / 255, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    current = np.einsum("ncyxab,ocab->noyx", windows, weight) + bias[:, None, None]
    v = np.zeros_like(current)
    spikes = []
    for _ in range(STEPS):
        v = v + current
        spikes.append(v >= 0.5)
        v = np.where(spikes[-1], 0, v)
    flat = np.stack(spikes).reshape(STEPS, len(pixels), -1)
    logits = flat @ step.head.weight.detach().numpy().T + step.head.bias.detach().numpy()
    return np.stack(spikes), logits.mean(0)


@pytest.mark.parametrize(("model", "takes"), [(Step, "steps"), (Looped, "images"), (Sequence, "sequence")])
def test_a_module_is_run_as_it_takes_images(model: type[nn.Module], takes: str) -> None:
    module = model().eval()
    forward = forward_of(module, "net", SHAPE, STEPS)
    assert (forward.takes, forward.time_steps) == (takes, STEPS)
    pixels = images()
    _, expected = spikes_by_hand(pixels)
    for _ in range(2):  # and from rest each time
        np.testing.assert_allclose(forward.logits(pixels.astype(np.float32) / 255), expected, atol=1e-5)


@pytest.mark.parametrize("model", [Step, Looped, Sequence])
@pytest.mark.parametrize("count", [STEPS, 6, 20])
def test_counts_are_those_of_a_count_by_hand(model: type[nn.Module], count: int) -> None:
    """In batches, whatever their size, T of them included: two batches of 16 and 4, and one of as many as steps."""
    pixels = images(count)
    spikes, _ = spikes_by_hand(pixels)
    counted = sd.energy(model(), pixels, conventions=["spikformer-paper"], time_steps=STEPS)
    figures = counted.to_dict()["conventions"]["spikformer-paper"]["figures"]
    assert figures["ACs"] == pytest.approx(spikes.sum() * 10 / count, rel=1e-12)
    assert figures["MACs"] == STEPS * 64 * 27
    assert counted.counts.images == count
    assert counted.counts.time_steps == STEPS
    energy = counted.to_dict()["energy_mj"]["spikformer-paper"]["nominal"]
    assert energy == pytest.approx((4.6 * STEPS * 64 * 27 + 0.9 * figures["ACs"]) * 1e-9)


def test_steps_of_a_loop_are_found() -> None:
    assert sd.energy(Looped(), images()).counts.time_steps == STEPS


@pytest.mark.parametrize(("model", "takes"), [(Step, "steps"), (Sequence, "sequence"), (ByImage, "recordings")])
def test_recordings_have_a_frame_a_step(model: type[nn.Module], takes: str) -> None:
    frames = np.random.default_rng(0).integers(0, 2, (5, STEPS, *SHAPE)).astype(np.uint8)
    counted = sd.energy(model(), frames, conventions=["spikformer-paper"])
    assert counted.takes == takes
    forward = Forward(model().eval(), "net", takes, STEPS, takes == "sequence")
    step = Step().eval()
    with torch.no_grad():
        expected = torch.stack([step(torch.from_numpy(frames[:, t]).float()) for t in range(STEPS)]).mean(0)
    np.testing.assert_allclose(forward.logits(frames.astype(np.float32)), expected, atol=1e-5)


# --- what cannot be run -------------------------------------------------------------------------------------------


class Wrong(Step):
    """A forward pass of the wrong kind."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor) -> Any:
        return self.result(super().forward(x))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda logits: (logits, logits), "its forward returns a tuple of 2 (Tensor, Tensor), and no tensor"),
        (lambda logits: {"logits": logits}, "its forward returns a dict, and no tensor"),
        (lambda logits: None, "its forward returns nothing, and no tensor"),
        (lambda logits: logits.sum(0), "its result has no row for every image: (10,) for (5, 1, 8, 8)"),
        (lambda logits: logits @ logits, "its forward pass raises RuntimeError: mat1 and mat2 shapes"),
    ],
)
def test_other_results_than_logits_are_refused(result: Any, message: str) -> None:
    with pytest.raises(ModelError) as raised:
        sd.energy(Wrong(result), images(), time_steps=STEPS)
    assert message in str(raised.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [torch.jit.script, torch.compile])
def test_what_is_compiled_or_scripted_is_refused_before_it_runs(wrap: Any) -> None:
    module = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(InputError, match=r"its operators (do not run one by one|cannot be seen)"):
        sd.energy(module, images())


def test_a_forward_pass_that_needs_more_is_refused() -> None:
    class Two(Step):
        def forward(self, x: Tensor, mask: Tensor, *, scale: float) -> Tensor:  # type: ignore[override]
            return super().forward(x * mask * scale)

    with pytest.raises(ModelError, match="its forward needs mask, scale besides the images"):
        sd.energy(Two(), images())


def test_images_of_another_shape_are_named_with_the_line_of_the_model() -> None:
    with pytest.raises(
        ModelError, match=r"on images of 2x8x8 its forward pass raises RuntimeError: .*test_energy\.py:"
    ):
        sd.energy(Step(), np.zeros((2, 2, 8, 8), np.uint8), time_steps=STEPS)


def test_one_step_needs_their_number() -> None:
    with pytest.raises(InputError, match="nothing says how many steps an image has\n  Give time_steps"):
        sd.energy(Step(), images())


def test_other_steps_than_those_of_its_own_loop_are_refused() -> None:
    with pytest.raises(InputError, match="its neurons are called 4 times in a forward pass, and 9 steps are asked for"):
        sd.energy(Looped(), images(), time_steps=9)
    stateless = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    stateless.T = 4
    with pytest.raises(InputError, match="it makes its own 4 time steps, and 9 are asked for"):
        sd.energy(stateless, images(), time_steps=9)


class Spread(nn.Module):
    """Neurons of all steps in one call, between layers that take any dimensions: images would pass for time steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(64, 10)
        self.neurons = Spreading()

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(self.layer(x.flatten(-3)))


class Spreading(nn.Module):
    """Integrate and fire over the leading dimension."""

    v_threshold = 0.5
    step_mode = "m"

    def forward(self, x: Tensor) -> Tensor:
        return lif(x.contiguous(), float("inf"), self.v_threshold, False, 4.0)


class Repeated(Spread):
    """It repeats images itself; recordings are (N, T, ...), as the official models take them."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if x.ndim == 5 else x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)
        return super().forward(x).mean(0)


def test_images_never_pass_for_time_steps() -> None:
    assert forward_of(Spread(), "net", SHAPE, STEPS).takes == "sequence"
    with pytest.raises(ModelError, match=r"depends on the other images\n  If it takes \(T, N, C, Y, X\)"):
        forward_of(Spread(), "net", SHAPE, None)
    assert forward_of(Repeated(), "net", SHAPE, STEPS).takes == "images"
    assert forward_of(Repeated(), "net", SHAPE, None).takes == "images"
    assert forward_of(Repeated(), "net", (STEPS, *SHAPE), STEPS).takes == "recordings"


def test_an_unknown_convention_is_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="there is none called 'paper'\n  Known: spikformer-paper, "):
        sd.energy("no such file", "nothing", conventions=["paper"])


def test_a_model_without_neurons_is_counted_and_that_is_said() -> None:
    counted = sd.energy(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images())
    assert any("no neurons were found" in note for note in counted.notes)
    assert counted.to_dict()["conventions"]["ann-equivalent-fp32"]["figures"]["MACs"] == 640


# --- what a module keeps ----------------------------------------------------------------------------------------------


def test_state_is_found_and_put_back_and_the_same_tensors_stay() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1), IF())
    mean = module[0].running_mean
    module[1].past = [torch.zeros(2), {"h": torch.ones(1)}, "word"]
    past = module[1].past[0]
    state = State(module)
    assert state.changed() == set()
    module.train()(torch.rand(4, 1, 3, 3))
    past.add_(1)
    module[1].more = torch.ones(3)
    assert state.changed() == {"0", "1"}
    state.restore()
    assert state.changed() == set()
    assert module[0].running_mean is mean
    assert mean.tolist() == [0.0]
    assert module[1].v == 0.0
    assert module[1].past[0] is past
    assert past.tolist() == [0.0, 0.0]
    assert not hasattr(module[1], "more")


def test_energy_leaves_the_model_as_it_was() -> None:
    module = Step()
    module.head.eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    sd.energy(module, images(), time_steps=STEPS)
    assert module.neurons.v == 0.0
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert (module.training, module.head.training) == (True, False)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


def test_a_model_in_doubles_is_given_doubles() -> None:
    counted = sd.energy(Step().double(), images(), time_steps=STEPS, conventions=["ann-equivalent-fp32"])
    assert counted.counts.images == 6


# --- models that the compiler knows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(["digits-v1"], long=["digits-v2"]))
def test_a_graph_as_a_module_computes_the_same_and_has_its_neurons(name: str) -> None:
    graph = float_graph(sd.load(name))
    x = torch.rand(3, *sd.load(name).input_shape)
    module = GraphModule(graph)
    with torch.no_grad():
        assert torch.equal(module(x), execute(graph, x)[graph.nodes[-1].name])
    with sd.count_operations(module, graph.time_steps) as counting, torch.no_grad():
        module(x)
    assert [record.name for record in counting.counts.neurons] == [
        node.name for node in graph if type(node.op).__name__ == "Lif"
    ]
    assert not counting.not_understood


@pytest.mark.long
def test_a_graph_from_a_file_counts_as_the_module_does(tmp_path) -> None:
    """Folded batch normalisation adds no synapse.  A graph's head reads every step, and V2's the mean over them."""
    sd.export(sd.load("digits-v2"), "onnx", tmp_path / "m.onnx")
    names = ["spikformer-paper-messages", "ann-equivalent-fp32"]
    of_file = sd.energy(tmp_path / "m.onnx", "digits", conventions=names, limit=8)
    of_module = sd.energy("digits-v2", "digits", conventions=names, limit=8)
    assert any("q (k^T v)" in note for note in of_file.notes)
    assert of_file.accuracy == of_module.accuracy
    of_layers = [
        {p.name: (p.work.macs, p.work.acs) for p in counted.accounts[0].places} for counted in (of_file, of_module)
    ]
    heads = [layers.pop("head") for layers in of_layers]
    assert heads[0][1] > heads[1][1]
    synapses = [{name: work for name, work in layers.items() if "matmul" not in name} for layers in of_layers]
    assert synapses[0] == synapses[1]
    assert len(synapses[0]) == 18


def test_an_official_model_for_events_takes_its_recordings() -> None:
    config = SMALL["dvs"]
    preprocess = Preprocess(config.in_channels, config.image_size, (0.0, 0.0), (1 / 255, 1 / 255))
    torch.manual_seed(0)
    loaded = Loaded(build(config).eval(), config, preprocess, (), "", {}, ())
    shape = (3, config.time_steps, config.in_channels, config.image_size, config.image_size)
    frames = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    counted = sd.energy(loaded, frames, conventions=["ann-equivalent-fp32"])
    assert (counted.takes, counted.counts.time_steps, counted.counts.images) == ("recordings", config.time_steps, 3)


def test_layers_that_never_fire_are_named() -> None:
    module = Looped()
    nn.init.zeros_(module.step.conv.weight)
    nn.init.zeros_(module.step.conv.bias)
    counted = sd.energy(module, images())
    assert any(note.startswith("no neuron fires on these images, in any of 1 layers") for note in counted.notes)


def test_labels_of_other_classes_are_no_error_of_counting() -> None:
    names = tuple("abcdefghijkl")
    data_of = Preprocess(1, 8, (0.0,), (1.0,))
    data = read("digits", data_of, limit=4)
    module = Looped()
    module.labels = names
    module.preprocess = data_of
    counted = sd.energy(module, data)
    assert counted.accuracy is None
    assert any(note.startswith("no accuracy: ") for note in counted.notes)


def test_every_convention_is_in_the_json_or_its_reason() -> None:
    values = sd.energy("digits-v2", "digits", limit=2).to_dict()
    assert list(values["conventions"]) == list(CONVENTIONS)
    assert values["energy_mj"].keys() < values["conventions"].keys()
    assert len(values["neurons"]) == 20
    assert all(len(neuron["firing_rate"]) == STEPS for neuron in values["neurons"])


def test_own_operator_is_that_of_the_library() -> None:
    """The stand-in above and our LIF without leak agree, so that the counts by hand are of real neurons."""
    x = torch.rand(STEPS, 5, 3)
    module = IF()
    by_hand = torch.stack([module(step) for step in x])
    assert torch.equal(by_hand, lif(x, float("inf"), 0.5, False, 4.0))
