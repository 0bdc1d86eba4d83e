"""What bounds the step of a mapping, and how far the mapping is from it: expected from firing rates, runtime included.

python benchmarks/mapping_bounds.py [--model NAME --target BOARD]

taken          what compile takes by energy, placed; link: what the heaviest of its links takes
ends           barrier and runtime of its time step and of all its sub-steps
free links     the shortest step that the mapper finds where links cost nothing; not a proof that none is shorter
fine cuts      all work that is done at once, spread evenly over all cores of the board, and one end of a step; of
               each layer the cut with the least work * cores.  Its boxes count as if all worked as long as the
               longest, so that this is no strict bound where boxes at a border are smaller
four sub-steps the ends of a time step and the fewest sub-steps that copies leave, on one chip
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent))
from models import images, model

from spikformer_deploy.chips.draws import nominal
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.steps import barrier, barrier_before_placement, link_ns
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.mapping.objective import Choice
from spikformer_deploy.mapping.partition import cuts_of, sites_of, way_of
from spikformer_deploy.mapping.ways import attention_choices
from spikformer_deploy.pipeline.stages import compile_model

FEWEST_SUB_STEPS = 4
IMAGES = 4


@click.command()
@click.option("--model", "name", default="v1-4-384", show_default=True)
@click.option("--target", default="kapoho_point", show_default=True)
def main(name: str, target: str) -> None:
    """Print the parts of the step and what bounds it, in us."""
    for title, nanoseconds in bounds(name, target).items():
        click.echo(f"{title:15} {nanoseconds / 1e3:10.1f} us")


def bounds(name: str, target: str) -> dict[str, float]:
    """ns of the step that is taken, of its parts, and of what bounds it."""
    loaded = model(name)
    pixels = images(loaded.config.in_channels, loaded.config.image_size, IMAGES)
    compiled = compile_model(loaded, target, calibrate_on=pixels, check=False)
    network, rates, mapping = compiled.program.network, compiled.rates, compiled.program.mapping
    explained = compiled.program.provenance["mapping"]
    profile = load_profile(target)
    table = latencies(profile, nominal)
    taken = explained["expected"]
    end = float((barrier(table, profile, mapping) + table.runtime)[0])
    shortest_end = float((barrier_before_placement(table, profile, 1) + table.runtime)[0])
    found = attention_choices(network, profile, rates, "latency").values()
    way = way_of(explained["attention"]["chosen"])
    assert way is not None
    choices, _ = cuts_of(network, sites_of(network, profile.core, way.serial, copies=way.copies), profile, rates)
    work = sum(float((cuts.work * cuts.cores).min()) for cuts in choices if not cuts.in_turn)
    return {
        "taken": taken["step_us"] * 1e3,
        "of it ends": (1 + taken["sub_steps"]) * end,
        "link": float(link_ns(table, mapping)[0]),
        "free links": min(choice.step_ns for choice in found if isinstance(choice, Choice)),
        "fine cuts": work / profile.cores + shortest_end,
        "four sub-steps": (1 + FEWEST_SUB_STEPS) * shortest_end,
    }


if __name__ == "__main__":
    main()
