"""The price of a spike: spikes x price, and what happens anyway, are the energy that the accounting counts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from support.deep import examples
from support.durations import duration
from support.mappings import random_mapping
from support.networks import dual_network, graded_network, preprocess_of, random_images, random_network
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.accounting.target import NEURO_CORES, on_target
from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.counts.events import count, geometry
from spikformer_deploy.data.read import read
from spikformer_deploy.executors import reference
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.optimization.price import spike_prices
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.hops import hop_table, hops_of_images
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.traffic import traffic

LOIHI2 = load_profile("loihi2")
PICO_PER_MILLI = 1e9
NETWORKS = st.one_of(
    st.builds(random_network, st.integers(0, 2**32 - 1), st.integers(1, 3), blocks=st.integers(0, 2)),
    st.builds(graded_network, st.integers(0, 2**32 - 1), st.integers(1, 2)),
    st.builds(dual_network, st.integers(0, 2**32 - 1), st.integers(1, 2)),
)


def unexplained(program: Program, images: np.ndarray) -> tuple[float, float]:
    """(dynamic energy less spikes x price, dynamic energy) of some images, pJ an image, by the accounting's own way.

    What potentials say of idle neurons is taken out: no price holds it.
    """
    network, mapping, profile = program.network, program.mapping, program.profile
    counts = geometry(network, mapping)
    names = [population.name for population in network if population is not network.output]
    execution = reference.execute(network, images, cells=counts.cells, record=names)
    events = count(counts, execution)
    hops = hop_table(traffic(counts, profile), machine(profile, mapping).mesh, counts.cells)
    took = duration(events, network, mapping, profile)
    took = replace(took, times=replace(took.times, hop_counts=hops_of_images(hops, execution.activity)))
    energy = on_target(events, mapping, profile, took)[0]
    assert events.slices is not None
    corner = profile.corners[profile.corner]
    resting = events.slices.idle[..., ~counts.standing.silent].sum() / len(images)
    saved = resting * (corner.neuron_update.value - corner.neuron_idle.value)
    prices = spike_prices(program)
    assert prices.keys() == set(names)
    of_spikes = sum(float(((execution.spikes[n] != 0).sum((0, 1)) * prices[n]).sum()) for n in names) / len(images)
    dynamic = energy.within(NEURO_CORES).nominal * PICO_PER_MILLI
    return dynamic + saved - of_spikes, dynamic


@pytest.mark.long
@given(NETWORKS, st.integers(0, 2**32 - 1), st.booleans())
@examples(10, 300)
def test_spikes_at_their_price_are_the_energy_of_the_accounting(network: Network, seed: int, random: bool) -> None:
    try:
        mapping = random_mapping(network, seed) if random else map_network(network, LOIHI2, {})
    except MappingError:  # currents times integers: the target refuses some
        reject()
    program = Program(network, mapping, LOIHI2, preprocess_of(network), (), {})
    images = random_images(network, seed, 3)
    constant, dynamic = unexplained(program, images[:1])
    for some in (images[1:2], images[2:], images):
        other, whole = unexplained(program, some)
        assert other == pytest.approx(constant, rel=0, abs=1e-9 * max(dynamic, whole))
    assert constant > 0


@pytest.mark.long
def test_a_bundled_model_has_prices_by_neuron() -> None:
    program = program_of("digits-v2")
    prices = spike_prices(program)
    images = read("digits", program.preprocess, limit=4).pixels
    constant, dynamic = unexplained(program, images[:2])
    other, _ = unexplained(program, images[2:4])
    assert other == pytest.approx(constant, rel=0, abs=1e-9 * dynamic)
    # a spike in a corner of a 3x3 convolution reaches four of nine positions
    of_map = prices["patch_embed.stages.0.down_lif"][0]
    assert of_map[0, 0] < of_map[0, 1] < of_map[1, 1]
    # what a run says of the whole network
    run = sd.run(program, images[:2])
    (energy,) = (e for e in run.energies if e.convention == "profile")
    assert energy.within(NEURO_CORES).nominal * PICO_PER_MILLI == pytest.approx(dynamic, rel=1e-9)
