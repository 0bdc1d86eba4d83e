"""Mappings: boxes tile, cores hold what they are given, published rows come out, what does not fit is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import examples
from support.networks import random_images, random_network
from support.profiles import smaller
from support.programs import program_of

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.loihi.memory import BoxSizes, list_words, token_wise, words
from spikformer_deploy.chips.profile import Profile, from_dict, load_profile, to_dict
from spikformer_deploy.counts.slices import geometry
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.mapping.map import OBJECTIVES, SCHEDULES, map_network, verify_mapping
from spikformer_deploy.mapping.partition import partition, sites_of
from spikformer_deploy.mapping.route import destinations, nets_of
from spikformer_deploy.network.mapping import SECTIONS, Site
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import Lif, Source
from spikformer_deploy.network.synapses import Conv

ROWS = list(csv.DictReader(line for line in (Path(__file__).parent / "core_rows.csv").open() if line[0] != "#"))
LOIHI2 = load_profile("loihi2")


@examples(6, 100, long=15)
@given(
    st.integers(0, 10**6),
    st.integers(0, 2),
    st.booleans(),
    st.integers(300, 4000),
    st.integers(20, 500),
    st.sampled_from(OBJECTIVES),
    st.sampled_from(SCHEDULES),
)
def test_every_core_satisfies_every_cap(
    seed: int, blocks: int, shortcuts: bool, memory: int, neurons: int, objective: str, schedule: str
) -> None:
    network = random_network(seed, blocks=blocks, shortcuts=shortcuts)
    schedule = schedule if token_wise(network) else "spatial"
    profile = smaller(memory, neurons, max(200, memory // 2))
    rates = {p.name: float(r) for p, r in zip(network, np.random.default_rng(seed).random(99), strict=False)}
    mapping = map_network(network, profile, rates, objective, schedule=schedule)
    verify_mapping(mapping, network, profile)
    assert (mapping.words.sum(1) <= memory).all()
    assert (mapping.words[:, 1] <= neurons).all()
    assert (mapping.words[:, 2:] <= max(200, memory // 2)).all()
    assert any(site.token_serial for site in mapping.sites) == (schedule == "token-serial")
    again = map_network(network, profile, rates, objective, schedule=schedule)
    np.testing.assert_array_equal(again.boxes, mapping.boxes)
    np.testing.assert_array_equal(again.cores, mapping.cores)


@examples(6, 40)
@given(st.integers(0, 10**6), st.integers(0, 2), st.booleans(), st.sampled_from(OBJECTIVES))
def test_a_mapping_changes_no_spike(seed: int, blocks: int, shortcuts: bool, objective: str) -> None:
    network = random_network(seed, blocks=blocks, shortcuts=shortcuts)
    images, names = random_images(network, seed), [p.name for p in network if isinstance(p.neuron, Lif)]
    plain = reference.execute(network, images, record=names)
    for profile in (LOIHI2, smaller(400, 30, 300)):
        schedule = "token-serial" if token_wise(network) and seed % 2 else "spatial"
        mapping = map_network(network, profile, {p.name: 0.1 for p in network}, objective, schedule=schedule)
        mapped = engine.execute(network, images, record=names, cells=geometry(network, mapping).cells)
        np.testing.assert_array_equal(mapped.accumulators, plain.accumulators)
        for name in names:
            np.testing.assert_array_equal(mapped.spikes[name], plain.spikes[name], err_msg=name)


def test_a_broken_mapping_is_found() -> None:
    network = random_network(0)
    mapping = map_network(network, LOIHI2, {})
    for change in ({"boxes": mapping.boxes - (mapping.boxes == mapping.boxes.max())}, {"cores": mapping.cores * 0}):
        fields = {name: getattr(mapping, name) for name in mapping.__dataclass_fields__}
        with pytest.raises(MappingError):
            verify_mapping(type(mapping)(**(fields | change)), network, LOIHI2)


def conv_network(channels: int, outputs: int, size: int, kernel: int = 3) -> Network:
    """Source -> convolution -> LIF, for the memory of one layer."""
    weight = np.ones((outputs, channels, kernel, kernel), np.int8)
    lif = Lif("programmable", 2048, 0, np.full(outputs, 9), np.zeros(outputs, np.int64))
    shape = (channels, size, size)
    populations = (Population("input", shape, Source(), 255), Population("lif", (outputs, size, size), lif, 1))
    pad = (kernel // 2, kernel // 2)
    projections = (Projection(("input",), "lif", Conv(weight, padding=pad)),)
    return Network(populations, projections, 4, 24, 8, "static", 1.0, np.zeros(channels), np.ones(channels))


@pytest.mark.parametrize("row", ROWS, ids=[f"{r['network']}-{i}" for i, r in enumerate(ROWS)])
def test_published_rows_add_up(row: dict[str, str]) -> None:
    """Total memory of the 13 rows printed by Intel's compiler, from their sections: to 0.02 percentage points."""
    sections = sum(float(row[name]) / 100 * 16_000 for name in ("axon_in", "synapses", "axon_map", "axon_mem"))
    total = sections + float(row["neurons"]) / 100 * 4_095
    assert abs(total / int(LOIHI2.core.memory_words) * 100 - float(row["total"])) <= 0.02
    assert int(LOIHI2.core.section_words) == 16_000
    assert int(LOIHI2.core.neurons) == 4_095


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r["layer"] == "conv"], ids=lambda r: r["tile_c"] + "x" + r["tile_x"]
)
def test_published_rows_of_convolutions(row: dict[str, str]) -> None:
    """Neurons and axon map of the published tiles, by our rules."""
    c, y, x = (int(row[name]) for name in ("tile_c", "tile_y", "tile_x"))
    box = BoxSizes(np.array(c), np.array(y), np.array(x))
    network = conv_network(3, c, max(y, x))
    needed = words(network, Site("lif", "population", "lif", (c, y, x)), box, LOIHI2.core)
    assert abs(needed[1] / 4_095 * 100 - float(row["neurons"])) < 0.01
    # one word a position, or, in the first row, one a neuron: its target is no convolution
    entries = box.neurons if float(row["axon_map"]) > 10 else box.positions
    assert abs(entries / 16_000 * 100 - float(row["axon_map"])) <= 0.006


@pytest.mark.parametrize(("targets", "printed"), [(64, 21), (50, 16), (10, 4)])
def test_published_lists_of_dense_layers(targets: int, printed: int) -> None:
    """20 bits a synapse and the header reproduce the words of the dense rows."""
    bits = int(LOIHI2.core.sparse_synapse_bits)
    assert int(list_words(np.array(targets), bits, LOIHI2.core)) == printed


PILOTNET = (
    ((3, 66, 200), (3, 66, 200), 1, (1, 1), (0, 0), 13, 3168),
    ((3, 66, 200), (24, 32, 99), 3, (2, 2), (0, 0), 25, 3072),
    ((24, 32, 99), (36, 15, 49), 3, (2, 2), (0, 0), 13, 2160),
    ((36, 15, 49), (48, 7, 24), 3, (2, 2), (0, 0), 3, 2688),
    ((48, 7, 24), (64, 4, 22), 3, (2, 1), (1, 0), 3, 2048),
    ((64, 4, 22), (64, 2, 20), 3, (1, 1), (0, 0), 2, 2048),
)
"""The input and the convolutions of PilotNet: shapes, kernel, stride, padding; cores and neurons a core as Intel's
compiler laid them out on one Loihi 2 (lava-dl's tutorial with the output of the board)."""


@pytest.mark.parametrize("layer", PILOTNET, ids=lambda layer: "x".join(map(str, layer[1])))
def test_tiles_are_those_of_intels_compiler(layer: tuple) -> None:
    source, shape, kernel, stride, padding, cores, neurons = layer
    weight = np.ones((shape[0], source[0], kernel, kernel), np.int8)
    lif = Lif("programmable", 2048, 0, np.full(shape[0], 9), np.zeros(shape[0], np.int64))
    populations = (Population("input", source, Source(), 255), Population("lif", shape, lif, 1))
    projections = (Projection(("input",), "lif", Conv(weight, stride, padding)),)
    zeros = np.zeros(source[0])
    network = Network(populations, projections, 4, 24, 8, "static", 1.0, zeros, zeros + 1)
    mapping = map_network(network, LOIHI2, {}, "tiles")
    ours = mapping.boxes[mapping.slices_of(1)]
    assert len(ours) == cores
    assert np.prod((ours[:, 2::2] - ours[:, 1::2])[0]) == neurons


def test_too_big_names_the_layer_and_the_board() -> None:
    network = random_network(3, blocks=2)
    tiny = smaller(400, 40, 200)
    raw = to_dict(tiny)
    raw["board"]["chips"] |= {"value": 1.0}
    raw["chip"]["reserved_cores"] |= {"value": 120.0, "range": None}
    with pytest.raises(
        MappingError, match=r"the network needs [\d,]+ cores on [\d,]+ chips, and target 'hala_point' has 8 on 1 chip;"
    ):
        map_network(network, from_dict(raw), {})


def test_too_big_says_whether_tokens_in_series_would_fit() -> None:
    """A board just large enough for them holds them, in no more cores than was said; one core less is only refused."""
    network = program_of("digits-v1").network

    def board(cores: int) -> Profile:
        raw = to_dict(LOIHI2)
        raw["board"]["chips"] |= {"value": 1.0}
        total = (
            raw["chip"]["tiles_x"]["value"] * raw["chip"]["tiles_y"]["value"] * raw["chip"]["cores_per_tile"]["value"]
        )
        raw["chip"]["reserved_cores"] |= {"value": total - cores, "range": None}
        return from_dict(raw)

    def said(cores: int) -> str:
        with pytest.raises(MappingError, match="the network needs") as refused:
            map_network(network, board(cores), {}, "cores")
        return refused.value.way_out

    fewest = map_network(network, LOIHI2, {}, "cores", schedule="token-serial").cores_used
    assert fewest < map_network(network, LOIHI2, {}, "cores").cores_used
    assert f"With --schedule token-serial some {fewest} cores would do" in said(fewest)
    assert map_network(network, board(fewest), {}, "cores", schedule="token-serial").cores_used == fewest
    assert "token-serial" not in said(fewest - 1)


def test_loihi1_has_no_attention() -> None:
    raw = to_dict(load_profile("loihi1"))
    raw["core"]["message_bits"] |= {"value": 24.0}
    network = random_network(3, kind="stock", blocks=1)
    with pytest.raises(MappingError, match=r"spiking self-attention needs programmable neurons, and target 'loihi1'"):
        map_network(network, from_dict(raw), {})


def test_a_wide_fan_in_is_split() -> None:
    network = conv_network(2048, 16, 2)
    mapping = map_network(network, LOIHI2, {})
    parts = [site.part for site in mapping.sites if site.population == "lif"]
    assert len(parts) == 4
    assert [p[0] for p in parts] + [2048] == [0, *(p[1] for p in parts)]
    assert (mapping.words[:, 2] <= 16_000).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_nets_join_the_slices_that_talk(seed: int) -> None:
    """Messages of a convolution's nets, against every source neuron and every box that it reaches."""
    rng = np.random.default_rng(seed)
    network = conv_network(int(rng.integers(1, 5)), int(rng.integers(1, 6)), int(rng.integers(2, 6)))
    mapping = map_network(network, smaller(100, 20, 100), {"input": 0.5})
    nets = nets_of(network, mapping.sites, mapping.boxes, {"input": 0.5})
    expected: dict[tuple[int, int], float] = {}
    for s, source in enumerate(mapping.boxes):
        for t, target in enumerate(mapping.boxes):
            if source[0] == 0 and target[0] == 1:
                reached = [
                    min(source[4 + k], target[4 + k] + 1) - max(source[3 + k], target[3 + k] - 1) for k in (0, 2)
                ]
                if min(reached) > 0:
                    expected[s, t] = 0.5 * reached[0] * reached[1] * (source[2] - source[1])
    assert (
        dict(zip(zip(nets.source.tolist(), nets.target.tolist(), strict=True), nets.messages, strict=True)) == expected
    )


def test_room_for_destinations_is_kept_free() -> None:
    """A core whose memory is just full without the entries for its destinations is cut again, not refused."""
    network = random_network(0, blocks=1)
    rates = {p.name: 0.2 for p in network}
    profile = smaller(340, 300, 300, tiles=1)
    sites = sites_of(network, profile.core)
    tight, _ = partition(network, sites, profile, rates)
    entries = destinations(nets_of(network, sites, tight, rates), len(tight))
    full = [
        words(network, sites[site], BoxSizes(c1 - c0, y1 - y0, x1 - x0), profile.core).sum()
        for site, c0, c1, y0, y1, x0, x1 in tight
    ]
    assert (full + entries).max() > 340, "the first cut should be too tight for this test to say anything"
    mapping = map_network(network, profile, rates)
    assert (mapping.words.sum(1) <= 340).all()
    assert (mapping.words[:, SECTIONS.index("axon_mem")] > 0).any()
