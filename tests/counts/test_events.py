"""Event counts against a slow twin: plain loops over every spike and every synapse it meets, core by core."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import examples
from support.executions import finds_nothing
from support.mappings import random_mapping
from support.networks import Builder, dual_network, graded_network, random_images, random_network
from support.profiles import smaller

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Max, Or, Source, Stream, Sum
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window
from spikformer_deploy.timing.hops import hop_table
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.traffic import traffic

SEEDS = st.integers(0, 2**32 - 1)
NETWORKS = st.builds(random_network, SEEDS, st.integers(1, 4), blocks=st.integers(0, 2))
GRADED = st.builds(graded_network, SEEDS, st.integers(1, 3))
DUAL = st.builds(dual_network, SEEDS, st.integers(1, 2))
Where = tuple[int, int, int]


def synapses_of(network: Network, synapse: Conv | Window | Readout, source: Where, shape: Where) -> list[Where]:
    """Every target that a spike of neuron `source` reaches, one entry a synapse."""
    c, y, x = source
    if isinstance(synapse, Readout):
        return [(o, 0, 0) for o in range(shape[0])]
    kernel = synapse.weight.shape[2:] if isinstance(synapse, Conv) else synapse.kernel
    out = []
    for o, ty, tx in np.ndindex(*shape):
        if isinstance(synapse, Conv):
            per_group = synapse.weight.shape[1]
            joined = o // (shape[0] // synapse.groups) == c // per_group
        else:
            joined = o == c
        offset = synapse.offset if isinstance(synapse, Window) else (0, 0)
        ky = y + synapse.padding[0] - offset[0] - ty * synapse.stride[0]
        kx = x + synapse.padding[1] - offset[1] - tx * synapse.stride[1]
        if joined and 0 <= ky < kernel[0] and 0 <= kx < kernel[1]:
            out.append((int(o), int(ty), int(tx)))
    return out


class Twin:
    """Counts by walking over spikes; every quantity is a dict from its key to (images, T) counts."""

    def __init__(self, network: Network, mapping: Mapping, execution: Execution) -> None:
        self.network = network
        self.mapping = mapping
        self.slice_at: dict[tuple[int, Where], int] = {}
        for index, (site, *box) in enumerate(mapping.boxes.tolist()):
            c0, c1, y0, y1, x0, x1 = box
            for c, y, x in np.ndindex(c1 - c0, y1 - y0, x1 - x0):
                self.slice_at[site, (c0 + int(c), y0 + int(y), x0 + int(x))] = index
        self.site = {(s.kind, s.population): i for i, s in enumerate(mapping.sites)}
        shape = (len(execution.accumulators), network.time_steps)
        make: Callable[[], np.ndarray] = lambda: np.zeros(shape, np.int64)  # noqa: E731
        self.synops = defaultdict(make)
        self.spikes = defaultdict(make)
        self.out = defaultdict(make)
        self.arrived = defaultdict(make)
        self.of_projection = defaultdict(make)
        self.delivered = defaultdict(make)
        self.slots = defaultdict(make)
        for population in network:
            sent = execution.spikes[population.name]
            for n, t, c, y, x in np.argwhere(sent).tolist():
                slots = int(sent[n, t, c, y, x]) if stands_for_spikes(network, population.name) else 1
                self.send(population.name, (c, y, x), (n, t), slots)
        self.exchanged = 0
        for index, site in enumerate(mapping.sites):
            if site.copies > 1 and site.copy == 0:
                self.exchange(range(index, index + site.copies), site.shape)

    def exchange(self, copies: range, shape: Where) -> None:
        """Each counter sends its sum to the copy at home in its column, and that one sends the whole to all others."""
        for c, y, x in np.ndindex(*shape):
            home = copies[x % len(copies)]
            others = [copy for copy in copies if copy != home]
            for source, target in [(other, home) for other in others] + [(home, other) for other in others]:
                self.out[self.slice_at[source, (c, y, x)]] += 1
                self.arrived[self.slice_at[target, (c, y, x)]] += 1
                self.synops[self.slice_at[target, (c, y, x)]] += 1
                self.exchanged += self.out[self.slice_at[source, (c, y, x)]].size
            for copy in copies:
                self.spikes[self.slice_at[copy, (c, y, x)]] += 1

    def send(self, name: str, where: Where, when: tuple[int, int], slots: int) -> None:
        home = self.slice_at[self.site["population", name], where]
        self.spikes[home][when] += 1
        cores = set()
        for number, projection in enumerate(self.network.projections):
            if name not in projection.sources:
                continue
            for target, replay in self.targets(number, name, where, when, slots):
                self.synops[target][when] += 1
                self.of_projection[number][when] += 1
                self.slots[number][when] += slots
                if replay:
                    self.spikes[target][when] += 1
                    self.out[target][when] += 1
                if self.mapping.cores[target] not in cores:
                    cores.add(self.mapping.cores[target])
                    self.arrived[target][when] += 1
        self.out[home][when] += len(cores)

    def targets(
        self, number: int, name: str, where: Where, when: tuple[int, int], slots: int
    ) -> list[tuple[int, bool]]:
        projection = self.network.projections[number]
        shape = self.network[projection.target].shape
        site = self.site["population", projection.target]
        if isinstance(projection.synapse, DualSpike):
            reached = self.products(number, "ys"[projection.sources.index(name)], where)
            return sorted((self.slice_at[site, neuron], False) for neuron in reached)
        if not isinstance(projection.synapse, Attention):
            reached = synapses_of(self.network, projection.synapse, where, shape)
            return sorted((self.slice_at[site, neuron], False) for neuron in reached)
        return [
            counter
            for role, source in zip("qkv", projection.sources, strict=True)
            if source == name
            for counter in self.counters(number, role, where, when, slots)
        ]

    def products(self, number: int, role: str, where: Where) -> list[Where]:
        """The neurons that add up what a factor of a dual spike transformation has a part in."""
        projection = self.network.projections[number]
        dual = projection.synapse
        channels, rows, columns = self.network[projection.sources[0]].shape
        shape = self.network[projection.target].shape
        width, tokens = channels // dual.heads, rows * columns
        out = []
        for c, y, x in np.ndindex(*shape):
            head, place = divmod(c, width if dual.over_tokens else tokens)
            if role == "s":
                # of the spikes, channels stand for tokens of y, or for its channels
                meets = where[0] // (tokens if dual.over_tokens else width) == head and where[1:] == (y, x)
            elif dual.over_tokens:
                meets = where[0] == c
            else:
                meets = where[0] // width == head and where[1] * columns + where[2] == place
            out += [(int(c), int(y), int(x))] if meets else []
        return out

    def counters(
        self, number: int, role: str, where: Where, when: tuple[int, int], slots: int
    ) -> list[tuple[int, bool]]:
        projection = self.network.projections[number]
        attention = projection.synapse
        channels, height, width = self.network[projection.target].shape
        # channels of a head: of q and k, and of v
        depth = self.network[projection.sources[0]].shape[0] // attention.heads
        of_v = channels // attention.heads
        tokens = height * width
        head = where[0] // (of_v if role == "v" else depth)
        token = where[1] * width + where[2]
        index = self.site["attention", projection.target]
        serial = self.mapping.sites[index].serial
        item = token if serial == "tokens" else where[0] % (of_v if role == "v" else depth)
        items = tokens if serial == "tokens" else of_v if role == "v" else depth
        # the copies stand one after another, and this is the last: each takes as many tokens, or channels, in a row
        copies = self.mapping.sites[index].copies
        index += 1 - copies + item // -(-items // copies)
        if serial == "tokens":
            if role == "v":
                cells = [(head * depth + row, 0, where[0] % of_v) for row in range(depth)]
            else:
                cells = [(where[0], 0, column) for column in range(of_v)]
            outputs = [(head * of_v + column, where[1], where[2]) for column in range(of_v)]
        else:
            cells = [(head, token, m) if role == "q" else (head, m, token) for m in range(tokens)]
            outputs = [(where[0], y, x) for y in range(height) for x in range(width)]
        replay = role == ("q" if serial == "tokens" else "v")
        if replay:
            for output in outputs:
                target = self.slice_at[self.site["population", projection.target], output]
                self.synops[target][when] += 1
                self.arrived[target][when] += 1
                self.delivered[number][when] += 1
                self.slots[number][when] += slots
        return sorted((self.slice_at[index, cell], replay) for cell in cells)


def stands_for_spikes(network: Network, name: str) -> bool:
    """Whether what it sends is a number of spikes: its own, or a sum or a maximum of such; no pixels, no currents."""
    neuron = network[name].neuron
    if isinstance(neuron, Sum | Max):
        return all(stands_for_spikes(network, source) for p in network.into(name) for source in p.sources)
    return not isinstance(neuron, Source | Stream)


def executed(network: Network, mapping: Mapping | None, seed: int) -> Execution:
    images = random_images(network, seed)
    names = [p.name for p in network]
    return reference.execute(network, images, record=names, cells=events.geometry(network, mapping).cells)


def stacked(counts: dict[int, np.ndarray], slices: int, like: np.ndarray) -> np.ndarray:
    """(images, T, slices) of the counts by slice; zeros where nothing was counted."""
    return np.stack([counts.get(i, np.zeros_like(like)) for i in range(slices)], -1)


@examples(12, 100)
@given(NETWORKS, SEEDS)
def test_counts_equal_a_walk_over_every_synapse(network: Network, seed: int) -> None:
    check_counts(network, seed)


@pytest.mark.long
@settings(max_examples=6, deadline=None)
@given(GRADED, SEEDS)
def test_counts_of_small_integers_equal_a_walk_over_every_synapse(network: Network, seed: int) -> None:
    check_counts(network, seed)


@examples(3, 20)
@given(DUAL, SEEDS)
def test_counts_of_products_of_currents_equal_a_walk_over_every_synapse(network: Network, seed: int) -> None:
    check_counts(network, seed)


def check_counts(network: Network, seed: int) -> None:
    mapping = random_mapping(network, seed)
    execution = executed(network, mapping, seed)
    counts = events.count(events.geometry(network, mapping), execution)
    twin = Twin(network, mapping, execution)
    sliced = counts.slices
    slices = len(mapping.boxes)
    assert sliced is not None
    like = np.zeros(sliced.synops.shape[:2], np.int64)
    np.testing.assert_array_equal(sliced.synops, stacked(twin.synops, slices, like))
    np.testing.assert_array_equal(sliced.spikes, stacked(twin.spikes, slices, like))
    np.testing.assert_array_equal(sliced.messages_out, stacked(twin.out, slices, like))
    cores, arrived = sliced.by_core(sliced.messages_in)
    _, expected = sliced.by_core(stacked(twin.arrived, slices, like))
    np.testing.assert_array_equal(arrived, expected)
    np.testing.assert_array_equal(cores, np.unique(mapping.cores))
    for number, projection in enumerate(counts.projections):
        np.testing.assert_array_equal(projection.synops, twin.of_projection.get(number, like).sum(0))
        np.testing.assert_array_equal(projection.delivered, twin.delivered.get(number, like).sum(0))
        np.testing.assert_array_equal(projection.slots, twin.slots.get(number, like).sum(0))
    gathered = sum(p.gathered.sum() for p in counts.populations.values())
    assert gathered == twin.exchanged
    assert counts.slot_synops == (sum(slots.sum() for slots in twin.slots.values()) + gathered) / counts.images
    # what is sent arrives, what arrives was sent
    assert sliced.messages_in.sum() == sliced.messages_out.sum()
    assert sliced.synops.sum() == sum(p.synops.sum() + p.delivered.sum() for p in counts.projections) + gathered
    assert sliced.neurons.sum() == sum(np.prod(site.shape) for site in mapping.sites)


def idle_visits(network: Network, mapping: Mapping, execution: Execution) -> np.ndarray:
    """(images, T, slices) by a walk over all visits of all neurons."""
    out = np.zeros((len(execution.accumulators), network.time_steps, len(mapping.boxes)), np.int64)
    for index, (site, c0, c1, y0, y1, x0, x1) in enumerate(mapping.boxes.tolist()):
        if mapping.sites[site].kind != "population":
            continue
        population = network[mapping.sites[site].population]
        for n, t, c, y, x in np.ndindex(*out.shape[:2], c1 - c0, y1 - y0, x1 - x0):
            out[n, t, index] += finds_nothing(population, execution, (n, t), (c0 + c, y0 + y, x0 + x))
    return out


@pytest.mark.long
@settings(max_examples=20, deadline=None)
@given(
    st.builds(
        random_network, SEEDS, st.integers(1, 4), st.sampled_from(["programmable", "stock"]), st.integers(0, 1),
        st.booleans(),
    ) | GRADED, SEEDS,
)  # fmt: skip
def test_idle_visits_equal_a_walk_over_every_visit(network: Network, seed: int) -> None:
    mapping = random_mapping(network, seed)
    execution = executed(network, mapping, seed)
    counts = events.count(events.geometry(network, mapping), execution)
    alone = events.count(events.geometry(network, None), executed(network, None, seed))
    sliced = counts.slices
    assert sliced is not None
    expected = idle_visits(network, mapping, execution)
    np.testing.assert_array_equal(sliced.idle, expected)
    assert (sliced.idle <= sliced.neurons).all()
    for index, site in enumerate(mapping.sites):
        if site.kind == "population":
            of_slices = expected[..., mapping.slices_of(index)].sum((0, 2))
            np.testing.assert_array_equal(counts.populations[site.population].idle, of_slices)
            np.testing.assert_array_equal(alone.populations[site.population].idle, of_slices)


@pytest.mark.long
@settings(max_examples=20, deadline=None)
@given(NETWORKS | GRADED | DUAL, SEEDS)
def test_network_counts_do_not_depend_on_the_mapping(network: Network, seed: int) -> None:
    execution = executed(network, None, seed)
    counts = events.count(events.geometry(network, None), execution)
    mapping = random_mapping(network, seed)
    mapped = events.count(events.geometry(network, mapping), executed(network, mapping, seed))
    assert counts.slices is None
    for ours, theirs in zip(counts.projections, mapped.projections, strict=True):
        if ours.kind != "attention":
            np.testing.assert_array_equal(ours.synops, theirs.synops)
            np.testing.assert_array_equal(ours.slots, theirs.slots)
        np.testing.assert_array_equal(ours.coincidences, theirs.coincidences)
        np.testing.assert_array_equal(ours.products, theirs.products)
        np.testing.assert_array_equal(ours.slot_products, theirs.slot_products)
    for name, population in counts.populations.items():
        spikes = execution.spikes[name] != 0
        np.testing.assert_array_equal(population.spikes, spikes.sum((0, 2, 3, 4)))
        np.testing.assert_array_equal(population.messages, population.spikes)
        np.testing.assert_array_equal(population.values, execution.spikes[name].sum((0, 2, 3, 4)))
        assert population.silent == (~spikes.any((0, 1))).sum()


@settings(max_examples=20, deadline=None)
@given(NETWORKS | GRADED, SEEDS)
def test_attention_additions(network: Network, seed: int) -> None:
    execution = executed(network, None, seed)
    counts = events.count(events.geometry(network, None), execution)
    for projection, counted in zip(network.projections, counts.projections, strict=True):
        if not isinstance(projection.synapse, Attention):
            continue
        heads = projection.synapse.heads
        q, k, v = (execution.spikes[s] != 0 for s in projection.sources)
        n, t, _, height, width = q.shape
        tokens = height * width
        q, k, v = (s.reshape(n, t, heads, -1, tokens).astype(np.int64) for s in (q, k, v))
        np.testing.assert_array_equal(counted.coincidences, np.einsum("nthcp,nthdp->t", k, v))
        d, e = q.shape[3], v.shape[3]
        # of each image: how many are in a batch changes no count
        of_q, of_k, of_v = (s.sum((2, 3, 4)) for s in (q, k, v))
        kv_first = d * e <= tokens**2
        synops = e * (of_q + of_k) + d * of_v if kv_first else tokens * (of_q + of_k + of_v)
        np.testing.assert_array_equal(counted.synops, synops.sum(0))
        np.testing.assert_array_equal(counted.delivered, (e * of_q if kv_first else tokens * of_v).sum(0))
        np.testing.assert_array_equal(counted.products, (np.minimum(e * of_k, d * of_v) + e * of_q).sum(0))
        # in slots every unit of a number is a spike
        of_q, of_k, of_v = (execution.spikes[s].astype(np.int64).sum((2, 3, 4)) for s in projection.sources)
        np.testing.assert_array_equal(counted.slot_products, (np.minimum(e * of_k, d * of_v) + e * of_q).sum(0))
        # every product, in the cheaper order of the two
        dense = heads * tokens * min(2 * d * e, tokens * (d + e))
        assert counted.dense == dense


@settings(max_examples=10, deadline=None)
@given(DUAL, SEEDS)
def test_products_are_counted_as_the_official_code_counts_them(network: Network, seed: int) -> None:
    """N' additions a spike of s, d a spike of A; in slots, as many as each stands for."""
    execution = executed(network, None, seed)
    counts = events.count(events.geometry(network, None), execution)
    scores, out = (p for p in counts.projections if p.kind == "dualspike")
    patches, tokens = (np.prod(network[name].shape[1:]) for name in ("dual.y0", scores.target))
    channels = network["dual.y0"].shape[0]
    heads = network[scores.target].shape[0] // patches
    for product, each in ((scores, patches), (out, channels // heads)):
        sent = execution.spikes[product.sources[1]].astype(np.int64)
        np.testing.assert_array_equal(product.products, each * (sent != 0).sum((0, 2, 3, 4)))
        np.testing.assert_array_equal(product.slot_products, each * sent.sum((0, 2, 3, 4)))
        assert product.dense == channels * patches * tokens
        assert product.graded == (network[product.sources[1]].max_out > 1)


def test_what_nobody_reads_is_counted_where_it_is() -> None:
    b = Builder(np.random.default_rng(0), 3, "programmable")
    source = b.source((2, 4, 5), 255, False)
    unread = b.window("unread", Or(), [b.conv("lif", source, 4, 3)], Window((2, 2)))
    network = b.finish(b.conv("read", source, 4, 1), 3)
    mapping = random_mapping(network, 0)
    execution = executed(network, mapping, 0)
    sliced = events.count(events.geometry(network, mapping), execution).slices
    assert sliced is not None
    of_unread = mapping.slices_of(next(i for i, s in enumerate(mapping.sites) if s.population == unread.name))
    spikes = execution.spikes[unread.name].sum((2, 3, 4))
    np.testing.assert_array_equal(sliced.spikes[..., of_unread].sum(2), spikes)
    np.testing.assert_array_equal(sliced.idle, idle_visits(network, mapping, execution))


def test_batches_join() -> None:
    network = random_network(7)
    mapping = random_mapping(network, 7)
    images = random_images(network, 7, 5)
    geometry = events.geometry(network, mapping)
    whole = events.count(geometry, reference.execute(network, images, cells=geometry.cells))
    halves = [reference.execute(network, part, cells=geometry.cells) for part in (images[:2], images[2:])]
    joined = events.join([events.count(geometry, half) for half in halves])
    assert (joined.images, joined.synops, joined.dense_macs) == (5, whole.synops, whole.dense_macs)
    assert joined.slot_synops == whole.slot_synops > whole.synops
    assert whole.slices is not None
    assert joined.slices is not None
    np.testing.assert_array_equal(joined.slices.synops, whole.slices.synops)
    np.testing.assert_array_equal(joined.slices.idle, whole.slices.idle)
    assert whole.slices.idle.any()
    condensed = events.condensed(joined).slices
    assert condensed is not None
    np.testing.assert_array_equal(condensed.idle, whole.slices.idle.sum(0, keepdims=True))
    for name, population in whole.populations.items():
        np.testing.assert_array_equal(joined.populations[name].messages, population.messages)
        np.testing.assert_array_equal(joined.populations[name].idle, population.idle)
        assert joined.populations[name].silent == population.silent


def test_missing_cells_are_refused() -> None:
    network = random_network(1)
    mapping = random_mapping(network, 1)
    execution = reference.execute(network, random_images(network, 1), cells=events.geometry(network, None).cells)
    with pytest.raises(InputError, match=r"its activity was summed over \d+ x \d+ x \d+ cells"):
        events.count(events.geometry(network, mapping), execution)


@pytest.mark.parametrize(("wide", "narrow"), [(12, 5), (12, 12), (12, 17)])
def test_a_stream_beside_a_split_convolution_is_counted_once(wide: int, narrow: int) -> None:
    """A residual sum has fewer channels than the convolution whose fan-in is split, as many, or more."""
    grow = Builder(np.random.default_rng(wide + narrow), 3, "programmable")
    image = grow.source((2, 4, 4), 255, False)
    many, stream = grow.conv("many", image, wide, 1), grow.conv("stream", image, narrow, 1)
    weight = grow.rng.integers(-9, 12, (narrow, wide, 3, 3)).astype(np.int8)
    both = (Conv(weight, padding=(1, 1)), (many.name,)), (Window((1, 1), (1, 1), (0, 0)), (stream.name,))
    target = grow.lif("target", stream.shape, *both)
    network = grow.finish(target, 3)
    profile = smaller(3000, 40, 60)
    mapping = map_network(network, profile, {})
    parts = [(index, site) for index, site in enumerate(mapping.sites) if site.population == "target"]
    assert len(parts) > 2
    geometry = events.geometry(network, mapping)
    assert all(cells.channels[-1] == network[name].shape[0] for name, cells in geometry.cells.items())
    execution = reference.execute(network, random_images(network, 5), cells=geometry.cells, record=["many", "stream"])
    sliced = events.count(geometry, execution).slices
    assert sliced is not None
    edges = [site.part for _, site in parts]
    edges[-1] = (edges[-1][0], max(wide, narrow))
    sums = 2 * 3 * target.size
    for (index, site), (first, end) in zip(parts, edges, strict=True):
        reached = [
            len(synapses_of(network, synapse, (c, y, x), target.shape))
            for synapse, (name,) in both
            for *_, c, y, x in np.argwhere(execution.spikes[name]).tolist()
            if first <= c < end
        ]
        gathered = (len(parts) - 1) * sums if site.kind == "population" else 0
        assert sliced.synops[..., mapping.slices_of(index)].sum() == sum(reached) + gathered
    assert sliced.messages_in.sum() == sliced.messages_out.sum()
    hop_table(traffic(geometry, profile), machine(profile, mapping).mesh, geometry.cells)
