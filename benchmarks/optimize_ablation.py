"""What each step of `spikdeploy optimize` gives by itself, and all together.

    python benchmarks/optimize_ablation.py digits-v2 --seeds 0 1 --max-drop 1 --epochs 30
    python benchmarks/optimize_ablation.py cifar10 --data cifar10.zip --validation 1000 --minutes 60 --rows all \
        --config optimize.toml

Training and validation images are of the training split; those of the test are looked at once for each row, by what was
chosen.  A run that is killed goes on from its folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from optimize_sparser import split

import spikformer_deploy as sd
from spikformer_deploy.accounting.target import NEURO_CORES
from spikformer_deploy.api.records import Run
from spikformer_deploy.data.read import read
from spikformer_deploy.inference.exits import ExitRun
from spikformer_deploy.optimization.details import Asked, read_asked
from spikformer_deploy.optimization.optimize import STEPS

ALL = "all"
CALIBRATED_ON = 1024
"""Images."""
HEADINGS = [
    *("seed", "steps", "kept", "synaptic operations, M", "neuro cores, mJ", "chips, mJ"),
    *("words", "validation, %", "right of the test"),
]


def main() -> None:
    """Print a row for the original, and for each seed one for each step and one for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", default="digits", help="images with a training and a test split")
    parser.add_argument("--validation", type=int, default=300, help="training images that are kept apart")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max-drop", type=float, default=0.5, help="points of accuracy, of each row")
    parser.add_argument("--epochs", type=float, help="of a stage")
    parser.add_argument("--minutes", type=float, help="of fine-tuning, of each row")
    parser.add_argument("--config", help="a TOML file, of whose [optimize] steps and details are taken")
    parser.add_argument("--rows", nargs="+", default=[*STEPS, ALL], help="steps by themselves, and all")
    parser.add_argument("--folder", type=Path, default=Path("ablation"))
    given = parser.parse_args()
    asked = read_asked(given.config) if given.config else Asked()
    model = sd.load(given.model)
    images = read(given.data, model.preprocess, split="train")
    training, validation = split(images, given.validation)
    print(f"| {' | '.join(HEADINGS)} |\n|{'--:|' * len(HEADINGS)}")
    # of all classes, in whatever order they stand
    few = np.random.default_rng(0).permutation(training[0])[:CALIBRATED_ON]
    original = sd.compile(model, calibrate_on=few, check=False)
    print(row_of("", "original", "", sd.run(original, validation), sd.run(original, given.data)), flush=True)
    for seed in given.seeds:
        for row in given.rows:
            found = sd.optimize(
                model,
                training,
                validation,
                folder=given.folder / f"{Path(given.model).stem}-{seed}-{row}",
                max_drop=given.max_drop,
                steps=(asked.steps or STEPS) if row == ALL else (row,),
                epochs=given.epochs,
                minutes=given.minutes,
                seed=seed,
                calibrate_on=few,
                **asdict(asked.details),
                progress=note,
            )
            margin = found.exit.threshold if found.exit else None
            validated, tested = (sd.run(found.program, on, early_exit=margin) for on in (validation, given.data))
            kept = ", ".join(f"{one.step} {one.setting}" for one in found.rows[1:] if one.kept) or "nothing"
            print(row_of(str(seed), row, kept, validated, tested), flush=True)
            for line in found.notes:
                print(f"  {line}", file=sys.stderr)


def row_of(seed: str, steps: str, kept: str, validation: Run | ExitRun, test: Run | ExitRun) -> str:
    """A row of the table; figures are an image of the validation, as the search saw them."""
    (energy,) = (e for e in validation.energies if e.convention == "profile")
    operations = validation.synaptic_ops if isinstance(validation, ExitRun) else validation.events.synops
    assert validation.accuracy is not None
    assert test.accuracy is not None
    assert test.labels is not None
    figures = (
        f"{operations / 1e6:.3f}",
        f"{energy.within(NEURO_CORES).nominal:.4f}",
        f"{energy.total.nominal:.4f}",
        f"{int(validation.program.mapping.words.sum()):,}",
        f"{100 * validation.accuracy:.2f}",
        f"{round(test.accuracy * len(test.labels))} of {len(test.labels)}",
    )
    return f"| {' | '.join((seed, steps, kept, *figures))} |"


def note(done: int, total: int, text: str) -> None:
    """To the terminal now and then."""
    if done % 20 == 0 or done == total:
        print(f"{done}/{total} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
