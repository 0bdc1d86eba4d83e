"""Models that read only the last time step: accumulators that forget, in every executor and format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from campaign.agreement import Inputs, assert_executors_agree
from hostile.forging import opened, sealed
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import some
from support.layers import dyadic, with_ties
from support.networks import Builder, random_images, random_network
from support.programs import program_of
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import ModelError, ProgramError
from spikformer_deploy.chips.loihi.memory import token_wise
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.netx.write import write_network
from spikformer_deploy.converters.nir import write as nir_export
from spikformer_deploy.converters.onnx import write as onnx_model
from spikformer_deploy.converters.onnx.read import read_model as read_onnx
from spikformer_deploy.converters.pt2 import read_model as read_pt2
from spikformer_deploy.counts.events import count
from spikformer_deploy.counts.slices import geometry
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.executors.lava import execute as lava
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.bounds import worst_cases
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator, Lif
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.pipeline.program import Program, from_bytes, to_bytes
from spikformer_deploy.pipeline.sample import firing_rates
from spikformer_deploy.quantization.currents import Current, ReadoutTerm
from spikformer_deploy.quantization.heads import make_accumulator
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.report.tables import compile_summary

LOIHI2 = load_profile("loihi2")
LIMITS = LOIHI2.limits
SHAPE = (2, 4, 4)

Head = Callable[["Net", Tensor, Tensor], Tensor]


class Net(nn.Module):
    """Frames (B, T, 2, 4, 4), neurons, and a head that makes (T, B, classes) of spikes (T, B, 4, 4, 4)."""

    def __init__(self, head: str, steps: int, seed: int) -> None:
        super().__init__()
        self.head = head
        self.steps = steps
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.lif = LIF()
        self.other = nn.Conv2d(2, 4, 3, padding=1)
        self.second = LIF()
        self.fc = nn.Linear(4, 5)
        self.flat = nn.Linear(64, 5)
        self.bare = nn.Linear(32, 5)
        self.last = LIF(v_threshold=0.5)
        dyadic(self, seed)

    def layer(self, conv: nn.Module, frames: Tensor) -> Tensor:
        return conv(frames.flatten(0, 1)).unflatten(0, (self.steps, -1))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(0, 1)
        return HEADS[self.head](self, self.lif(self.layer(self.conv, frames)), frames)[-1]

    def rows(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(3).mean(3))


HEADS: dict[str, Head] = {
    "mean, linear": lambda m, x, _: m.rows(x),
    "map, linear": lambda m, x, _: m.flat(x.flatten(2)),
    "spikes": lambda m, x, _: m.last(m.rows(x)),
    "mean": lambda m, x, _: x.flatten(3).mean(3),
    "sum of two": lambda m, x, frames: m.rows(x + m.second(m.layer(m.other, frames))),
    "no neurons before the head": lambda m, x, frames: m.bare(frames.flatten(2)) + m.rows(x),
}


def imported(module: Net) -> Imported:
    graph = check(trace(module.eval(), SHAPE, time_steps=module.steps, per_step=True))
    return Imported("test", graph, Preprocess(2, 4, (0.0, 0.0), (1.0, 1.0), 1), (), "", {}, ())


def compiled(module: Net, **options: Any) -> Program:
    program = sd.compile(imported(module), **options)
    assert isinstance(program, Program)
    return program


def head_of(network: Network) -> Accumulator:
    head = network.output.neuron
    assert isinstance(head, Accumulator)
    return head


def frames_of(steps: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (4, steps, *SHAPE)).astype(np.uint8)


@pytest.mark.parametrize("neuron", some(["programmable"], long=["stock"]))
@pytest.mark.parametrize("steps", some([4], [2, 3, 5], long=[1]))
@pytest.mark.parametrize("head", HEADS)
def test_logits_are_those_of_the_last_step(head: str, steps: int, neuron: str) -> None:
    """Of weights that need no rounding, in all executors and kernels; the other steps leave nothing behind."""
    module = Net(head, steps, steps)
    frames = frames_of(steps, steps)
    network = compiled(module, neuron=neuron).network
    assert head_of(network).last == (steps > 1)
    assert (network.exact, network.rounding) == (True, 0)
    run = assert_executors_agree(Inputs(network, frames, steps))
    assert run is not None
    with torch.no_grad():
        wanted = with_ties(module).double()(torch.from_numpy(frames).double()).numpy()
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(run.accumulators * head_of(network).scale, wanted, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("head", HEADS)
def test_the_mean_counts_the_same(head: str) -> None:
    """Every step is computed, sent and counted; of the integers only the head differs, and its range is of one step."""
    module = Net(head, 4, 0)
    frames = frames_of(4, 0)
    network = compiled(module).network
    summed = replace(head_of(network), last=False)
    mean = replace(network, populations=(*network.populations[:-1], replace(network.output, neuron=summed)))
    found, whole = (engine.execute(n, frames, record=["output"]) for n in (network, mean))
    for name, activity in found.activity.items():
        np.testing.assert_array_equal(activity.messages, whole.activity[name].messages)
    bias = head_of(network).bias[:, None, None]
    running = whole.membranes["output"]
    each = np.concatenate([running[:, :1], np.diff(running, axis=1) + bias], 1)
    np.testing.assert_array_equal(found.membranes["output"], each)
    assert found.peak_state["output"] < whole.peak_state["output"]
    low, high = worst_cases(network)["output"].state
    assert worst_cases(mean)["output"].state[1] >= high >= found.membranes["output"].max()
    assert low <= found.membranes["output"].min()
    assert network.output.bounds[0] <= low < high <= network.output.bounds[1]


def test_a_head_that_no_worst_case_bounds_is_seen_in_one_step() -> None:
    """What calibration sees of the head is its largest value of any step, not that of sums over steps."""
    module = Net("mean, linear", 5, 1)
    graph = imported(module).graph
    real = torch.from_numpy(frames_of(5, 1)).float()
    low, high = Calibration(graph, real).range_of("output")
    with torch.no_grad():
        spikes = module.lif(module.layer(module.conv, real.transpose(0, 1)))
        rows = module.rows(spikes)
    np.testing.assert_allclose([low, high], [float(rows.min()), float(rows.max())], rtol=1e-6)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(-40, 40), st.sampled_from([4, 8]))
def test_the_integers_of_a_head_know_no_time_steps(steps: int, largest: int, bias: int, bits: int) -> None:
    """The same as of one step; a mean over the steps has their bias as often, and another scale."""
    weight = np.random.default_rng(largest).integers(-largest, largest + 1, (3, 5)) / 8
    weight[0, 0] = largest / 8
    current = Current((ReadoutTerm("head", "in", weight, 4, 1),), np.array([bias, -bias, 1]) / 16, (3, 1, 1))
    last_step = make_accumulator("output", current, lambda _: 1, steps, LIMITS, Settings(bits), last=True)
    one_step = make_accumulator("output", current, lambda _: 1, 1, LIMITS, Settings(bits), last=False)
    assert last_step.population.bounds == one_step.population.bounds
    assert last_step.population.rounding == one_step.population.rounding
    neurons = [head.population.neuron for head in (last_step, one_step)]
    assert [n.last for n in neurons] == [True, False]  # type: ignore[union-attr]
    np.testing.assert_array_equal(neurons[0].bias, neurons[1].bias)  # type: ignore[union-attr]
    np.testing.assert_array_equal(neurons[0].scale, neurons[1].scale)  # type: ignore[union-attr]
    weights = [head.projections[0].synapse.weight for head in (last_step, one_step)]  # type: ignore[union-attr]
    np.testing.assert_array_equal(weights[0], weights[1])


def test_a_program_file_keeps_it() -> None:
    """Written where it is so, left out where it is not, and read as it is; another word is refused."""
    program = compiled(Net("mean, linear", 3, 0))
    mean = program_of("digits-v1")
    content = to_bytes(program)
    again = from_bytes(content, "file")
    assert (head_of(again.network).last, to_bytes(again)) == (True, content)
    structure, tensors = opened(content)
    heads = [opened(to_bytes(p))[0]["network"]["populations"][-1]["neuron"] for p in (program, mean)]
    assert [head.get("last") for head in heads] == [True, None]
    structure["network"]["populations"][-1]["neuron"]["last"] = 1
    with pytest.raises(ProgramError, match="last"):
        from_bytes(sealed(structure, tensors), "file")


def test_tables_and_dumps_say_which_steps_are_read() -> None:
    for steps, readout in ((3, "last time step"), (1, "all time steps")):
        program = compiled(Net("mean, linear", steps, 0))
        assert compile_summary(program, "a.spk", 0, 0)["readout"] == readout
        assert ("Accumulator[last]" in program.network.dump()) == (steps > 1)


def test_programs_of_torch_export_read_it_too(tmp_path: Path) -> None:
    module = Net("spikes", 4, 0).eval()
    frames = torch.from_numpy(frames_of(4, 0)).float()
    program = torch.export.export(module, (frames,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "a.pt2")
    graph = read_pt2(tmp_path / "a.pt2", time_steps=4).graph
    assert graph.nodes[-1].op.last  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(execute(graph, frames)["output"], module(frames))


def test_a_range_of_one_step_is_no_proof_for_their_sum() -> None:
    """A head that is said to add up needs the range of all steps."""
    structure, tensors = opened(to_bytes(compiled(Net("mean, linear", 5, 0))))
    assert structure["network"]["bounds"] == "static"
    del structure["network"]["populations"][-1]["neuron"]["last"]
    with pytest.raises(ProgramError, match="output: its state is said to stay in"):
        from_bytes(sealed(structure, tensors), "file")


@pytest.mark.parametrize("head", HEADS)
def test_onnx_keeps_the_graph_and_its_last_step(head: str, tmp_path: Path) -> None:
    """The float graph comes back, and compiles to the same integers; ONNX Runtime gives the logits of the module."""
    module = Net(head, 4, 2)
    model = imported(module)
    frames = frames_of(4, 2)
    onnx_model.write_model(model.graph, tmp_path / "a.onnx", model.preprocess, (), {})
    again = read_onnx(tmp_path / "a.onnx")
    assert again.graph.nodes[-1].op.last  # type: ignore[union-attr]
    assert sd.compile(again).network.digest() == sd.compile(model).network.digest()
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": frames.astype(np.float32)})
    with torch.no_grad():
        np.testing.assert_allclose(logits, module(torch.from_numpy(frames).float()).numpy(), atol=1e-5)


def pooled_behind(step: int | None, path: Path) -> Path:
    """An ONNX file that max-pools the mean of the spikes over 4 time steps, or those of one step."""
    onnx = pytest.importorskip("onnx")
    made = onnx_model.to_model(imported(Net("mean", 4, 0)).graph)
    nodes = list(made.graph.node)
    make = onnx.helper.make_node
    spikes = next(n for n in nodes if n.op_type == "ReduceMean").input[0]
    kept = nodes[: next(i for i, n in enumerate(nodes) if spikes in n.output) + 1]
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(values, np.int64), name)
        for name, values in (("by_step", [4, -1, 4, 4, 4]), ("step", step or 0))
    )
    one = make("Gather", ["each", "step"], ["one"], axis=0)
    del made.graph.node[:]
    made.graph.node.extend(
        [
            *kept,
            make("Reshape", [spikes, "by_step"], ["each"]),
            make("ReduceMean", ["each"], ["one"], axes=[0], keepdims=0) if step is None else one,
            make("MaxPool", ["one"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
            make("ReduceMean", ["pooled"], ["logits"], axes=[2, 3], keepdims=0),
        ]
    )
    path.write_bytes(made.SerializeToString())
    return path


def test_the_reader_of_onnx_follows_the_time_axis(tmp_path: Path) -> None:
    """A pool of the last step is the last step of a pool; one of a mean is no mean of pools, and no other step is."""
    graph = read_onnx(pooled_behind(3, tmp_path / "a.onnx"), time_steps=4).graph
    frames = torch.from_numpy(frames_of(4, 0)).float()
    module = Net("mean", 4, 0)
    with torch.no_grad():
        spikes = module.lif(module.layer(module.conv, frames.transpose(0, 1)))[-1]
    torch.testing.assert_close(execute(graph, frames)["output"], torch.max_pool2d(spikes, 2).mean((2, 3)))
    with pytest.raises(ModelError, match="pool: MaxPool stands behind a mean over the time steps"):
        read_onnx(pooled_behind(None, tmp_path / "a.onnx"), time_steps=4)
    with pytest.raises(ModelError, match="time step 1 alone is used"):
        read_onnx(pooled_behind(1, tmp_path / "a.onnx"), time_steps=4)


def test_formats_that_cannot_say_it_refuse_it(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    pytest.importorskip("h5py")
    model = imported(Net("map, linear", 4, 0))
    with pytest.raises(ModelError, match=r"output: .*it reads the last time step only"):
        nir_export.write_model(model.graph, tmp_path / "a.nir", model.preprocess, (), {})
    builder = Builder(np.random.default_rng(0), 3, "stock")
    network = builder.finish(builder.conv("a", builder.source((2, 4, 5), 3, True), 4, 3), 3)
    stock = [replace(p, neuron=replace(p.neuron, last=True)) for p in network if isinstance(p.neuron, Accumulator)]
    plain = {"shift": 0, "bias": np.zeros(4, np.int64), "threshold": np.full(4, 9)}
    lifs = [replace(p, neuron=replace(p.neuron, **plain)) if isinstance(p.neuron, Lif) else p for p in network]
    with pytest.raises(ModelError, match=r"output: .*it reads the last time step only"):
        write_network(replace(network, populations=(*lifs[:-1], *stock)), tmp_path / "a.net")


@pytest.mark.long
def test_lava_forgets_too() -> None:
    pytest.importorskip("lava")
    for neuron in ("programmable", "stock"):
        network = compiled(Net("spikes", 3, 0), neuron=neuron).network
        frames = frames_of(3, 0)
        names = [p.name for p in network]
        ours, right = (e.execute(network, frames, record=names) for e in (lava, reference))
        np.testing.assert_array_equal(ours.accumulators, right.accumulators)
        np.testing.assert_array_equal(ours.membranes["output"], right.membranes["output"])
        assert np.ptp(right.accumulators) > 0


@pytest.mark.parametrize("schedule", ["spatial", "token-serial"])
def test_schedules_and_energy_are_those_of_a_head_that_adds_up(schedule: str) -> None:
    network = next(n for n in (random_network(seed, blocks=1) for seed in range(50)) if token_wise(n))
    images = random_images(network, 0, 3)
    runs = []
    events = []
    for last in (True, False):
        output = replace(network.output, neuron=replace(head_of(network), last=last))
        one = replace(network, populations=(*network.populations[:-1], output))
        mapping = map_network(one, LOIHI2, firing_rates(one, images), schedule=schedule)
        inlets = geometry(one, mapping)
        runs.append(engine.execute(one, images, cells=inlets.cells))
        events.append(count(inlets, runs[-1]))
    assert events[0].synops == events[1].synops
    np.testing.assert_array_equal(events[0].slices.messages_in, events[1].slices.messages_in)
    assert not np.array_equal(runs[0].accumulators, runs[1].accumulators)
