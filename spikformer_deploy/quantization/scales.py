"""Scale groups anchored at the threshold: the integer threshold is chosen first, so that it has no rounding error.

A channel with integer threshold theta has weights w * theta * gain, rounded (gain: see gain_of).  A core holds few
different thresholds, so that channels share them in groups.  Of the thetas for which all weights of a group fit, the
one with the least error of the currents is taken: mostly one of the largest, but weights that stand near a coarser grid
are served better by another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.graph import ir

SCORED_WEIGHTS = 8192
"""Weights of a group that a threshold is judged by, spread evenly: the error of all hardly differs."""
SCORED_AT_ONCE = 2**15
"""Weights times thresholds that are rounded in one array: small groups take all thresholds at once, in the cache."""
COMMON = 1.0
"""Weight of (sum e)^2 beside sum e^2: r / (1 - r) for independent inputs of rate r, about 0.2 here; but spikes of one
image come together.  At 1 the bundled cifar10 keeps 80 % at 4 bits, at r / (1 - r) 78 %, and without the term 72 %."""
MOST_SCORED = 128
"""Thresholds that are judged at most: beyond, neighbours differ by less than a percent."""
MAX_CANDIDATES = 256
"""Boundaries between groups that the clustering looks at: enough for 3,072 channels to lose less than a percent."""


def gain_of(neuron: ir.Neuron) -> float:
    """What a current of 1 adds to the potential, in units of the threshold."""
    if isinstance(neuron, ir.Levels):
        return 1 / neuron.threshold
    lif = neuron
    return (1 / lif.tau if lif.decay_input else 1.0) / lif.v_threshold


def kept_by(neuron: ir.Neuron) -> float:
    """The share of its potential that a time step leaves a neuron, 0 to 1."""
    return neuron.keep if isinstance(neuron, ir.Levels) else 1 - 1 / neuron.tau


def check_units(name: str, units: Float) -> None:
    """Raise QuantizeError where a stream or a count stands for no positive number: no threshold is in its units."""
    if np.any(units <= 0):
        problem = "it reads a mean or a stream times a number that is not positive"
        raise QuantizeError(name, problem, "Fold the factor into a layer before.")


def scale_groups(peaks: Float, granularity: str, most_groups: int) -> NDArray[np.int64]:
    """The group of each channel, numbered from 0.

    peaks        (C,) largest |weight| of each channel
    granularity  "tensor": one group; "channel": one each; "group": at most `most_groups`, the partition of the sorted
                 channels that minimises the sum of squared rounding steps, sum over groups of size * max(peak)^2
    """
    channels = len(peaks)
    if granularity == "tensor" or most_groups == 1:
        return np.zeros(channels, np.int64)
    if granularity == "channel" or channels <= most_groups:
        return np.arange(channels)
    order = np.argsort(-peaks, kind="stable")
    groups = np.empty(channels, np.int64)
    groups[order] = _split_sorted(peaks[order], most_groups)
    return groups


def largest_thresholds(
    peaks: Float, groups: NDArray[np.int64], gain: float, largest_weight: int, cap: int
) -> NDArray[np.int64]:
    """(C,) the largest integer threshold of each group for which every weight rounds to at most `largest_weight`.

    peaks  (C,) largest |weight| of each channel; gain: weight in units of the threshold = weight * gain
    cap    largest threshold that the neuron can hold; 0 is returned where not even 1 fits
    """
    group_peaks = np.zeros(groups.max() + 1)
    # not group_peaks[groups] = ...: channels of one group would overwrite each other
    np.maximum.at(group_peaks, groups, peaks * gain)
    # A weight may be up to half a unit larger than the largest integer that it rounds to.  A group of zeros divides by
    # zero, and takes the cap.
    with np.errstate(divide="ignore"):
        limit = np.minimum((largest_weight + 0.5) / group_peaks, cap)
    thresholds = np.floor(limit).astype(np.int64)
    # nearest rounding may reach one more exactly at .5
    thresholds -= np.rint(group_peaks * thresholds) > largest_weight
    return thresholds[groups]


def least_error_thresholds(
    weights: Float, largest: NDArray[np.int64], groups: NDArray[np.int64], gain: float
) -> NDArray[np.int64]:
    """(C,) of the thresholds from half of `largest` to it, the one of each group with the least error of the currents.

    weights  (C, N) real; largest (C,) the largest thresholds that fit, as largest_thresholds finds them
    Inputs that fire independently at a rate r make a squared error of r (1 - r) sum e^2 + r^2 (sum e)^2 from the
    errors e of the weights of a channel.  The upper half holds a multiple of everything below it.  Ties go to the
    larger threshold.
    """
    best = largest.copy()
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        top = int(largest[members[0]])
        # whole channels, evenly spread: errors of one channel add up
        every = max(1, weights[members].size // SCORED_WEIGHTS)
        scored = weights[members[::every]] * gain
        # falling, so that argmin gives a tie to the larger threshold
        candidates = np.arange(top, max(top // 2, top - MOST_SCORED, 0), -1)
        at_once = max(1, SCORED_AT_ONCE // max(1, scored.size))
        parts = [candidates[start : start + at_once] for start in range(0, len(candidates), at_once)]
        if parts:  # none where not even a threshold of 1 fits
            best[members] = candidates[int(np.argmin(np.concatenate([_errors(scored, part) for part in parts])))]
    return best


def _errors(weights: Float, thresholds: NDArray[np.int64]) -> Float:
    """(K,) the squared error of currents for each of K thresholds: of the weights (C, N) by themselves, and shared."""
    thetas = thresholds[:, None, None]
    errors = np.rint(weights * thetas) / thetas - weights
    of_each: Float = (errors**2).reshape(len(errors), -1).sum(1) + COMMON * (errors.sum(2) ** 2).sum(1)
    return of_each


def _split_sorted(peaks: Float, most_groups: int) -> NDArray[np.int64]:
    """Group numbers of channels sorted by falling peak: dynamic programming over group boundaries.

    A best partition into g groups is a best one of the first channels into g - 1, and one more group behind it.
    """
    channels = len(peaks)
    # Boundaries are looked for among a few candidates only: all pairs of 3,072 channels would be 9 million prices.
    cuts = np.unique(np.linspace(0, channels, min(channels, MAX_CANDIDATES) + 1).astype(np.int64))
    squares = peaks[cuts[:-1]] ** 2
    sizes = cuts[:, None] - cuts[None, :-1]
    # price[end, start]: the group of candidates start..end; its step is set by its first, largest channel
    price = np.where(sizes > 0, sizes * squares, np.inf)
    # best[end]: the least price of all channels before `end`, in as many groups as have been looked at so far
    best = price[:, 0].copy()
    best[0] = 0.0
    choices = []
    for _ in range(most_groups - 1):
        total = np.minimum(best[:-1] + price, np.inf)
        choice = total.argmin(1)
        improved = total[np.arange(len(cuts)), choice]
        improved[0] = 0.0
        choices.append(choice)
        best = improved
    # From the last group back: each choice says where its group starts, which is where the group before it ends.
    groups = np.empty(channels, np.int64)
    end = len(cuts) - 1
    for number in range(most_groups - 1, -1, -1):
        start = int(choices[number - 1][end]) if number and end else 0
        groups[cuts[start] : cuts[end]] = number
        end = start
    return groups
