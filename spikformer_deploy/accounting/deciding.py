"""What it costs on a chip to decide whether an image is done: derived, and measured on no silicon.

After a time step the head's accumulators send what they hold, each with its share of the bias.  Two small populations
of neurons that the chip has follow, a layer after the other:

    pairs  C (C - 1) threshold neurons without a memory: that of (i, j) adds up a_i - a_j, and fires from the margin on
    done   C neurons that fire where all of their C - 1 pairs do: then the largest is ahead by the margin

A chip adds what arrives, so a scan for the two largest would take a time step a class.  At most half of the pairs fire,
as a_i - a_j and a_j - a_i are not both positive: so many are counted.  Hops are not, since nothing says where these
cores are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spikformer_deploy.accounting.target import COSTS, NEURO_CORES
from spikformer_deploy.accounting.uncertainty import Part, priced, weakest
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips import draws
from spikformer_deploy.chips.draws import Points
from spikformer_deploy.chips.loihi.latencies import Latencies, Times, latencies
from spikformer_deploy.chips.loihi.memory import list_words
from spikformer_deploy.chips.loihi.microcode import REFERENCE_LENGTH, program_of
from spikformer_deploy.chips.loihi.steps import Work, barrier, core_ns, loads_ns, pause_ns
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.network.exits import check_exit
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import And, Lif, LifKind, Neuron

SOURCE = "counts derived from the pairs of classes (accounting/deciding.py); no silicon has measured them"
LAYERS = 2
"""Layers behind the head that an image waits for: pairs, and who of them is ahead of all."""
SENDING = 2
"""Instructions more of an accumulator that sends what it holds: the difference of the biases added, and the spike."""


@dataclass(frozen=True, slots=True, eq=False)
class Deciding:
    """One decision, after a time step of one image.

    classes  C
    cores    that hold the pairs, and one more that holds the rest
    words    of memory on them, 64 bits each
    counts   of each kind of event by its name in target.COSTS
    """

    classes: int
    cores: int
    words: int
    counts: dict[str, int]


def deciding(network: Network, profile: Profile) -> Deciding:
    """What a decision takes on the cores of a target.

    Raises InputError where its neurons cannot send or compare what accumulators hold.
    """
    core = profile.core
    _check_values(network, profile)
    classes = network.output.size
    pairs = classes * (classes - 1)
    firing = pairs // 2
    bits = network.weight_bits + int(core.index_bits)
    holding = _cores_of_pairs(classes, bits, profile)
    lists = classes * int(list_words(np.array(-(-2 * (classes - 1) // holding)), bits, core))
    done = classes + pairs * (1 + int(list_words(np.array(1), bits, core)))
    return Deciding(
        classes=classes,
        cores=holding + 1,
        words=holding * (-(-pairs // holding) + classes + lists) + done,
        counts={
            "synaptic operations": 2 * pairs + firing,
            "neuron updates": pairs + classes,
            "spikes": classes + firing + 1,
            "messages sent": classes * holding + firing + 1,
        },
    )


def _check_values(network: Network, profile: Profile) -> None:
    """Raise InputError where a message does not hold an accumulator, or a state no difference of two of them."""
    core, output = profile.core, network.output
    head = check_exit(network)
    # after a step it has a share of the bias in place of all of it
    largest = max(-output.bounds[0], output.bounds[1]) + int(np.abs(head.bias).max())
    if not core.programmable.value:
        problem = "its neurons send spikes only"
    elif largest >= 2 ** (int(core.message_bits) - 1):
        problem = f"they hold up to {largest:,}, and a message has {int(core.message_bits)} bits"
    elif 2 * largest >= 2 ** (int(core.state_bits) - 1):
        problem = f"they are up to {2 * largest:,} apart, and a state has {int(core.state_bits)} bits"
    else:
        return
    problem = f"accumulators cannot be compared on '{profile.name}': {problem}"
    raise InputError("--early-exit", problem, "Use --target loihi2, or --timing none for the answers alone.")


def _cores_of_pairs(classes: int, bits: int, profile: Profile) -> int:
    """The fewest cores whose neurons and words hold the pairs: a word a neuron, an axon and a list a class."""
    core = profile.core
    pairs = classes * (classes - 1)
    for cores in range(1, pairs + 1):
        neurons = -(-pairs // cores)
        lists = int(list_words(np.array(-(-2 * (classes - 1) // cores)), bits, core))
        if neurons <= int(core.neurons) and neurons + classes * (1 + lists) <= int(core.memory_words):
            return cores
    raise InputError("--early-exit", f"no core holds the pairs of {classes:,} classes", "Leave it out.")


def decision_ns(decision: Deciding, mapping: Mapping, profile: Profile, points: Points = draws.corners) -> Times:
    """(K,) ns by which a decision makes a time step longer that falls through the layers one after the other.

    The head's step is longer by what its accumulators send and the pairs are told; then come two steps of the chip.
    """
    table = latencies(profile, points)
    classes = decision.classes
    pairs = classes * (classes - 1)
    firing = pairs // 2
    cores = decision.cores - 1
    dense = Latencies.KINDS.index("dense")
    told = Work(
        programmed=classes,
        length=SENDING / REFERENCE_LENGTH,
        spikes=classes,
        sent=classes * cores,
        synops=-(-2 * pairs // cores),
        messages=classes,
        synapse=dense,
    )
    compared = Work(
        programmed=-(-pairs // cores),
        length=_share(Lif(LifKind.PROGRAMMABLE, 0, 0, np.zeros(1, np.int64), np.zeros(1, np.int64))),
        spikes=-(-firing // cores),
        sent=-(-firing // cores),
        synops=firing,
        messages=firing,
        synapse=dense,
    )
    answered = Work(programmed=classes, length=_share(And(classes - 1)), spikes=1, sent=1)
    end = barrier(table, profile, mapping) + table.runtime
    core = np.unique(mapping.cores, return_inverse=True)[1]
    pause = pause_ns(int(np.bincount(core, mapping.swept).max()), end, table)
    steps = sum(np.maximum(core_ns(loads_ns(work, table)) + end, pause) for work in (compared, answered))
    return np.asarray(core_ns(loads_ns(told, table)) + steps)


def _share(neuron: Neuron) -> float:
    """The length of a neuron's program, in units of the reference program."""
    program = program_of(neuron)
    assert program is not None
    return program.share


def deciding_parts(decision: Deciding, decisions: float, mapping: Mapping, profile: Profile, corner: str) -> list[Part]:
    """What `decisions` an image cost, mean over the images, by the target's energies of a corner.

    In both steps of the chip all cores sweep over their neurons, as in a sub-step.
    """
    energies = profile.corners[corner]
    counts = {**decision.counts, "idle neurons": LAYERS * int(mapping.swept.sum())}
    parts = []
    for name, count in counts.items():
        cost = COSTS[name]
        price = getattr(energies, cost)
        parts.append(
            _derived(priced(f"deciding: {name}", decisions * count, f"energy.{corner}.{cost}", price, NEURO_CORES))
        )
    return [part for part in parts if part.events > 0]


def _derived(part: Part) -> Part:
    """The same part as one whose events are derived, not counted."""
    return replace(part, kind=weakest((part.kind, "derived")), source=f"{part.source}; {SOURCE}")
