"""Message-level times of the first images of a run: their spikes are recorded, and timed one image after the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from spikformer_deploy.base.progress import Progress
from spikformer_deploy.counts.events import Geometry
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Request
from spikformer_deploy.inference.tally import Tally
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing import messages as timing
from spikformer_deploy.timing.steps import Recorded, recorded_image
from spikformer_deploy.timing.times import StepTimes, join_times, with_range_of


def message_times(
    program: Program, images: ImageSet, geometry: Geometry, tally: Tally, progress: Progress
) -> StepTimes:
    """Message-level times of the first images; their range is as wide as that of the closed form."""
    assert tally.times is not None
    assert tally.events.slices is not None
    sent = int(tally.events.slices.messages_out.sum()) / tally.events.images
    count = timing.images_to_time(len(images), sent)
    timer = timing.timer(geometry, program.profile)
    joined = None
    for number, image in enumerate(recorded(program, images, geometry, count), 1):

        def note_messages(messages: int, number: int = number) -> None:
            note = f"messages of image {number} of {count}: {messages / 1e6:.1f} of about {2 * sent / 1e6:.1f} million"
            progress(len(images), len(images), note)

        times = timing.time_image(timer, image, note_messages)
        joined = times if joined is None else join_times(joined, times)
    assert joined is not None
    return with_range_of(joined, tally.times)


def recorded(program: Program, images: ImageSet, geometry: Geometry, count: int) -> Iterator[Recorded]:
    """What the first `count` images made of the network, one by one."""
    execute = prepare("engine", Request(program.network, geometry.cells)).execute
    names = [p.name for p in program.network]
    for pixels, _ in islice(images.batches(1), count):
        yield recorded_image(program.network, execute(pixels, names), 0)
