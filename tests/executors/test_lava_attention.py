"""Attention in Lava as a mapping has it: counters and sums of answers, sub-step by sub-step, in every way."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.deep import examples
from support.in_lava import Line, assert_equal, processes_of
from support.mappings import random_mapping
from support.networks import Builder, graded_network, random_images
from support.profiles import two_chips

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.mapping.partition import COPIES, SERIALS
from spikformer_deploy.network.heads import Heads, heads_into
from spikformer_deploy.network.mapping import Mapping, Way
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.synapses import Attention, Conv, synaptic_sum
from spikformer_deploy.timing.messages import timer
from spikformer_deploy.timing.steps import falling_through, recorded_image
from spikformer_deploy.timing.traffic import Traffic
from spikformer_deploy.timing.wave import Wave

processes = processes_of("attention")


class Ran(NamedTuple):
    """What both Processes did in a time step.

    out      (N, C, Y, X)
    arrived  (sub-steps,) operations at the counters; sent: their messages
    answers  of what the sums have got, how many are not zero
    """

    out: Int
    arrived: Int
    sent: Int
    answers: int


def ran(way: Way, attention: Attention, operands: list[Int], shift: int = 0) -> Ran:
    """The models of both Processes without Lava's runtime; operands: q, k and v, (N, C, Y, X) each."""
    maps = [x.transpose(0, 2, 3, 1) for x in operands]
    given = {"maps": (maps[0].shape, maps[2].shape), "heads": attention.heads, **way._asdict()}
    counters = processes.CountersModel(given)
    sums = processes.AnswersModel({**given, "weight": attention.weight, "shift": shift})
    counters.q_in, counters.k_in, counters.v_in = (Line(x.shape, x.astype(np.int32)) for x in maps)
    counters.answers_out = sums.answers_in = line = Line(counters.shape)
    heads = Heads(
        attention.heads,
        maps[0].shape[3] // attention.heads,
        maps[2].shape[3] // attention.heads,
        int(np.prod(maps[0].shape[1:3])),
        (1, 1, 1),
    )
    counters.arrived, counters.sent = np.full((2, heads.sub_steps(*way)), -1, np.int32)
    counters.run_spk()
    answers = sum(int(np.count_nonzero(message)) for message in line.waiting)
    sums.a_out = Line(maps[2].shape)
    sums.run_spk()
    assert not line.waiting
    return Ran(sums.a_out.recv().transpose(0, 3, 1, 2), counters.arrived, counters.sent, answers)


@st.composite
def attentions(draw: st.DrawFn) -> tuple[Way, Attention, list[Int], int]:
    """A way, an attention, what q, k and v send, and fractional bits of the neurons behind it."""
    size = st.integers(1, 5)
    heads, depth, width, height, columns, images = (
        draw(s) for s in (st.integers(1, 3), size, st.integers(1, 7), size, size, st.integers(1, 2))
    )
    most = [draw(st.integers(1, 8)) for _ in "qkv"]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.1, 0.5, 1.0]))
    shapes = [(images, heads * channels, height, columns) for channels in (depth, depth, width)]
    operands = [rng.integers(0, m + 1, s) * (rng.random(s) < density) for m, s in zip(most, shapes, strict=True)]
    serial = draw(st.sampled_from(SERIALS))
    turns = Heads(heads, depth, width, height * columns, (1, 1, 1)).most_copies(serial)
    way = Way(serial, draw(st.integers(1, turns)))
    return way, Attention(heads, draw(st.integers(1, 5))), operands, draw(st.integers(0, 3))


@examples(200, 3000)
@given(attentions())
def test_phases_are_the_attention(case: tuple[Way, Attention, list[Int], int]) -> None:
    way, attention, operands, shift = case
    found = ran(way, attention, operands, shift)
    right = synaptic_sum(attention, operands, operands[2].shape[1:]) << shift
    np.testing.assert_array_equal(found.out, right)
    assert found.answers <= found.sent.sum()


def spread(network: Network, seed: int, copies: int) -> Mapping:
    """A random mapping with one slice a core."""
    mapping = random_mapping(network, seed, copies)
    cores = np.random.default_rng(seed).permutation(max(64, len(mapping.boxes)))[: len(mapping.boxes)]
    return replace(mapping, cores=cores, cores_per_chip=16, chips=len(np.unique(cores // 16)))


def at_counters(traffic: Traffic, wave: Wave, counters: Int) -> tuple[int, int]:
    """(operations of what a wave sends to counters, messages that counters send in it); counters: their slices."""
    on_core = np.zeros(traffic.cores, bool)
    on_core[traffic.sweep.core[counters]] = True
    source = np.repeat(np.arange(traffic.cores), np.diff(wave.first))
    operations = messages = 0
    for core, (first, end) in zip(source.tolist(), wave.routes.tolist(), strict=True):
        to = on_core[traffic.routes.target[first:end]]
        operations += int(traffic.routes.synops[first:end][to].sum())
        messages += (end - first) * int(on_core[core])
    return operations, messages


def spiking_network(seed: int) -> Network:
    """q, k and v of the pixels in one step, and an attention of two heads, with v as wide or twice as wide."""
    b = Builder(np.random.default_rng(seed), 1, "programmable")
    source = b.source((2, 2, int(b.rng.integers(1, 4))), 15, True)
    wider = int(b.rng.integers(1, 3))
    qkv = [b.conv(name, source, channels, 1) for name, channels in (("q", 6), ("k", 6), ("v", 6 * wider))]
    return b.finish(b.lif("attention", qkv[2].shape, (Attention(2, 1), tuple(p.name for p in qkv))), 3)


@pytest.mark.long
@examples(30, 400)
@given(st.booleans(), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_messages_are_those_of_the_accounting_and_of_the_message_level_model(
    graded: bool, seed: int, copies: int
) -> None:
    """Sub-step by sub-step, and their sums: operands and exchanged sums that arrive, and what counters send."""
    network = graded_network(seed, 1) if graded else spiking_network(seed)
    mapping = spread(network, seed, copies)
    geometry = events.geometry(network, mapping)
    names = [p.name for p in network]
    execution = reference.execute(network, random_images(network, seed, 1), record=names, cells=geometry.cells)
    (target, way), *others = mapping.ways.items()
    assert not others
    projection = next(p for p in network.into(target) if isinstance(p.synapse, Attention))
    found = ran(way, projection.synapse, [execution.spikes[name][:, 0] for name in projection.sources])
    # message by message
    traffic = timer(geometry, two_chips()).traffic
    image = recorded_image(network, execution, 0)
    waves = list(falling_through(traffic, image, traffic.level[target] - 1, 0))
    of_counters = [index for index, site in enumerate(mapping.sites) if site.kind == "attention"]
    slices = np.flatnonzero(np.isin(mapping.boxes[:, 0], of_counters))
    arriving, sending = np.array([at_counters(traffic, wave, slices) for wave in waves]).T
    # what is sent in a wave arrives in the visits of the next one; the first sub-step is that of the first operands
    np.testing.assert_array_equal(found.arrived, arriving[1:-1])
    np.testing.assert_array_equal(found.sent, sending[2:])
    assert arriving[0] == arriving[-1] == sending[0] == sending[1] == 0
    # as they are counted
    counted = events.count(geometry, execution)
    (of_projection,) = (p for p in counted.projections if p.target == target)
    exchanged = counted.populations[target].gathered
    assert found.arrived.sum() == (of_projection.synops + exchanged).sum()
    assert found.sent.sum() == (of_projection.delivered + exchanged).sum()
    assert counted.slices is not None
    own = np.isin(counted.slices.sites, of_counters)
    assert found.sent.sum() == counted.slices.messages_out[..., own].sum()
    assert found.arrived.sum() == counted.slices.synops[..., own].sum()


def of_map(b: Builder, name: str, source: Population, channels: int, graded: bool, geometry: Conv) -> Population:
    """Spikes or small integers of one convolution."""
    height, width = (
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip(
            source.shape[1:], geometry.padding, geometry.weight.shape[2:], geometry.stride, strict=True
        )
    )
    weight = b.rng.integers(-5, 12, (channels, source.shape[0], *geometry.weight.shape[2:])).astype(np.int8)
    incoming = (replace(geometry, weight=weight), (source.name,))
    if graded:
        return b.levels(name, (channels, height, width), 20, incoming)
    return b.lif(name, (channels, height, width), incoming)


SEED = 16
"""All q, k and v of its attentions send something."""
MAPS = {
    "3 x 5 tokens": Conv(np.zeros((1, 1, 1, 1), np.int8)),
    "2 x 3 tokens": Conv(np.zeros((1, 1, 1, 1), np.int8), (2, 2)),
    "one token": Conv(np.zeros((1, 1, 3, 5), np.int8)),
}
SHAPES = [(1, 3, 3), (3, 2, 5), (2, 3, 1), (2, 1, 1)]
"""Heads, channels of a head of q and k, and of v."""


@pytest.mark.long
@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("serial", SERIALS)
def test_every_way_is_equal_in_lava(serial: str, graded: bool) -> None:
    """Attentions of all sizes beside each other, with one copy of the counters, with some, and with one for each turn.

    They read the same images, as Lava takes long to start.
    """
    b = Builder(np.random.default_rng(SEED), 2, "programmable")
    source = b.source((2, 3, 5), 3, True)
    ways: dict[str, Way] = {}
    for number, (label, geometry) in enumerate(MAPS.items()):
        for heads, depth, width in SHAPES[number % 2 :: 2]:
            b.prefix = f"{label}, {heads} x {depth} and {width}: "
            q, k, v = (
                of_map(b, name, source, heads * channels, graded, geometry)
                for name, channels in (("q", depth), ("k", depth), ("v", width))
            )
            synapse = Attention(heads, int(b.rng.integers(1, 4)))
            incoming = (synapse, (q.name, k.name, v.name))
            most = q.max_out * k.max_out * v.max_out * depth * v.shape[1] * v.shape[2]
            # small integers say more of a sum than spikes
            last = b.levels("out", v.shape, 1 + most // 16, incoming)
            ways[last.name] = Way(serial)
    b.prefix = ""
    network = b.finish(last, 3)
    for number, name in enumerate(ways):
        useful = heads_into(network, name).useful_copies(serial, (1, 2, 3, COPIES[-1])[number % 4])
        ways[name] = Way(serial, useful)
    assert len({way.copies for way in ways.values()}) > 1
    images = random_images(network, 0, 3)
    sent = reference.execute(network, images, record=[p.name for p in network]).spikes
    products = [np.logical_and.reduce([sent[name].any() for name in network.into(way)[0].sources]) for way in ways]
    assert all(products)
    assert sum(sent[name].any() for name in ways) >= len(ways) // 2
    assert_equal(network, images, engine, ways=ways)
