"""Compile trained Spikformers to integer programs for Loihi-style chips, run them bit-exactly, account for the energy.

    import spikformer_deploy as sd
    program = sd.compile("digits-v2", target="loihi2")
    run = sd.run(program, "digits")
    run.report("report.html")

Names are imported when they are first used, so that `import spikformer_deploy` is quick.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikformer_deploy.accounting.energy import account as account
    from spikformer_deploy.api.calls import compile as compile
    from spikformer_deploy.api.calls import count_operations as count_operations
    from spikformer_deploy.api.calls import energy as energy
    from spikformer_deploy.api.calls import export as export
    from spikformer_deploy.api.calls import load as load
    from spikformer_deploy.api.calls import run as run
    from spikformer_deploy.api.calls import sweep as sweep
    from spikformer_deploy.api.calls import verify as verify
    from spikformer_deploy.api.optimization import choose_bits as choose_bits
    from spikformer_deploy.api.optimization import choose_exit as choose_exit
    from spikformer_deploy.api.optimization import fewer_channels as fewer_channels
    from spikformer_deploy.api.optimization import fewer_steps as fewer_steps
    from spikformer_deploy.api.optimization import make_sparser as make_sparser
    from spikformer_deploy.api.optimization import optimize as optimize
    from spikformer_deploy.api.optimization import prune as prune
    from spikformer_deploy.api.records import Run as Run
    from spikformer_deploy.base.errors import SpikdeployError as SpikdeployError
    from spikformer_deploy.base.options import OptionError as OptionError
    from spikformer_deploy.converters.checkpoints.spikingjelly import from_spikingjelly as from_spikingjelly
    from spikformer_deploy.data.images import Preprocess as Preprocess
    from spikformer_deploy.graph.trace import trace as trace
    from spikformer_deploy.inference.exits import ExitRun as ExitRun
    from spikformer_deploy.inference.stream import Stream as Stream
    from spikformer_deploy.mapping.map import map_network as map_network
    from spikformer_deploy.pipeline.program import Program as Program
    from spikformer_deploy.pipeline.stages import compile_model as compile_model
    from spikformer_deploy.quantization.build import quantize as quantize

    __version__: str

_PUBLIC = {
    "compile": "api.calls",
    "run": "api.calls",
    "verify": "api.calls",
    "energy": "api.calls",
    "export": "api.calls",
    "sweep": "api.calls",
    "load": "api.calls",
    "count_operations": "api.calls",
    "optimize": "api.optimization",
    "fewer_steps": "api.optimization",
    "fewer_channels": "api.optimization",
    "make_sparser": "api.optimization",
    "prune": "api.optimization",
    "choose_bits": "api.optimization",
    "choose_exit": "api.optimization",
    "Run": "api.records",
    "ExitRun": "inference.exits",
    "OptionError": "base.options",
    "Stream": "inference.stream",
    "Preprocess": "data.images",
    "from_spikingjelly": "converters.checkpoints.spikingjelly",
    "trace": "graph.trace",
    "quantize": "quantization.build",
    "map_network": "mapping.map",
    "compile_model": "pipeline.stages",
    "Program": "pipeline.program",
    "account": "accounting.energy",
    "SpikdeployError": "base.errors",
}
"""Where each name stands.  No module of this package has the name of one of them: it would hide it once imported."""

__all__ = list(_PUBLIC)

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables by which a user says how threads of OpenMP wait for each other."""


def _wait_passively() -> None:
    """Let threads of OpenMP sleep while they wait, unless the user has said otherwise.

    Those of torch wait for each other after every layer; where other work shares the cores, those that wait busily keep
    the late one from running (7 times the time of a float pass).  OpenMP reads this once, when torch is loaded: it must
    stand before that.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


_wait_passively()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("spikformer-deploy")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'spikformer_deploy' has no attribute '{name}'")
    return getattr(import_module(f"spikformer_deploy.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "__doc__", "__version__"])
