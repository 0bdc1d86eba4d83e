"""Sparser spikes, then fewer channels: what a model saves, and what it loses on images that no stage was judged by.

    python benchmarks/optimize_sparser.py digits-v2 --seeds 0 1 --max-drop 1 --epochs 8
    python benchmarks/optimize_sparser.py cifar10 --data cifar10.zip --validation 5000 --epochs 0.15 --batch 64 \
        --learning-rate 5e-4 --max-drop 2 --minutes 44

Training and validation images are of the training split; those of the test are looked at once, at the end, by the
original and by what was chosen.  A run that is killed goes on from its folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import spikformer_deploy as sd
from spikformer_deploy.accounting.target import NEURO_CORES
from spikformer_deploy.api.records import Run
from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.read import read
from spikformer_deploy.optimization.stages import Tried
from spikformer_deploy.training.data import VALIDATION_SEED


def main() -> None:
    """Print all stages of each seed, and the original and the result on the test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", default="digits", help="images with a training and a test split")
    parser.add_argument("--validation", type=int, default=300, help="training images that are kept apart")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max-drop", type=float, default=0.5, help="points of accuracy")
    parser.add_argument("--epochs", type=float, help="of a stage")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, help="of a seed")
    parser.add_argument("--folder", type=Path, default=Path("sparser"))
    given = parser.parse_args()
    model = load(given.model)
    pairs = split(read(given.data, model.preprocess, split="train"), given.validation)
    for seed in given.seeds:
        start = time.monotonic()
        folder = given.folder / f"{Path(given.model).stem}-{seed}"
        found = sd.make_sparser(
            model,
            *pairs,
            folder=folder,
            max_drop=given.max_drop,
            epochs=given.epochs,
            minutes=given.minutes,
            batch=given.batch,
            learning_rate=given.learning_rate,
            seed=seed,
            progress=note,
        )
        print(f"\n{given.model}, seed {seed}, {(time.monotonic() - start) / 60:.0f} minutes", *found.notes)
        print("\n".join(map(row_of, found.rows)))
        cut = sd.prune(found.model, pairs[0], output=folder / "pruned.safetensors")
        print(f"channels: {[(c.before, c.after, c.proven, c.silent) for c in cut.cuts]}, integers moved: {cut.moved}")
        few = pairs[0][0][np.linspace(0, len(pairs[0][0]) - 1, 64).astype(int)]
        original = sd.run(sd.compile(given.model, calibrate_on=few, check=False), given.data)
        for name, program in (("sparser", found.program), ("fewer channels", sd.compile(cut.model, calibrate_on=few))):
            print(name, compared(original, sd.run(program, given.data)))


def split(images: ImageSet, validation: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images to train on and to judge by, with labels; the latter hold those that `spikdeploy train` keeps apart."""
    pixels, labels = np.asarray(images.pixels), images.labels
    assert labels is not None
    order = np.random.default_rng(VALIDATION_SEED).permutation(len(pixels))
    apart, rest = np.sort(order[:validation]), np.sort(order[validation:])
    return (pixels[rest], labels[rest]), (pixels[apart], labels[apart])


def row_of(row: Tried) -> str:
    """A stage as a row of a table."""
    if row.refused:
        return f"| {row.stage} | {row.setting:.3g} | {row.refused}"
    assert row.accuracy is not None
    assert row.synops is not None
    figures = f"{100 * row.accuracy:.2f} | {row.synops / 1e6:.3f} M | {row.dynamic_mj:.4f} | {row.total_mj:.4f}"
    return f"| {row.stage} | {row.setting:.3g} | {figures} | {row.seconds:.0f} s | {'holds' if row.holds else ''} |"


def compared(before: Run, after: Run) -> str:
    """Two runs on the same images in words."""
    chips = [next(e for e in run.energies if e.convention == "profile") for run in (before, after)]
    cores = [energy.within(NEURO_CORES).nominal for energy in chips]
    assert before.labels is not None
    right = [int((run.predictions == run.labels).sum()) for run in (before, after)]
    return (
        f"{right[0]} -> {right[1]} of {len(before.labels)} images right, synaptic operations "
        f"{before.events.synops / 1e6:.3f} M -> {after.events.synops / 1e6:.3f} M "
        f"({before.events.synops / after.events.synops:.2f} times fewer), neuro cores {cores[0]:.4f} -> "
        f"{cores[1]:.4f} mJ ({cores[0] / cores[1]:.2f}), "
        f"chips {chips[0].total.nominal:.4f} -> {chips[1].total.nominal:.4f} mJ"
    )


def note(done: int, total: int, text: str) -> None:
    """To the terminal now and then."""
    if done % 20 == 0 or done == total:
        print(f"{done}/{total} {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
