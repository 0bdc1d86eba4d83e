"""Expected messages between slices, against the events that are counted where every neuron fires in every step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mappings import random_mapping
from support.networks import Builder, dual_network, graded_network, random_network
from support.profiles import smaller

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.loihi.memory import BoxSizes
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.counts.events import SliceEvents
from spikformer_deploy.counts.slices import geometry, slice_events
from spikformer_deploy.counts.sums import weighted
from spikformer_deploy.executors.execution import Activity
from spikformer_deploy.mapping.law import verify_mapping
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.mapping.partition import expected as awaited
from spikformer_deploy.mapping.route import nets_of
from spikformer_deploy.network.mapping import SECTIONS, SITE, Mapping, Site, edges_of, sizes_of
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Conv, Window

LOIHI2 = load_profile("loihi2")


@settings(deadline=None, max_examples=60)
@given(
    st.builds(random_network, st.integers(0, 10**6), st.just(1), blocks=st.integers(0, 2), shortcuts=st.booleans())
    | st.builds(graded_network, st.integers(0, 10**6), st.just(1))
    | st.builds(dual_network, st.integers(0, 10**6), st.just(1)),
    st.integers(0, 10**6),
)
def test_nets_expect_the_messages_that_are_counted(network: Network, seed: int) -> None:
    mapping = random_mapping(network, seed)
    mapping = replace(mapping, cores=np.arange(len(mapping.boxes)))
    nets = nets_of(network, mapping.sites, mapping.boxes, {})
    expected = np.bincount(nets.target, nets.messages, minlength=len(mapping.boxes))
    np.testing.assert_array_equal(expected, where_all_fire(network, mapping).messages_in[0, 0])
    assert (nets.messages > 0).all()


def where_all_fire(network: Network, mapping: Mapping) -> SliceEvents:
    """The events of an image and a time step in which every neuron fires."""
    counting = geometry(network, mapping)
    firing = {}
    activity = {}
    for name, cells in counting.cells.items():
        sizes = np.diff(cells.channels), np.bincount(cells.rows), np.bincount(cells.columns)
        messages = np.einsum("s,r,q->srq", *sizes)[None, None].astype(np.int32)
        firing[name] = messages
        active = np.ones(network[name].shape, bool)
        activity[name] = Activity(messages, cells, active, np.zeros(1, np.int64), np.zeros_like(messages))
    sent, received = weighted((counting.sent, counting.received), firing, counting.layout)[1]
    return slice_events(counting, sent, received, activity)


@pytest.mark.parametrize("narrow", [5, 12, 17])
@pytest.mark.parametrize("seed", range(4))
def test_windows_beside_a_split_fan_in_are_expected_where_they_are_counted(narrow: int, seed: int) -> None:
    """A residual sum has fewer channels than the convolution whose fan-in is split, as many, or more."""
    network, profile = beside_a_split(narrow, seed), smaller(3000, 40, 60)
    mapping = map_network(network, profile, {})
    assert len([site for site in mapping.sites if site.kind == "partial"]) > 1
    counted = where_all_fire(network, mapping)
    nets = nets_of(network, mapping.sites, mapping.boxes, {})
    expected = np.bincount(nets.target, nets.messages, minlength=len(mapping.boxes))
    np.testing.assert_array_equal(expected, counted.messages_in[0, 0])
    for index, site in enumerate(mapping.sites):
        slices = mapping.slices_of(index)
        size = BoxSizes(*sizes_of(mapping.boxes[slices]).max(0, keepdims=True).T)
        _, synops, messages = awaited(network, site, size, profile, {})
        # the largest box of a grid stands for all of them
        assert counted.synops[0, 0, slices].max() <= synops[0]
        assert counted.messages_in[0, 0, slices].max() <= messages[0]
    (stream,) = (p for p in network if p.name == "stream")
    assert sum(windows_at(network, site) for site in mapping.sites) == stream.size


def windows_at(network: Network, site: Site) -> int:
    """Synaptic operations that windows are expected to bring to a site whose box is the whole site."""
    if site.population != "target":
        return 0
    whole, height, width = site.shape
    size = BoxSizes(np.array([whole]), np.array([height]), np.array([width]))
    without, alone = (awaited(network, site, size, LOIHI2, {"many": 0.0, "stream": rate})[1][0] for rate in (0.0, 1.0))
    return int(alone - without)


def test_programs_of_before_expect_windows_and_sums_several_times() -> None:
    """Their words of axon memory name more destinations, and are as lawful as they were."""
    network, profile = beside_a_split(5, 0), smaller(3000, 40, 60)
    mapping = map_network(network, profile, {})
    target = [index for index, site in enumerate(mapping.sites) if site.population == "target"]
    hearers = np.flatnonzero(np.isin(mapping.boxes[:, SITE], target))
    nets = nets_of(network, mapping.sites, mapping.boxes, {})
    (stream,) = (index for index, site in enumerate(mapping.sites) if site.name == "stream")
    # a window reads its own place: all boxes there, of whatever part, were destinations
    missing = {}
    for slice_ in mapping.slices_of(stream).tolist():
        first, end = edges_of(mapping.boxes[[slice_]])
        low, high = edges_of(mapping.boxes[hearers])
        met = (np.minimum(end, high) > np.maximum(first, low)).all(1)
        missing[slice_] = int(met.sum()) - int(((nets.source == slice_) & np.isin(nets.target, hearers)).sum())
    slice_ = max(missing, key=missing.__getitem__)
    assert missing[slice_] > 0
    words = mapping.words.copy()
    words[slice_, SECTIONS.index("axon_mem")] += missing[slice_]
    # the sums of the parts once for the convolution, and once for the window
    sums = mapping.slices_of(target[0])
    words[sums, SECTIONS.index("axon_mem")] *= 2
    verify_mapping(replace(mapping, words=words), network, profile)
    words[slice_, SECTIONS.index("axon_mem")] += 1
    with pytest.raises(MappingError, match="axon memory"):
        verify_mapping(replace(mapping, words=words), network, profile)


def beside_a_split(narrow: int, seed: int) -> Network:
    """A convolution of 12 channels, whose fan-in small cores split, beside a residual sum of `narrow` channels."""
    grow = Builder(np.random.default_rng(seed), 1, "programmable")
    image = grow.source((2, 4, 4), 255, False)
    many, stream = grow.conv("many", image, 12, 1), grow.conv("stream", image, narrow, 1)
    weight = grow.rng.integers(-9, 12, (narrow, 12, 3, 3)).astype(np.int8)
    both = (Conv(weight, padding=(1, 1)), (many.name,)), (Window((1, 1), (1, 1), (0, 0)), (stream.name,))
    return grow.finish(grow.lif("target", stream.shape, *both), 3)
