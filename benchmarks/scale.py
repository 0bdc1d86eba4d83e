"""What workers gain, what the seam costs, and how far it would go: measured here, and worked out for a cluster.

    python benchmarks/scale.py [--images N] [--quick] [--json FILE] [--gigabits G]

Throughput is that of runs once all workers are at work: one process against one and two local workers, a thread each,
in turns.  The table for 8 to 256 workers is no measurement: a simulation of ImageNet's 50,000 images with the seconds
that reading, computing, packing and adding up a batch take here, and a network that moves `--gigabits` a second.
"""

from __future__ import annotations

import heapq
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from engine import cpu
from models import images, program

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.data.drawn import drawings
from spikformer_deploy.data.read import read
from spikformer_deploy.executors.execution import BATCH
from spikformer_deploy.inference.batches import Batches
from spikformer_deploy.inference.run import run
from spikformer_deploy.inference.seam import AT_ONCE, pool
from spikformer_deploy.inference.tally import added
from spikformer_deploy.pipeline.program import Program

SMALL = ("v1-4-384", "kapoho_point")
LARGE = ("v1-8-512", "hala_point")
IMAGENET = 50_000
SIMULATED = (1, 8, 16, 32, 64, 128, 256)
EMPTY_ITEMS = 200
JPEG_QUALITY = 90


@click.command()
@click.option("--images", "count", default=2000, show_default=True, help="Of the CIFAR-shaped runs.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each contestant; the best one counts.")
@click.option("--gigabits", default=10.0, show_default=True, help="Of the network, for the simulation.")
@click.option("--quick", is_flag=True, help="The small model throughout, one round of 320 images: shows that it runs.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
def main(count: int, rounds: int, gigabits: float, quick: bool, json_file: str | None) -> None:
    """Measure, simulate, print tables, write JSON."""
    small, large = program(*SMALL), program(*(SMALL if quick else LARGE))
    throughput = measured_throughput(small, 320 if quick else count, 1 if quick else rounds)
    costs = batch_costs(large)
    rows = [simulated(workers, costs, gigabits) for workers in SIMULATED]
    console = Console()
    console.print(throughput_table(throughput), costs, simulation_table(rows))
    if json_file:
        figures = {"cpu": cpu(), "throughput": throughput, "costs": asdict(costs), "gigabits": gigabits}
        figures["simulated"] = rows
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


# --- measured -----------------------------------------------------------------------------------------------------


def measured_throughput(compiled: Program, count: int, rounds: int) -> dict[str, float]:
    """Images a second of one process, and of one and two workers, a thread each."""
    pixels = images(compiled.preprocess.channels, compiled.preprocess.size, count)
    contestants: dict[str, int | None] = {"one process": None, "1 worker": 1, "2 workers": 2}
    best = dict.fromkeys(contestants, 0.0)
    for _ in range(rounds):
        for name, workers in contestants.items():
            # local workers share the threads of the process that starts them
            torch.set_num_threads(workers or 1)
            best[name] = max(best[name], images_a_second(compiled, pixels, workers))
    torch.set_num_threads(1)
    return best


def images_a_second(compiled: Program, pixels: np.ndarray, workers: int | None) -> float:
    """Of a run, from when every worker has given a second batch: all of them are at work then."""
    begun = 2 * (workers or 1) * BATCH
    times: list[tuple[int, float]] = []

    def note(done: int, _total: int, word: str) -> None:
        if not times or done > times[-1][0]:
            times.append((done, time.monotonic()))

    run(compiled, pixels, workers=workers, progress=note)
    (first, start), (last, end) = next(pair for pair in times if pair[0] >= begun), times[-1]
    return (last - first) / (end - start)


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes of a batch of BATCH images of 224 x 224, one thread, and of what goes once to a worker.

    read, compute   in a worker; pack: its tally as bytes
    add             in the client: unpacked and added to what there is
    schedule        in Dask, of an item that does nothing, sent and come back
    """

    read: float
    compute: float
    pack: float
    add: float
    schedule: float
    tally_bytes: int
    program_bytes: int


def batch_costs(compiled: Program) -> Costs:
    """Of a program, on drawings in JPEG files."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, pixels in enumerate(drawings(compiled.preprocess.size)[:BATCH]):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(Path(folder) / f"{number:02}.jpg", quality=JPEG_QUALITY)
        found = read(folder, compiled.preprocess)
        work = Batches(compiled, found, "engine", "cpu", True, None)
        part = slice(0, len(found))
        reading = seconds_of(lambda: found.pixels_in(part))
        whole = seconds_of(lambda: work(part))
        tally, _ = work(part)
    sent = pickle.dumps(tally)
    scale = BATCH / len(found)
    return Costs(
        read=scale * reading,
        compute=scale * (whole - reading),
        pack=seconds_of(lambda: pickle.dumps(tally)),
        add=seconds_of(lambda: added(tally, pickle.loads(sent))),
        schedule=empty_item(),
        tally_bytes=len(sent),
        program_bytes=len(pickle.dumps(work)),
    )


def seconds_of(job: Callable[[], Any], rounds: int = 3) -> float:
    """Of the best round, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def nothing(item: int) -> int:
    """What the seam costs by itself."""
    return item


def empty_item() -> float:
    """Seconds of an item that does nothing, from one worker."""
    with pool(workers=1) as crew:
        for _ in crew.map(nothing, range(AT_ONCE)):
            pass
        start = time.monotonic()
        for _ in crew.map(nothing, range(EMPTY_ITEMS)):
            pass
        return (time.monotonic() - start) / EMPTY_ITEMS


# --- worked out ---------------------------------------------------------------------------------------------------


def simulated(workers: int, costs: Costs, gigabits: float) -> dict[str, Any]:
    """A run of ImageNet's validation images by that many workers of one thread each.

    A worker reads, computes and packs one batch after the other, as it always has the next one.  The client, or the
    wire to it if that is slower, takes one tally after the other.  The program passes from worker to worker.
    """
    wire = 8 / (gigabits * 1e9)
    batches = -(-IMAGENET // BATCH)
    taking = max(costs.add + costs.schedule, costs.tally_bytes * wire)
    of_worker = costs.read + costs.compute + costs.pack
    handed_on = costs.program_bytes * wire * (1 + int(workers - 1).bit_length())
    # when each begins its next batch, and when the client took the one before its last
    begins = [(handed_on, number) for number in range(workers)]
    taken = [0.0] * workers
    client = 0.0
    for _ in range(batches):
        begin, number = heapq.heappop(begins)
        finished = begin + of_worker
        client = max(client, finished) + taking
        # of its AT_ONCE = 2 items the next one was sent when the client took the one before
        heapq.heappush(begins, (max(finished, taken[number]), number))
        taken[number] = client
    alone = batches * of_worker
    return {
        "workers": workers,
        "seconds": client,
        "share_of_ideal": alone / workers / client,
        "client_busy": batches * taking / client,
        "client_megabytes_a_second": batches * costs.tally_bytes / client / 1e6,
    }


def throughput_table(throughput: dict[str, float]) -> Table:
    """Measured throughput for a person."""
    one = throughput["1 worker"]
    out = Table("who", "images/s", "against one process", title=f"{SMALL[0]}, a thread each, on {torch.__version__}")
    for name, rate in throughput.items():
        out.add_row(name, f"{rate:.1f}", f"{rate / throughput['one process']:.2f}")
    out.caption = f"two workers: {throughput['2 workers'] / (2 * one):.2f} of twice one"
    return out


def simulation_table(rows: list[dict[str, Any]]) -> Table:
    """Simulated runs for a person."""
    out = Table(title=f"{IMAGENET:,} images, worked out from the costs of a batch")
    for column in ("workers", "minutes", "of ideal", "client busy", "MB/s"):
        out.add_column(column, justify="right")
    for row in rows:
        out.add_row(
            str(row["workers"]), f"{row['seconds'] / 60:,.1f}", f"{row['share_of_ideal']:.0%}",
            f"{row['client_busy']:.0%}", f"{row['client_megabytes_a_second']:.1f}",
        )  # fmt: skip
    return out


if __name__ == "__main__":
    main()
