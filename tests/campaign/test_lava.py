"""Lava's CPU models on networks of the campaign: spikes, potentials and counts of the reference, or refused by name."""

import numpy as np
import pytest
from campaign.agreement import Inputs
from campaign.integers import images_for, integer_network
from support.executions import assert_equal_activities

from spikformer_deploy.base.errors import InputError, OverflowDetected
from spikformer_deploy.executors.lava import execute as lava
from spikformer_deploy.network.neurons import Lif

pytest.importorskip("lava", reason="lava-nc is not installed: see the Makefile")
FEW, MANY = 2, 40
IMAGES = 3


def check(seed: int) -> str:
    """ "equal", "overflow" in the reference already, or what Lava does not hold."""
    network = integer_network(seed)
    given = Inputs(network, images_for(network, seed)[:IMAGES], seed)
    try:
        right = given.reference()
    except OverflowDetected:
        return "overflow"
    stock = [p.name for p in network if isinstance(p.neuron, Lif) and p.neuron.kind == "stock"]
    wide = max((right.peak_state[name] for name in stock), default=0) >= 2**23
    try:
        found = lava.execute(network, given.images, record=given.names, cells=given.cells)
    except InputError as error:
        return str(error)
    except OverflowDetected:
        assert wide, f"seed {seed}: nothing leaves the 24 bits of lava.proc.lif"
        return "wider than the 24 bits of lava.proc.lif"
    assert not wide, f"seed {seed}: what lava.proc.lif cannot hold was not noticed"
    np.testing.assert_array_equal(found.accumulators, right.accumulators)
    for name in given.names:
        np.testing.assert_array_equal(found.spikes[name], right.spikes[name], err_msg=f"spikes of {name}")
        np.testing.assert_array_equal(found.membranes[name], right.membranes[name], err_msg=f"potentials of {name}")
    for name, activity in right.activity.items():
        assert_equal_activities(found.activity[name], activity, name)
    for name, pairs in right.coincidences.items():
        np.testing.assert_array_equal(found.coincidences[name], pairs)
    return "equal"


@pytest.mark.long
def test_lava_agrees() -> None:
    assert "equal" in [check(seed) for seed in range(FEW)]


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(FEW, MANY))
def test_lava_agrees_on_many(seed: int) -> None:
    # equal, or a reason; what differs fails inside
    assert check(seed)
