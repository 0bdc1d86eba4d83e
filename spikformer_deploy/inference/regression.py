"""How far real results are from their targets, as papers on time series say it."""

from __future__ import annotations

import numpy as np

from spikformer_deploy.base.arrays import Float

SCORES = ("mse", "mae", "r2", "rse")
"""What `scores` gives, in order."""


def scores(results: Float, targets: Float) -> dict[str, float | None]:
    """Errors of results (N, O) against targets (N, O), over all of both.

        mse = mean of (y - p)^2                             mae = mean of |y - p|
        r2  = 1 - sum of (y - p)^2 / sum of (y - m)^2       m: the mean of all targets
        rse = sqrt(sum of (y - p)^2 / sum of (y - c)^2)     c: the mean of each output over the inputs

    None where all targets are alike, and there is nothing to compare with; and where squares are beyond any double.
    Source: Lv et al. 2024, arXiv 2402.01533, in the form of its code (microsoft/SeqSNN): one m for all outputs in R2,
    and one c for each of them in RSE.
    """
    # a model that diverged may be so far off that squares overflow
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(targets - results).sum()
        around_all = np.square(targets - targets.mean()).sum()
        around_each = np.square(targets - targets.mean(0)).sum()
        found = {
            "mse": squares / targets.size,
            "mae": np.abs(targets - results).mean(),
            "r2": 1 - squares / around_all if around_all else np.nan,
            "rse": np.sqrt(squares / around_each) if around_each else np.nan,
        }
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
