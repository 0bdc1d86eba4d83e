"""Levels in the engine and on a device: their loops, graded messages and a wide attention, against the plain twins."""

import os
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import thinned
from support.executions import assert_equal_executions, random_cells, with_state_bits
from support.networks import Builder, graded_network, random_images

from spikformer_deploy.base.errors import OverflowDetected
from spikformer_deploy.executors import gpu as device
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine, plan, synapses
from spikformer_deploy.executors.fast.levels import LEVELS_AT_ONCE, LEVELS_LOOPS, LevelsParameters
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import DECAY_ONE, HALF_UP, MOST_LEVELS, Levels, Max, Or, Sum, step
from spikformer_deploy.network.synapses import Attention, Conv, Window

MULTIPLYING = [kind for kind, works in (("int8", synapses.int8_limit), ("pairs", synapses.pairs_work)) if works()]
KERNELS = ["plain", "events", *MULTIPLYING]
CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_device(network: Network, seed: int, where: torch.device) -> None:
    """A device gives all that the reference gives."""
    images, names, cells = random_images(network, seed), [p.name for p in network], random_cells(network, seed)
    ours = device.run(device.load(plan.make_plan(network, cells), where), images, names)
    assert_equal_executions(ours, reference.execute(network, images, record=names, cells=cells))


def in_engine(network: Network, seed: int, count: int = 2) -> None:
    """The engine gives all that the reference gives."""
    images, names, cells = random_images(network, seed, count), [p.name for p in network], random_cells(network, seed)
    ours = engine.execute(network, images, record=names, cells=cells)
    assert_equal_executions(ours, reference.execute(network, images, record=names, cells=cells))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from(KERNELS), st.sampled_from([1, 500, 2000, 2**23]))
def test_engine_equals_reference(seed: int, time_steps: int, kind: str, sums: int) -> None:
    """Whatever kernels there are, and however the sums are cut into images and bands of rows."""
    with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind), mock.patch.object(plan, "SUMS_BYTES", sums):
        in_engine(graded_network(seed, time_steps), seed)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_torch_equals_reference(seed: int, time_steps: int) -> None:
    on_device(graded_network(seed, time_steps), seed, CPU)


@needs_cuda
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_cuda_equals_reference(seed: int, time_steps: int) -> None:
    torch.set_float32_matmul_precision("high")  # a process that trains may have set it: no reason to round
    on_device(graded_network(seed, time_steps), seed, device.cuda())


@pytest.mark.parametrize("seed", range(3))
def test_threads_with_images_of_their_own(seed: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        in_engine(graded_network(seed, 3), seed, 5)
        in_engine(graded_network(seed, 3), seed, 1)
    finally:
        torch.set_num_threads(before)


# --- the loops ---


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 70),
    count=st.integers(1, 9),
    steps=st.integers(1, 4),
    decay=st.sampled_from([0, 0, 1, 512, 1024, 2048, 3000, DECAY_ONE]),
    constant=st.booleans(),
    record=st.booleans(),
    kind=st.sampled_from([np.float32, np.float64, np.int32, np.int64]),
    scale=st.sampled_from([4, 2**20]),
)
def test_every_loop_equals_the_step(
    seed: int,
    channels: int,
    count: int,
    steps: int,
    decay: int,
    constant: bool,
    record: bool,
    kind: type,
    scale: int,
) -> None:
    """Both widths, all types of sums, ties (small scales), levels that are the same, at, below and far from zero."""
    rng = np.random.default_rng(seed)
    images, before, positions = 2, 3, int(rng.integers(1, 6))
    sums = rng.integers(-scale, scale, (images, 1 if constant else steps, positions, channels))
    levels = np.sort(rng.integers(-scale, 2 * scale, (channels, count)), 1)
    far = rng.random(channels) < 0.2
    levels[far, -1] = 2**31 - 1
    levels[rng.random(channels) < 0.2, 0] = 1 - 2**31
    bias = rng.integers(-scale, scale, (channels, 1, before + positions)) * int(rng.integers(0, 2))
    reset = rng.integers(0, scale, channels) * (decay > 0)
    neuron = Levels(decay, int(rng.integers(0, 4)), levels, reset, bias, HALF_UP)
    parameters = plan._levels_parameters(neuron, scale, before + positions, steps)
    out = np.full((images, steps, before + positions, channels), 9, np.uint8)
    membrane = np.full(out.shape if record else (0, 0, 0, 0), 9, np.int32)
    peak = np.zeros((images, int(rng.integers(1, positions + 1))), np.int64)

    LEVELS_LOOPS[parameters.bias.dtype](sums.astype(kind), parameters, before, out, membrane, peak)

    here = replace(neuron, bias=bias[..., before:])
    state, largest = None, 0
    for t in range(steps):
        total = sums[:, min(t, sums.shape[1] - 1)].transpose(0, 2, 1)[:, :, None]
        sent, state, most = step(here, total, state)
        largest = max(largest, most)
        np.testing.assert_array_equal(out[:, t, before:], sent[:, :, 0].transpose(0, 2, 1))
        if record:
            np.testing.assert_array_equal(membrane[:, t, before:], state[:, :, 0].transpose(0, 2, 1))
    assert peak.max() == largest
    # positions before the first are another call's
    assert (out[:, :, :before] == 9).all()


@pytest.mark.parametrize("decay", [0, 1024, 2048, DECAY_ONE, 3000])
@pytest.mark.parametrize("steps", [1, 8])
def test_the_narrow_loop_has_room_for_all_that_may_come(decay: int, steps: int) -> None:
    """At the edge of its room it is exact; where the worst case leaves it, the wide loop runs."""
    neuron = Levels(decay, 0, np.array([[5, 9]]), np.array([7 * (decay > 0)]), np.array([-1]), HALF_UP)
    left = (9 + 2 * 7) * (decay > 0)
    room = (plan.SMALL_SUM - 1 - left) // (steps if decay else 1) - 1
    for drive, narrow in ((room, decay != 3000), (room + 1, False)):
        parameters = plan._levels_parameters(neuron, drive, 1, steps)
        assert (parameters.bias.dtype == np.int32) == narrow
        for sign in (1, -1):
            out, membrane = np.empty((1, steps, 1, 1), np.uint8), np.empty((1, steps, 1, 1), np.int32)
            peak = np.zeros((1, 1), np.int64)
            sums = np.full((1, 1, 1, 1), sign * drive, np.int32)
            LEVELS_LOOPS[parameters.bias.dtype](sums, parameters, 0, out, membrane, peak)
            state, largest = None, 0
            for t in range(steps):
                sent, state, most = step(neuron, sums.astype(np.int64), state)
                largest = max(largest, most)
                assert (out[0, t].item(), membrane[0, t].item()) == (sent.item(), state.item())
            assert peak.item() == largest


def test_parameters_are_rows_side_by_side() -> None:
    """As vectors read them: the loops are compiled for this layout alone."""
    for seed in range(8):
        made = plan.make_plan(graded_network(seed))
        for sums in made.sums.values():
            if isinstance(sums.parameters, LevelsParameters):
                assert sums.parameters.levels.flags.c_contiguous
                assert len(sums.parameters.levels) % LEVELS_AT_ONCE == 0


# --- messages of more than 1 ---


def readers_of_many(most: int, decay: int, seed: int = 0) -> Network:
    """Every kind of reader of Levels that send up to `most`: convolutions, windows of sums, ors and the largest."""
    b = Builder(np.random.default_rng(seed), 2, "programmable")
    source = b.source((3, 6, 5), 255, False)
    shape, zeros = (8, 6, 5), np.zeros(8, np.int64)
    levels = np.sort(b.rng.integers(-99, 600, (8, most)), 1)
    neuron = Levels(decay, 0, levels, zeros + 3 * (decay > 0), zeros, HALF_UP)
    into = (Conv(b.rng.integers(-2, 4, (8, 3, 1, 1)).astype(np.int8)), (source.name,))
    many = b.add(Population("many", shape, neuron, most), into)
    extreme = b.rng.choice([-128, 127], (16, 8, 3, 3)).astype(np.int8)
    wide = b.lif("wide", (16, 6, 5), (Conv(extreme, padding=(1, 1)), (many.name,)))
    grouped = b.conv("grouped", many, 8, 3, 2, groups=4)
    window = Window((3, 3), (2, 2), (1, 1))
    pooled = [
        b.window("or", Or(), [many], window),
        b.window("sum", Sum(), [many, many], window),
        b.add(Population("max", (8, 3, 3), Max(), most), (window, (many.name,))),
    ]
    into = [(Conv(b.rng.integers(-9, 9, (8, 8, 1, 1)).astype(np.int8)), (p.name,)) for p in [grouped, *pooled]]
    down = (Conv(b.rng.integers(-9, 9, (8, 16, 2, 1)).astype(np.int8), (2, 2)), (wide.name,))
    return b.finish(b.levels("last", (8, 3, 3), 50, down, *into), 3)


@pytest.mark.parametrize("decay", [0, 2048])
@pytest.mark.parametrize("most", thinned([1, 2, 7, MOST_LEVELS], 3))
@pytest.mark.parametrize("kind", KERNELS)
def test_every_reader_takes_messages_of_more_than_one(kind: str, most: int, decay: int) -> None:
    """With extreme weights: sums of bytes, of 16 bits and of chunks of rows would wrap if anything were taken for 1."""
    network = readers_of_many(most, decay)
    check_network(network)
    assert engine.execute(network, random_images(network, 1)).activity["many"].total.sum() > 0
    with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind):
        in_engine(network, 1)
    on_device(network, 1, CPU)


@pytest.mark.parametrize("rate", [0.0, 0.02, 1.0])
def test_many_graded_messages_for_one_neuron(rate: float) -> None:
    """More rows of weights than a sum of 16 bits holds, and more channels than a vector."""
    rng = np.random.default_rng(0)
    conv = Conv(rng.choice([-128, 127], (40, 150, 3, 3)).astype(np.int8), padding=(1, 1))
    sent = rng.integers(1, MOST_LEVELS + 1, (2, 5, 4, 150)) * (rng.random((2, 5, 4, 150)) < rate)
    values = torch.from_numpy(sent.astype(np.uint8))
    right = torch.conv2d(
        values.permute(0, 3, 1, 2).double(), torch.from_numpy(conv.weight).double(), padding=1
    ).permute(0, 2, 3, 1)
    bound = 128 * 150 * 9 * MOST_LEVELS
    assert not synapses.exact_in_fp32(bound)
    for kind in KERNELS:
        with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind):
            sums = synapses.convolution(conv, (150, 5, 4), MOST_LEVELS, bound).convolve(values, int(sent.sum()), 0, 5)
        np.testing.assert_array_equal(sums.numpy(), right.numpy())


# --- attention ---


def wide_attention(seed: int, fixed: str, most: int = 5, time_steps: int = 3, weight: int = 2) -> Network:
    """q and k of 4 channels, v of 12; what is `fixed` is made from pixels without a state, alike in all time steps."""
    b = Builder(np.random.default_rng(seed), time_steps, "programmable")
    source = b.source((2, 3, 5), 255, False)
    spikes = b.conv("lif", source, 6, 1)
    made = []
    for name, channels in (("q", 4), ("k", 4), ("v", 12)):
        of = source if name in fixed else spikes
        levels = np.sort(b.rng.integers(0, 30 if of is spikes else 3000, (channels, most)), 1)
        none = np.zeros(channels, np.int64)
        conv = Conv(b.rng.integers(-9, 12, (channels, of.shape[0], 1, 1)).astype(np.int8))
        neuron = Levels(0, 0, levels, none, none, HALF_UP)
        made.append(b.add(Population(name, (channels, 3, 5), neuron, most), (conv, (of.name,))).name)
    attended = b.levels("attended", (12, 3, 5), 200, (Attention(2, weight), tuple(made)))
    return b.finish(attended, 3)


@pytest.mark.parametrize("fixed", ["", "q", "k", "v", "qk", "qkv"])
def test_attention_of_a_wider_v(fixed: str) -> None:
    network = wide_attention(0, fixed)
    check_network(network)
    steps = plan.make_plan(network).steps
    assert [steps[name] for name in "qkv"] == [1 if name in fixed else 3 for name in "qkv"]
    assert steps["attended"] == (1 if fixed == "qkv" and not network["attended"].neuron.decay else 3)
    in_engine(network, 0)
    on_device(network, 0, CPU)


@pytest.mark.parametrize(("most", "weight"), [(MOST_LEVELS, 1), (MOST_LEVELS, 2**10)])
def test_attention_of_large_messages_leaves_narrow_types(most: int, weight: int) -> None:
    """Its sums may be beyond what fp32 holds, and beyond 32 bits: 2 * 15 * 127^3 * weight."""
    network = wide_attention(1, "qk", most, 2, weight)
    bound = plan.make_plan(network).sums["attended"].incoming[0].bound
    assert bound == 30 * most**3 * weight > (2**31 if weight > 1 else 2**24)
    network = with_state_bits(network, 50)
    in_engine(network, 1)
    on_device(network, 1, CPU)


# --- idle neurons, overflow ---


def test_neurons_that_forget_are_idle_whatever_they_held() -> None:
    """In the second of two steps nothing arrives: who keeps a potential has work to do, who forgets has none."""
    for decay, resting in ((0, 4), (2048, 0)):
        b = Builder(np.random.default_rng(0), 2, "programmable")
        source = b.source((1, 2, 2), 255, True)
        none = np.zeros(1, np.int64)
        neuron = Levels(decay, 0, np.array([[500]]), none, none, HALF_UP)
        identity = (Conv(np.ones((1, 1, 1, 1), np.int8)), (source.name,))
        network = b.finish(b.add(Population("levels", (1, 2, 2), neuron, 1), identity), 2)
        images = np.array([200, 0], np.uint8)[None, :, None, None, None] * np.ones((1, 2, 1, 2, 2), np.uint8)
        loaded = device.load(plan.make_plan(network), CPU)
        for run in (engine.execute(network, images), device.run(loaded, images)):
            idle = run.activity["levels"].idle
            assert idle is not None
            assert idle.ravel().tolist() == [0, resting]


def test_overflow_names_the_population() -> None:
    network = with_state_bits(graded_network(1, 1), 6)
    # one image and step: threads with images of their own, and steps, each name the largest state of theirs
    images = random_images(network, 1, count=1)
    with pytest.raises(OverflowDetected) as right:
        reference.execute(network, images)
    with pytest.raises(OverflowDetected) as ours:
        engine.execute(network, images)
    assert ours.value.args == right.value.args
    with pytest.raises(OverflowDetected, match=r"graded\.\w+: "):
        device.run(device.load(plan.make_plan(network), CPU), images)
