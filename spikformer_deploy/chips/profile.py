"""Hardware profiles: TOML files whose every number carries unit, kind, source and range, validated as a whole.

The profiles that come with the package are in hw_profiles/; a path to a file of one's own works in their place.
A board inherits from a chip (`base = "loihi2"`), section by section and number by number, and has a name of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import cattrs
from attrs import field, frozen

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import text_of
from spikformer_deploy.base.validation import strict_converter
from spikformer_deploy.base.words import cut, shown
from spikformer_deploy.chips.checks import IN_FILES, MOST_LISTED, Problem, lines_of, wrong_in
from spikformer_deploy.chips.quantity import Quantity
from spikformer_deploy.network.neurons import LifKind

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


OPERATIONS = "asic45nm"
"""The file of operation energies: no target."""
NAME_IT = 'Give it a name of its own at its top: name = "mychip".'
"""The way out of a file that leaves its name to its base: other numbers under the name of a known target."""
MOST_CORES = 2**24
"""Of a board: Hala Point has 138,240."""
NAMED = 10
"""Corners that an error names."""
BEFORE = "programs of release 0.1 know no such number"
"""The source of what is added to a profile of before."""
ADDED = {("time", "step_runtime"): "ns", ("power", "running_chip"): "mW"}
"""(section, name) -> unit of numbers that came later and are 0 in programs of before."""
PROGRAMMABLE = ("time", "neuron_programmable")
"""As ADDED, but of before it is the time of any neuron."""


def _of(unit: str, *, positive: bool = False) -> Any:
    """A field that must be a Quantity of this unit, and not zero where `positive` (checked for all fields at once)."""
    return field(metadata={"unit": unit, "positive": positive})


@frozen
class Chip:
    """The mesh of one chip: routers in a grid, each with some cores; `reserved_cores` are not used by programs.

    port_messages  messages that a port of a router holds
    """

    tiles_x: Quantity = _of("tiles", positive=True)
    tiles_y: Quantity = _of("tiles", positive=True)
    cores_per_tile: Quantity = _of("cores", positive=True)
    reserved_cores: Quantity = _of("cores")
    port_messages: Quantity = _of("messages", positive=True)


@frozen
class Core:
    """What one core holds.  Words are 64 bits.

    sparse_synapse_bits  of a synapse with its weight, the index of its target and a tag, as the dense layers of Intel's
        compiler have them.  No rule reads it: chips/loihi/memory.py takes the bits of a weight and index_bits for lists
        of all kinds.  The field stays because every program stores its profile in full, and a profile with a field
        more or less than this class has is refused.
    axon_out_messages, axon_in_messages  messages that wait to be sent, and to be served, where they are full
    """

    memory_words: Quantity = _of("words", positive=True)
    section_words: Quantity = _of("words", positive=True)
    neurons: Quantity = _of("neurons", positive=True)
    parameter_sets: Quantity = _of("sets", positive=True)
    programmable: Quantity = _of("yes/no")
    message_bits: Quantity = _of("bits", positive=True)
    weight_bits: Quantity = _of("bits", positive=True)
    state_bits: Quantity = _of("bits", positive=True)
    threshold_bits: Quantity = _of("bits", positive=True)
    bias_bits: Quantity = _of("bits")
    list_header_bits: Quantity = _of("bits")
    index_bits: Quantity = _of("bits")
    sparse_synapse_bits: Quantity = _of("bits")
    input_axons: Quantity = _of("axons", positive=True)
    output_axons: Quantity = _of("axons", positive=True)
    axon_out_messages: Quantity = _of("messages", positive=True)
    axon_in_messages: Quantity = _of("messages", positive=True)


@frozen
class Time:
    """Durations of single events.  The barrier grows with the tiles used, and with the diameter of a board.

    neuron_update        of a fixed-function neuron; neuron_idle: a visit that finds nothing to do
    neuron_programmable  of a microcoded neuron with the reference program of chips/loihi/microcode.py
    step_runtime         what every chip-wide step costs, whatever the network does, under the runtime that users have
    """

    synapse_conv: Quantity = _of("ns")
    synapse_dense: Quantity = _of("ns")
    synapse_sparse: Quantity = _of("ns")
    neuron_idle: Quantity = _of("ns")
    neuron_update: Quantity = _of("ns")
    neuron_programmable: Quantity = _of("ns")
    spike_out: Quantity = _of("ns")
    axon_out: Quantity = _of("ns")
    axon_in: Quantity = _of("ns")
    hop_tile: Quantity = _of("ns")
    hop_east_west: Quantity = _of("ns")
    hop_north_south: Quantity = _of("ns")
    hop_chip: Quantity = _of("ns")
    link_rate: Quantity = _of("messages/ns", positive=True)
    barrier_one_tile: Quantity = _of("ns")
    barrier_chip: Quantity = _of("ns")
    barrier_board: Quantity = _of("ns")
    barrier_chip_hop: Quantity = _of("ns")
    step_runtime: Quantity = _of("ns")
    chip_link_rate: Quantity = _of("messages/ns", positive=True)


@frozen
class Energy:
    """Energies of single events: the nominal corner; other corners stand in Profile.corners.

    spike_out  a neuron that fires, besides its update; axon_out: each message that it sends
    """

    synapse: Quantity = _of("pJ")
    neuron_idle: Quantity = _of("pJ")
    neuron_update: Quantity = _of("pJ")
    spike_out: Quantity = _of("pJ")
    axon_out: Quantity = _of("pJ")
    hop_east_west: Quantity = _of("pJ")
    hop_north_south: Quantity = _of("pJ")


@frozen
class Power:
    """Power that flows whatever the network does.

    static_chip   of each chip; static_board: what stands on the board besides, by chip
    running_chip  added of each chip while steps run: clocks, embedded processors
    """

    static_chip: Quantity = _of("mW")
    static_board: Quantity = _of("mW")
    running_chip: Quantity = _of("mW")


@frozen
class Board:
    """How many chips, in how many columns of a grid."""

    chips: Quantity = _of("chips", positive=True)
    columns: Quantity = _of("chips", positive=True)


@dataclass(frozen=True, slots=True)
class CoreLimits:
    """What the quantizer must know of a core.

    message_bits  payload of a message; 1 means binary spikes
    bias_bits     magnitude bits of a stock neuron's bias, in units of the threshold's lowest bit
    """

    programmable: bool
    weight_bits: int
    state_bits: int
    threshold_bits: int
    bias_bits: int
    parameter_sets: int
    message_bits: int

    @property
    def neuron(self) -> LifKind:
        """The kind of LIF that serves best: programmable where there is one."""
        return LifKind.PROGRAMMABLE if self.programmable else LifKind.STOCK


@frozen
class Profile:
    """A target.  `corner` names the nominal energies, `corners` holds all of them by name."""

    name: str
    description: str
    corner: str
    chip: Chip
    core: Core
    time: Time
    power: Power
    board: Board
    corners: dict[str, Energy] = field(metadata={IN_FILES: "energy"})

    @property
    def energy(self) -> Energy:
        """The nominal energies."""
        return self.corners[self.corner]

    @property
    def cores_per_chip(self) -> int:
        """Cores that a program can use on one chip."""
        return int(self.chip.tiles_x) * int(self.chip.tiles_y) * int(self.chip.cores_per_tile) - int(
            self.chip.reserved_cores
        )

    @property
    def cores(self) -> int:
        """Cores that a program can use on the whole board."""
        return self.cores_per_chip * int(self.board.chips)

    @property
    def limits(self) -> CoreLimits:
        """What the quantizer must know."""
        core = self.core
        return CoreLimits(
            programmable=bool(core.programmable.value),
            weight_bits=int(core.weight_bits),
            state_bits=int(core.state_bits),
            threshold_bits=int(core.threshold_bits),
            bias_bits=int(core.bias_bits),
            parameter_sets=int(core.parameter_sets),
            message_bits=int(core.message_bits),
        )


RUNTIMES = ("lava", "bare")
"""lava: what users have today; bare: a runtime that costs nothing, a lower bound."""

BARE = Quantity(0.0, "ns", "guess", "a runtime that costs nothing: a lower bound that nobody has measured")


def under(profile: Profile, runtime: str) -> Profile:
    """The profile under one of RUNTIMES.  Raises InputError for another."""
    if runtime not in RUNTIMES:
        raise InputError("--runtime", f"'{runtime}' is none of {', '.join(RUNTIMES)}")
    if runtime == "lava":
        return profile
    return attrs.evolve(profile, time=attrs.evolve(profile.time, step_runtime=BARE))


def profile_names() -> tuple[str, ...]:
    """The targets that come with the package."""
    folder = files("spikformer_deploy") / "hw_profiles"
    names = {p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")}
    return tuple(sorted(names - {OPERATIONS}))


def load_profile(target: str | Path) -> Profile:
    """The profile of a known target, or of a TOML file.

    Raises InputError that lists every error of the file with its path.
    """
    text = _text(str(target))
    raw = _raw(str(target), text)
    if "corners" in raw:
        way_out = "Put the numbers of a corner into [energy.NAME.NUMBER]; see docs/profiles.md."
        raise InputError(str(target), "it has a table 'corners', and corners are tables of 'energy'", way_out)
    raw["corners"] = raw.pop("energy", {})
    way_out = "See docs/profiles.md."
    profile = _checked(raw, str(target), way_out if "name" in raw else f"{NAME_IT} {way_out}", text)
    if str(target) not in profile_names() and profile.name in profile_names() and profile != load_profile(profile.name):
        problem = f"it is another profile than {profile.name} of the box, and its figures would go by that name"
        raise InputError(str(target), problem, "Change its name, too.")
    return profile


def operation_energies() -> dict[str, Quantity]:
    """Energies of single operations in 45 nm, by name: the constants of the accounting conventions."""
    raw = tomllib.loads((files("spikformer_deploy") / "hw_profiles" / f"{OPERATIONS}.toml").read_text(encoding="utf-8"))
    return cattrs.structure(raw["operations"], dict[str, Quantity])


def from_dict(raw: dict[str, Any]) -> Profile:
    """The profile that `to_dict` wrote, under the same law as a file.  Raises InputError where it is damaged.

    A program of before is read with the numbers that it does not know; `of_before` tells.
    """
    return _checked(_completed(raw), "profile", "")


def _completed(raw: Any) -> Any:
    """The tables of a profile with the numbers that programs of before do not know."""
    if not (isinstance(raw, dict) and all(isinstance(raw.get(name), dict) for name in ("time", "power"))):
        return raw
    sections = {name: dict(raw[name]) for name in ("time", "power")}
    for (section, name), unit in ADDED.items():
        sections[section].setdefault(name, {"value": 0.0, "unit": unit, "kind": "guess", "source": BEFORE})
    section, name = PROGRAMMABLE
    update = sections[section].get("neuron_update")
    if isinstance(update, dict):
        sections[section].setdefault(name, {**update, "source": BEFORE})
    return {**raw, **sections}


def of_before(profile: Profile) -> bool:
    """Whether a program of before holds this profile: its times and energies lack what silicon has shown since."""
    return profile.time.step_runtime == _of_before(profile, "time", "step_runtime")


def _of_before(profile: Profile, section: str, name: str) -> Quantity | None:
    """What a number that came later is of a program of before; None of all others."""
    if (section, name) == PROGRAMMABLE:
        return attrs.evolve(profile.time.neuron_update, source=BEFORE)
    unit = ADDED.get((section, name))
    return None if unit is None else Quantity(0.0, unit, "guess", BEFORE)


def _checked(raw: dict[str, Any], place: str, way_out: str, text: str = "") -> Profile:
    """The profile of plain values; InputError that lists all that is wrong with it, with the lines of its TOML text."""
    if not isinstance(raw, dict):
        raise InputError(place, f"{shown(raw)} instead of the tables of a profile", way_out)
    if wrong := [*wrong_in(raw, Profile), *_wrong_names(raw)]:
        lines = lines_of(text)
        few = [_as_in_files(problem).shown(lines) for problem in wrong[:MOST_LISTED]]
        raise InputError(place, _listed(few, len(wrong)), way_out)
    profile = strict_converter().structure(raw, Profile)
    if (problem := _wrong_cores(profile)) is not None:
        raise InputError(place, _listed([problem.shown(lines_of(text))], 1), way_out)
    return profile


def _as_in_files(problem: Problem) -> Problem:
    """The same problem with the path that a file has: corners are tables of `energy` there."""
    path = ("energy", *problem.path[1:]) if problem.path[:1] == ("corners",) else problem.path
    return Problem(path, problem.words)


def _listed(wrong: list[str], count: int) -> str:
    """The first of `count` errors, one a line, and how many there are besides."""
    more = [f"and {count - len(wrong):,} more"] if count > len(wrong) else []
    return "\n  ".join(["the profile has errors:", *wrong, *more])


def to_dict(profile: Profile) -> dict[str, Any]:
    """The profile as plain values, for a program file.

    What programs of before do not know is left out of theirs, so that they keep their bytes.
    """
    raw: dict[str, Any] = _plain().unstructure(profile)
    for path, number in quantities(profile):
        section, _, name = path.rpartition(".")
        table = raw["corners"][section.removeprefix("energy.")] if section.startswith("energy.") else raw[section]
        if number == _of_before(profile, section, name):
            del table[name]
        elif number.calibrated_on is None:
            del table[name]["calibrated_on"]
    return raw


@cache
def _plain() -> cattrs.Converter:
    # made once: a converter writes itself code for every class
    return cattrs.Converter(unstruct_collection_overrides={tuple: list})


def _wrong_names(raw: dict[str, Any]) -> Iterator[Problem]:
    """An empty name, and a nominal corner that has no energies."""
    name, corner, corners = raw.get("name"), raw.get("corner"), raw.get("corners")
    if isinstance(name, str) and not name.strip():
        yield Problem(("name",), "an empty name")
    if isinstance(corner, str) and isinstance(corners, dict) and corner not in corners:
        names = [cut(str(name)) for name in list(corners)[:NAMED]]
        more = [f"{len(corners) - NAMED:,} more"] if len(corners) > NAMED else []
        known = ", ".join(names + more) or "its energies"
        yield Problem(("corner",), f"its nominal corner '{cut(corner)}' is none of {known}")


def _wrong_cores(profile: Profile) -> Problem | None:
    """No core is left for programs, or there are more than can be counted."""
    reserved, chips = int(profile.chip.reserved_cores), int(profile.board.chips)
    if profile.cores_per_chip < 1:
        there = profile.cores_per_chip + reserved
        words = f"{reserved:,} of {there:,} cores a chip are reserved, and no core is left for programs: reserve fewer"
        return Problem(("chip", "reserved_cores"), words)
    if profile.cores > MOST_CORES:
        words = f"{chips:,} chips of {profile.cores_per_chip:,} cores are {profile.cores:,} cores, and at most "
        return Problem(("board", "chips"), f"{words}{MOST_CORES:,} can be counted: take fewer chips, or smaller ones")
    return None


def quantities(profile: Profile) -> Iterator[tuple[str, Quantity]]:
    """Every number of a profile with its path ("time.synapse_conv")."""
    names = ("chip", "core", "time", "power", "board")
    sections: list[tuple[str, Any]] = [(name, getattr(profile, name)) for name in names]
    sections += [(f"energy.{name}", energy) for name, energy in profile.corners.items()]
    for path, section in sections:
        for attribute in attrs.fields(type(section)):
            yield f"{path}.{attribute.name}", getattr(section, attribute.name)


def _raw(target: str, text: str) -> dict[str, Any]:
    """The tables of a profile, those of its base underneath; text: of its file."""
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(target, f"it is no readable TOML: {error}") from None
    base = raw.pop("base", None)
    if base is None:
        return raw
    if not isinstance(base, str) or base not in profile_names():
        known = f"Known: {', '.join(profile_names())}."
        raise InputError(target, f"its base, {shown(base)}, is no known target", known)
    under = _raw(base, _text(base))
    # other numbers under the name of a known target would pass for it
    del under["name"]
    return _merged(under, raw)


def _text(target: str) -> str:
    """The TOML text of a known target, or of a file."""
    if target in profile_names():
        return (files("spikformer_deploy") / "hw_profiles" / f"{target}.toml").read_text(encoding="utf-8")
    if target.endswith(".toml") or "/" in target or os.path.exists(target):
        return text_of(Path(target), "Give a profile, or the name of a target (see `spikdeploy targets`).")
    raise InputError(
        "--target", f"no target is called '{target}'", f"Known: {', '.join(profile_names())}; or a .toml file."
    )


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables merge; a number (a table with a value) is replaced as a whole."""
    out = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both and "value" not in value else value
    return out
