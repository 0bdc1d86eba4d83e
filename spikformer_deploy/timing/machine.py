"""The machine that a timing run knows: cores, routers, links and queues of a mapping, all durations in whole ticks.

docs/timing.md says what these parts do; timing/reference.py is the specification, timing/mesh.py the fast engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.loihi.latencies import NOMINAL
from spikformer_deploy.chips.loihi.steps import barrier
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.network.mapping import Mapping

TICK_PS = 10
"""A tick: fine enough that the shortest latency of a profile (0.3 ns) is rounded by 1 % at most."""

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))
"""East, west, north, south, as steps in (x, y)."""


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Routers in a grid, chips side by side, cores at the routers.

    width, height  routers; router y * width + x
    tile           (cores,) the router of each core
    link           (4 * routers,) the link that leads from a router in each of DIRECTIONS: 4 * router + direction; of a
                   chip's border to the next chip one link for the whole side
    occupied       (links,) ticks for which a message keeps a link from others
    latency        (4 * routers,) ticks from a router's port to that of the next one; not below `occupied`
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
        between = np.concatenate([load[: self.first_local], load[self.first_local + len(self.tile) :]])
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
    """

    mesh: Mesh
    cores: Int
    axon_out: int
    ports: int
    sending: int
    arriving: int
    barrier: int


def ticks(nanoseconds: float, least: int = 0) -> int:
    """A duration as whole ticks, the nearest."""
    return max(least, round(nanoseconds * 1000 / TICK_PS))


def machine(profile: Profile, mapping: Mapping) -> Machine:
    """The cores of `mapping` on `profile`, durations at their nominal values."""
    time = profile.time
    cores = np.unique(mapping.cores)
    x, y = coordinates(profile, cores)
    sizes = int(profile.chip.tiles_x), int(profile.chip.tiles_y)
    hops = tuple(ticks(q.value) for q in (time.hop_east_west, time.hop_north_south, time.hop_chip, time.hop_tile))
    return Machine(
        mesh_of(x, y, sizes, hops, *(ticks(1 / rate.value, 1) for rate in (time.link_rate, time.chip_link_rate))),
        cores,
        ticks(time.axon_out.value, 1),
        int(profile.chip.port_messages),
        int(profile.core.axon_out_messages),
        int(profile.core.axon_in_messages),
        ticks(float(barrier(profile, mapping)[NOMINAL])),
    )


def mesh_of(x: Int, y: Int, chip: tuple[int, int], hops: tuple[int, ...], link: int, chip_link: int) -> Mesh:
    """The smallest part of the mesh that holds all routes between cores at (x, y).

    chip  routers of a chip in x and y; hops: latencies east-west, north-south, to the next chip, to a core
    """
    left, bottom = int(x.min()), int(y.min())
    width, height = int(x.max()) - left + 1, int(y.max()) - bottom + 1
    routers, chips_x = width * height, -(-(left + width) // chip[0])
    first_local = 4 * routers
    links = np.arange(4 * routers)
    latency = np.empty(4 * routers, np.int64)
    first_chip = first_local + len(x)
    occupied = np.full(first_chip + 4 * chips_x * -(-(bottom + height) // chip[1]), link, np.int64)
    occupied[first_chip:] = chip_link
    for router in range(routers):
        column, row = left + router % width, bottom + router // width
        here = column // chip[0] + row // chip[1] * chips_x
        for number, (dx, dy) in enumerate(DIRECTIONS):
            there = (column + dx) // chip[0] + (row + dy) // chip[1] * chips_x
            port, crosses = 4 * router + number, there != here
            links[port] = first_chip + 4 * here + number if crosses else port
            latency[port] = max(hops[2] if crosses else hops[number // 2], occupied[links[port]])
    tile = (y - bottom) * width + x - left
    return Mesh(width, height, tile, links, occupied, latency, max(hops[3], link), first_local)
