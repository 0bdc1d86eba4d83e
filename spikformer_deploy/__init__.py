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
    "load": ("spikformer_deploy.converters.models", "load"),
    "from_spikingjelly": ("spikformer_deploy.converters.checkpoints.spikingjelly", "from_spikingjelly"),
    "trace": ("spikformer_deploy.graph.trace", "trace"),
    "quantize": ("spikformer_deploy.quantization.build", "quantize"),
    "map_network": ("spikformer_deploy.mapping", "map_network"),
    "compile_model": ("spikformer_deploy.pipeline.stages", "compile_model"),
    "run": ("spikformer_deploy.inference", "run"),
    "verify": ("spikformer_deploy.verify", "verify"),
    "account": ("spikformer_deploy.accounting.energy", "account"),
    "export": ("spikformer_deploy.pipeline.export", "export"),
    "Program": ("spikformer_deploy.pipeline.program", "Program"),
    "Run": ("spikformer_deploy.inference", "Run"),
    "SpikdeployError": ("spikformer_deploy.errors", "SpikdeployError"),
}

__all__ = [*_PUBLIC, "compile"]


def compile(model: Any, target: str = "loihi2", **options: Any) -> Any:
    """The Program of a model for a target; options as pipeline.compile_model, which also gives the float graph."""
    from spikformer_deploy.pipeline.stages import compile_model

    return compile_model(model, target, **options).program


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'spikformer_deploy' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)
