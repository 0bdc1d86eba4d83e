"""A constant of the chip stands in one place: what is expected of a cut and what is estimated of a run move alike."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from support.networks import random_images, random_network

from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.profile import Profile, from_dict, load_profile, to_dict
from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.mapping.partition import partition, sites_of
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.timing.estimate import estimate

NETWORK = random_network(3, blocks=1)
RATES = {population.name: 0.5 for population in NETWORK}
CHIPS = 4
"""Two by two: as a square, they are as far apart as the objective expects, and as the estimate finds them."""
IN_BOTH = (
    ("neuron_update",),
    ("neuron_idle",),
    ("barrier_one_tile", "barrier_chip"),
    ("barrier_board",),
    ("barrier_chip_hop",),
)
"""Constants whose share of a step does not depend on what fires: the two must agree on it."""
BY_MESSAGES = ("synapse_conv", "synapse_dense", "synapse_sparse", "axon_in")
"""Constants whose share does: expected from rates with the largest box for all, and counted exactly."""


def board(durations: dict[str, float]) -> Profile:
    """Four chips of one tile each, just large enough; every duration 0 but these, in ns."""
    raw: dict[str, Any] = to_dict(load_profile("kapoho_point"))
    for name, quantity in raw["time"].items():
        if quantity["unit"] == "ns":
            raw["time"][name] = quantity | {"value": durations.get(name, 0.0), "range": None}
    per_chip = -(-cores_of_the_network() // CHIPS)
    mesh = {"tiles_x": 1, "tiles_y": 1, "cores_per_tile": per_chip, "reserved_cores": 0}
    for name, value in mesh.items():
        raw["chip"][name] |= {"value": float(value), "range": None}
    raw["board"]["chips"] |= {"value": float(CHIPS), "range": None}
    raw["board"]["columns"] |= {"value": 2.0, "range": None}
    return from_dict(raw)


@cache
def cores_of_the_network() -> int:
    profile = load_profile("kapoho_point")
    return partition(NETWORK, sites_of(NETWORK, profile.core), profile, RATES, None, "tiles")[1].cores


@cache
def counted() -> tuple[Mapping, events.Events]:
    """The objective `tiles` looks at no time: the cut is the same whatever the durations."""
    mapping = map_network(NETWORK, board({}), RATES, "tiles")
    geometry = events.geometry(NETWORK, mapping)
    executed = reference.execute(NETWORK, random_images(NETWORK, 0), cells=geometry.cells)
    # without the metrics no link rules a step
    return replace(mapping, metrics={}), events.count(geometry, executed)


def steps(durations: dict[str, float]) -> tuple[float, np.ndarray]:
    """(expected, estimated (images, T)) nominal ns of a step."""
    profile = board(durations)
    mapping, found = counted()
    boxes, choice = partition(NETWORK, mapping.sites, profile, RATES, None, "tiles")
    np.testing.assert_array_equal(boxes, mapping.boxes)
    assert choice.chips == mapping.chips == CHIPS
    return choice.step_ns, estimate(found, NETWORK, mapping, profile).step_ns[NOMINAL]


@pytest.mark.parametrize("constants", IN_BOTH, ids=lambda names: names[0])
def test_both_say_the_same_of_a_constant(constants: tuple[str, ...]) -> None:
    for value in (1.0, 7.0):
        expected, estimated = steps(dict.fromkeys(constants, value))
        assert expected > 0
        np.testing.assert_array_equal(estimated, expected)


@pytest.mark.parametrize("constant", BY_MESSAGES)
def test_both_grow_with_a_constant(constant: str) -> None:
    once = steps({constant: 1.0})
    twice = steps({constant: 2.0})
    assert once[0] > 0
    assert once[1].max() > 0
    assert twice[0] == 2 * once[0]
    np.testing.assert_array_equal(twice[1], 2 * once[1])
