"""The written law of a mapping: what stands where, once, on cores that there are, in the memory that it says.

For mappings that come from files, and for what compile itself has made.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.base.values import digest
from spikformer_deploy.chips.loihi.memory import box_words, token_wise
from spikformer_deploy.chips.loihi.rules import first_violation, fits
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.mapping.partition import COPIES, SCHEDULES, SERIALS, check_answers, sites_of
from spikformer_deploy.mapping.route import Nets, destinations, metrics, nets_of
from spikformer_deploy.network.mapping import BOX, SECTIONS, SITE, Mapping, Site, edges_of, sizes_of
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Levels, needs_microcode
from spikformer_deploy.network.synapses import Attention, DualSpike

OF_LEVELS = (
    "Use a target with graded spikes (loihi2), or compile the model itself for this one: neurons that keep no "
    "potential become a threshold neuron for each level."
)
LARGEST_SITE = 2**28
"""Neurons or counters of a site: its boxes are checked on a map of them."""
METRICS = ("messages", "packet_hops", "mean_hops", "mean_link_load", "max_link_load")
LATER_METRICS = ("packet_hops_east_west", "packet_hops_north_south", "max_chip_link_load")
"""Programs of before have none of these."""
ROUNDING = 1e-6
"""Sums of many messages in another order differ by less, relatively."""
AXONS = SECTIONS.index("axon_mem")
FIRST_POSITION = BOX.index("y0")
"""The first column of a box that says rows and columns."""


def verify_mapping(mapping: Mapping, network: Network, profile: Profile) -> None:
    """Raise MappingError, naming the site, where a mapping is not one of `network` on the cores of `profile`.

    Every neuron stands in exactly one box, every box on a core of its own that exists, the words of memory are those
    of the boxes and within every limit, and the metrics are such as some firing rates would give.
    """
    check_neurons(network, profile)
    # each check may rely on those before it: shapes first, then numbers that index the sites, cores and neurons
    _check_shapes(mapping)
    _check_token_serial(mapping, network)
    _check_sites(mapping, network, profile)
    _check_cores(mapping, profile)
    _check_words(mapping, network, profile)
    for index, site in enumerate(mapping.sites):
        _check_boxes(mapping, index, site)
    _check_traffic(mapping, network, profile)


def check_neurons(network: Network, profile: Profile) -> None:
    """Raise MappingError, naming the population, for what no core of the target has."""
    limits = profile.limits
    _check_factors(network, profile)
    for population in network:
        if not limits.programmable:
            _check_programmable(network, population, profile)
        # a negative value needs a bit for its sign
        if population.max_out >= 2 ** (limits.message_bits - population.signed):
            raise MappingError(
                population.name,
                f"it sends up to {population.max_out}, and target '{profile.name}' sends {limits.message_bits} bit",
                OF_LEVELS if isinstance(population.neuron, Levels) else "Use a target with graded spikes (loihi2).",
            )


def _check_factors(network: Network, profile: Profile) -> None:
    """Raise MappingError where a current and a spike that it is multiplied with do not fit one input of a neuron."""
    for projection in network.projections:
        if isinstance(projection.synapse, DualSpike):
            y = network[projection.sources[0]]
            # the spike stands above the current and its sign: see microcode.product_program
            bits = y.max_out.bit_length() + 2
            if bits >= profile.limits.state_bits or network[projection.sources[1]].max_out > 1:
                raise MappingError(
                    projection.target,
                    f"it multiplies currents of up to {y.max_out:,} with spikes of up to "
                    f"{network[projection.sources[1]].max_out}: both arrive as one input of {bits} bits and more, and "
                    f"neurons of '{profile.name}' have {profile.limits.state_bits}",
                    "Compile with fewer weight bits.",
                )


def _check_programmable(network: Network, population: Population, profile: Profile) -> None:
    """Raise MappingError where a population needs programmable neurons."""
    name = population.name
    if isinstance(population.neuron, Levels):
        problem = f"its neurons count {population.max_out} levels, and target '{profile.name}' has no programmable ones"
        raise MappingError(name, problem, OF_LEVELS)
    if any(isinstance(projection.synapse, Attention) for projection in network.into(name)):
        problem = f"spiking self-attention needs programmable neurons, and target '{profile.name}' has none"
        raise MappingError(name, problem, "Use --target loihi2.")
    if population.signed:
        problem = f"a residual stream of currents needs programmable neurons, and target '{profile.name}' has none"
        raise MappingError(name, problem, "Use --target loihi2.")
    if needs_microcode(population.neuron):
        problem = f"its neurons are programmable, and target '{profile.name}' has none of those"
        raise MappingError(name, problem, "Use --neuron stock.")


def _check_shapes(mapping: Mapping) -> None:
    """The tables have their columns, a row a slice, and no number that is negative."""
    slices = len(mapping.boxes)
    shapes = (mapping.boxes.shape, mapping.cores.shape, mapping.words.shape)
    if shapes != ((slices, len(BOX)), (slices,), (slices, len(SECTIONS))) or not slices:
        raise MappingError("mapping", f"its boxes, cores and words have the shapes {shapes}")
    for name, table in (("boxes", mapping.boxes), ("cores", mapping.cores), ("words", mapping.words)):
        if table.min() < 0:
            raise MappingError("mapping", f"its {name} hold {int(table.min())}")
    order = mapping.boxes[:, SITE]
    if order.max() >= len(mapping.sites) or (np.diff(order) < 0).any():
        raise MappingError("mapping", f"its boxes are not those of its {len(mapping.sites)} sites, in order")


def _check_token_serial(mapping: Mapping, network: Network) -> None:
    """Tokens come in series where a population takes each position by itself, and a core has it whole."""
    token_serial = token_wise(network)
    for index, site in enumerate(mapping.sites):
        if site.token_serial:
            _, height, width = site.shape
            uncut = mapping.boxes[mapping.slices_of(index)][:, FIRST_POSITION:] == [0, height, 0, width]
            if token_serial.get(site.population) != site.sub_steps or not uncut.all():
                raise MappingError(site.name, "its tokens cannot come in series, one in each of its sub-steps")


def _check_sites(mapping: Mapping, network: Network, profile: Profile) -> None:
    """The sites are those of one of the schedules: a site for each population, and for each attention its counters."""
    stated = digest(mapping.sites)
    # no more than are ever tried: a wild number asks for no more than that
    copies = min(max(1, *(site.copies for site in mapping.sites)), COPIES[-1])
    ways = [sites_of(network, profile.core, serial, schedule) for serial in SERIALS for schedule in SCHEDULES]
    ways += [sites_of(network, profile.core, serial, copies=copies) for serial in SERIALS]
    if stated not in [digest(sites) for sites in ways]:
        lawful = {site.name for sites in ways for site in sites}
        odd = next((site.name for site in mapping.sites if site.name not in lawful), "mapping")
        raise MappingError(odd, "its sites are not those of the network in any schedule")
    for site in mapping.sites:
        check_answers(network, site, profile)


def _check_cores(mapping: Mapping, profile: Profile) -> None:
    """Every slice has a core of its own that exists, and chips are counted as the target has them."""
    if mapping.cores_used != len(mapping.cores) or mapping.cores.max() >= profile.cores:
        raise MappingError("mapping", f"{len(mapping.cores)} slices on {mapping.cores_used} of {profile.cores} cores")
    chips = len(np.unique(mapping.cores // profile.cores_per_chip))
    if (mapping.chips, mapping.cores_per_chip) != (chips, profile.cores_per_chip):
        stated = f"{mapping.chips} chips of {mapping.cores_per_chip} cores"
        raise MappingError("mapping", f"it says {stated}, and takes {chips} of {profile.cores_per_chip}")


def _check_words(mapping: Mapping, network: Network, profile: Profile) -> None:
    """The words of memory are those of the boxes, and within the limits of a core."""
    first, end = edges_of(mapping.boxes)
    shapes = np.array([site.shape for site in mapping.sites])[mapping.boxes[:, SITE]]
    if (first >= end).any() or (end > shapes).any():
        raise MappingError("mapping", "a box is empty, or reaches beyond its site")
    expected = box_words(network, mapping.sites, mapping.boxes, profile.core)
    # those of axon memory follow the firing rates: _check_traffic bounds them
    expected[:, AXONS] = mapping.words[:, AXONS]
    if not np.array_equal(expected, mapping.words):
        raise MappingError("mapping", "its memory words are not those of its boxes")
    for slice_ in np.flatnonzero(~fits(mapping.words, profile.core)):
        broken = first_violation(mapping.words[slice_], profile.core)
        name = mapping.sites[mapping.boxes[slice_, SITE]].name
        raise MappingError(name, f"a slice breaks a limit of the core: {broken}")


def _check_boxes(mapping: Mapping, index: int, site: Site) -> None:
    """The boxes of a site tile it."""
    boxes = mapping.boxes[mapping.slices_of(index)]
    size = math.prod(site.shape)
    covered = int(sizes_of(boxes).prod(1).sum())
    # the sum first: a map of a site whose cores would not hold it might not fit here either
    if covered == size <= LARGEST_SITE:
        times = np.zeros(site.shape, np.uint8)
        for _, c0, c1, y0, y1, x0, x1 in boxes:
            times[c0:c1, y0:y1, x0:x1] = 1
        # as many neurons in all boxes as in the site: some stand in two boxes if and only if others stand in none
        covered = int(np.count_nonzero(times))
    if covered != size or size > LARGEST_SITE:
        raise MappingError(site.name, "its boxes do not cover every neuron exactly once")


def _check_traffic(mapping: Mapping, network: Network, profile: Profile) -> None:
    """Destinations and metrics are between those of silence and those of neurons that all fire in every step.

    The rates that they come from are not in the program; what they count is linear in the rates.
    """
    most = _most_traffic(network, mapping)
    least = nets_of(network, mapping.sites, mapping.boxes, {population.name: 0.0 for population in network})
    slices = len(mapping.boxes)
    stated = mapping.words[:, AXONS]
    if (stated < destinations(least, slices)).any() or (stated > destinations(most, slices)).any():
        raise MappingError("mapping", "its words of axon memory are not those of the cores that it sends to")
    _check_metrics(mapping.metrics, metrics(most, mapping.cores, profile))


def _most_traffic(network: Network, mapping: Mapping) -> Nets:
    """The nets of neurons that all fire in every step, as any version has counted them.

    Where a fan-in is split, programs of before have the windows beside it at each of its parts, and the sums of the
    parts once for each projection into the neurons.
    """
    whole = tuple(replace(site, part=(0, LARGEST_SITE)) if site.part[1] else site for site in mapping.sites)
    # without a rate a neuron fires in every step
    nets = nets_of(network, whole, mapping.boxes, {})
    often = np.array([len(network.into(s.population)) if s.kind == "partial" else 1 for s in mapping.sites])
    times = often[mapping.boxes[nets.source, SITE]]
    return Nets(np.repeat(nets.source, times), np.repeat(nets.target, times), np.repeat(nets.messages, times))


def _check_metrics(stated: dict[str, float], most: dict[str, float]) -> None:
    """The metrics are below those of neurons that all fire, and agree with each other."""
    if not set(METRICS) <= set(stated) <= {*METRICS, *LATER_METRICS}:
        raise MappingError("mapping", f"its metrics are {', '.join(sorted(stated))}")
    # means are over the messages and links of some rates: they may exceed those of all neurons
    limits = most | {"mean_hops": math.inf, "mean_link_load": stated["max_link_load"]}
    for name, value in stated.items():
        if not (0 <= value <= limits[name] * (1 + ROUNDING) and math.isfinite(value)):
            raise MappingError("mapping", f"{name.replace('_', ' ')} of {value}, and at most {limits[name]}")
    totals = [stated["mean_hops"] * stated["messages"]]
    if "packet_hops_east_west" in stated and "packet_hops_north_south" in stated:
        totals.append(stated["packet_hops_east_west"] + stated["packet_hops_north_south"])
    for total in totals:
        if not math.isclose(total, stated["packet_hops"], rel_tol=ROUNDING, abs_tol=ROUNDING):
            raise MappingError("mapping", f"its hops are {stated['packet_hops']}, and {total} by its other metrics")
