"""Programs of the bundled models that many tests read, compiled once in a process."""

from functools import cache

import spikformer_deploy as sd


@cache
def program_of(name: str) -> sd.Program:
    """A bundled model for Loihi 2 with the default settings; nothing may be changed in it."""
    return sd.compile(name, check=False)
