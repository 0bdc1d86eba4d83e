"""The law of a mapping: each way of breaking it is found, and what compile makes obeys it."""

from dataclasses import replace

import numpy as np
import pytest
from support.deep import thinned
from support.networks import random_network

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.profile import from_dict, load_profile, to_dict
from spikformer_deploy.mapping.map import map_network, verify_mapping
from spikformer_deploy.network.mapping import SECTIONS, Mapping

KAPOHO_POINT = load_profile("kapoho_point")
NETWORK = random_network(3, blocks=1)
GOOD = map_network(NETWORK, KAPOHO_POINT, {})


def with_row(table: np.ndarray, row: int, column: int, change: int) -> np.ndarray:
    changed = table.copy()
    changed[row, column] += change
    return changed


def with_metric(name: str, factor: float) -> Mapping:
    return replace(GOOD, metrics={**GOOD.metrics, name: GOOD.metrics[name] * factor})


def renamed() -> Mapping:
    return replace(GOOD, sites=(replace(GOOD.sites[0], name="other"), *GOOD.sites[1:]))


AXONS = SECTIONS.index("axon_mem")
BROKEN = {
    "a site less": (replace(GOOD, sites=GOOD.sites[:-1]), "not those of its"),
    "a site twice": (replace(GOOD, sites=(*GOOD.sites, GOOD.sites[-1])), "in any schedule"),
    "a site of another name": (renamed(), "other: its sites are not those"),
    "sites changed": (replace(GOOD, sites=GOOD.sites[::-1]), "in any schedule"),
    "a box less": (
        replace(GOOD, boxes=GOOD.boxes[:-1], cores=GOOD.cores[:-1], words=GOOD.words[:-1]),
        "cover every neuron exactly once",
    ),
    "no boxes": (replace(GOOD, boxes=GOOD.boxes[:0], cores=GOOD.cores[:0], words=GOOD.words[:0]), "have the shapes"),
    "a box beyond its site": (replace(GOOD, boxes=with_row(GOOD.boxes, 0, 2, 10**6)), "reaches beyond its site"),
    "a negative edge": (replace(GOOD, boxes=with_row(GOOD.boxes, 0, 1, -1)), "boxes hold -1"),
    "an empty box": (replace(GOOD, boxes=with_row(GOOD.boxes, 0, 2, -int(GOOD.boxes[0, 2]))), "a box is empty"),
    "a box of another site": (replace(GOOD, boxes=with_row(GOOD.boxes, 0, 0, 1)), "."),
    "a core that is none": (replace(GOOD, cores=GOOD.cores + KAPOHO_POINT.cores), "cores"),
    "one core for all": (replace(GOOD, cores=GOOD.cores * 0), "on 1 of"),
    "a core less": (replace(GOOD, cores=GOOD.cores[:-1]), "have the shapes"),
    "chips": (replace(GOOD, chips=GOOD.chips + 1), "it says 2 chips"),
    "cores of a chip": (replace(GOOD, cores_per_chip=GOOD.cores_per_chip * 2), "it says 1 chips of"),
    "fewer words": (replace(GOOD, words=GOOD.words // 2), "not those of its boxes"),
    "negative words": (replace(GOOD, words=-GOOD.words), "words hold -"),
    "a destination more": (replace(GOOD, words=with_row(GOOD.words, 0, AXONS, 1000)), "axon memory"),
    "no destination": (replace(GOOD, words=with_row(GOOD.words, 0, AXONS, -int(GOOD.words[0, AXONS]))), "axon memory"),
    "more messages than neurons": (with_metric("messages", 1e3), "messages of"),
    "fewer hops": (with_metric("packet_hops", 0.5), "hops"),
    "hops of one way": (with_metric("packet_hops_east_west", 0.5), "hops"),
    "negative load": (with_metric("max_link_load", -1), "link load of "),
    "no number": (with_metric("mean_link_load", float("nan")), "mean link load of nan"),
    "a metric less": (replace(GOOD, metrics={}), "its metrics are"),
    "a metric more": (replace(GOOD, metrics={**GOOD.metrics, "secret": 1.0}), "secret"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_it_is_found(name: str) -> None:
    verify_mapping(GOOD, NETWORK, KAPOHO_POINT)
    broken, message = BROKEN[name]
    with pytest.raises(MappingError, match=message):
        verify_mapping(broken, NETWORK, KAPOHO_POINT)


def test_a_mapping_of_another_network() -> None:
    with pytest.raises(MappingError):
        verify_mapping(GOOD, random_network(5, blocks=0), KAPOHO_POINT)


def test_what_the_target_does_not_have() -> None:
    raw = to_dict(KAPOHO_POINT)
    raw["core"]["programmable"]["value"] = 0.0
    stock = random_network(3, kind="stock", blocks=1)
    for network, message in ((NETWORK, "its neurons are programmable"), (stock, "attention needs programmable")):
        with pytest.raises(MappingError, match=message):
            verify_mapping(map_network(network, KAPOHO_POINT, {}), network, from_dict(raw))


@pytest.mark.parametrize("rate", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("seed", thinned(range(6), 3))
def test_any_rates_obey_it(seed: int, rate: float) -> None:
    """The metrics that some rates give are within those of silence and of neurons that all fire."""
    network = random_network(seed, blocks=seed % 3, shortcuts=seed == 5)
    mapping = map_network(network, KAPOHO_POINT, {p.name: rate for p in network})
    verify_mapping(mapping, network, KAPOHO_POINT)
    # a hundred times what all neurons send at once is no rate
    all_fire = map_network(network, KAPOHO_POINT, {p.name: 1.0 for p in network}).metrics
    beyond = {name: 100 * value + 1 for name, value in all_fire.items()}
    with pytest.raises(MappingError):
        verify_mapping(replace(mapping, metrics=beyond), network, KAPOHO_POINT)
