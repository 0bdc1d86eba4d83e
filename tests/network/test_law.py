"""Parameters of a network from a file fit its state; the least int64, whose magnitude is negative, does not either."""

from dataclasses import replace

import numpy as np
import pytest
from support.networks import random_network

from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Lif


def changed(network: Network, field: str, value: int) -> Network:
    populations = list(network.populations)
    place = next(i for i, p in enumerate(populations) if isinstance(p.neuron, Lif))
    values = np.full_like(getattr(populations[place].neuron, field), value)
    populations[place] = replace(populations[place], neuron=replace(populations[place].neuron, **{field: values}))
    # ranges are no longer those that were proven
    return replace(network, populations=tuple(populations), bounds="observed")


@pytest.mark.parametrize("field", ["threshold", "bias"])
@pytest.mark.parametrize("value", [2**40, -(2**62), -(2**63)])
def test_parameters_beyond_the_state_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"a {field} of {value} does not fit"):
        check_network(changed(random_network(0), field, value))


@pytest.mark.parametrize("field", ["threshold", "bias"])
def test_the_limit_is_the_largest_state(field: str) -> None:
    network = random_network(0)
    most = 2 ** (network.state_bits - 1) - 1
    check_network(changed(network, field, most))
    with pytest.raises(ValueError, match="does not fit"):
        check_network(changed(network, field, most + 1))
