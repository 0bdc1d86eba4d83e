"""Tokens in series: the same integers in fewer cores and longer steps; memory, time and refusals by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.closed_form import plain_step
from support.deep import thinned
from support.durations import duration
from support.networks import random_images, random_network
from support.programs import program_of

from spikformer_deploy.accounting.energy import account
from spikformer_deploy.base.errors import InputError, MappingError
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.memory import BoxSizes, list_words, token_wise, words
from spikformer_deploy.chips.loihi.steps import barrier
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.cli.main import cli
from spikformer_deploy.counts.events import count
from spikformer_deploy.counts.slices import geometry
from spikformer_deploy.executors import reference
from spikformer_deploy.inference.run import run
from spikformer_deploy.mapping.map import map_network, verify_mapping
from spikformer_deploy.mapping.partition import cuts, sites_of
from spikformer_deploy.network.mapping import SECTIONS, Site
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Attention
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.timing.estimate import estimate

LOIHI2 = load_profile("loihi2")


def network_with_tokens() -> Network:
    return next(n for n in (random_network(seed, blocks=1) for seed in range(50)) if token_wise(n))


def test_blocks_stream_and_the_stem_does_not() -> None:
    network = program_of("digits-v1").network
    streamed = token_wise(network)
    assert set(streamed.values()) == {16}
    assert {name.split(".")[0] for name in streamed if "block" in name} == {"block"}
    assert "block.0.mlp.fc1_lif" in streamed
    assert "block.0.attn.attn_lif" in streamed
    assert not [name for name in streamed if name.startswith("patch_embed.proj") or "rpe" in name]
    assert network.input.name not in streamed
    assert network.output.name not in streamed


def test_words_by_hand() -> None:
    """A 1x1 convolution 48 -> 64 over 16 tokens, a box of 32 channels, 8-bit weights."""
    network = program_of("digits-v2").network
    name = "block.0.mlp.fc1_lif"
    (projection,) = network.into(name)
    outputs, inputs = projection.synapse.weight.shape[:2]
    site = Site(name, "population", name, (outputs, 4, 4), "tokens", 16)
    found = words(network, site, BoxSizes(*np.array([32, 4, 4])), LOIHI2.core)
    lists = list_words(np.int64(32), 8 + int(LOIHI2.core.index_bits), LOIHI2.core)
    expected = {"axon_in": inputs, "neurons": 32, "syn_mem": inputs * lists, "axon_map": 32, "state": 32 * 16}
    assert dict(zip(SECTIONS, found.tolist(), strict=True)) == {**expected, "axon_mem": 0}


@pytest.mark.parametrize("seed", thinned(range(6), 2))
def test_events_are_the_same_in_both_schedules(seed: int) -> None:
    network = random_network(seed, blocks=2)
    assert token_wise(network)
    images, found = random_images(network, seed), []
    for schedule in ("spatial", "token-serial"):
        # with one copy of the counters: several exchange sums
        mapping = map_network(network, LOIHI2, {}, "cores", schedule=schedule)
        counting = geometry(network, mapping)
        events = count(counting, reference.execute(network, images, cells=counting.cells))
        assert events.slices is not None
        found.append((events, events.slices))
    (spatial, cores), (streamed, fewer) = found
    for name, population in spatial.populations.items():
        np.testing.assert_array_equal(population.spikes, streamed.populations[name].spikes)
        np.testing.assert_array_equal(population.updates, streamed.populations[name].updates)
    assert cores.synops.sum() == fewer.synops.sum()
    assert cores.spikes.sum() == fewer.spikes.sum()
    assert cores.neurons.sum() == fewer.neurons.sum()


@pytest.mark.long
def test_fewer_cores_and_longer_steps() -> None:
    """digits-v1 fills a few cores with neurons; one neuron a channel takes fewer."""
    spatial, streamed = (
        compile_model("digits-v1", check=False, objective="cores", schedule=s).program
        for s in ("spatial", "token-serial")
    )
    assert streamed.mapping.cores_used < spatial.mapping.cores_used
    times = [run(p, "digits", limit=4) for p in (spatial, streamed)]
    np.testing.assert_array_equal(times[0].accumulators, times[1].accumulators)
    assert times[0].times.parts_ns["sub_steps"] > 0
    assert times[1].times.parts_ns["sub_steps"] > 0


def test_time_by_hand() -> None:
    """A step: the busiest core of those that work at once, its end; the sub-steps and what is done in them."""
    network = network_with_tokens()
    mapping = replace(map_network(network, LOIHI2, {}, schedule="token-serial"), metrics={})
    counting = geometry(network, mapping)
    images = random_images(network, 1, 1)
    events = count(counting, reference.execute(network, images, cells=counting.cells))
    end = float(barrier(latencies(LOIHI2), LOIHI2, mapping)[NOMINAL])
    times = estimate(events, network, mapping, LOIHI2)
    for step in range(network.time_steps):
        expected, passing = plain_step(events, network, mapping, LOIHI2, end, 0, step)
        np.testing.assert_allclose(times.step_ns[NOMINAL, 0, step], expected, rtol=1e-12)
        np.testing.assert_allclose(times.fall_through_ns[NOMINAL, 0, step], passing, rtol=1e-12)


def test_the_visit_of_a_token_is_paid_for_once() -> None:
    """All visits of a time step: those of the sub-steps of all cores, and those of the ordinary step."""
    network = network_with_tokens()
    mapping = map_network(network, LOIHI2, {}, schedule="token-serial")
    counting = geometry(network, mapping)
    events = count(counting, reference.execute(network, random_images(network, 1, 1), cells=counting.cells))
    assert events.slices is not None
    target = account(network, events, mapping, LOIHI2, duration(events, network, mapping, LOIHI2))[8]
    parts = {part.name: part.events for part in target.parts}
    visits = sum(parts.get(name, 0) for name in ("sweeps of sub-steps", "neuron updates", "idle neurons"))
    site_of = [mapping.sites[site] for site in events.slices.sites]
    ordinary = sum(
        int(n)
        for n, site in zip(events.slices.neurons, site_of, strict=True)
        if not site.token_serial and site.kind != "attention"
    )
    assert any(site.token_serial for site in site_of)
    assert visits == network.time_steps * (mapping.chip_sub_steps * int(mapping.swept.sum()) + ordinary)


def test_boxes_have_all_tokens() -> None:
    network = network_with_tokens()
    for serial in ("tokens", "channels"):
        for site in sites_of(network, LOIHI2.core, serial, "token-serial"):
            found = cuts(network, site, LOIHI2, {}, 0, serial)
            if site.token_serial:
                assert (found.boxes[:, 1:] == site.shape[1:]).all()
                np.testing.assert_array_equal(found.swept, found.boxes[:, 0])
            else:
                np.testing.assert_array_equal(found.swept, found.neurons)


def test_a_site_that_cannot_stream_is_found() -> None:
    network = network_with_tokens()
    mapping = map_network(network, LOIHI2, {}, schedule="spatial")
    sites = tuple(
        replace(s, sub_steps=int(np.prod(s.shape[1:])), serial="tokens") if s.population == network.input.name else s
        for s in mapping.sites
    )
    with pytest.raises(MappingError, match="its tokens cannot come in series"):
        verify_mapping(replace(mapping, sites=sites), network, LOIHI2)


def test_refusals(tmp_path: Path) -> None:
    plain = next(
        n
        for n in (random_network(seed, blocks=0) for seed in range(9))
        if not any(isinstance(p.synapse, Attention) for p in n.projections)
    )
    with pytest.raises(InputError, match=r"--schedule: the network has no attention"):
        map_network(plain, LOIHI2, {}, schedule="token-serial")
    with pytest.raises(InputError, match="'diagonal' is none of spatial, token-serial"):
        map_network(plain, LOIHI2, {}, schedule="diagonal")


@pytest.mark.long
def test_from_the_command_line(tmp_path: Path) -> None:
    """Compile, inspect, run and report, as a user does."""
    path, page = tmp_path / "digits.spk", tmp_path / "report.html"
    compile_ = CliRunner().invoke(
        cli, ["compile", "digits-v2", "--schedule", "token-serial", "--no-check", "-o", str(path), "--json"]
    )
    assert compile_.exit_code == 0, compile_.output
    assert json.loads(compile_.stdout)["schedule"] == "token-serial"
    assert json.loads(compile_.stdout)["words"]["state"] > 0
    shown = CliRunner().invoke(cli, ["inspect", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "one a channel" in " ".join(shown.output.split())
    ran = CliRunner().invoke(
        cli, ["run", str(path), "--input", "digits", "--limit", "1", "--timing", "cycle", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    time = json.loads(ran.stdout)["time"]
    assert time["model"] == "cycle"
    assert time["ratio"] > 0
    told = CliRunner().invoke(cli, ["report", str(path), "--input", "digits", "--limit", "4", "-o", str(page)])
    assert told.exit_code == 0, told.output
    assert page.stat().st_size > 10_000
    # tokens in series take their sub-steps whatever the attention is
    assert "no sub-steps of attention" not in page.read_text()
