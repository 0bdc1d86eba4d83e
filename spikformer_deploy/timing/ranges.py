"""Runs of numbers that stand one after the other."""

from __future__ import annotations

import numpy as np

from spikformer_deploy.base.arrays import Int


def starts_of(lengths: Int) -> Int:
    """(n + 1,) where each of n runs begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)])


def numbers_in(first: Int, lengths: Int) -> Int:
    """first[i], first[i] + 1, ..., lengths[i] of them, run by run."""
    return np.repeat(first - starts_of(lengths)[:-1], lengths) + np.arange(lengths.sum())
