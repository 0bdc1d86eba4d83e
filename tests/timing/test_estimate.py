"""The closed form against plain loops over cores and against its own laws."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.closed_form import plain_step
from support.mappings import random_mapping
from support.networks import graded_network, random_images, random_network

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.loihi import steps
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.estimate import estimate

LOIHI2 = load_profile("loihi2")
NETWORKS = st.builds(random_network, st.integers(0, 2**32 - 1), st.integers(1, 3), blocks=st.integers(0, 2))
GRADED = st.builds(graded_network, st.integers(0, 2**32 - 1), st.integers(1, 2))


def counted(network: Network, mapping: Mapping, seed: int) -> events.Events:
    geometry = events.geometry(network, mapping)
    return events.count(geometry, reference.execute(network, random_images(network, seed), cells=geometry.cells))


def barrier_ns(mapping: Mapping) -> float:
    return float(steps.barrier(latencies(LOIHI2), LOIHI2, mapping)[NOMINAL])


@settings(max_examples=20, deadline=None)
@given(NETWORKS | GRADED, st.integers(0, 2**32 - 1))
def test_estimate_equals_plain_loops(network: Network, seed: int) -> None:
    mapping = random_mapping(network, seed)
    counts = counted(network, mapping, seed)
    times = estimate(counts, network, mapping, LOIHI2)
    for n, t in np.ndindex(counts.images, network.time_steps):
        step, passing = plain_step(counts, network, mapping, LOIHI2, barrier_ns(mapping), n, t)
        np.testing.assert_allclose(times.step_ns[1, n, t], step, rtol=1e-12)
        np.testing.assert_allclose(times.fall_through_ns[1, n, t], passing, rtol=1e-12)
    assert (np.diff(times.step_ns, axis=0) >= 0).all()
    assert (np.diff(times.fall_through_ns, axis=0) >= 0).all()
    assert times.busiest_core in mapping.cores
    assert mapping.population_on(times.busiest_core) in [p.name for p in network]
    assert times.bound in times.parts_ns
    np.testing.assert_allclose(
        times.latency_us, (network.time_steps + times.depth - 1) * times.step_ns.mean((1, 2)) / 1e3, rtol=1e-12
    )
    np.testing.assert_allclose(times.images_per_second[::-1], 1e9 / times.step_ns.sum(2).mean(1), rtol=1e-12)
    np.testing.assert_allclose(times.fall_through_us, times.fall_through_ns.sum(2).mean(1) / 1e3, rtol=1e-12)


def test_barrier_grows_with_tiles_and_chips() -> None:
    network = random_network(4)
    mapping = random_mapping(network, 4)
    slices = len(mapping.cores)
    table = latencies(LOIHI2)
    one = replace(mapping, cores=np.zeros(slices, np.int64), cores_per_chip=128)
    all_tiles = replace(one, cores=np.arange(slices) * 4 % 128)
    np.testing.assert_allclose(steps.barrier(table, LOIHI2, one), [30, 65, 200])
    assert steps.tiles_used(LOIHI2, all_tiles) == min(slices, 32)
    board = load_profile("kapoho_point")
    eight = replace(one, cores=np.arange(slices) % 8 * 128, chips=8)
    np.testing.assert_allclose(steps.barrier(table, board, eight)[NOMINAL], 65 + 200 + 4 * 100)


@pytest.mark.parametrize(("tiles", "microseconds"), [(1, 0.6), (2, 1.0), (4, 1.4), (29, 1.8), (32, 1.8)])
def test_the_barrier_of_loihi1_is_the_table_of_its_fit(tiles: int, microseconds: float) -> None:
    """Boyle et al. (SANA-FE), 2025: barriers of a Nahuku board by tiles in use."""
    barrier = steps.barrier_ns(latencies(load_profile("loihi1")), tiles, 1, 0.0)
    np.testing.assert_allclose(barrier[NOMINAL], 1e3 * microseconds)


def test_the_heaviest_link_can_rule() -> None:
    network = random_network(4)
    mapping = random_mapping(network, 4)
    counts = counted(network, mapping, 4)
    jammed = replace(mapping, metrics={"max_link_load": 7e9})
    times = estimate(counts, network, jammed, LOIHI2)
    assert times.bound == "link"
    np.testing.assert_allclose(times.parts_ns["link"], 7e9 / 3.5)
    assert times.step_ns[1].min() > 7e9 / 3.5
    between = replace(mapping, metrics={"max_link_load": 7e9, "max_chip_link_load": 5e9})
    np.testing.assert_allclose(estimate(counts, network, between, LOIHI2).parts_ns["link"], 5e9 / 0.25)


def test_events_without_a_mapping_are_refused() -> None:
    network = random_network(4)
    mapping = random_mapping(network, 4)
    geometry = events.geometry(network, None)
    counts = events.count(geometry, reference.execute(network, random_images(network, 4), cells=geometry.cells))
    with pytest.raises(InputError, match="counted without a mapping"):
        estimate(counts, network, mapping, LOIHI2)
