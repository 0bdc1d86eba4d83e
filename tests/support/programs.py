"""Programs of the bundled models that many tests read, compiled once in a process."""

from functools import cache

import spikformer_deploy as sd


def program_of(name: str, neuron: str = "programmable") -> sd.Program:
    """A bundled model for Loihi 2, but for its kind of LIF with the default settings; nothing may be changed in it."""
    return _program_of(name, neuron)


@cache
def _program_of(name: str, neuron: str) -> sd.Program:
    return sd.compile(name, neuron=neuron, check=False)
