"""Runs the network of this folder in Lava, on a CPU, with nothing but lava-nc and numpy.

    python run.py images.npy -o results/

images.npy holds unsigned integers (images, C, Y, X), or (images, T, C, Y, X) where the network takes frames.
results/accumulators.npy will hold what every class has gathered in the last time step, (images, classes);
results/layers.json names the files of each layer that was recorded.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

# every layer is a process of its own: more threads in each would only wait for each other
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.dont_write_bytecode = True

import numpy as np  # noqa: E402
from shim import find_models_once, make_importable  # noqa: E402

make_importable()
from assemble import assemble, images_at_once  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi1SimCfg  # noqa: E402
from lava.magma.runtime.message_infrastructure.multiprocessing import SystemProcess  # noqa: E402

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Read the arguments, run, write and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("results"))
    parser.add_argument("--at-once", type=int, default=1, help="images that go through side by side")
    parser.add_argument("--record", choices=("none", "spikes", "all"), default="none", help="of every population")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    network = json.loads((HERE / "network.json").read_text())
    with np.load(HERE / "weights.npz") as file:
        arrays = dict(file)
    images = np.load(options.images)
    remove_former(network, options.output)
    at_once = images_at_once(network, min(options.at_once, len(images)))
    start = time.monotonic()
    pixels = in_batches(network, images, at_once)
    process, steps = assemble(network, arrays, pixels, str(options.output), options.record)
    code = run(process, steps, network["time_steps"], options.output, start)
    if code == 0:
        head = len(network["populations"]) - 1
        last = np.load(options.output / f"{head}.sent.npy")[network["time_steps"] - 1 :: network["time_steps"]]
        channels, height, width = network["populations"][-1]["shape"]
        # ports have channels last, and results have them first
        maps = last[: -(-len(images) // at_once)].reshape(-1, height * width, channels).transpose(0, 2, 1)
        accumulators = maps.reshape(len(maps), -1)[: len(images)].astype(np.int64)
        np.save(options.output / "accumulators.npy", accumulators)
        (options.output / "layers.json").write_text(json.dumps(layers(network, len(images), options.output), indent=1))
        # one scale for all: the largest integer is the class
        print("classes", *accumulators.argmax(1), flush=True)
    os._exit(code)  # Lava's threads wait for ever for processes that are no more


def files_of(number: int) -> dict[str, str]:
    """The files that the recorders of a population write."""
    return {what: f"{number}.{what}.npy" for what in ("sent", "potentials")}


def remove_former(network: dict[str, Any], results: Path) -> None:
    """Delete what a former run recorded there: this one may record less."""
    every = [file for number in range(len(network["populations"])) for file in files_of(number).values()]
    for file in (*every, "accumulators.npy", "layers.json"):
        (results / file).unlink(missing_ok=True)


AXES = ("batch * time_steps + time step", "image of the batch", "Y", "X", "C")
"""Of the files of a layer, in C order; a batch is as many images as go through side by side."""


def layers(network: dict[str, Any], images: int, results: Path) -> list[dict[str, Any]]:
    """Which file has what of which layer ("sent", "potentials"), and in which order of axes."""
    records = []
    for number, population in enumerate(network["populations"]):
        there = {what: file for what, file in files_of(number).items() if (results / file).exists()}
        if there:
            facts = {"number": number, "name": population["name"], "shape": population["shape"]}
            records.append({**facts, "time_steps": network["time_steps"], "images": images, "axes": AXES, **there})
    return records


def in_batches(network: dict[str, Any], images: np.ndarray, at_once: int) -> np.ndarray:
    """(batches, at_once, T or 1, C, Y, X): the last batch is filled up with zeros."""
    frames = images if network["populations"][0]["per_step"] else images[:, None]
    missing = -len(frames) % at_once
    full = np.concatenate([frames, np.zeros((missing, *frames.shape[1:]), frames.dtype)])
    return full.reshape(-1, at_once, *frames.shape[1:])


def run(process: Any, steps: int, stride: int, output: Path, start: float) -> int:
    """Run that many steps, with a line of progress after every `stride` of them, and end Lava; the exit code."""
    error = output / "error.txt"
    error.unlink(missing_ok=True)
    _tell_of_errors(error)
    find_models_once()
    config = Loihi1SimCfg(select_tag="fixed_pt")
    try:
        for done in range(0, steps, stride):
            process.run(RunSteps(min(stride, steps - done)), config)
            print(f"step {min(done + stride, steps)} of {steps} {time.monotonic() - start:.3f} s", flush=True)
    except KeyboardInterrupt:
        return 130
    except Exception:
        sys.stderr.write(error.read_text() if error.exists() else traceback.format_exc())
        sys.stderr.flush()
        return 1
    finally:
        _end(process.runtime)
    return 0


def _tell_of_errors(file: Path) -> None:
    """Let the first Process that fails say why in a file, and end the run: Lava would wait for all that wait for it."""
    main = os.getpid()

    def failed(*_: object) -> NoReturn:
        raise RuntimeError("a Process failed")

    def report(self: Any) -> None:
        try:
            multiprocessing.Process.run(self)
            self._cconn.send(None)
        except Exception as problem:
            if not file.exists():
                file.write_text(traceback.format_exc())
            self._cconn.send((problem, traceback.format_exc()))
            os.kill(main, signal.SIGUSR1)

    SystemProcess.run = report
    signal.signal(signal.SIGUSR1, failed)


def _end(runtime: Any) -> None:
    """End all of Lava's processes and give their shared memory back; its own way may wait for one of them for ever."""
    if runtime is None or runtime._messaging_infrastructure is None:
        return
    actors = runtime._messaging_infrastructure.actors
    for actor in actors:
        actor.kill()
    for actor in actors:
        multiprocessing.Process.join(actor)
    runtime._messaging_infrastructure.smm.shutdown()


if __name__ == "__main__":
    main()
