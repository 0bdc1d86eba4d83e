"""How sure a time is: draws against the closed form one by one; laws that hold whatever the constants are."""

from dataclasses import replace

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mappings import random_mapping
from support.networks import random_images, random_network

from spikformer_deploy.chips import draws
from spikformer_deploy.chips.profile import Profile, load_profile, quantities, under
from spikformer_deploy.chips.quantity import Quantity
from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.spread import spread
from spikformer_deploy.timing.times import under_runtime

LOIHI2 = load_profile("loihi2")
TIMES = [path.removeprefix("time.") for path, _ in quantities(LOIHI2) if path.startswith("time.")]
SEEDS = st.integers(0, 2**32 - 1)
NETWORKS = st.builds(random_network, SEEDS, st.integers(1, 3), blocks=st.integers(0, 2))


def counted(network: Network, mapping: Mapping, seed: int) -> events.Events:
    geometry = events.geometry(network, mapping)
    return events.count(geometry, reference.execute(network, random_images(network, seed), cells=geometry.cells))


def with_time(profile: Profile, **numbers: Quantity) -> Profile:
    return attrs.evolve(profile, time=attrs.evolve(profile.time, **numbers))


@settings(max_examples=5, deadline=None)
@given(NETWORKS, SEEDS)
def test_a_draw_is_the_closed_form_with_these_constants(network: Network, seed: int) -> None:
    mapping = random_mapping(network, seed)
    found = events.condensed(counted(network, mapping, seed))
    times = spread(found, network, mapping, LOIHI2)
    nominal = estimate(found, network, mapping, LOIHI2)
    # one image stands for all: its events are those of the mean image
    mean = replace(found, images=1, slices=mean_image(found))
    for i in (0, 7, draws.COUNT - 1):
        drawn = {
            name: Quantity(
                float(draws.values(f"time.{name}", number, draws.drawn)[i]), number.unit, number.kind, number.source
            )
            for name, number in ((name, getattr(LOIHI2.time, name)) for name in TIMES)
        }
        alone = estimate(mean, network, mapping, with_time(LOIHI2, **drawn))
        base = estimate(mean, network, mapping, LOIHI2)
        np.testing.assert_allclose(times.step[i], alone.step_us_mean[1] / base.step_us_mean[1], rtol=1e-9)
        ratio = alone.fall_through_us[1] / base.fall_through_us[1]
        np.testing.assert_allclose(times.fall_through[i], ratio, rtol=1e-9)
    low, high = times.likely_step(1.0)
    assert low <= 1 <= high
    range_low, middle, range_high = nominal.step_us_mean
    assert range_low / middle <= low
    assert high <= range_high / middle
    assert sum(times.rulers.values()) == pytest.approx(1)


def mean_image(found: events.Events) -> events.SliceEvents:
    slices = found.slices
    assert slices is not None
    names = ("spikes", "messages_out", "messages_in", "synops", "idle")
    return replace(slices, **{name: getattr(slices, name) / found.images for name in names})


@settings(max_examples=15, deadline=None)
@given(NETWORKS, SEEDS, st.sampled_from(TIMES))
def test_a_slower_constant_never_makes_a_step_shorter(network: Network, seed: int, name: str) -> None:
    mapping = random_mapping(network, seed)
    found = counted(network, mapping, seed)
    number = getattr(LOIHI2.time, name)
    slower = number.value / 3 if name.endswith("_rate") else 3 * number.value
    changed = with_time(LOIHI2, **{name: Quantity(slower, number.unit, number.kind, number.source)})
    before = estimate(found, network, mapping, LOIHI2)
    after = estimate(found, network, mapping, changed)
    assert (after.step_ns[1] >= before.step_ns[1] * (1 - 1e-12)).all()
    assert (after.fall_through_ns[1] >= before.fall_through_ns[1] * (1 - 1e-12)).all()


@settings(max_examples=10, deadline=None)
@given(NETWORKS, SEEDS)
def test_a_bare_runtime_is_the_same_network_without_it(network: Network, seed: int) -> None:
    mapping = random_mapping(network, seed)
    found = counted(network, mapping, seed)
    lava = estimate(found, network, mapping, LOIHI2)
    bare = estimate(found, network, mapping, under(LOIHI2, "bare"))
    for moved, there in ((under_runtime(lava, bare.runtime_ns), bare), (under_runtime(bare, lava.runtime_ns), lava)):
        np.testing.assert_allclose(moved.step_ns, there.step_ns, rtol=1e-9)
        np.testing.assert_allclose(moved.fall_through_ns, there.fall_through_ns, rtol=1e-9)
        assert moved.parts_ns == pytest.approx(there.parts_ns, rel=1e-9)
    # every sub-step is a time step of the chip, and pays
    sub_steps = max((site.chip_sub_steps for site in mapping.sites), default=0)
    np.testing.assert_allclose(lava.step_ns[1] - bare.step_ns[1], (1 + sub_steps) * 1090, rtol=1e-9)


@pytest.mark.long
@settings(max_examples=10, deadline=None)
@given(NETWORKS, SEEDS)
def test_two_networks_side_by_side_take_at_least_the_longer_time(network: Network, seed: int) -> None:
    """A network and the same once more on other cores of one chip, both of one image."""
    mapping = random_mapping(network, seed)
    cores = np.unique(mapping.cores, return_inverse=True)[1] % 56
    alone = replace(mapping, cores=cores, chips=1, cores_per_chip=120, metrics={})
    both = twice(network)
    ends = (network.input.name, network.output.name)
    again = np.array([site.population not in ends for site in mapping.sites])
    sites = [
        replace(s, name=f"again.{s.name}", population=f"again.{s.population}") for s in np.array(mapping.sites)[again]
    ]
    number = np.cumsum(again) - 1 + len(mapping.sites)
    copied = again[mapping.boxes[:, 0]]
    boxes = mapping.boxes[copied].copy()
    boxes[:, 0] = number[boxes[:, 0]]
    together = replace(
        alone,
        sites=(*mapping.sites, *sites),
        boxes=np.concatenate([mapping.boxes, boxes]),
        cores=np.concatenate([cores, cores[copied] + 60]),
        words=np.concatenate([mapping.words, mapping.words[copied]]),
    )
    short = estimate(counted(network, alone, seed), network, alone, LOIHI2)
    long = estimate(counted(both, together, seed), both, together, LOIHI2)
    assert (long.step_ns >= short.step_ns * (1 - 1e-12)).all()
    assert (long.fall_through_ns >= short.fall_through_ns * (1 - 1e-12)).all()


def twice(network: Network) -> Network:
    """The network, and beside it all of it but its head once more, from the same Source."""
    ends = (network.input.name, network.output.name)
    name = {p.name: p.name if p.name in ends else f"again.{p.name}" for p in network}
    copies = tuple(replace(p, name=name[p.name]) for p in network if p.name not in ends)
    copied = tuple(
        replace(p, sources=tuple(name[s] for s in p.sources), target=name[p.target])
        for p in network.projections
        if p.target not in ends
    )
    populations = (*network.populations[:-1], *copies, network.output)
    return replace(network, populations=populations, projections=(*network.projections, *copied))
