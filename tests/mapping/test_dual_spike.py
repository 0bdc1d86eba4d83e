"""Products of currents and spikes on cores: what they take, and what no core can have."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import dual_network
from support.profiles import smaller

from spikformer_deploy.base.errors import InputError, MappingError
from spikformer_deploy.chips.loihi.memory import BoxSizes, words
from spikformer_deploy.chips.loihi.microcode import WIDEST_CURRENT
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.mapping.law import check_neurons
from spikformer_deploy.mapping.map import map_network, verify_mapping
from spikformer_deploy.mapping.partition import sites_of
from spikformer_deploy.network.heads import factors_of, product_into
from spikformer_deploy.network.mapping import OPERANDS
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels
from spikformer_deploy.timing.traffic import check_timed

LOIHI2 = load_profile("loihi2")


def spiking(seed: int) -> Network:
    """The next network whose products read spikes."""
    networks = (dual_network(s) for s in range(seed, seed + 100))
    return next(n for n in networks if not any(isinstance(p.neuron, Levels) for p in n))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(600, 3000))
def test_every_core_satisfies_every_cap(seed: int, memory: int) -> None:
    network = spiking(seed)
    profile = smaller(memory, 200, memory // 2)
    mapping = map_network(network, profile, {p.name: 0.3 for p in network})
    verify_mapping(mapping, network, profile)
    sums = [factors_of(network, p).addends for p in network.projections if product_into(network, p.target) is p]
    assert mapping.chip_sub_steps == max(sums)


def test_words_by_hand() -> None:
    """Of the neurons behind y^T s: an axon for each channel of a box and two; lists of synapses and a header."""
    network = spiking(0)
    site = next(s for s in sites_of(network, LOIHI2.core) if s.serial == OPERANDS)
    factors = factors_of(network, product_into(network, site.population))
    channels, rows, columns = factors.at_y, *site.shape[1:]
    box = BoxSizes(*(np.array(n) for n in (channels, rows, columns)))
    axons, _, lists, *_ = words(network, site, box, LOIHI2.core)
    assert axons == channels + 2
    bits = network.weight_bits + int(LOIHI2.core.index_bits)
    of = [-(-(n * bits + int(LOIHI2.core.list_header_bits)) // 64) for n in (rows * columns, channels)]
    assert lists == channels * of[0] + (1 + (factors.heads > 1)) * of[1]


def test_what_one_input_cannot_hold_is_refused() -> None:
    network = spiking(0)
    wide = replace(network, populations=tuple(replace(p, max_out=2**22) if p.signed else p for p in network))
    with pytest.raises(MappingError, match=r"dual\.scores: it multiplies currents of up to 4,194,304 with spikes"):
        map_network(wide, LOIHI2, {})
    integers = next(n for n in map(dual_network, range(100)) if any(p.name == "levels" and p.max_out > 1 for p in n))
    with pytest.raises(MappingError, match=r"dual\.scores: it multiplies currents of up to .* with spikes of up to"):
        map_network(integers, LOIHI2, {})


def test_the_widest_current_that_fits_is_accepted() -> None:
    """With a spike above it, it takes all of an input; one more bit is refused."""
    network = spiking(0)

    def with_currents(most: int) -> Network:
        populations = tuple(replace(p, max_out=most) if p.signed else p for p in network)
        return replace(network, populations=populations)

    largest = 2 ** (WIDEST_CURRENT - 1) - 1
    assert 2**WIDEST_CURRENT + largest < 2 ** (LOIHI2.limits.state_bits - 1) <= 2 ** (WIDEST_CURRENT + 1)
    check_neurons(with_currents(largest), LOIHI2)
    with pytest.raises(MappingError, match="both arrive as one input"):
        check_neurons(with_currents(largest + 1), LOIHI2)


def test_they_are_not_timed_message_by_message() -> None:
    mapping = map_network(spiking(0), LOIHI2, {})
    with pytest.raises(InputError, match=r"dual\.scores sums products .*\n  Use --timing estimate"):
        check_timed(mapping)
