"""Integer neurons of targets that send single spikes: a population of threshold neurons for each of the D levels.

Neuron j of D fires where the sum reaches level j, so that as many fire as the integer neuron would send, in the same
time step.  Whoever reads it has the same synapses on all D populations: W * s = sum of W * s_j.  They are the integers
of Levels, taken apart: nothing else is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.network.decay import decay_keeping
from spikformer_deploy.network.neurons import STOCK_SHIFT, LifKind
from spikformer_deploy.quantization.currents import AttentionTerm
from spikformer_deploy.quantization.fitting import Quantized
from spikformer_deploy.quantization.levels import Integers, Task, choices, none_fit
from spikformer_deploy.quantization.lif_fitting import LifRule, LifTask, fits, quantized_lif, with_range

WAY_OUT = "Use a target with graded spikes and programmable neurons (loihi2), or a model of binary spikes."


def make_thermometer(task: Task, names: Sequence[str]) -> list[Quantized]:
    """The D populations of a graph's Levels, level by level, called `names`.

    Raises QuantizeError for neurons that keep a potential, for an attention, and where no integers fit the target.
    """
    _refuse_others(task)
    limits = task.limits
    # stock neurons hold everything shifted, so that less of the state is left
    shifted = STOCK_SHIFT if task.settings.neuron == LifKind.STOCK else 0
    task = replace(task, limits=replace(limits, state_bits=limits.state_bits - shifted))
    for integers in choices(task):
        populations = [_level(task, limits, called, integers, j) for j, called in enumerate(names)]
        found = [population for population in populations if population is not None]
        if len(found) == len(names):
            return found
    raise none_fit(task.name, limits)


def _refuse_others(task: Task) -> None:
    """QuantizeError for what threshold neurons side by side do not do."""
    name = task.name
    op = task.op
    if op.keep and task.time_steps > 1:
        problem = (
            f"it keeps a potential between time steps and sends integers up to {op.count}: with single spikes it takes "
            f"{op.count} of them one after the other, which is not built"
        )
        raise QuantizeError(name, problem, WAY_OUT)
    if any(isinstance(term, AttentionTerm) for term in task.current.terms):
        problem = f"each of its {op.count} levels would be a population with an attention of its own"
        raise QuantizeError(name, problem, WAY_OUT)


def _level(task: Task, limits: CoreLimits, name: str, integers: Integers, j: int) -> Quantized | None:
    """The neurons that fire from level j on, counted from 0; None where the target does not hold them."""
    neuron = integers.neuron
    fires_from = neuron.levels[:, j]
    # a neuron whose level is not above 0 fires without input: a bias lifts its potential, and its threshold is positive
    lift = np.maximum(0, 1 - fires_from)
    bias = neuron.bias + (lift if neuron.bias.ndim == 1 else lift[:, None, None])
    rule = LifRule(decay_keeping(0.0), task.time_steps, task.settings.neuron, soft=False, strict=False)
    attempt = with_range(fires_from + lift, neuron.shift, bias, integers.low + lift, integers.high + lift, rule)
    too_high = int(attempt.threshold.max()) >= 2**limits.threshold_bits and rule.kind == LifKind.STOCK
    if too_high or not fits(attempt, limits, rule.kind):
        return None
    projections = tuple(replace(projection, target=name) for projection in integers.projections)
    lif = LifTask(name, task.current, 1.0, rule, task.observed, limits, task.settings)
    return quantized_lif(lif, attempt, projections, integers.proven).rounded_by(integers.error)
