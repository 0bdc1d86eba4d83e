"""Attentions whose counters have copies: when who sends what, message by message, and the specification's ticks."""

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from support.deep import some
from support.mappings import random_mapping
from support.networks import Builder, random_images
from support.profiles import two_chips

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference as engine
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Attention
from spikformer_deploy.timing import mesh, reference
from spikformer_deploy.timing import messages as timing
from spikformer_deploy.timing.steps import Recorded, pipelined, recorded_image
from spikformer_deploy.timing.traffic import Traffic

PROFILE = two_chips()
CASES = 9
"""Networks, of six chip-wide steps and sub-steps each or more."""
DEEP_CASES = 330


def attention_network(seed: int) -> Network:
    """q, k and v of the pixels in one step, and an attention of two heads, with v as wide or twice as wide."""
    b = Builder(np.random.default_rng(seed), 1, "programmable")
    source = b.source((2, 2, int(b.rng.integers(2, 4))), 15, True)
    wider = int(b.rng.integers(1, 3))
    qkv = [b.conv(name, source, channels, 1) for name, channels in (("q", 6), ("k", 6), ("v", 6 * wider))]
    names = tuple(p.name for p in qkv)
    return b.finish(b.lif("attention", qkv[2].shape, (Attention(2, 1), names)), 3)


def prepared(seed: int) -> tuple[Network, Mapping, timing.Timer, Recorded]:
    network = attention_network(seed)
    mapping = random_mapping(network, seed, copies=2 + seed % 3)
    cores = np.random.default_rng(seed).permutation(max(64, len(mapping.boxes)))[: len(mapping.boxes)]
    mapping = replace(mapping, cores=cores, cores_per_chip=16, chips=len(np.unique(cores // 16)))
    geometry = events.geometry(network, mapping)
    names = [p.name for p in network]
    execution = engine.execute(network, random_images(network, seed, 1), record=names, cells=geometry.cells)
    return network, mapping, timing.timer(geometry, PROFILE), recorded_image(network, execution, 0)


def check_ticks(seeds: range) -> int:
    """Every chip-wide step and sub-step of some networks by both engines; how many they were."""
    waves = 0
    for seed in seeds:
        _, _, timer, image = prepared(seed)
        for wave in pipelined(timer.traffic, image, 0):
            expected, expected_log = reference.run_wave(timer.machine, timer.traffic.routes, wave)
            got, log, _ = mesh.run_wave(timer.at_rest, timer.entries, wave, log=True)
            for ours, theirs in ((got, expected), (log, expected_log)):
                for field in fields(theirs):
                    np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name), field.name)
            waves += 1
    return waves


@pytest.mark.parametrize("first", some([0], long=range(CASES, 4 * CASES, CASES)))
def test_ticks_are_those_of_the_specification(first: int) -> None:
    assert check_ticks(range(first, first + CASES)) > 50


@pytest.mark.deep
def test_ticks_of_many_networks() -> None:
    assert check_ticks(range(4 * CASES, 4 * CASES + DEEP_CASES)) > 2000


Answer = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Sub-step, counter (copy, channel, row, column) and where it sends to: a neuron (channel, token) or a counter."""


def sent_by_hand(network: Network, image: Recorded, serial: str, copies: int) -> Iterator[Answer]:
    """What counters send, by the definition of the schedule."""
    q, _, v = (image.sent[name][0].reshape(image.sent[name].shape[1], -1) for name in "qkv")
    heads, tokens = 2, v.shape[1]
    depth, width = len(q) // heads, len(v) // heads
    first_round, second_round = (tokens, tokens) if serial == "tokens" else (depth, width)
    counting, answering = -(-first_round // copies), -(-second_round // copies)
    for channel, token in np.argwhere(q if serial == "tokens" else v).tolist():
        copy, turn = divmod(token if serial == "tokens" else channel % width, answering)
        # turns of the first round from sub-step 1 on, then one for the sums; an answer comes in the sub-step after
        when = counting + turn + 3
        if serial == "tokens":
            for column in range(width):
                yield when, (copy, channel, 0, column), (channel // depth * width + column, token)
        else:
            for query in range(tokens):
                yield when, (copy, channel // width, query, token), (channel, query)
    shape = (heads * depth, 1, width) if serial == "tokens" else (heads, tokens, tokens)
    for c, y, x in np.ndindex(*shape):
        for other in set(range(copies)) - {x % copies}:
            yield counting + 1, (other, c, y, x), (x % copies, c, y, x)
            yield counting + 2, (x % copies, c, y, x), (other, c, y, x)


def by_counters(traffic: Traffic, image: Recorded) -> Iterator[tuple[int, int, int]]:
    """(sub-step, place of the counter, core) of every message that counters send."""
    for sender in traffic.senders:
        spikes = image.sent[sender.population][0].ravel()
        places, rows = (x.reshape(-1, x.shape[-1]) for x in (sender.place, sender.row))
        for neuron, when in enumerate(sender.sub_step.tolist()):
            if sender.always or spikes[neuron]:
                for at, row in zip(places[neuron].tolist(), rows[neuron].tolist(), strict=True):
                    if traffic.layout.in_turn[traffic.sweep.slice_at[at]]:
                        for target in traffic.routes.target[sender.table[row] : sender.table[row + 1]].tolist():
                            yield when, at, target


@pytest.mark.parametrize("serial", ["tokens", "channels"])
def test_who_sends_what_when(serial: str) -> None:
    """A copy answers in its own turns; sums go home when all have counted, and come back in the sub-step after."""
    checked = 0
    for seed in range(24):
        network, mapping, timer, image = prepared(seed)
        sites = [index for index, site in enumerate(mapping.sites) if site.kind == "attention"]
        if mapping.sites[sites[0]].serial != serial:
            continue
        traffic, checked = timer.traffic, checked + 1
        core = traffic.sweep.core[traffic.sweep.slice_at]
        own = traffic.own["attention"].reshape(network["attention"].shape[0], -1)

        def place(at: tuple[int, ...], sites: list[int] = sites, own: Int = own, traffic: Traffic = traffic) -> int:
            return int(own[at]) if len(at) == 2 else int(traffic.sweep.place[sites[at[0]]][at[1:]])

        by_hand = sent_by_hand(network, image, serial, len(sites))
        expected = sorted((when, place(sender), int(core[place(target)])) for when, sender, target in by_hand)
        assert sorted(by_counters(traffic, image)) == expected
    assert checked > 5
