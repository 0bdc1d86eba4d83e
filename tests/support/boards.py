"""A small board of several chips, and traffic between the slices of a chain of layers."""

from __future__ import annotations

import numpy as np

from spikformer_deploy.chips.profile import Profile, from_dict, load_profile, to_dict
from spikformer_deploy.mapping.route import Nets


def small_board(chips: int = 4) -> Profile:
    """Chips of 2 x 2 tiles of 2 cores, two in a row."""
    raw = to_dict(load_profile("kapoho_point"))
    for name, value in (("tiles_x", 2), ("tiles_y", 2), ("cores_per_tile", 2), ("reserved_cores", 0)):
        raw["chip"][name] |= {"value": float(value), "range": None}
    raw["board"]["chips"] |= {"value": float(chips)}
    raw["board"]["columns"] |= {"value": 2.0}
    return from_dict(raw)


def chain(slices: int, seed: int) -> Nets:
    """Layers of up to 6 slices, all of each to all of the next, as networks have them."""
    rng = np.random.default_rng(seed)
    layer = np.sort(rng.integers(0, max(1, slices // 4), slices))
    source, target = np.nonzero(layer[:, None] + 1 == layer)
    return Nets(source, target, rng.integers(1, 1000, len(source)).astype(float))
