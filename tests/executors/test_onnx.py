"""ONNX Runtime against the reference: spikes, potentials and logits of every layer equal."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import examples, some
from support.executions import assert_equal_activities, random_cells, with_state_bits
from support.networks import Builder, dual_network, graded_network, networks, random_images, random_network
from support.programs import program_of

from spikformer_deploy.base.errors import InputError, ModelError, OverflowDetected
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.onnx.program import to_model, write_program
from spikformer_deploy.data.read import read
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels, Lif
from spikformer_deploy.network.synapses import Conv, Window

onnxruntime = pytest.importorskip("onnxruntime")


def assert_equal(network: Network, images: np.ndarray, seed: int = 0) -> None:
    names, cells = [p.name for p in network], random_cells(network, seed)
    ours, right = (e.execute(network, images, record=names, cells=cells) for e in (onnx_backend, reference))
    np.testing.assert_array_equal(ours.accumulators, right.accumulators)
    assert ours.peak_state == right.peak_state
    for name in names:
        np.testing.assert_array_equal(ours.spikes[name], right.spikes[name], err_msg=f"spikes of {name}")
        np.testing.assert_array_equal(ours.membranes[name], right.membranes[name], err_msg=f"potentials of {name}")
    for name, activity in right.activity.items():
        assert_equal_activities(ours.activity[name], activity, name)
    for name, pairs in right.coincidences.items():
        np.testing.assert_array_equal(ours.coincidences[name], pairs)


@examples(25, 200)
@given(networks(), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_random_networks_are_equal(network: Network, seed: int, images: int) -> None:
    assert_equal(network, random_images(network, seed, images), seed)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_products_of_currents_and_spikes_are_equal(seed: int, steps: int) -> None:
    network = dual_network(seed, steps)
    assert_equal(network, random_images(network, seed), seed)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_integer_neurons_and_wide_attention_are_equal(seed: int, time_steps: int) -> None:
    network = graded_network(seed, time_steps)
    assert_equal(network, random_images(network, seed), seed)


def test_what_keeps_nothing_from_step_to_step_needs_no_scan() -> None:
    """A Scan each of the neurons that do, and standard operators alone."""
    import onnx

    for seed in range(3):
        network = graded_network(seed)
        model = to_model(network)
        onnx.checker.check_model(model, full_check=True)
        assert {n.domain for n in model.graph.node} == {""}
        keeping = [p for p in network if isinstance(p.neuron, (Levels, Lif)) and p.neuron.decay]
        assert [n.op_type for n in model.graph.node].count("Scan") == len(keeping) > 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "neuron"),
    some(
        [("digits-v1", "programmable"), ("digits-v2", "stock"), ("digits-levels", "programmable")],
        [("digits-v1", "stock"), ("digits-v2", "programmable")],
    ),
)
def test_bundled_models_are_equal(model: str, neuron: str) -> None:
    program = program_of(model, neuron)
    assert_equal(program.network, next(read("digits", program.preprocess, limit=4).batches(4))[0])


def wide(weight: int, channels: int) -> Network:
    b = Builder(np.random.default_rng(0), 2, "programmable")
    source = b.source((channels, 2, 2), 255, False)
    conv = Conv(np.full((3, channels, 1, 1), weight, np.int8))
    return b.finish(b.lif("lif", (3, 2, 2), (conv, (source.name,))), 2)


@pytest.mark.parametrize("weight", [127, -127, 113])
def test_sums_beyond_fp32_are_taken_apart(weight: int) -> None:
    network = wide(weight, 2000)
    images = np.random.default_rng(0).integers(200, 256, (1, 2000, 2, 2)).astype(np.uint8)
    assert_equal(network, images)


def test_sums_that_no_float_holds_are_refused() -> None:
    with pytest.raises(ModelError, match=r"lif: sums of up to .* are not exact in ONNX Runtime"):
        to_model(wide(127, 9000))


def test_overflow_is_an_error_that_names_the_population() -> None:
    network = with_state_bits(random_network(0, 3), 6)
    with pytest.raises(OverflowDetected, match=r"stem\.0\.lif: a state of"):
        onnx_backend.execute(network, random_images(network, 0))


def test_a_stream_that_sends_more_than_it_says_is_an_error() -> None:
    b = Builder(np.random.default_rng(0), 2, "programmable")
    source = b.source((2, 3, 3), 255, False)
    stream = b.stream("stream", (4, 3, 3), (b.weights(4, 2), (source.name,)))
    network = b.finish(b.lif("lif", stream.shape, (Window(), ("stream",))), 2)
    images, names = random_images(network, 0), [p.name for p in network]
    most = reference.execute(network, images).peak_state["stream"]
    narrow = replace(
        network, populations=tuple(replace(p, max_out=most - 1) if p.name == stream.name else p for p in network)
    )
    assert onnx_backend.execute(network, images, record=names).peak_state["stream"] == most
    for executor in (onnx_backend, reference):
        with pytest.raises(OverflowDetected, match=f"stream: a current of {most} in a stream"):
            executor.execute(narrow, images)


@pytest.mark.long
def test_states_of_every_population_are_checked() -> None:
    """Sums, currents and accumulators too: the narrowest state that overflows is the reference's."""
    binary = [random_network(s, 3, ("programmable", "stock")[s % 2], 1, shortcuts=s % 3 == 0) for s in range(6)]
    for seed, network in enumerate([*binary, *map(graded_network, range(3))]):
        images = random_images(network, seed)
        bits = max(reference.execute(network, images).peak_state.values()).bit_length() + 1
        onnx_backend.execute(with_state_bits(network, bits), images)
        for executor in (onnx_backend, reference):
            with pytest.raises(OverflowDetected):
                executor.execute(with_state_bits(network, bits - 1), images)


def test_images_are_checked() -> None:
    with pytest.raises(InputError, match="images are"):
        onnx_backend.execute(random_network(0, 2), np.zeros((1, 9, 9, 9), np.uint8))


def test_the_file_stands_for_itself(tmp_path: Path) -> None:
    """Standard operators alone, any number of images, and the logits of the program."""
    import onnx

    program, file = program_of("digits-v2"), tmp_path / "digits.onnx"
    program.save(tmp_path / "digits.spk")
    given_ = ["export", str(tmp_path / "digits.spk"), "--to", "onnx", "-o", str(file)]
    done = CliRunner().invoke(cli, given_)
    assert done.exit_code == 0, done.output
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain for o in model.opset_import} == {""}
    assert {n.domain for n in model.graph.node} == {""}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        pixels = next(read("digits", program.preprocess, limit=count).batches(count))[0]
        accumulators, logits = session.run(["accumulators", "logits"], {"pixels": pixels})
        right = reference.execute(program.network, pixels).accumulators
        np.testing.assert_array_equal(accumulators, right)
        np.testing.assert_array_equal(logits, right * program.network.output.neuron.scale)


@pytest.mark.parametrize("seed", range(6))
def test_no_constant_is_left_over(seed: int) -> None:
    """ONNX Runtime warns of each, at every start, of the main graph and of the bodies of its loops."""

    def unused(graph: Any) -> set[str]:
        inner = {i for n in graph.node for a in n.attribute if a.HasField("g") for m in a.g.node for i in m.input}
        read = {i for n in graph.node for i in n.input} | {o.name for o in graph.output} | inner
        bodies = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
        left = {i.name for i in graph.initializer} - read
        return left.union(*(unused(body) for body in bodies))

    assert not unused(to_model(random_network(seed, 3)).graph)


def test_equal_networks_give_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        write_program(random_network(5, 3), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
