"""Weight bits by layer: memory words and cores that a model saves, and what it loses on images it was not chosen on.

    python benchmarks/optimize_bits.py digits-v2
    python benchmarks/optimize_bits.py cifar10 --data cifar10.zip --validation 2000 --test 10000

Calibration and validation images are of the training split; those of the test are looked at once, at the end, by the
program with all bits and by the one that was chosen.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import numpy as np

import spikformer_deploy as sd
from spikformer_deploy.chips.profile import under
from spikformer_deploy.converters.models import load
from spikformer_deploy.data.read import read
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.mapping import SECTIONS, Mapping
from spikformer_deploy.pipeline.sample import CALIBRATION_IMAGES, firing_rates

CALIBRATION = 1024
"""Images that rounding may look at, before those that validate."""
UNIFORM = (8, 6, 4, 3, 2)
"""Bits for all layers at once, whatever accuracy is left: with 2 a model has as few words as bits can give it."""


def main() -> None:
    """Print what each setting has, and what is left on the test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", default="digits", help="images with a training and a test split")
    parser.add_argument("--max-drop", type=float, default=0.3, help="points of accuracy")
    parser.add_argument("--objective", nargs="+", default=["cores", "energy"])
    parser.add_argument("--validation", type=int, default=800)
    parser.add_argument("--test", type=int, default=10_000, help="0: they are not looked at")
    given = parser.parse_args()
    preprocess = load(given.model).preprocess
    training = read(given.data, preprocess, split="train", limit=CALIBRATION + given.validation)
    pixels, labels = np.asarray(training.pixels), training.labels
    assert labels is not None
    calibration, validation = pixels[: -given.validation], (pixels[-given.validation :], labels[-given.validation :])
    start = time.monotonic()
    first = given.objective[0]
    chosen = sd.choose_bits(
        given.model, validation, calibrate_on=calibration, max_drop=given.max_drop, objective=first, progress=_note
    )
    print(f"\n{given.model}, at most {given.max_drop} points, {time.monotonic() - start:.0f} s")
    for layer, damage in chosen.damage.items():
        print(f"  {layer}: {chosen.layer_bits.get(layer, 8)} bits; damage", {b: f"{d:.2g}" for b, d in damage.items()})
    print("free:", {n: b for n, b in chosen.layer_bits.items() if n not in chosen.damage})
    for row in chosen.tried:
        print({k: v for k, v in row.items() if k != "layer_bits"}, sorted(row["layer_bits"].values()))
    test = read(given.data, preprocess, split="test", limit=given.test) if given.test else None
    for objective in given.objective:
        for name, bits in (("8 bits", {}), ("by layer", chosen.layer_bits)):
            program = sd.compile(
                given.model,
                layer_bits=bits,
                rounding="calibrated",
                calibrate_on=calibration,
                objective=objective,
                check=False,
            )
            line = f"{objective}, {name}: {_size(program.mapping)}"
            if objective == first and test is not None:
                result = sd.run(program, test, timing="none")
                line += f", test {result.accuracy:.4f} of {len(test)}, {result.events.synops:,.0f} synops"
            print(line, flush=True)
        for weight_bits in UNIFORM:
            mapping = _recut(program, weight_bits, calibration, objective)
            print(f"{objective}, {weight_bits} bits for all: {_size(mapping)}", flush=True)


def _recut(program: sd.Program, weight_bits: int, calibration: np.ndarray, objective: str) -> Mapping:
    """How a network would be cut if all synapses had that many bits: its shapes and rates stay, and nothing is run."""
    network = program.network
    rates = firing_rates(network, calibration[:CALIBRATION_IMAGES])
    plain = tuple(replace(projection, weight_bits=0) for projection in network.projections)
    network = replace(network, weight_bits=weight_bits, projections=plain)
    return map_network(network, under(program.profile, "lava"), rates, objective)


def _size(mapping: Mapping) -> str:
    """Words, section by section, and cores."""
    words = mapping.words.sum(0).tolist()
    sections = ", ".join(f"{name} {count:,}" for name, count in zip(SECTIONS, words, strict=True) if count)
    return f"{sum(words):,} words ({sections}), {mapping.cores_used} cores"


def _note(done: int, steps: int, note: str) -> None:
    print(f"{done}/{steps} {note}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
