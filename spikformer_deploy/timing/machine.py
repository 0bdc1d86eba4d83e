"""The machine that a timing run knows: cores, routers, links and queues of a mapping, all durations in whole ticks.

docs/timing.md says what these parts do; timing/reference.py is the specification, timing/mesh.py the fast engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.draws import nominal
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.steps import barrier
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.network.mapping import Mapping

TICK_PS = 10
"""A tick: fine enough that the shortest latency of a profile (0.3 ns) is rounded by 1 % at most."""

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))
"""East, west, north, south, as steps in (x, y)."""
SIDES = len(DIRECTIONS)
"""Sides of a router, and of a chip: ports and links are numbered SIDES * router + direction."""
EAST, WEST, NORTH, SOUTH = range(SIDES)


class Hops(NamedTuple):
    """Ticks of a hop: east-west, north-south, to the next chip, from a router to one of its cores."""

    across: int
    along: int
    chip: int
    core: int


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Routers in a grid, chips side by side, cores at the routers.

    width, height  routers; router y * width + x
    tile           (cores,) the router of each core
    link           (SIDES * routers,) the link that leads from a router in each of DIRECTIONS; of a chip's border to the
                   next chip one link for the whole side
    occupied       (links,) ticks for which a message keeps a link from others
    latency        (SIDES * routers,) ticks from a router's port to that of the next one; not below `occupied`
    local          the last hop, from a router to one of its cores, in ticks; its link is first_local + core
    """

    width: int
    height: int
    tile: Int
    link: Int
    occupied: Int
    latency: Int
    local: int
    first_local: int

    @property
    def routers(self) -> int:
        """Number of routers."""
        return self.width * self.height

    def hops(self, load: Int) -> tuple[int, int]:
        """Hops east-west and north-south of the messages that crossed the links, (links,) of them."""
        # links to cores stand between those of routers and those of chips, and are no hops
        between = np.concatenate([load[: self.first_local], load[self.first_local + len(self.tile) :]])
        # the four directions are two that lead across, and two along
        across, along = between.reshape(-1, 2, 2).sum((0, 2)).tolist()
        return across, along


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A mesh and its cores.

    cores     (cores,) global numbers of the cores in use, ascending; everywhere else a core is an index into this
    axon_out  ticks that a message takes in the axon-out unit
    ports     messages that a port of a router holds
    sending   messages that wait for the axon-out unit before the sweep stalls
    arriving  messages that wait at a core for their service
    barrier   ticks at the end of every chip-wide step
    runtime   ticks that every chip-wide step takes besides
    """

    mesh: Mesh
    cores: Int
    axon_out: int
    ports: int
    sending: int
    arriving: int
    barrier: int
    runtime: int


def ticks(nanoseconds: float, least: int = 0) -> int:
    """A duration as whole ticks, the nearest."""
    return max(least, round(nanoseconds * 1000 / TICK_PS))


def machine(profile: Profile, mapping: Mapping) -> Machine:
    """The cores of `mapping` on `profile`, durations at their nominal values."""
    time = profile.time
    table = latencies(profile, nominal)
    cores = np.unique(mapping.cores)
    x, y = coordinates(profile, cores)
    chip = (int(profile.chip.tiles_x), int(profile.chip.tiles_y))
    hops = Hops(
        across=ticks(time.hop_east_west.value),
        along=ticks(time.hop_north_south.value),
        chip=ticks(time.hop_chip.value),
        core=ticks(time.hop_tile.value),
    )
    # a link that takes no time would let any number of messages cross at one tick
    link = ticks(1 / time.link_rate.value, least=1)
    chip_link = ticks(1 / time.chip_link_rate.value, least=1)
    return Machine(
        mesh=mesh_of(x, y, chip, hops, link, chip_link),
        cores=cores,
        axon_out=ticks(time.axon_out.value, least=1),
        ports=int(profile.chip.port_messages),
        sending=int(profile.core.axon_out_messages),
        arriving=int(profile.core.axon_in_messages),
        barrier=ticks(float(barrier(table, profile, mapping)[0])),
        runtime=ticks(float(table.runtime[0])),
    )


def mesh_of(x: Int, y: Int, chip: tuple[int, int], hops: Hops, link: int, chip_link: int) -> Mesh:
    """The smallest part of the mesh that holds all routes between cores at (x, y).

    chip             routers of a chip in x and y
    link, chip_link  ticks for which a message keeps a link of a router, and one between chips, from others

    Links are numbered: those of routers, those to cores, then SIDES for each chip, of which some lead nowhere.
    """
    left = int(x.min())
    bottom = int(y.min())
    width = int(x.max()) - left + 1
    height = int(y.max()) - bottom + 1
    first_local = SIDES * width * height
    first_chip = first_local + len(x)
    chips_x = -(-(left + width) // chip[0])
    chips_y = -(-(bottom + height) // chip[1])
    occupied = np.full(first_chip + SIDES * chips_x * chips_y, link, np.int64)
    occupied[first_chip:] = chip_link
    links = np.arange(first_local)
    latency = np.empty(first_local, np.int64)
    for port in range(first_local):
        router, direction = divmod(port, SIDES)
        column = left + router % width
        row = bottom + router // width
        dx, dy = DIRECTIONS[direction]
        origin = column // chip[0] + row // chip[1] * chips_x
        goal = (column + dx) // chip[0] + (row + dy) // chip[1] * chips_x
        hop = hops.across if dx else hops.along
        if goal != origin:
            links[port] = first_chip + SIDES * origin + direction
            hop = hops.chip
        # a message has not arrived before it has left
        latency[port] = max(hop, occupied[links[port]])
    tile = (y - bottom) * width + x - left
    return Mesh(width, height, tile, links, occupied, latency, max(hops.core, link), first_local)
