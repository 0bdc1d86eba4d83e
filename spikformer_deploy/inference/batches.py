"""What is done of a run in one place: a program is prepared once, and gives a tally of each part of the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.counts.events import Geometry, geometry
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Executor, Request
from spikformer_deploy.inference.parts import Part, read_part
from spikformer_deploy.inference.seam import Work
from spikformer_deploy.inference.tallied import recorded_in, tally_of
from spikformer_deploy.inference.tally import Tally, added
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.hops import HopTable, hop_table
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.traffic import traffic


@dataclass(frozen=True, eq=False)
class Batches(Work):
    """The tally of a part of `images`, and the peak memory of the process in MiB.

    timed  whether step times are wanted; all others as of inference.run.run
    """

    program: Program
    images: ImageSet
    backend: str
    device: str
    timed: bool
    memory_limit: int | None
    progress: Progress = silent

    @cached_property
    def geometry(self) -> Geometry:
        """Of the counts."""
        return geometry(self.program.network, self.program.mapping)

    @cached_property
    def executor(self) -> Executor:
        """Prepared where the work is done."""
        network, mapping = self.program.network, self.program.mapping
        request = Request(
            network, self.geometry.cells, self.device, self.memory_limit, self.progress, ways=mapping.ways
        )
        return prepare(self.backend, request)

    @cached_property
    def hops(self) -> HopTable | None:
        """None without times."""
        if not self.timed:
            return None
        mesh = machine(self.program.profile, self.program.mapping).mesh
        return hop_table(traffic(self.geometry, self.program.profile), mesh, self.geometry.cells)

    def __call__(self, part: Part | slice) -> tuple[Tally, float]:
        read = read_part(self.images, part)
        tally: Tally | None = None
        for first in range(0, len(read.pixels), self.executor.batch):
            pixels = read.pixels[first : first + self.executor.batch]
            execution = self.executor.execute(pixels, recorded_in(self.program.network))
            more = tally_of(self.program, self.geometry, self.hops, execution, int(pixels.max()))
            tally = added(tally, more)
        assert tally is not None
        return replace(tally, lost=read.lost), peak_memory_mib()
