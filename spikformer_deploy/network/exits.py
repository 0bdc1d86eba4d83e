"""Early exit: after which time step an image is done, by the margin between the two largest accumulators of the head.

After each of the first T - 1 steps the head of a program of so many steps (steps.states_after) has a largest and a
second largest accumulator.  An image whose largest is ahead by the threshold or more leaves; after T steps every image
does.
"""

from __future__ import annotations

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.steps import states_after

LEAVE_OUT = "Leave it out."
"""The way out where early exit has no meaning."""


def check_exit(network: Network) -> Accumulator:
    """The head of a network whose images can leave early.

    Raises InputError where there is only one class or one time step, and for a head that does not add up over steps.
    """
    head = network.output.neuron
    assert isinstance(head, Accumulator)
    if network.output.size < 2:
        raise InputError("--early-exit", "the program has one output, and a margin is between two classes", LEAVE_OUT)
    if network.time_steps < 2:
        raise InputError("--early-exit", "the program has one time step, after which every image is done", LEAVE_OUT)
    if head.last:
        problem = "the program reads the last time step only: what it holds before says nothing of the answer"
        raise InputError("--early-exit", problem, "Leave it out, or train a head that reads the mean over the steps.")
    return head


def check_margin(margin: int) -> None:
    """Raise InputError for a threshold below 1, which every image reaches after the first step, ties too."""
    if margin < 1:
        problem = f"a margin of {margin}, which ties reach too"
        raise InputError("--early-exit", problem, "Give a whole number of at least 1, in units of the accumulators.")


def margins(head: Accumulator, states: Int) -> Int:
    """(N, T) how far the largest accumulator is ahead of the second largest after each step; 0: a tie.

    states  (N, T, classes) int64 what the head of T steps holds after each of them
    """
    largest = np.partition(states_after(head, states), -2, axis=2)[:, :, -2:]
    return largest[:, :, 1] - largest[:, :, 0]


def exit_steps(ahead: Int, margin: int) -> Int:
    """(N,) int64 the step, 1 to T, after which each image leaves.

    ahead  (N, T) margins after each step; margin: the threshold, at which an image leaves too
    """
    done = ahead >= margin
    # every image is done after the last step
    done[:, -1] = True
    return done.argmax(1) + 1
