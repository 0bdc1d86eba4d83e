"""Message-level times of the first images of a run: their spikes are recorded, and timed one image after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import islice
from typing import TypeAlias

from spikformer_deploy.base.progress import Progress
from spikformer_deploy.counts.events import Geometry, geometry
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Executor, Request
from spikformer_deploy.inference.parts import Part, Source, read_part
from spikformer_deploy.inference.seam import Pool, Work, in_order
from spikformer_deploy.inference.tally import Tally
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing import messages as timing
from spikformer_deploy.timing.steps import Recorded, recorded_image
from spikformer_deploy.timing.times import StepTimes, join_times, with_range_of

NoteMessages: TypeAlias = Callable[[slice, int], None]
"""Called with the place of an image and how many of its messages have been followed."""


def _unheard(place: slice, messages: int) -> None:
    """Nobody waits."""


@dataclass(frozen=True, eq=False)
class ImageTimes(Work):
    """The message-level times of a part of `images` that is one image; note: how far that is."""

    program: Program
    images: ImageSet
    note: NoteMessages = _unheard

    @cached_property
    def geometry(self) -> Geometry:
        """Of the counts, and of the messages."""
        return geometry(self.program.network, self.program.mapping)

    @cached_property
    def executor(self) -> Executor:
        """The engine: all executors record the same."""
        return prepare("engine", Request(self.program.network, self.geometry.cells))

    @cached_property
    def timer(self) -> timing.Timer:
        """What all images share."""
        return timing.timer(self.geometry, self.program.profile)

    def recorded(self, part: Part | slice) -> Recorded:
        """What the image made of the network."""
        network = self.program.network
        pixels = read_part(self.images, part).pixels
        return recorded_image(network, self.executor.execute(pixels, [p.name for p in network]), 0)

    def __call__(self, part: Part | slice) -> StepTimes:
        place = part if isinstance(part, slice) else part.place
        return timing.time_image(self.timer, self.recorded(part), lambda messages: self.note(place, messages))


def message_times(program: Program, origin: Source, crew: Pool, tally: Tally, progress: Progress) -> StepTimes:
    """Message-level times of the first images; their range is as wide as that of the closed form."""
    assert tally.times is not None
    assert tally.events.slices is not None
    images = len(origin.images)
    sent = int(tally.events.slices.messages_out.sum()) / tally.events.images
    count = timing.images_to_time(images, sent)

    # all go twice: in the pipeline, and in the fall-through
    expected = max(1, round(2 * sent))

    def note_messages(place: slice, messages: int) -> None:
        note = f"messages of image {place.stop} of {count}: {messages / 1e6:.1f} of about {expected / 1e6:.1f} million"
        progress(min(place.start * expected + messages, count * expected), count * expected, note)

    work = ImageTimes(program, origin.sent, _unheard if crew.elsewhere else note_messages)
    times: list[StepTimes] = []
    for of_image in in_order(crew.map(work, islice(origin.parts(1), count), at_once=1)):
        times.append(of_image)
        progress(len(times), count, f"messages of image {len(times)} of {count}")
    return with_range_of(reduce(join_times, times), tally.times)
