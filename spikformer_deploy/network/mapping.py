"""A network laid onto cores: which box of which population stands on which core, and the memory it takes there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int, Shape
from spikformer_deploy.base.flat import LATER

OPERANDS = "operands"
"""The `serial` of a population that sums products of currents and spikes."""
SECTIONS = ("axon_in", "neurons", "syn_mem", "axon_map", "state", "axon_mem")
"""Sections of a core's memory, in the order of the columns of Mapping.words."""
BOX = ("site", "c0", "c1", "y0", "y1", "x0", "x1")
"""The columns of Mapping.boxes: the number of the site, then the first and the end of channels, rows and columns."""
SITE = BOX.index("site")


def edges_of(boxes: Int) -> tuple[Int, Int]:
    """First and end (boxes, 3) of the channels, rows and columns of boxes (boxes, 7), as copies."""
    edges = boxes[:, SITE + 1 :].reshape(-1, 3, 2)
    return edges[:, :, 0].copy(), edges[:, :, 1].copy()


def sizes_of(boxes: Int) -> Int:
    """Channels, rows and columns (boxes, 3) of boxes (boxes, 7)."""
    first, end = edges_of(boxes)
    return end - first


def columns_at_home(columns: Int, copy: Int | int, copies: Int | int) -> Int:
    """How many of the first `columns` columns of counters have their home in a copy."""
    return (columns + copies - 1 - copy) // copies


class Way(NamedTuple):
    """A way to serialise an attention: `serial` as in a Site, and how many copies of its counters there are."""

    serial: str
    copies: int = 1

    @property
    def name(self) -> str:
        """ "tokens", "channels", and with copies "tokens x 4"."""
        return self.serial if self.copies == 1 else f"{self.serial} x {self.copies}"


@dataclass(frozen=True, slots=True)
class Site:
    """Something that occupies cores.

    kind         "population": the neurons of population `population`;
                 "attention": the counters of the attention whose target is population `population`;
                 "partial": sums over a part of the fan-in of population `population`, sent on to it as graded values
    shape        (C, Y, X) of its neurons or counters
    serial       of attentions: "" | "tokens" (KV first, tokens in series) | "channels" (QK first, channels in series);
                 "operands": of a population that a dual spike transformation reaches, whose pairs of factors come in
                 series, one for each product that is added up
    part         (first, end) source channels whose synapses stand here, where a fan-in is split; (0, 0): all
    sub_steps    chip-wide sub-steps that one time step of this site takes (0 where it needs none); a population with
                 sub-steps is token-serial: its tokens come one after the other, a sub-step each
    copy         of an attention whose counters there are several times: which of its `copies` these are; each takes a
                 share of the turns, and they exchange sums between the two rounds
    """

    name: str
    kind: str
    population: str
    shape: Shape
    serial: str = ""
    sub_steps: int = 0
    part: tuple[int, int] = (0, 0)
    copy: int = field(default=0, metadata={LATER: True})
    copies: int = field(default=1, metadata={LATER: True})

    @property
    def token_serial(self) -> bool:
        """Whether one neuron a channel serves all tokens, which come in series."""
        return self.kind != "attention" and self.sub_steps > 0 and self.serial != OPERANDS

    @property
    def chip_sub_steps(self) -> int:
        """Time steps of the chip after an ordinary one: an attention sends its last answers after its last turn."""
        return self.sub_steps + 1 if self.kind == "attention" else self.sub_steps

    def channels(self, sources: int) -> tuple[int, int]:
        """The range of source channels, of `sources`, whose synapses stand here; it may be empty.

        Parts are those of the convolution that is split.  Another projection into the same neurons may have fewer
        channels, or more: those beyond the convolution's stand with the neurons.
        """
        first, end = self.part
        return min(first, sources), sources if self.kind == "population" else min(end, sources)


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    """Slices of sites on cores.

    sites    in the order of the network's populations
    boxes    (slices, 7) int64: the columns of BOX, ends exclusive; the boxes of a site tile its shape
    cores    (slices,) int64: global core = chip * cores_per_chip + core within the chip
    words    (slices, 6) int64: memory words per section (SECTIONS)
    chips    number of chips used; cores_per_chip as the target has them
    metrics  of the placement: packets * hops, mean and max link load, ... (name -> number)
    """

    sites: tuple[Site, ...]
    boxes: NDArray[np.int64]
    cores: NDArray[np.int64]
    words: NDArray[np.int64]
    chips: int
    cores_per_chip: int
    metrics: dict[str, float]

    def population_on(self, core: int) -> str:
        """The population that stands on a core."""
        first = int(np.flatnonzero(self.cores == core)[0])
        return self.sites[self.boxes[first, SITE]].population

    def slices_of(self, site: int) -> NDArray[np.int64]:
        """Indices of the slices of site number `site`."""
        return np.flatnonzero(self.boxes[:, SITE] == site)

    @property
    def ways(self) -> dict[str, Way]:
        """By target of an attention: the way that its counters work in."""
        return {site.population: Way(site.serial, site.copies) for site in self.sites if site.kind == "attention"}

    @property
    def swept(self) -> NDArray[np.int64]:
        """(slices,) neurons that a core visits in a sub-step: all, or one a channel where tokens come in series."""
        sizes = sizes_of(self.boxes)
        serial = np.array([site.token_serial for site in self.sites])[self.boxes[:, SITE]]
        return np.where(serial, sizes[:, 0], sizes.prod(1))

    @property
    def exchanged(self) -> NDArray[np.int64]:
        """(slices,) messages that a slice sends in a time step so that copies of counters have the same sums.

        It receives as many.  Each counter has a home: the copy whose number is that of its column, modulo the copies.
        All others send what they have counted to the counter at home, which sends the sum to each of them.
        """
        first, end = edges_of(self.boxes)
        site_of = self.boxes[:, SITE]
        copy, copies = (np.array([getattr(site, name) for site in self.sites])[site_of] for name in ("copy", "copies"))
        at_home = columns_at_home(end[:, 2], copy, copies) - columns_at_home(first[:, 2], copy, copies)
        away = end[:, 2] - first[:, 2] - at_home
        lines = (end - first)[:, :2].prod(1)
        return np.where(copies > 1, lines * (at_home * (copies - 1) + away), 0)

    @property
    def chip_sub_steps(self) -> int:
        """Time steps of the chip that a time step of the network takes beyond the first."""
        return max((site.chip_sub_steps for site in self.sites), default=0)

    @property
    def cores_used(self) -> int:
        """Number of distinct cores."""
        return int(np.unique(self.cores).size)
