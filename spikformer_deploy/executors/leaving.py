"""Early exit by any executor: the engine lets images go as soon as they are done, all others run all steps first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.executors import choose
from spikformer_deploy.executors.execution import Leave, Left, Request
from spikformer_deploy.network.exits import check_exit, exit_steps, margins


def prepare(name: str, request: Request, margin: int) -> Leave:
    """The executor of that name with early exit at a margin, ready for the network of `request`.

    Raises InputError as choose.prepare does, and for a network whose images cannot leave (network.exits.check_exit).
    """
    check_exit(request.network)
    if name == "engine" and request.device == "cpu":
        from spikformer_deploy.executors.fast import leaving

        if leaving.carries(request.network):
            return leaving.prepare(request, margin)
    return after_all_steps(name, request, margin)


def after_all_steps(name: str, request: Request, margin: int) -> Leave:
    """The same by definition: all steps run, and the margins after each say which of them count.

    Images run a second time with those that left after the same step, since a batch has some of its counts as sums.
    """
    network = request.network
    head = check_exit(network)
    executor = choose.prepare(name, request)

    def execute(images: NDArray[np.integer], record: Sequence[str] = ()) -> list[Left]:
        recorded = tuple(dict.fromkeys((*record, network.output.name)))
        kept = executor.execute(images, (network.output.name,)).membranes[network.output.name]
        states = kept.astype(np.int64).reshape(len(images), network.time_steps, -1)
        after = exit_steps(margins(head, states), margin)
        groups = [(steps, np.flatnonzero(after == steps)) for steps in np.unique(after).tolist()]
        return [Left(steps, places, executor.execute(images[places], recorded)) for steps, places in groups]

    return Leave(execute, executor.batch)
