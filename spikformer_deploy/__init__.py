"""Compile trained Spikformers to integer programs for Loihi-style chips, run them bit-exactly, account for the energy.

    import spikformer_deploy as sd
    program = sd.compile("digits-v2", target="loihi2")
    run = sd.run(program, "digits")
    run.report("report.html")

Names are imported when they are first used, so that `import spikformer_deploy` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "compile": "api",
    "run": "api",
    "sweep": "api",
    "Run": "api",
    "count_operations": "api",
    "load": "converters.models",
    "Preprocess": "data.images",
    "from_spikingjelly": "converters.checkpoints.spikingjelly",
    "trace": "graph.trace",
    "quantize": "quantization.build",
    "map_network": "mapping.map",
    "compile_model": "pipeline.stages",
    "export": "pipeline.export",
    "energy": "inference.energy",
    "Program": "pipeline.program",
    "verify": "inference.verify",
    "account": "accounting.energy",
    "SpikdeployError": "base.errors",
}
"""Where each name stands.  No module of this package has the name of one of them: it would hide it once imported."""

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'spikformer_deploy' has no attribute '{name}'")
    return getattr(import_module(f"spikformer_deploy.{_PUBLIC[name]}"), name)
