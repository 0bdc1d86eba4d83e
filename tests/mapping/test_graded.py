"""Small integers on cores: what Levels and attentions of unequal operands take, and targets that refuse them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.deep import examples
from support.networks import graded_network
from support.profiles import smaller

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.loihi.memory import BoxSizes, token_wise, words
from spikformer_deploy.chips.profile import Profile, from_dict, load_profile, to_dict
from spikformer_deploy.mapping.map import OBJECTIVES, SCHEDULES, map_network, verify_mapping
from spikformer_deploy.mapping.partition import check_answers, sites_of
from spikformer_deploy.network.mapping import SECTIONS, Site
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels

LOIHI2 = load_profile("loihi2")
GRADED = st.builds(graded_network, st.integers(0, 10**6), st.integers(1, 2))


@examples(8, 60)
@given(GRADED, st.integers(600, 4000), st.sampled_from(OBJECTIVES), st.sampled_from(SCHEDULES))
def test_every_core_satisfies_every_cap(network: Network, memory: int, objective: str, schedule: str) -> None:
    profile = smaller(memory, 200, memory // 2)
    schedule = schedule if token_wise(network) else "spatial"
    mapping = map_network(network, profile, {p.name: 0.3 for p in network}, objective, schedule=schedule)
    verify_mapping(mapping, network, profile)
    assert (mapping.words.sum(1) <= memory).all()
    assert (mapping.words[:, 1] <= 200).all()


@pytest.mark.parametrize(
    ("serial", "shape", "sub_steps"), [("tokens", (8, 1, 12), 2 * 20), ("channels", (2, 20, 20), 4 + 12)]
)
def test_counters_by_hand(serial: str, shape: tuple[int, int, int], sub_steps: int) -> None:
    """Two heads of 4 channels of q and k and 12 of v, 20 tokens."""
    network = next(n for n in map(graded_network, range(500)) if shapes(n) == (2, 8, 24, 20))
    site = next(s for s in sites_of(network, LOIHI2.core, serial) if s.kind == "attention")
    assert (site.shape, site.sub_steps) == (shape, sub_steps)


def shapes(network: Network) -> tuple[int, int, int, int]:
    """Heads, channels of q and of v, tokens."""
    projection = next(p for p in network.into("graded.attn"))
    q, v = (network[projection.sources[i]].shape for i in (0, 2))
    return projection.synapse.heads, q[0], v[0], q[1] * q[2]


def with_levels(network: Network, name: str, neuron: Levels) -> Network:
    populations = tuple(replace(p, neuron=neuron) if p.name == name else p for p in network)
    return replace(network, populations=populations)


@pytest.mark.parametrize(("decay", "more"), [(0, 3), (2048, 4)])
def test_words_of_levels_by_hand(decay: int, more: int) -> None:
    """3 levels of 9 channels: equal ones are a parameter set, others 3 words a channel, and one of the reset."""
    network = next(n for n in map(graded_network, range(50)) if n["graded.head"].shape[0] == 8)
    size = BoxSizes(*np.array([8, 2, 3]))
    same, several = np.tile([[2, 5, 9]], (8, 1)), np.arange(24).reshape(8, 3)
    sets = int(LOIHI2.core.parameter_sets)
    raw = to_dict(LOIHI2)
    raw["core"]["parameter_sets"] |= {"value": 7.0, "range": None}
    fewer = from_dict(raw)
    assert sets == 8
    for levels, profile, expected in (
        (same, fewer, 48), (several, LOIHI2, 48), (several, fewer, 48 + 8 * more),
    ):  # fmt: skip
        neuron = Levels(decay, 0, levels, np.full(8, int(decay > 0)), np.zeros(8, np.int64), "half-up")
        changed = with_levels(network, "graded.head", neuron)
        site = Site("graded.head", "population", "graded.head", network["graded.head"].shape)
        found = dict(zip(SECTIONS, words(changed, site, size, profile.core).tolist(), strict=True))
        assert (found["neurons"], found["state"]) == (expected, 0)
        streamed = replace(site, serial="tokens", sub_steps=6)
        found = dict(zip(SECTIONS, words(changed, streamed, size, profile.core).tolist(), strict=True))
        # one neuron a channel, and a word for each of its tokens where something is kept
        assert (found["neurons"], found["state"]) == (expected - 40, 48 if decay else 0)


def lacking(**values: float) -> Profile:
    raw = to_dict(LOIHI2)
    for name, value in values.items():
        raw["core"][name] |= {"value": value, "range": None}
    return from_dict(raw)


def test_targets_without_them_refuse_levels_by_name() -> None:
    network = graded_network(0)
    levels = next(p for p in network if isinstance(p.neuron, Levels))
    # a network of nothing else: what comes before would be refused for itself
    alone = replace(network, populations=(levels,), projections=())
    for profile, problem in (
        (load_profile("loihi1"), f"count {levels.max_out} levels, and target 'loihi1' has no programmable ones"),
        (lacking(message_bits=1), f"it sends up to {levels.max_out}, and target 'loihi2' sends 1 bit"),
    ):
        with pytest.raises(MappingError, match=problem) as refused:
            map_network(alone, profile, {})
        assert str(refused.value).startswith(levels.name)
        assert "neurons that keep no potential become a threshold neuron for each level" in str(refused.value)


@pytest.mark.parametrize("serial", ["tokens", "channels"])
def test_an_answer_that_no_message_carries_is_refused(serial: str) -> None:
    network = graded_network(0)
    (heads, q, _, tokens), (projection,) = shapes(network), network.into("graded.attn")
    most = np.prod([network[name].max_out for name in projection.sources])
    largest = int(most * (tokens if serial == "tokens" else q // heads))
    site = next(s for s in sites_of(network, LOIHI2.core, serial) if s.kind == "attention")
    check_answers(network, site, lacking(message_bits=largest.bit_length()))
    with pytest.raises(MappingError, match=f"{serial} in series its counters send up to {largest:,}"):
        check_answers(network, site, lacking(message_bits=largest.bit_length() - 1))
