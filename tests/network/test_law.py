"""Parameters of a network from a file fit its state; the least int64, whose magnitude is negative, does not either."""

from dataclasses import replace

import numpy as np
import pytest
from support.networks import Builder, random_network

from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import And, Lif, Max, Neuron, Or, Sum
from spikformer_deploy.network.synapses import Window


def changed(network: Network, field: str, value: int) -> Network:
    populations = list(network.populations)
    place = next(i for i, p in enumerate(populations) if isinstance(p.neuron, Lif))
    values = np.full_like(getattr(populations[place].neuron, field), value)
    populations[place] = replace(populations[place], neuron=replace(populations[place].neuron, **{field: values}))
    # ranges are no longer those that were proven
    return replace(network, populations=tuple(populations), bounds="observed")


@pytest.mark.parametrize("field", ["threshold", "bias"])
@pytest.mark.parametrize("value", [2**40, -(2**62), -(2**63)])
def test_parameters_beyond_the_state_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"a {field} of {value} does not fit"):
        check_network(changed(random_network(0), field, value))


def moved(neuron: Neuron, offset: tuple[int, int]) -> Network:
    b = Builder(np.random.default_rng(0), 2, "programmable")
    source = b.source((2, 3, 70), 1, True)
    pool = b.add(Population("pool", source.shape, neuron, 1), (Window(offset=offset), (source.name,)))
    return b.finish(b.lif("lif", pool.shape, (Window(), (pool.name,))), 2)


def test_windows_are_moved_no_further_than_a_map() -> None:
    for offset in ((2, -69), (-3, 0)):
        check_network(moved(Or(), offset))
    for offset in ((0, 70), (-(2**40), 0)):
        with pytest.raises(ValueError, match="moved by"):
            check_network(moved(Or(), offset))


def test_the_largest_of_a_window_needs_values() -> None:
    """Beyond the map there are none."""
    check_network(moved(Max(), (0, 0)))
    with pytest.raises(ValueError, match="its window or largest value"):
        check_network(moved(Max(), (0, 1)))


def test_ands_count_binary_sources() -> None:
    """A message of 2 would pass for two sources that fire."""
    b = Builder(np.random.default_rng(0), 2, "programmable")
    source = b.source((2, 3, 4), 1, True)
    both = b.add(Population("sum", source.shape, Sum(), 2), *((Window(), (source.name,)) for _ in "ab"))
    for name, read in (("spikes", source), ("sums", both)):
        b.add(Population(name, source.shape, And(2), 1), *((Window(), (read.name,)) for _ in "ab"))
    network = b.finish(b.populations[-1], 2)
    with pytest.raises(ValueError, match="sums: it counts its binary sources, and one of them sends up to 2"):
        check_network(network)
    lawful = [p for p in network if p.name != "sums"]
    kept = [replace(p, sources=("spikes",)) if p.target == "output" else p for p in network.projections]
    kept = [p for p in kept if p.target != "sums"]
    check_network(replace(network, populations=tuple(lawful), projections=tuple(kept)))


@pytest.mark.parametrize("field", ["threshold", "bias"])
def test_the_limit_is_the_largest_state(field: str) -> None:
    network = random_network(0)
    most = 2 ** (network.state_bits - 1) - 1
    check_network(changed(network, field, most))
    with pytest.raises(ValueError, match="does not fit"):
        check_network(changed(network, field, most + 1))
