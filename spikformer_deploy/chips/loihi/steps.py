"""How long a chip-wide time step takes, said once: for the objective of the mapping and for the estimate."""

from __future__ import annotations

import numpy as np

from spikformer_deploy.chips.profile import Profile


def barrier_ns(chips: int, profile: Profile) -> float:
    """ns of a barrier over chips in a square, all tiles in use."""
    time = profile.time
    if chips == 1:
        return time.barrier_chip.value
    across = 2 * (np.sqrt(chips) - 1)
    return time.barrier_chip.value + time.barrier_board.value + across * time.barrier_chip_hop.value
