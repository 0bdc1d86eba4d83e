"""How sure a time is: the closed form at many draws of the constants (chips/draws.py), of the mean image.

The message-level model is too slow for that: its times are spread by the factors of the closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.chips import draws
from spikformer_deploy.chips.profile import Profile, quantities
from spikformer_deploy.counts.events import Events
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.estimate import step_at

AT_ONCE = 2**18
"""Numbers in an array of all slices, steps and draws, which a cache holds: more are worked out in blocks."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Factors on the nominal time of a step in each draw, (draws.COUNT,): pipelined, and falling through.

    paths  the constants that the time may vary with
    """

    step: Float
    fall_through: Float
    paths: tuple[str, ...]

    @cached_property
    def rulers(self) -> dict[str, float]:
        """Which constants rule the time of a step, as shares (draws.shares)."""
        return draws.shares(self.step, self.paths)

    def likely_step(self, nominal: float) -> tuple[float, float]:
        """The likely interval of a time of a pipelined step, in its unit."""
        return draws.likely(nominal * self.step)


def spread(events: Events, network: Network, mapping: Mapping, profile: Profile) -> Spread:
    """The spread of the time of a step of `network`."""
    nominal_step, nominal_falling = step_at(events, network, mapping, profile, draws.nominal)
    block = max(1, AT_ONCE // (len(mapping.boxes) * network.time_steps))
    blocks = [slice(first, first + block) for first in range(0, draws.COUNT, block)]
    parts = [step_at(events, network, mapping, profile, draws.some(block)) for block in blocks]
    times = [path for path, number in quantities(profile) if path.startswith("time.") and number.range]
    return Spread(
        step=_factors(np.concatenate([part[0] for part in parts]), nominal_step),
        fall_through=_factors(np.concatenate([part[1] for part in parts]), nominal_falling),
        paths=tuple(times),
    )


def _factors(times: Float, nominal: Float) -> Float:
    """(draws.COUNT,) of the nominal time (1,); 1 where that is nothing, as no factor makes anything of it."""
    return times / nominal if nominal[0] > 0 else np.ones_like(times)
