"""A network in Lava against the other executors, and the models of its Processes without Lava's runtime."""

import importlib
import multiprocessing
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import pytest

from spikformer_deploy.executors import reference
from spikformer_deploy.executors.lava import execute as lava
from spikformer_deploy.executors.lava.standalone import shim
from spikformer_deploy.network.mapping import Way
from spikformer_deploy.network.network import Network
from support.executions import assert_equal_activities


def assert_equal(network: Network, images: np.ndarray, *others: object, ways: Mapping[str, Way] | None = None) -> None:
    """Lava's execution, with attentions in these ways, is that of the reference, and of `others`."""
    names = [p.name for p in network]
    ours = lava.execute(network, images, record=names, ways=ways)
    for other in (reference, *others):
        theirs = other.execute(network, images, record=names)
        np.testing.assert_array_equal(ours.accumulators, theirs.accumulators)
        for name in names:
            np.testing.assert_array_equal(ours.spikes[name], theirs.spikes[name], err_msg=f"spikes of {name}")
            np.testing.assert_array_equal(ours.membranes[name], theirs.membranes[name], err_msg=f"potentials of {name}")
        for name, activity in theirs.activity.items():
            assert_equal_activities(ours.activity[name], activity, name)


def processes_of(name: str) -> ModuleType:
    """A module of standalone/processes, in this process; skips the test where Lava is not installed.

    Lava decides for a whole process how it makes others, when it is imported: not for this one.
    """
    pytest.importorskip("lava", reason="lava-nc is not installed: see the Makefile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "set_start_method", lambda *_: None)
        shim.make_importable()
        return importlib.import_module(f"{shim.__package__}.processes.{name}")


class Line:
    """A port that keeps what is sent for those who receive."""

    def __init__(self, shape: tuple[int, ...], *waiting: np.ndarray) -> None:
        self.shape, self.waiting = shape, list(waiting)

    def send(self, message: np.ndarray) -> None:
        assert message.shape == self.shape
        self.waiting.append(message)

    def recv(self) -> np.ndarray:
        return self.waiting.pop(0)
