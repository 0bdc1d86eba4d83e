"""A network in Lava against the other executors."""

from collections.abc import Mapping

import numpy as np

from spikformer_deploy.executors import reference
from spikformer_deploy.executors.lava import execute as lava
from spikformer_deploy.network.mapping import Way
from spikformer_deploy.network.network import Network
from support.executions import assert_equal_activities


def assert_equal(network: Network, images: np.ndarray, *others: object, ways: Mapping[str, Way] | None = None) -> None:
    """Lava's execution, with attentions in these ways, is that of the reference, and of `others`."""
    names = [p.name for p in network]
    ours = lava.execute(network, images, record=names, ways=ways)
    for other in (reference, *others):
        theirs = other.execute(network, images, record=names)
        np.testing.assert_array_equal(ours.accumulators, theirs.accumulators)
        for name in names:
            np.testing.assert_array_equal(ours.spikes[name], theirs.spikes[name], err_msg=f"spikes of {name}")
            np.testing.assert_array_equal(ours.membranes[name], theirs.membranes[name], err_msg=f"potentials of {name}")
        for name, activity in theirs.activity.items():
            assert_equal_activities(ours.activity[name], activity, name)
