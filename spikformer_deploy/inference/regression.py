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

    None where all targets are alike, and there is nothing to compare with.
    Source: Lv et al. 2024, arXiv 2402.01533, in the form of its code (microsoft/SeqSNN): one m for all outputs in R2,
    and one c for each of them in RSE.
    """
    squares = float(((targets - results) ** 2).sum())
    around_all = float(((targets - targets.mean()) ** 2).sum())
    around_each = float(((targets - targets.mean(0)) ** 2).sum())
    return {
        "mse": squares / targets.size,
        "mae": float(np.abs(targets - results).mean()),
        "r2": 1 - squares / around_all if around_all else None,
        "rse": float(np.sqrt(squares / around_each)) if around_each else None,
    }
