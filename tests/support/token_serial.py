"""Programs whose tokens come in series, visit by visit and message by message: the plain twin of timing/steps.py.

Nothing here knows of cells, tables or places: of every neuron that fires it is asked which neurons hear it, one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.mapping.partition import sites_of
from spikformer_deploy.network.mapping import SECTIONS, Mapping, Site
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Attention, Conv, Window
from spikformer_deploy.timing.machine import ticks
from spikformer_deploy.timing.wave import Routes, Wave
from support.closed_form import synapse_ns, visit_ns
from support.executions import finds_nothing

Neuron = tuple[int, int, int]
"""(channel, row, column)."""
StepOf = Callable[[int], "int | None"]
"""The time step that the layers at a level work on; None where they do not."""


def random_streams(network: Network, profile: Profile, serial: str, seed: int) -> Mapping:
    """The token-serial sites of a network, cut at random: a slice a core, over several chips of 16 cores."""
    rng = np.random.default_rng(seed)
    sites = sites_of(network, profile.core, serial, "token-serial")
    boxes: list[tuple[int, ...]] = []
    for number, site in enumerate(sites):
        # few boxes: the specification of a mesh is slow
        cuts = [1, int(rng.random() < 0.3), int(rng.random() < 0.3)]
        edges = [sorted({0, n, *rng.integers(0, n + 1, k).tolist()}) for n, k in zip(site.shape, cuts, strict=True)]
        if site.token_serial:
            edges[1:] = [[0, n] for n in site.shape[1:]]
        ranges = ([(e[i], e[i + 1]) for i in range(len(e) - 1)] for e in edges)
        boxes += [(number, *c, *y, *x) for c, y, x in product(*ranges)]
    table = np.array(boxes, np.int64)
    cores = rng.permutation(len(table) + int(rng.integers(0, 9)))[: len(table)].astype(np.int64)
    words = np.zeros((len(table), len(SECTIONS)), np.int64)
    return Mapping(sites, table, cores, words, len(np.unique(cores // 16)), 16, {})


def levels_of(network: Network, mapping: Mapping) -> dict[str, int]:
    """Chip-wide steps that a time step is later at a population than at the Source."""
    level: dict[str, int] = {}
    for population in network:
        level[population.name] = 0
        counters = [s.serial for s in mapping.sites if (s.kind, s.population) == ("attention", population.name)]
        for projection in network.into(population.name):
            for source in projection.sources:
                step_later = level[source] + 1
                streams = any(s.token_serial for s in mapping.sites if s.population == source)
                if isinstance(projection.synapse, Attention) and counters == ["channels"] and streams:
                    # a channel's turn has all tokens, the last of which comes in the last sub-step
                    step_later += 1
                level[population.name] = max(level[population.name], step_later)
    return level


@dataclass
class Visit:
    """A visit to one neuron in one sub-step: ticks until it sends, and what it sends, sending after sending.

    Each of `sent` is (ticks before it, synaptic operations by slice).
    """

    ticks: int
    sent: list[tuple[int, dict[int, int]]]


class Twin:
    """What every core does in every sub-step, by the definition of docs/timing.md; of one image of an execution."""

    def __init__(self, network: Network, mapping: Mapping, profile: Profile, execution: Execution, number: int) -> None:
        self.network, self.mapping, self.execution, self.number = network, mapping, execution, number
        self.level = levels_of(network, mapping)
        time = profile.time
        self.idle, self.spike = ticks(time.neuron_idle.value), ticks(time.spike_out.value)
        self.axon_in = ticks(time.axon_in.value)
        sites = [mapping.sites[i] for i in mapping.boxes[:, 0].tolist()]
        self.update = [ticks(visit_ns(network, site, profile)) for site in sites]
        self.synop = [ticks(synapse_ns(network, site, profile)) for site in sites]
        self.boxes = list(zip(sites, mapping.boxes[:, 1:].tolist(), strict=True))
        self.core = np.unique(mapping.cores, return_inverse=True)[1].ravel().tolist()

    def waves(self, step_of: StepOf, sub_steps: int) -> list[tuple[Wave, Routes]]:
        """The chip-wide step and its sub-steps."""
        return [self.wave(step_of, sub_step) for sub_step in range(sub_steps + 1)]

    def wave(self, step_of: StepOf, sub_step: int) -> tuple[Wave, Routes]:
        """One of them: the sweep of every core, neuron by neuron."""
        first, gaps, routes, tails = [0], [], [], []
        targets, operations, services = [], [], []
        for core in range(len(set(self.core))):
            since = 0
            for index, (site, (c0, c1, y0, y1, x0, x1)) in enumerate(self.boxes):
                if self.core[index] != core:
                    continue
                # a token-serial slice has one neuron a channel
                rows, columns = (range(1), range(1)) if site.token_serial else (range(y0, y1), range(x0, x1))
                for neuron in product(range(c0, c1), rows, columns):
                    visit = self.visit(site, index, neuron, step_of, sub_step)
                    since += visit.ticks
                    for before, by_slice in visit.sent:
                        by_core: dict[int, list[int]] = defaultdict(list)
                        for slice_ in by_slice:
                            by_core[self.core[slice_]].append(slice_)
                        begin = len(targets)
                        for target, slices in sorted(by_core.items()):
                            targets.append(target)
                            operations.append(sum(by_slice[s] for s in slices))
                            services.append(self.axon_in + sum(by_slice[s] * self.synop[s] for s in slices))
                        gaps.append(since + before)
                        routes.append((begin, len(targets)))
                        since = 0
            first.append(len(gaps))
            tails.append(since)
        wave = Wave(
            np.array(first), np.array(gaps, np.int64), np.array(routes, np.int64).reshape(-1, 2), np.array(tails)
        )
        tables = (np.array(targets, np.int32), np.array(operations, np.int64), np.array(services, np.int64))
        return wave, Routes(*tables)

    def visit(self, site: Site, index: int, neuron: Neuron, step_of: StepOf, sub_step: int) -> Visit:
        """What a neuron does in a sub-step."""
        if site.kind == "attention":
            sent = [
                answer
                for p in self.attentions(site.population)
                for answer in self.answers(p, site, neuron, step_of, sub_step)
            ]
            return Visit(self.idle, [(self.update[index] - self.idle + self.spike, answer) for answer in sent])
        tokens = site.shape[1] * site.shape[2]
        ticks_ = self.idle
        own: list[dict[int, int]] = []
        step = step_of(self.level[site.population])
        has_turn = 1 <= sub_step <= tokens if site.token_serial else sub_step == 0
        if has_turn and step is not None:
            at = (neuron[0], *divmod(sub_step - 1, site.shape[2])) if site.token_serial else neuron
            if site.kind == "partial":
                ticks_, own = self.update[index], [self.at_home(site.population, at)]
            else:
                if not finds_nothing(self.network[site.population], self.execution, (self.number, step), at):
                    ticks_ = self.update[index]
                if self.fires(site.population, step, at):
                    own = list(self.own_sendings(site, at, sub_step))
        sent = [(self.spike if number == 0 else 0, by_slice) for number, by_slice in enumerate(s for s in own if s)]
        if site.kind == "population":
            later = self.later_sendings(site, neuron, step_of, sub_step)
            sent += [(self.update[index] - self.idle + self.spike, by_slice) for by_slice in later if by_slice]
        return Visit(ticks_, sent)

    def fires(self, name: str, step: int, at: Neuron) -> bool:
        return bool(self.execution.spikes[name][(self.number, step, *at)])

    def attentions(self, target: str) -> list[Projection]:
        return [p for p in self.network.into(target) if isinstance(p.synapse, Attention)]

    def streams(self, target: str) -> bool:
        """Whether the tokens of a population come in series."""
        return any(s.token_serial for s in self.mapping.sites if s.population == target)

    def own_sendings(self, site: Site, at: Neuron, sub_step: int) -> Iterator[dict[int, int]]:
        """What a neuron that has just fired sends in the same visit, table by table."""
        late = (
            []
            if site.token_serial
            else [p.target for p in self.network.out_of(site.population) if self.streams(p.target)]
        )
        yield self.to_readers(site.population, at, lambda target: target not in late)
        if site.token_serial:
            for projection, role, when, _ in self.turns(site.population, at):
                if self.in_own_visit(site.population, projection, role, at):
                    assert when == sub_step
                    yield self.to_counters(projection, role, at)

    def later_sendings(self, site: Site, neuron: Neuron, step_of: StepOf, sub_step: int) -> Iterator[dict[int, int]]:
        """What is sent of spikes that were fired before, each in a visit of its own."""
        name = site.population
        tokens = [(y, x) for y in range(site.shape[1]) for x in range(site.shape[2])]
        spikes = [(neuron[0], *token) for token in tokens] if site.token_serial else [neuron]
        step = step_of(self.level[name])
        if step is not None and not site.token_serial:
            y, x = neuron[1:]
            if self.fires(name, step, neuron) and sub_step == 1 + y * site.shape[2] + x:
                yield self.to_readers(name, neuron, self.streams)
        roles = [(projection, role) for projection, role, _, _ in self.turns(name, neuron)]
        for wanted in roles:
            for at in spikes:
                for projection, role, when, level in self.turns(name, at):
                    step = step_of(level)
                    if (projection, role) != wanted or when != sub_step or step is None:
                        continue
                    if self.fires(name, step, at) and not self.in_own_visit(name, projection, role, at):
                        yield self.to_counters(projection, role, at)

    def in_own_visit(self, name: str, projection: Projection, role: str, at: Neuron) -> bool:
        """Whether a token's turn at the counters is also that in which it is updated: k and v, tokens in series."""
        level = self.level[projection.target] - 1
        return self.streams(name) and self.serial(projection) == "tokens" and role != "q" and self.level[name] == level

    def serial(self, projection: Projection) -> str:
        return next(s.serial for s in self.mapping.sites if (s.kind, s.population) == ("attention", projection.target))

    def turns(self, name: str, at: Neuron) -> Iterator[tuple[Projection, str, int, int]]:
        """(attention, role in it, sub-step, level) of all that a spike of a population is to counters."""
        for projection in self.network.projections:
            if not isinstance(projection.synapse, Attention):
                continue
            heads = projection.synapse.heads
            channels, height, width = self.network[projection.target].shape
            token = at[1] * width + at[2]
            order = "kvq" if self.serial(projection) == "tokens" else "qkv"
            for role in order:
                if projection.sources["qkv".index(role)] != name:
                    continue
                size = self.network[projection.sources[0]].shape[0] // heads
                if order == "kvq":
                    when = 1 + token + (height * width if role == "q" else 0)
                else:
                    when = 1 + (size + at[0] % (channels // heads) if role == "v" else at[0] % size)
                yield projection, role, when, self.level[projection.target] - 1

    def to_counters(self, projection: Projection, role: str, at: Neuron) -> dict[int, int]:
        """Operations at each slice of counters: every counter that hears the spike, one by one."""
        found: dict[int, int] = {}
        for index, (site, (c0, c1, y0, y1, x0, x1)) in enumerate(self.boxes):
            if (site.kind, site.population) == ("attention", projection.target):
                counters = product(range(c0, c1), range(y0, y1), range(x0, x1))
                heard = sum(self.hears(projection, role, at, counter) for counter in counters)
                if heard:
                    found[index] = heard
        return found

    def hears(self, projection: Projection, role: str, at: Neuron, counter: Neuron) -> bool:
        """Whether a counter hears a spike of q, k or v."""
        (channel, y, x), (c, row, column) = at, counter
        q, _, v = (self.network[name].shape for name in projection.sources)
        heads = projection.synapse.heads
        depth, width, token = q[0] // heads, v[0] // heads, y * v[2] + x
        if self.serial(projection) == "tokens":
            return (c // depth, column) == divmod(channel, width) if role == "v" else c == channel
        head = channel // (width if role == "v" else depth)
        return c == head and (row if role == "q" else column) == token

    def answers(
        self, projection: Projection, site: Site, counter: Neuron, step_of: StepOf, sub_step: int
    ) -> Iterator[dict[int, int]]:
        """What a counter sends on in a sub-step: to one neuron for each spike that it answers to."""
        role = "q" if site.serial == "tokens" else "v"
        name = projection.sources["qkv".index(role)]
        step = step_of(self.level[projection.target] - 1)
        if step is None:
            return
        _, _, v = (self.network[source].shape for source in projection.sources)
        width = v[0] // projection.synapse.heads
        depth = self.network[projection.sources[0]].shape[0] // projection.synapse.heads
        for at in np.ndindex(*self.network[name].shape):
            if not self.fires(name, step, at) or not self.hears(projection, role, at, counter):
                continue
            when = next(w for p, r, w, _ in self.turns(name, at) if (p, r) == (projection, role))
            if when + 1 == sub_step:
                token = at[1] * v[2] + at[2]
                # KV first: to the channel of its column; QK first: to the token of its row
                channel = at[0] // depth * width + counter[2] if role == "q" else at[0]
                target = (channel, *divmod(token if role == "q" else counter[1], v[2]))
                yield self.at_home(projection.target, target)

    def at_home(self, name: str, at: Neuron) -> dict[int, int]:
        """One operation at the slice that has a neuron."""
        for index, (site, box) in enumerate(self.boxes):
            inside = all(box[2 * a] <= at[a] < box[2 * a + 1] for a in range(3))
            if (site.kind, site.population) == ("population", name) and inside:
                return {index: 1}
        raise AssertionError(at)

    def to_readers(self, name: str, at: Neuron, chosen: Callable[[str], bool]) -> dict[int, int]:
        """Operations at every slice of the populations that read a neuron, attentions left out."""
        found: dict[int, int] = {}
        for index, (site, box) in enumerate(self.boxes):
            if site.kind == "attention" or not chosen(site.population):
                continue
            for projection in self.network.into(site.population):
                if name in projection.sources and not isinstance(projection.synapse, Attention):
                    heard = self.targets_in(projection, site, box, at)
                    if heard:
                        found[index] = found.get(index, 0) + heard
        return found

    def targets_in(self, projection: Projection, site: Site, box: list[int], at: Neuron) -> int:
        """The neurons of a box that hear a spike, tap by tap."""
        c0, c1, y0, y1, x0, x1 = box
        source = self.network[projection.sources[0]].shape
        first, end = site.channels(source[0])
        if not first <= at[0] < end:
            return 0
        match projection.synapse:
            case Conv(weight=weight, stride=stride, padding=padding, groups=groups):
                kernel, offset = weight.shape[2:], (0, 0)
                fan_in, fan_out = weight.shape[1], len(weight) // groups
                channels = [c for c in range(c0, c1) if c // fan_out == at[0] // fan_in]
            case Window(kernel, stride, padding, offset):
                channels = [c for c in range(c0, c1) if c == at[0]]
            case _:
                return c1 - c0
        taps = 0
        for y, x, dy, dx in product(range(y0, y1), range(x0, x1), range(kernel[0]), range(kernel[1])):
            row = y * stride[0] - padding[0] + offset[0] + dy
            column = x * stride[1] - padding[1] + offset[1] + dx
            taps += (row, column) == at[1:]
        return taps * len(channels)
