"""Targets with small cores, so that small networks are cut as large ones are."""

from __future__ import annotations

from spikformer_deploy.chips.profile import Profile, from_dict, load_profile, to_dict


def smaller(memory: int, neurons: int, section: int, tiles: int = 8) -> Profile:
    """loihi2 on a large board with less of everything in a core, and `tiles` x 4 tiles of 4 cores a chip (8 unused)."""
    raw = to_dict(load_profile("hala_point"))
    raw["chip"]["tiles_x"] |= {"value": float(tiles)}
    for name, value in (("memory_words", memory), ("neurons", neurons), ("section_words", section)):
        raw["core"][name] |= {"value": float(value), "range": None}
    return from_dict(raw)


def with_wide_states(profile: Profile) -> Profile:
    """The same target with 32 bits of state, for networks that need them."""
    raw = to_dict(profile)
    raw["core"]["state_bits"] |= {"value": 32.0, "range": None}
    return from_dict(raw)


def two_chips() -> Profile:
    """Chips of 2 x 2 routers and 16 cores, 64 of them in 8 columns."""
    raw = to_dict(load_profile("hala_point"))
    for section, name, value in (
        ("chip", "tiles_x", 2), ("chip", "tiles_y", 2), ("chip", "reserved_cores", 0), ("board", "columns", 8),
    ):  # fmt: skip
        raw[section][name] |= {"value": float(value), "range": None}
    return from_dict(raw)
