"""The first time steps of a network: a network of fewer steps with the same integers does just that.

Nothing in a time step depends on a later one: spikes, potentials and events of the first t of T steps are those of a
network of t steps.  Only a head that sums over the steps differs, as it starts at the bias of all its steps.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator


def first_steps(network: Network, steps: int) -> Network:
    """The network of the first `steps` time steps, 1 to T, with the same integers.

    A head that sums starts at its share of the bias, to the nearest integer, halves up; its logits are the mean over
    `steps` steps.  A network that reads frames reads the first of them.
    """
    *others, output = network.populations
    head = output.neuron
    assert isinstance(head, Accumulator)
    if not head.last:
        scale = head.scale * (network.time_steps / steps)
        head = replace(head, bias=share_of_bias(head.bias, steps, network.time_steps), scale=scale)
    return replace(network, populations=(*others, replace(output, neuron=head)), time_steps=steps)


def share_of_bias(bias: Int, steps: int, time_steps: int) -> Int:
    """Of a bias of `time_steps` steps that of `steps`, to the nearest integer, halves up."""
    return (2 * bias * steps + time_steps) // (2 * time_steps)


def states_after(head: Accumulator, states: Int) -> Int:
    """(N, T, classes) what the heads of the networks of 1 to T steps hold in the end; states: that of T after each.

    Of a head at each position, (C, Y, X), there is a class a channel and position.
    """
    if head.last:
        return states
    steps = states.shape[1]
    bias = bias_of_classes(head, states.shape[2])
    starts = np.stack([share_of_bias(bias, step, steps) for step in range(1, steps + 1)])
    return states - bias + starts


def bias_of_classes(head: Accumulator, classes: int) -> Int:
    """(classes,) the biases of a head; one bias a channel is that of all its positions."""
    return head.bias.ravel() if head.bias.ndim > 1 else np.repeat(head.bias, classes // len(head.bias))
