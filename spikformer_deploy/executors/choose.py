"""The executors, in one table: by name, what prepares each for a network.

All give the same integers, and any of them can check any other.  A new one is a module with a `prepare`, and a line
here.  They are imported when they are chosen: each needs libraries that the others do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from spikformer_deploy.base.errors import InputError

if TYPE_CHECKING:
    from spikformer_deploy.executors.execution import Executor, Request

DEVICES = ("cpu", "cuda")
"""Where the engine can run; all others know the CPU only."""


def _engine(request: Request) -> Executor:
    if request.device == "cuda":
        from spikformer_deploy.executors import gpu

        return gpu.prepare(request)
    from spikformer_deploy.executors.fast import engine

    return engine.prepare(request)


def _reference(request: Request) -> Executor:
    from spikformer_deploy.executors import reference

    return reference.prepare(request)


def _lava(request: Request) -> Executor:
    from spikformer_deploy.executors.lava import execute

    return execute.prepare(request)


def _onnx(request: Request) -> Executor:
    from spikformer_deploy.executors import onnx

    return onnx.prepare(request)


EXECUTORS: dict[str, Callable[[Request], Executor]] = {
    "engine": _engine,
    "reference": _reference,
    "lava": _lava,
    "onnx": _onnx,
}


def prepare(name: str, request: Request) -> Executor:
    """The executor of that name, ready for the network of `request`.

    Raises InputError for a name or a device that there is not, a missing library, or a memory limit that is too low.
    """
    if name not in EXECUTORS:
        raise InputError("--backend", f"'{name}' is none of {', '.join(EXECUTORS)}")
    if request.device not in DEVICES or (request.device != "cpu" and name != "engine"):
        raise InputError("--device", f"there is no {name} on '{request.device}'", "Use cpu, or cuda with the engine.")
    return EXECUTORS[name](request)
