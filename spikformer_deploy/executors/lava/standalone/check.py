"""Compares recorded results with the spikes that are expected of the images in expected/.

    python run.py expected/images.npy -o results/ --record spikes
    python check.py results/

Results of the first few of these images will do.  It needs numpy only, and ends with 0 where all values are equal,
with 1 where one is not, with 2 where one is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Print a line for each layer; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    if not (HERE / "expected" / "spikes.npz").exists():
        print("there are no expected spikes: export with --input", file=sys.stderr)
        return 2
    if not (results / "layers.json").exists():
        print(f"{results}: no recorded results: run with --record spikes", file=sys.stderr)
        return 2
    layers = {f"layer{layer['number']}": layer for layer in json.loads((results / "layers.json").read_text())}
    names = [population["name"] for population in json.loads((HERE / "network.json").read_text())["populations"]]
    wrong = 0
    with np.load(HERE / "expected" / "spikes.npz") as expected:
        # what is expected, not what was recorded: a layer that nobody recorded is not equal, nor one of no image
        missing = [key for key in expected.files if "sent" not in layers.get(key, {}) or not layers[key]["images"]]
        if missing:
            first = names[int(missing[0].removeprefix("layer"))]
            problem = f"{len(missing)} of {len(expected.files)} layers were not recorded, the first is {first}"
            print(f"{results}: {problem}: run with --record spikes", file=sys.stderr)
            return 2
        files = [*(layers[key]["sent"] for key in expected.files), "accumulators.npy"]
        gone = [file for file in files if not (results / file).exists()]
        if gone:
            print(f"{results}: {len(gone)} of {len(files)} files are missing, the first is {gone[0]}", file=sys.stderr)
            return 2
        images = len(np.load(results / "accumulators.npy"))
        for key in expected.files:
            spikes = recorded(results, layers[key])
            if len(spikes) != images:
                problem = f"accumulators.npy has {images} images, and {layers[key]['sent']} has {len(spikes)}"
                print(f"{results}: {problem}, of {layers[key]['name']}", file=sys.stderr)
                return 2
            right = expected[key][: len(spikes)]
            if spikes.shape != right.shape:
                problem = f"results of other images than expected/images.npy: {spikes.shape}, not {right.shape}"
                print(f"{results}: {problem}", file=sys.stderr)
                return 2
            print(f"{difference(spikes, right, ('image', 'step', 'channel', 'row', 'column'))}: {layers[key]['name']}")
            wrong += not np.array_equal(spikes, right)
    accumulators, right = (np.load(folder / "accumulators.npy") for folder in (results, HERE / "expected"))
    right = right[: len(spikes)]
    if accumulators.shape != right.shape:
        print(f"{results}: accumulators.npy is {accumulators.shape}, not {right.shape}", file=sys.stderr)
        return 2
    print(f"{difference(accumulators, right, ('image', 'class'))}: what the classes have gathered")
    print(f"compared: {len(right)} of {len(np.load(HERE / 'expected' / 'accumulators.npy'))} images")
    return int(wrong > 0 or not np.array_equal(accumulators, right))


def difference(found: np.ndarray, right: np.ndarray, axes: tuple[str, ...]) -> str:
    """ "equal", or how many values differ, and where the first one does, in the order of images and time steps."""
    places = np.argwhere(found != right)
    if not len(places):
        return "equal"
    first = tuple(places[0])
    where = ", ".join(f"{axis} {first[number]}" for number, axis in enumerate(axes))
    return f"{len(places)} values differ, the first at {where}: {found[first]}, not {right[first]}"


def recorded(results: Path, layer: dict) -> np.ndarray:
    """(images, T, C, Y, X) of what a layer has sent; its file holds (batches * T, at once, Y, X, C)."""
    channels, height, width = layer["shape"]
    steps, images = layer["time_steps"], layer["images"]
    values = np.load(results / layer["sent"])
    by_batch = values.reshape(-1, steps, values[0].size // (channels * height * width), height, width, channels)
    return by_batch.transpose(0, 2, 1, 5, 3, 4).reshape(-1, steps, channels, height, width)[:images]


if __name__ == "__main__":
    sys.exit(main())
