"""The written law of an integer network: names, order, shapes, types and ranges.  For networks that come from files.

Each kind of neuron and of synapse has a law of its own, where it stands (neurons.py, synapses.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from spikformer_deploy.base.arrays import EXACT_FP64
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.base.plain import require
from spikformer_deploy.network.bounds import Worst, largest_sum, shift_of, worst_cases
from spikformer_deploy.network.decay import is_exact
from spikformer_deploy.network.network import ROUNDING_UNKNOWN, Network, Population, Projection
from spikformer_deploy.network.neuron_law import check_neuron
from spikformer_deploy.network.neurons import (
    Accumulator,
    Levels,
    Lif,
    Source,
    most_current,
    most_of_state,
    needs_microcode,
)
from spikformer_deploy.network.synapses import Incoming, check_synapse

MOST_POPULATIONS = 2**12
MOST_PROJECTIONS = 2**14
WIDEST_STATE = 2**50
"""With the 12 bits of a decay no potential of any step wraps in 64 bits, whether an executor looks at once or later."""


def check_network(network: Network) -> None:
    """Raise ValueError, naming the population, where a network cannot run or does not mean what it says.

    What it says of its ranges is worked out again: `bounds: static` holds for every possible input.
    """
    # the order is that of need: a law may take for granted what those before it hold
    _check_order(network)
    with _at("network"):
        _check_numbers(network)
    for projection in network.projections:
        with _at(projection.target):
            _check_projection(network, projection)
    for population in network:
        with _at(population.name):
            _check_population(network, population)
    for population in network:
        with _at(population.name):
            _check_sums(network, population)
            _check_stated(network, population)
    if network.bounds == "static":
        for name, worst in worst_cases(network).items():
            with _at(name):
                _check_proof(network, network[name], worst)


def _check_order(network: Network) -> None:
    """Names, and projections from what is computed before to what is computed after."""
    with _at("network"):
        _check_names(network)
    place = {population.name: i for i, population in enumerate(network)}
    for projection in network.projections:
        with _at(projection.target):
            require(bool(projection.sources), "it reads nothing")
            for source in projection.sources:
                # a source that there is not stands behind all
                require(place.get(source, len(place)) < place[projection.target], f"it reads {source}")


def _check_names(network: Network) -> None:
    few = len(network.populations) <= MOST_POPULATIONS and len(network.projections) <= MOST_PROJECTIONS
    require(few, f"{len(network.populations)} populations and {len(network.projections)} projections")
    names = [population.name for population in network]
    require(len(set(names)) == len(names), "two populations share a name")
    require(all(names), "a population has no name")
    kinds = [type(population.neuron) for population in network]
    single = kinds.count(Source) == kinds.count(Accumulator) == 1
    require(single and isinstance(network.input.neuron, Source), "it needs one Source, first")
    require(isinstance(network.output.neuron, Accumulator), "it needs one Accumulator, last")
    place = {name: i for i, name in enumerate(names)}
    order = [place.get(projection.target, -1) for projection in network.projections]
    require(order == sorted(order) and -1 not in order, "projections out of the order of their targets")


def _check_numbers(network: Network) -> None:
    """Of the network as a whole."""
    require(1 <= network.time_steps <= MOST_STEPS, f"{network.time_steps} time steps")
    require(2 <= network.state_bits <= 32, f"{network.state_bits} state bits")
    require(2 <= network.weight_bits <= 8, f"{network.weight_bits} weight bits")
    require(network.bounds in ("static", "observed"), f"bounds '{network.bounds}'")
    channels = network.input.shape[0]
    for what, values in (("mean", network.mean), ("std", network.std)):
        good = values.shape == (channels,) and values.dtype == np.float64 and bool(np.isfinite(values).all())
        require(good, f"its {what} is not one finite number for each of {channels} channels")
    require(bool((network.std > 0).all()), "a standard deviation that is not positive")
    largest = max(1, *(abs(edge) for population in network for edge in population.bounds))
    room = (2 ** (network.state_bits - 1) - 1) / largest
    # the margin is a quotient of floats: its last bits may round
    require(0 < network.margin <= max(1.0, room * (1 + 1e-9)), f"a margin of {network.margin:.4g}")


def _check_stated(network: Network, population: Population) -> None:
    """What a population says of its own state and of its rounding."""
    low, high = population.bounds
    good = low <= high and max(-low, high) < WIDEST_STATE if population.neuron.keeps_state else low == high == 0
    require(good, f"bounds of its state from {low} to {high}")
    rounding = population.rounding
    require(rounding == ROUNDING_UNKNOWN or 0 <= rounding < np.inf, f"a rounding error of {rounding}")
    neuron = population.neuron
    if isinstance(neuron, Levels | Lif) and needs_microcode(neuron) and neuron.exact:
        require(is_exact(neuron, network.time_steps), "said to be exact, and its decay rounds the potential")


def _check_sums(network: Network, population: Population) -> None:
    """No partial sum leaves the numbers that executors add up exactly, and no state wraps before it is looked at."""
    incoming = network.into(population.name)
    partial = [largest_sum(network, projection) for projection in incoming]
    # in double precision executors add up what is too wide for single
    require(max(partial, default=0) < EXACT_FP64, f"partial sums of up to {max(partial, default=0)}")
    drive = sum(most << shift_of(p) for most, p in zip(partial, incoming, strict=True))
    if not population.neuron.keeps_state and incoming and not population.signed:
        # what sends its sum, or a bit of it, is computed in 32 bits
        require(drive < 2**31, f"sums of up to {drive}")
    most = most_of_state(population.neuron, drive, network.time_steps)
    require(most < WIDEST_STATE, f"sums of up to {most} over all steps")


def _check_proof(network: Network, population: Population, worst: Worst) -> None:
    """`bounds: static` is a proof, and this is it: what can happen is no more than what is said, and fits."""
    limit = 2 ** (network.state_bits - 1) - 1
    low, high = worst.state
    least, most = population.bounds
    problem = f"its state is said to stay in {[least, most]} for any input, and may reach {[low, high]}"
    require(least <= low and high <= most, problem)
    require(max(-least, most) <= limit, f"bounds from {least} to {most} in {network.state_bits} bits of state")
    require(worst.largest <= limit, f"values of up to {worst.largest} in {network.state_bits} bits of state")
    allowed = most_current(population.neuron, population.max_out)
    if allowed is not None:
        sent = max(-low, high)
        require(sent <= allowed, f"a stream of up to {sent}, and it is said to stay within {allowed}")


def _check_population(network: Network, population: Population) -> None:
    require(min(population.shape) >= 1 and population.size < 2**31, f"its shape is {population.shape}")
    incoming = [_incoming(network, projection) for projection in network.into(population.name)]
    check_neuron(population.neuron, population.shape, population.max_out, network.state_bits, incoming)


def _check_projection(network: Network, projection: Projection) -> None:
    own = projection.weight_bits
    require(own == 0 or 2 <= own <= 8, f"{own} weight bits")
    check_synapse(_incoming(network, projection), network[projection.target].shape, network.bits_of(projection))


def _incoming(network: Network, projection: Projection) -> Incoming:
    sources = [network[name] for name in projection.sources]
    shapes = tuple(source.shape for source in sources)
    negative = [source.signed for source in sources]
    return Incoming(projection.synapse, shapes, sources[0].max_out, any(negative), negative[-1])


@contextmanager
def _at(place: str) -> Iterator[None]:
    """ValueErrors of a law, with the place that does not obey it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
