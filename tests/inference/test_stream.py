"""Frame by frame: equal to a whole run, step by step, in every spike, potential and count."""

import io
import zipfile
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.deep import examples, some
from support.networks import dual_network, graded_network, networks, random_images, random_network
from support.programs import program_of

from spikformer_deploy.base.errors import InputError, OverflowDetected
from spikformer_deploy.counts.events import ProjectionEvents, count, geometry
from spikformer_deploy.data import arrays
from spikformer_deploy.data.pixels import as_pixels
from spikformer_deploy.data.request import ImageRequest
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast.stepwise import Stepper
from spikformer_deploy.inference.recorded import has_potential
from spikformer_deploy.inference.run import run
from spikformer_deploy.inference.stream import Stream, _of_one_step
from spikformer_deploy.network.network import Network

NAMES = ("updates", "idle", "spikes", "values", "messages", "gathered")


def assert_steps_are_those_of_a_run(network: Network, seed: int) -> None:
    """A stream of one-step networks against the reference, which knows all steps at once."""
    images = random_images(network, seed, 1)
    everything = [p.name for p in network]
    of_all, of_one = geometry(network, None), geometry(_of_one_step(network), None)
    try:
        whole = reference.execute(network, images, record=everything, cells=of_all.cells)
    except OverflowDetected:
        return
    counted = count(of_all, whole)
    stepper = Stepper(of_one.network, of_one.cells)
    for t in range(network.time_steps):
        frame = images[0, t] if network.input.neuron.per_step else images[0]
        execution = stepper.step(frame, everything)
        for name in everything:
            np.testing.assert_array_equal(execution.spikes[name][0, 0], whole.spikes[name][0, t], err_msg=name)
            if has_potential(network[name]):
                np.testing.assert_array_equal(
                    execution.membranes[name][0, 0], whole.membranes[name][0, t], err_msg=name
                )
        events = count(of_one, execution)
        for name, ours in events.populations.items():
            for field in NAMES:
                theirs = getattr(counted.populations[name], field)[t]
                assert getattr(ours, field)[0] == theirs, (name, field, t)
        for ours, theirs in zip(events.projections, counted.projections, strict=True):
            for field in fields(ProjectionEvents):
                values = getattr(theirs, field.name)
                if isinstance(values, np.ndarray):
                    assert getattr(ours, field.name)[0] == values[t], (ours.target, field.name, t)
    np.testing.assert_array_equal(execution.accumulators, whole.accumulators)


@examples(12, 300)
@given(networks(), st.integers(0, 2**32 - 1))
def test_steps_of_random_networks_are_those_of_a_run(network: Network, seed: int) -> None:
    assert_steps_are_those_of_a_run(network, seed)


@examples(4, 100)
@given(st.sampled_from([graded_network, dual_network]), st.integers(0, 2**32 - 1))
def test_steps_of_graded_networks_are_those_of_a_run(network: object, seed: int) -> None:
    assert_steps_are_those_of_a_run(network(seed, 4), seed)


def test_currents_are_carried_too() -> None:
    """Of stock neurons whose current decays: the random ones that have it."""
    seeds = [s for s in range(60) if any(getattr(p.neuron, "current", 0) for p in random_network(s, 4, "stock", 1))]
    for seed in seeds[:3]:
        assert_steps_are_those_of_a_run(random_network(seed, 4, "stock", 1), seed)


@pytest.mark.parametrize("name", some(["digits-v2"], ["digits-v1", "digits-levels", "cifar10"]))
def test_a_bundled_model_streams_as_it_runs(name: str) -> None:
    program = program_of(name)
    images = random_images(program.network, 0, 2)
    whole = run(program, images, timing="none")
    stream = Stream(program)
    for number, image in enumerate(images):
        operations = 0
        for t in range(program.network.time_steps):
            after = stream.step(image)
            assert after.prediction == whole.classes[number, t]
            operations += int(after.events.synops_by_step[0])
        np.testing.assert_array_equal(after.accumulators, whole.accumulators[number])
        np.testing.assert_array_equal(after.logits, whole.logits[number])
        assert after.synaptic_ops == operations
        assert after.step == stream.time_steps == program.network.time_steps
        stream.reset()


def test_operations_of_all_steps_are_those_of_the_run() -> None:
    program = program_of("digits-v2")
    image = random_images(program.network, 3, 1)
    whole = run(program, image, timing="none").events
    stream = Stream(program)
    steps = [stream.step(image[0]) for _ in range(whole.time_steps)]
    assert [int(after.events.synops_by_step[0]) for after in steps] == whole.synops_by_step.tolist()
    for name, counted in whole.populations.items():
        assert [int(after.events.populations[name].messages[0]) for after in steps] == counted.messages.tolist()
    assert steps[-1].synaptic_ops == int(whole.synops_by_step.sum())


def test_a_saved_state_goes_on_where_it_was(tmp_path: Path) -> None:
    program = program_of("digits-v2")
    frames = random_images(program.network, 1, 5)
    stream = Stream(program, record="block.0.attn.q_lif")
    for frame in frames[:2]:
        stream.step(frame)
    np.savez(tmp_path / "state.npz", **stream.state())
    on = [stream.step(frame) for frame in frames[2:]]
    other = Stream(program, record="block.0.attn.q_lif")
    with np.load(tmp_path / "state.npz") as state:
        other.restore(state)
    for after, frame in zip(on, frames[2:], strict=True):
        again = other.step(frame)
        assert again.to_dict() == after.to_dict()
        name = "block.0.attn.q_lif"
        np.testing.assert_array_equal(again.potentials[name], after.potentials[name])
        np.testing.assert_array_equal(again.spikes[name], after.spikes[name])


def test_what_the_head_reads_is_told_whatever_is_recorded() -> None:
    program = program_of("digits-v2")
    frames = random_images(program.network, 1, 2)
    few, all_layers = Stream(program), Stream(program, record=[population.name for population in program.network])
    for frame in frames:
        told = few.step(frame).to_dict()
        assert told == all_layers.step(frame).to_dict()
        (head,) = program.network.into(program.network.output.name)
        assert told["output_spikes"].keys() == set(head.sources)


def test_a_state_that_is_not_its_own_is_refused() -> None:
    stream = Stream(program_of("digits-v2"))
    stream.step(np.zeros((16, 16), np.uint8))
    state = stream.state()
    with pytest.raises(InputError, match="of another program"):
        stream.restore({**state, "program": np.array("0" * 64)})
    layer = "state.block.0.attn.q_lif"
    for wrong, problem in (
        ({layer: state[layer][:1]}, "'state.block.0.attn.q_lif' is"),
        ({layer: state[layer] + 2**40}, "block.0.attn.q_lif holds more than"),
        ({layer: state[layer] * 0.5}, "'state.block.0.attn.q_lif' is"),
        ({"time_steps": np.array(-1)}, "-1 time steps"),
        ({"more": np.zeros(1)}, "it holds 'more'"),
    ):
        with pytest.raises(InputError, match=problem):
            stream.restore({**state, **wrong})
    with pytest.raises(InputError, match=f"'{layer}' cannot be read"):
        stream.restore({key: value for key, value in state.items() if key != layer})
    stream.restore(state)
    assert stream.time_steps == 1


def test_a_step_that_overflows_in_the_head_is_not_taken() -> None:
    program = program_of("digits-v2")
    head = program.network.output.neuron
    bias = head.bias.copy()
    bias[0] = 2**23 - 200_000
    output = replace(program.network.output, neuron=replace(head, bias=bias))
    network = replace(program.network, populations=(*program.network.populations[:-1], output))
    stream = Stream(replace(program, network=network))
    frame = np.full((16, 16), 8, np.uint8)
    for _ in range(network.time_steps):
        stream.step(frame)
    before = stream.state()
    with pytest.raises(OverflowDetected, match=f"(?s)24 bits.*reset.*--reset-every {network.time_steps}:.*frame 5"):
        stream.step(frame)
    after = stream.state()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_an_overflow_within_a_whole_run_is_one_of_calibration() -> None:
    program = program_of("digits-v2")
    stream = Stream(replace(program, network=replace(program.network, state_bits=6)))
    with pytest.raises(OverflowDetected, match="Calibrate on images like these"):
        stream.step(np.full((16, 16), 8, np.uint8))


def test_operations_are_those_since_the_last_reset_in_a_line_too() -> None:
    stream = Stream(program_of("digits-v2"))
    lines = [stream.step(np.full((16, 16), 8, np.uint8)).to_dict() for _ in range(3)]
    of_steps = np.cumsum([line["synaptic_ops_of_step"] for line in lines])
    assert [line["synaptic_ops"] for line in lines] == of_steps.tolist()
    stream.reset()
    first = stream.step(np.full((16, 16), 8, np.uint8)).to_dict()
    assert first["synaptic_ops"] == first["synaptic_ops_of_step"] > 0


def test_a_state_in_a_damaged_file_is_refused(tmp_path: Path) -> None:
    stream = Stream(program_of("digits-v2"))
    stream.step(np.full((16, 16), 8, np.uint8))
    np.savez_compressed(tmp_path / "state.npz", **stream.state())
    content = (tmp_path / "state.npz").read_bytes()
    refused = 0
    for at in np.random.default_rng(0).integers(0, len(content), 60).tolist():
        damaged = io.BytesIO(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        with suppress(zipfile.BadZipFile, OSError, ValueError), np.load(damaged) as state:
            try:
                stream.restore(state)
            except InputError:
                refused += 1
            assert stream.time_steps == 1
    assert refused


def test_frames_are_read_as_images_are() -> None:
    program = program_of("digits-v2")
    pixels = random_images(program.network, 2, 1)[0]
    ways = (
        pixels,
        pixels[0],
        pixels / np.float32(255),
        program.preprocess.normalised(pixels),
        pixels.astype(np.float64),
    )
    logits = [Stream(program).step(frame).logits.tolist() for frame in ways]
    assert logits == [logits[0]] * len(ways)
    for frame, problem in (
        (
            np.zeros((3, 16, 16), np.uint8),
            r"its shape is \(3, 16, 16\), .* one frame a step, \(C, Y, X\) = \(1, ",
        ),
        (np.zeros((2, 1, 16, 16), np.uint8), r"its shape is \(2, 1, 16, 16\)"),
        (np.full((16, 16), 256), "pixels in"),
        (np.where(np.eye(16), np.nan, 1.0), "no finite numbers"),
        (np.full((16, 16), 0.3), "not all whole"),
        (None, "a NoneType is no array.*\n  Give one frame a step"),
        ("frame.png", "no array of numbers|its shape is"),
    ):
        with pytest.raises(InputError, match=problem):
            Stream(program).step(frame)


def test_what_is_no_stream_and_no_state_is_refused_by_its_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="state: it is a NoneType"):
        Stream(program_of("digits-v2")).restore(None)
    with pytest.raises(InputError, match="digits-v2: it is the name of a bundled model"):
        Stream("digits-v2")
    torch.save({"a": torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"it is a file of torch\.save: a model, and no program"):
        Stream(tmp_path / "m.pth")


def test_pixels_of_few_values_are_asked_for_as_they_are() -> None:
    program = program_of("digits-v2")
    request = ImageRequest(replace(program.preprocess, max_value=15), 0, None, "test", None)
    with pytest.raises(InputError, match="not all whole\n  Give integers, 0 to 15"):
        as_pixels(arrays.in_memory("frame", np.full((1, 1, 16, 16), 0.3)), request)


def test_layers_that_there_are_not_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no layer 'block.0.attn.qlif'; did you mean block.0.attn.q_lif\?"):
        Stream(program_of("digits-v2"), record=["block.0.attn.qlif"])
