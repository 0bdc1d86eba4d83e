"""What bounds the step of a mapping, and how far the mapping is from it: expected from firing rates, runtime included.

python benchmarks/mapping_bounds.py [--model NAME --target BOARD]

taken          what compile takes by energy, placed; of it the ends of its time step and of all its sub-steps (barrier
               and runtime), the sweeps of the sub-steps, and the layers whose core works longest, at once and in turn;
               link: what the heaviest of its links takes, beside the cores that work at once
free links     the shortest step that the mapper finds where links cost nothing; not a proof that none is shorter
even           of all ways of the attentions the least that any cut takes on as many cores as the chips that are taken
               have: all work and all neurons spread evenly, on cores shared out between what works at once and in turn
fine cuts      all work that is done at once, spread evenly over all cores of the board, and one end of a step
four sub-steps the ends of a time step and the fewest sub-steps that copies leave, on one chip

Even and fine cuts take of each layer the cut with the least work * cores.  Its boxes count as if all worked as long as
the longest, so that neither is a strict bound where boxes at a border are smaller.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from models import calibration, model

from spikformer_deploy.chips.draws import nominal
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.steps import barrier, barrier_before_placement, link_ns, pause_ns
from spikformer_deploy.chips.profile import Profile, load_profile
from spikformer_deploy.mapping.objective import Choice, Cuts
from spikformer_deploy.mapping.partition import cuts_of, sites_of, way_of
from spikformer_deploy.mapping.ways import attention_choices
from spikformer_deploy.network.mapping import Mapping, Way, sizes_of
from spikformer_deploy.network.network import Network
from spikformer_deploy.pipeline.stages import compile_model

FEWEST_SUB_STEPS = 4
IMAGES = 4


@click.command()
@click.option("--model", "name", default="v1-4-384", show_default=True)
@click.option("--target", default="kapoho_point", show_default=True)
def main(name: str, target: str) -> None:
    """Print the parts of the step and what bounds it, in us."""
    for title, nanoseconds in bounds(name, target).items():
        click.echo(f"{nanoseconds / 1e3:10.1f} us  {title}")


def bounds(name: str, target: str) -> dict[str, float]:
    """ns of the step that is taken, of its parts, and of what bounds it."""
    compiled = compile_model(model(name), target, calibrate_on=calibration(name, IMAGES), check=False)
    network, rates, mapping = compiled.program.network, compiled.rates, compiled.program.mapping
    explained = compiled.program.provenance["mapping"]
    profile = load_profile(target)
    table = latencies(profile, nominal)
    taken = explained["expected"]
    end = barrier(table, profile, mapping) + table.runtime
    shortest_end = float((barrier_before_placement(table, profile, 1) + table.runtime)[0])
    found = attention_choices(network, profile, rates, "latency")
    way = way_of(explained["attention"]["chosen"])
    assert way is not None
    choices, _ = cuts_of(network, sites_of(network, profile.core, way.serial, copies=way.copies), profile, rates)
    work = sum(float((cuts.work * cuts.cores).min()) for cuts in choices if not cuts.in_turn)
    ways = [tried for name, choice in found.items() if isinstance(choice, Choice) and (tried := way_of(name))]
    least = {tried.name: even(network, profile, rates, tried, mapping.chips) for tried in ways}
    best = min(least, key=least.__getitem__)
    return {
        f"taken: {way.name}, {taken['cores']:,} cores": taken["step_us"] * 1e3,
        "  of it ends": float((1 + taken["sub_steps"]) * end[0]),
        "  of it sweeps": float(taken["sub_steps"] * pause_ns(int(mapping.swept.max()), 0 * end, table)[0]),
        **busiest(mapping, choices),
        "  link": float(link_ns(table, mapping)[0]),
        "free links": min(choice.step_ns for choice in found.values() if isinstance(choice, Choice)),
        f"even: {best}": least[best],
        "fine cuts": work / profile.cores + shortest_end,
        "four sub-steps": (1 + FEWEST_SUB_STEPS) * shortest_end,
    }


def busiest(mapping: Mapping, choices: list[Cuts]) -> dict[str, float]:
    """ns of the core that works longest at once, and of that in turn, each with its layer."""
    longest: dict[bool, tuple[float, str]] = {}
    for index, (site, cuts) in enumerate(zip(mapping.sites, choices, strict=True)):
        size = sizes_of(mapping.boxes[mapping.slices_of(index)]).max(0)
        (pick,) = np.flatnonzero((cuts.boxes == size).all(1))
        longest[cuts.in_turn] = max(longest.get(cuts.in_turn, (0.0, "")), (float(cuts.work[pick]), site.name))
    titles = {False: "at once", True: "in turn"}
    return {f"  {titles[in_turn]}: {name}": work for in_turn, (work, name) in sorted(longest.items())}


def even(network: Network, profile: Profile, rates: dict[str, float], way: Way, chips: int) -> float:
    """ns of a step in which all work and all neurons are spread evenly over the cores of `chips` chips.

    Of n cores, m work at once: W / m + V / (n - m) is least where it is (sqrt W + sqrt V)^2 / n.
    """
    sites = sites_of(network, profile.core, way.serial, copies=way.copies)
    choices, sub_steps = cuts_of(network, sites, profile, rates)
    table = latencies(profile, nominal)
    end = barrier_before_placement(table, profile, chips) + table.runtime
    cores = chips * profile.cores_per_chip
    at_once, in_turn = (
        sum(float((cuts.work * cuts.cores).min()) for cuts in choices if cuts.in_turn == late) for late in (False, True)
    )
    neurons = -(-sum(int((cuts.swept * cuts.cores).min()) for cuts in choices) // cores)
    worked = (np.sqrt(at_once) + np.sqrt(in_turn)) ** 2 / cores
    return float(worked + end[0] + sub_steps * pause_ns(neurons, end, table)[0])


if __name__ == "__main__":
    main()
