"""What tests of executors share."""

import numpy as np

from spikformer_deploy.executors.execution import Activity, Cells, Execution
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import And, Levels, Lif, Max, Or, Stream, Sum


def assert_equal_executions(ours: Execution, theirs: Execution) -> None:
    np.testing.assert_array_equal(ours.accumulators, theirs.accumulators)
    assert ours.peak_state == theirs.peak_state
    for name in theirs.spikes:
        np.testing.assert_array_equal(ours.spikes[name], theirs.spikes[name], err_msg=name)
        np.testing.assert_array_equal(ours.membranes[name], theirs.membranes[name], err_msg=name)
    assert ours.activity.keys() == theirs.activity.keys()
    assert ours.coincidences.keys() == theirs.coincidences.keys()
    for name, pairs in theirs.coincidences.items():
        np.testing.assert_array_equal(ours.coincidences[name], pairs, err_msg=name)
    for name, activity in theirs.activity.items():
        assert_equal_activities(ours.activity[name], activity, name)


def assert_equal_activities(ours: Activity, theirs: Activity, name: str) -> None:
    for field in ("messages", "active", "total", "idle", "values"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), err_msg=f"{field} of {name}")


def random_cells(network: Network, seed: int) -> dict[str, Cells]:
    """Any grid: ranges of channels, classes of rows and columns in any order."""
    rng, out = np.random.default_rng(seed), {}
    for population in network:
        channels, height, width = population.shape
        cuts = np.array(sorted({0, channels, *rng.integers(0, channels, 2).tolist()}))
        rows, columns = (np.unique(rng.integers(0, 3, n), return_inverse=True)[1] for n in (height, width))
        out[population.name] = Cells(cuts, rows, columns)
    return out


def with_state_bits(network: Network, bits: int) -> Network:
    n = network
    return Network(n.populations, n.projections, n.time_steps, bits, 8, "observed", 1.0, n.mean, n.std)


def finds_nothing(
    population: Population, execution: Execution, when: tuple[int, int], where: tuple[int, int, int]
) -> bool:
    """Whether a neuron (c, y, x) has nothing to do in a step (image, t), from all that is recorded of it."""
    (n, t), (c, y, x), neuron = when, where, population.neuron
    sent = int(execution.spikes[population.name][n, t, c, y, x])
    if isinstance(neuron, (Or, Sum, And, Stream, Max)):
        return sent == 0
    if not isinstance(neuron, Levels | Lif):
        return False
    potentials = execution.membranes[population.name][n, :, c, y, x].tolist()
    kept = t > 0 and not (isinstance(neuron, Levels) and neuron.decay == 0)
    before = potentials[t - 1] if kept else 0
    bias = neuron.bias[c] if neuron.bias.ndim == 1 else neuron.bias[c, y, x]
    return bool(before == potentials[t] == sent == bias == 0)
