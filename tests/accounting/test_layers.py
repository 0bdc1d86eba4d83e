"""Counts a layer against the recorded spikes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.durations import duration
from support.mappings import random_mapping
from support.networks import graded_network, random_images, random_network
from support.runs import run_of

import spikformer_deploy as sd
from spikformer_deploy.accounting import layers as counts
from spikformer_deploy.accounting.energy import account
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator, Levels, Lif, Source, Stream
from spikformer_deploy.network.synapses import Attention, Conv, Readout
from spikformer_deploy.report.data import report_data

NETWORKS = st.builds(random_network, st.integers(0, 2**32 - 1), st.integers(1, 4), blocks=st.integers(0, 2))
GRADED = st.builds(graded_network, st.integers(0, 2**32 - 1), st.integers(1, 2))


@settings(max_examples=20, deadline=None)
@given(NETWORKS | GRADED, st.integers(0, 2**32 - 1))
def test_counts_equal_the_spikes(network: Network, seed: int) -> None:
    names = [p.name for p in network]
    whole = events.geometry(network, None)
    run = reference.execute(network, random_images(network, seed), record=names, cells=whole.cells)
    found = events.count(whole, run)
    layers = counts.layers(network, found)
    assert [layer.name for layer in layers] == names
    for layer, population in zip(layers, network, strict=True):
        fired = run.spikes[layer.name] != 0
        np.testing.assert_allclose(layer.rate, fired.mean((0, 2, 3, 4)), rtol=1e-12)
        assert layer.silent == (~fired.any((0, 1))).sum()
        if layer.mean_sent is not None:
            np.testing.assert_allclose(layer.mean_sent, run.spikes[layer.name].mean((0, 2, 3, 4)), rtol=1e-12)
        assert (layer.mean_sent is None) == isinstance(population.neuron, Accumulator | Source | Stream)
        assert layer.graded == (population.max_out > 1)
        if isinstance(population.neuron, Accumulator):
            assert (layer.kind, layer.rate.sum()) == ("accumulator", 0)
    total = sum(layer.synops.sum() for layer in layers)
    np.testing.assert_allclose(total, found.synops, rtol=1e-12)
    assert sum(layer.dense_macs for layer in layers) * network.time_steps == found.dense_macs


@settings(max_examples=10, deadline=None)
@given(NETWORKS | GRADED, st.integers(0, 2**32 - 1))
def test_sparsity(network: Network, seed: int) -> None:
    lifs = [p.name for p in network if isinstance(p.neuron, Lif | Levels)]
    whole = events.geometry(network, None)
    run = reference.execute(network, random_images(network, seed), record=lifs, cells=whole.cells)
    found_events = events.count(whole, run)
    found = counts.sparsity(network, found_events)
    outputs = np.concatenate([run.spikes[name].reshape(2, network.time_steps, -1) for name in lifs], 2)
    weights = [p.synapse.weight.ravel() for p in network.projections if isinstance(p.synapse, Conv | Readout)]
    np.testing.assert_allclose(found.activation, (outputs == 0).mean(), rtol=1e-12)
    np.testing.assert_allclose(found.rate, 1 - found.activation, atol=1e-12)
    slots = counts.slots(network, found_events)
    assert slots.count == network.time_steps * max(network[name].max_out for name in lifs)
    np.testing.assert_allclose(slots.rate * slots.count, outputs.sum() / outputs[:, 0].size, rtol=1e-12)
    np.testing.assert_allclose(found.silent, (outputs == 0).all((0, 1)).mean(), atol=1e-12)
    np.testing.assert_allclose(found.connection, (np.concatenate(weights) == 0).mean(), rtol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_one_count_of_synaptic_operations(seed: int) -> None:
    """Of all layers = of all steps = of all cores = what the energy on the target is charged for, with attention."""
    network = random_network(seed, blocks=1 + seed % 2)
    assert any(isinstance(p.synapse, Attention) for p in network.projections)
    mapping, profile = random_mapping(network, seed), load_profile("loihi2")
    there = events.geometry(network, mapping)
    found = events.count(there, reference.execute(network, random_images(network, seed), cells=there.cells))
    assert found.slices is not None
    assert sum(int(p.delivered.sum()) for p in found.projections) > 0
    at_slices = found.slices.synops
    sites = found.slices.sites
    for layer in counts.layers(network, found):
        own = [i for i, site in enumerate(mapping.sites) if site.population == layer.name]
        expected = at_slices[..., np.isin(sites, own)].sum((0, 2))
        np.testing.assert_array_equal(found.synops_of(layer.name), expected, layer.name)
        np.testing.assert_array_equal(layer.synops, expected / found.images, layer.name)
    np.testing.assert_array_equal(found.synops_by_step, at_slices.sum((0, 2)))
    assert found.synops * found.images == at_slices.sum()
    _, by_core = found.slices.by_core(at_slices)
    assert by_core.sum() == at_slices.sum()
    how_long = duration(found, network, mapping, profile)
    energies = [e for e in account(network, found, mapping, profile, how_long) if e.convention.startswith("profile")]
    assert energies
    for energy in energies:
        part = next(part for part in energy.parts if part.name == "synaptic operations")
        assert part.events == found.synops, energy.convention


@pytest.mark.parametrize("seed", range(4))
def test_the_papers_count_has_a_name_of_its_own(seed: int) -> None:
    network = random_network(seed)
    whole = events.geometry(network, None)
    found = events.count(whole, reference.execute(network, random_images(network, seed), cells=whole.cells))
    parts = {part.name: part.events for energy in account(network, found) for part in energy.parts}
    assert "synaptic operations" not in parts
    assert parts["SOPs of the paper"] > 0


@pytest.mark.long
def test_the_rate_of_a_network_is_that_of_its_neurons() -> None:
    """Of LIFs and integer neurons alone, and the same in a run's JSON as in the report's."""
    result = run_of(graded_network(3))
    network = result.program.network
    firing = [p.name for p in network if p.neuron.fires]
    assert len(firing) < len(list(network)) - 1
    recorded = reference.execute(network, random_images(network, 0, 3), record=firing).spikes
    sent = np.concatenate([recorded[name].ravel() for name in firing])
    values = result.to_dict()
    assert values["firing_rate"] == pytest.approx((sent != 0).mean())
    assert values["mean_sent"] == pytest.approx(sent.mean())
    assert report_data(result)["sparsity"]["firing_rate"] == values["firing_rate"]


class Classifier(torch.nn.Module):
    """Nothing in it fires."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(64, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.flatten(1))


@pytest.mark.long
def test_a_network_without_neurons_has_rates_of_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8)).astype(np.uint8)
    with pytest.warns(UserWarning, match="pixels / 255"):
        program = sd.compile(Classifier(), calibrate_on=pixels, time_steps=2)
    result = sd.run(program, pixels)
    values = result.to_dict()
    assert (values["firing_rate"], values["mean_sent"]) == (0.0, 0.0)
    right = reference.execute(program.network, pixels).accumulators
    np.testing.assert_array_equal(result.accumulators, right)
    assert report_data(result)["sparsity"]["firing_rate"] == 0.0
