"""A fan-in that is split over cores: the same synaptic operations, spread, and the sums that travel on top."""

import numpy as np
import pytest
from support.durations import duration
from support.networks import Builder, random_images
from support.profiles import smaller

from spikformer_deploy.accounting.energy import account
from spikformer_deploy.counts import events
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Or
from spikformer_deploy.network.synapses import Window


def two_convolutions(seed: int) -> Network:
    """Pixels -> 8 channels -> 8 channels (72 lists a slice) -> pooled -> readout."""
    rng = np.random.default_rng(seed)
    builder = Builder(rng, 3, "programmable")
    x = builder.source((2, 7, 6), 255, False)
    x = builder.conv("first", x, 8, 3, stride=int(rng.integers(1, 3)))
    x = builder.conv("second", x, 8, 3, stride=int(rng.integers(1, 3)))
    return builder.finish(builder.window("pool", Or(), [x], Window((2, 2), (1, 1), (1, 1))), 3)


@pytest.mark.parametrize("seed", range(6))
def test_split_fan_ins_count_the_same_operations(seed: int) -> None:
    network = two_convolutions(seed)
    profile = smaller(3000, 300, 60)
    mapping = map_network(network, profile, {p.name: 0.2 for p in network})
    parts = {i: site for i, site in enumerate(mapping.sites) if site.kind == "partial"}
    geometry = events.geometry(network, mapping)
    execution = engine.execute(network, random_images(network, seed), cells=geometry.cells)
    counted = events.count(geometry, execution)
    assert parts
    for population in network:
        chosen = [i for i, site in enumerate(mapping.sites) if site.population == population.name]
        sums = sum(1 for i in chosen if i in parts)
        at_slices = counted.slices.synops[..., np.isin(counted.slices.sites, chosen)].sum()
        travelling = sums * population.size * network.time_steps * counted.images
        operations = sum(int(p.synops.sum()) for p in counted.projections if p.target == population.name)
        assert at_slices == operations + travelling, population.name
        assert at_slices == counted.synops_of(population.name).sum(), population.name
    assert counted.slices.synops.sum() == counted.synops * counted.images
    # partial sums are sent in every step, and their neurons are idle as others are
    assert not counted.slices.idle[..., np.isin(counted.slices.sites, list(parts))].any()
    assert counted.slices.idle.sum() == sum(int(p.idle.sum()) for p in counted.populations.values()) > 0
    how_long = duration(counted, network, mapping, profile)
    assert (how_long.times.step_ns > 0).all()
    assert all(e.total.nominal > 0 for e in account(network, counted, mapping, profile, how_long))
