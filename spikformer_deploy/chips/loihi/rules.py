"""The limits of a core, each a small function: words of boxes in, the excess or nothing out.

The partitioner asks `fits` of thousands of candidate boxes; `first_violation` names the limit for an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.profile import Core
from spikformer_deploy.network.mapping import SECTIONS

Rule: TypeAlias = Callable[[Int, Core], tuple[Int, int]]
"""(words (..., 6), core) -> (what is used (...), the limit)"""


def total_memory(words: Int, core: Core) -> tuple[Int, int]:
    """All sections share the memory of the core."""
    return words.sum(-1), int(core.memory_words)


def neuron_count(words: Int, core: Core) -> tuple[Int, int]:
    """A core has a number of neurons (one word each)."""
    return words[..., SECTIONS.index("neurons")], int(core.neurons)


def synapse_memory(words: Int, core: Core) -> tuple[Int, int]:
    """Synapse lists have a section of limited size."""
    return words[..., SECTIONS.index("syn_mem")], int(core.section_words)


def axon_map_memory(words: Int, core: Core) -> tuple[Int, int]:
    """So have the entries that lead from neurons to axons."""
    return words[..., SECTIONS.index("axon_map")], int(core.section_words)


def state_memory(words: Int, core: Core) -> tuple[Int, int]:
    """And the states of neurons that serve many tokens."""
    return words[..., SECTIONS.index("state")], int(core.section_words)


def input_axons(words: Int, core: Core) -> tuple[Int, int]:
    """A core listens to a number of axons, whose words are a section."""
    return words[..., SECTIONS.index("axon_in")], min(int(core.input_axons), int(core.section_words))


def output_axons(words: Int, core: Core) -> tuple[Int, int]:
    """A core sends on a number of axons, whose words are a section."""
    return words[..., SECTIONS.index("axon_mem")], min(int(core.output_axons), int(core.section_words))


RULES: tuple[Rule, ...] = (
    total_memory,
    neuron_count,
    synapse_memory,
    axon_map_memory,
    state_memory,
    input_axons,
    output_axons,
)


KEYS: dict[Rule, str] = {
    total_memory: "core.memory_words",
    neuron_count: "core.neurons",
    synapse_memory: "core.section_words",
    axon_map_memory: "core.section_words",
    state_memory: "core.section_words",
    input_axons: "core.input_axons or core.section_words",
    output_axons: "core.output_axons or core.section_words",
}
"""What a profile calls the limit of each rule."""


def fits(words: Int, core: Core) -> NDArray[np.bool_]:
    """Whether boxes that need `words` (..., 6) fit a core."""
    out = np.ones(words.shape[:-1], bool)
    for rule in RULES:
        used, limit = rule(words, core)
        out &= used <= limit
    return out


def first_violation(words: Int, core: Core) -> str | None:
    """What a box that needs `words` (6,) breaks: "synapse memory: 20,000 of 16,000 (core.section_words)"; None where
    it fits."""
    for rule in RULES:
        used, limit = rule(words, core)
        if used > limit:
            return f"{rule.__name__.replace('_', ' ')}: {int(used):,} of {limit:,} ({KEYS[rule]})"
    return None
