"""The LIF of weights that stand on a grid already: they are integers times a step, and stay the integers they are.

Quantization-aware training leaves such weights.  Nothing of them is rounded; the threshold follows from the step.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.quantization.currents import ConvTerm
from spikformer_deploy.quantization.fitting import Quantized
from spikformer_deploy.quantization.grids import are_whole, grid_steps
from spikformer_deploy.quantization.lif_fitting import MOST_FRACTION_BITS, LifRule, LifTask, fits
from spikformer_deploy.quantization.weights import attempt_of, convolutions, weighted_lif, within_bits


def lif_on_grid(task: LifTask) -> Quantized | None:
    """The LIF of weights that are integers times a step: those integers, and the threshold in units of the step.

    None where they are not, or where it does not fit without giving something up.
    The threshold need not be whole: with the bits of the decay, a potential reaches it where it reaches the next whole
    number of those bits.
    """
    terms = convolutions(task)
    steps = _steps(task, terms)
    if steps is None:
        return None
    thresholds = 1 / (steps * task.gain)
    weights = [np.rint(term.weight / steps[:, None, None, None]).astype(np.int64) for term in terms]
    if not within_bits(terms, weights, task.settings):
        return None
    needed = _fraction_bits(thresholds, task.rule)
    fewest = needed or 0
    # A bias can use more bits than the decay needs; without one they would be zeros.
    most = MOST_FRACTION_BITS if needed is None or np.any(task.current.bias) else needed
    # Most bits first, as they round the bias least; of each number a proof is tried before an observation.
    for shift, proven in product(range(max(most, fewest), fewest - 1, -1), (True, False)):
        scaled = thresholds * 2.0**shift
        # below a half a threshold would round to zero, and the neuron would fire without input
        if scaled.max() >= 2**task.threshold_bits or scaled.min() < 0.5:
            continue
        attempt = attempt_of(task, weights, thresholds, shift, proven)
        if fits(attempt, task.limits, task.settings.neuron):
            quantized = weighted_lif(task, attempt, 1 / steps, weights, proven)
            # Only where no number of bits is enough for the decay, a threshold between two numbers is rounded.
            off = 0.0 if needed is not None else float((1 / scaled).max())
            return quantized.rounded_by(max(quantized.population.rounding, off))
    return None


def _steps(task: LifTask, terms: list[ConvTerm]) -> Float | None:
    """(C,) the step of all weights of each channel, in all convolutions alike; None where there is none."""
    if not terms:
        return None
    flat = np.concatenate([term.weight.reshape(len(term.weight), -1) for term in terms], 1)
    steps = grid_steps(flat, task.largest_weight)
    if steps is not None and task.settings.granularity == "tensor" and np.ptp(steps):
        # one threshold for the whole layer was asked for, and there is one a channel
        return None
    return steps


def _fraction_bits(thresholds: Float, rule: LifRule) -> int | None:
    """The fewest fractional bits with which potentials of whole sums compare with real thresholds without an error.

    None: no number of bits is enough.
    """
    if are_whole(thresholds).all() or rule.decay.bits_per_step is None:
        return rule.bits_for_decay
    # A threshold between two whole numbers: the potential must keep every bit of its decay, also where rounding halves
    # would change no spike otherwise.
    bits = (rule.time_steps - 1) * rule.decay.bits_per_step
    return bits if bits <= MOST_FRACTION_BITS else None
