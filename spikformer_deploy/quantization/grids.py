"""Weights that stand on a grid already: integers times a step, as quantization-aware training leaves them.

Such integers are taken as they are.  Ternary weights, powers of two and learnt step sizes are all of this kind.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float

SAME = 2.0**-21
"""Relative distance of numbers that went through a few roundings to fp32, as weights in files have."""
FIRST_LOOK = 64
"""Weights of a channel that are looked at before all of them: they tell nearly always that there is no grid."""
FEW = 4
"""The largest of them, which leave few numbers of steps to try: all numbers are tried on them at once."""


def grid_steps(weights: Float, largest: int) -> Float | None:
    """(C,) the step of each channel, so that every weight is a whole multiple k of it with |k| <= largest.

    weights  (C, N) real.  None where some channel has no such step.  One step for all channels where there is one,
    else the largest of each channel.  A channel of zeros takes the step of its neighbours.
    """
    sizes = np.abs(weights)
    if not sizes.size or not sizes.any():
        return None
    shared = _steps(sizes.reshape(1, -1), largest)
    if shared[0]:
        return np.full(len(sizes), shared[0])
    steps = _steps(sizes, largest)
    empty = ~sizes.any(1)
    if (steps[~empty] == 0).any():
        return None
    return np.where(empty, np.median(steps[~empty]), steps)


def _steps(sizes: Float, largest: int) -> Float:
    """(R,) the largest step of each row of magnitudes, 0 where there is none: the peak divided by 1, 2, 3, ..."""
    peaks = sizes.max(1)
    steps = np.zeros(len(sizes))
    # The largest weights have the most room to miss a grid: they are looked at first, and are nearly always enough.
    order = np.argsort(-sizes[:, : 4 * FIRST_LOOK], 1)[:, :FIRST_LOOK]
    first = np.take_along_axis(sizes, order, 1)
    for most in _candidates(first[:, :FEW], peaks, largest):
        # a row that has its step, or that is all zeros, is done
        rows = np.flatnonzero((steps == 0) & (peaks > 0))
        rows = rows[_on_grid(first[rows], most / peaks[rows], most)]
        rows = rows[_on_grid(sizes[rows], most / peaks[rows], most)]
        whole = np.rint(sizes[rows] * (most / peaks[rows])[:, None])
        # least squares over all weights: nearer to the step that was meant than one weight is
        steps[rows] = (sizes[rows] * whole).sum(1) / (whole**2).sum(1)
    return steps


def _candidates(few: Float, peaks: Float, largest: int) -> list[int]:
    """Of 1, 2, ... `largest` steps at the peak, those for which the magnitudes (R, N) of some row are whole numbers."""
    most = np.arange(1, largest + 1)
    rows = peaks > 0
    scaled = few[rows, :, None] * (most / peaks[rows, None])[:, None]
    return [int(n) for n in most[(np.abs(scaled - np.rint(scaled)) <= most * SAME).all(1).any(0)]]


def _on_grid(sizes: Float, per_step: Float, most: int) -> NDArray[np.bool_]:
    """(R,) whether all magnitudes of a row are whole numbers, up to `most`, times 1 / per_step."""
    scaled = sizes * per_step[:, None]
    # The peak is `most` steps: its own relative error is that many times larger in steps.
    return np.asarray((np.abs(scaled - np.rint(scaled)) <= most * SAME).all(1))


def whole_thresholds(thresholds: Float, shift: int, strict: bool) -> NDArray[np.int64]:
    """(C,) real thresholds as integers with `shift` fractional bits, where potentials are whole numbers of them.

    v >= threshold is v >= ceil(threshold), and v > threshold is v > floor(threshold); what is whole but for the
    rounding of fp32 is taken as whole.
    """
    scaled = thresholds * 2.0**shift
    away = np.floor(scaled) if strict else np.ceil(scaled)
    return np.where(are_whole(scaled), np.rint(scaled), away).astype(np.int64)


def are_whole(values: Float) -> NDArray[np.bool_]:
    """Which positive values are integers but for the rounding of fp32."""
    return np.asarray(np.abs(values - np.rint(values)) <= SAME * values)


def weight_error(real: Float, rounded: NDArray[np.int64]) -> float:
    """Largest difference between integers and what they stand for, (C, ...), over the largest of its channel."""
    if not real.size:
        return 0.0
    errors = np.abs(real - rounded).reshape(len(real), -1).max(1)
    peaks = np.abs(real).reshape(len(real), -1).max(1)
    return float((errors[peaks > 0] / peaks[peaks > 0]).max(initial=0.0))


def none_below(error: float) -> float:
    """An error of rounding; none where it is within that of fp32, in which models are stored."""
    return error if error > 2 * SAME else 0.0
