"""The whole story on a bundled model: compile, run on images in the box, verify every spike, write the report."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spikformer_deploy.base.progress import Progress, say
from spikformer_deploy.converters.checkpoints.read import SHOWN, load
from spikformer_deploy.inference.run import run
from spikformer_deploy.inference.verify import verify
from spikformer_deploy.pipeline.stages import Step, compile_model
from spikformer_deploy.report.tables import compile_summary, program_table, run_tables, verify_tables
from spikformer_deploy.report.write import write_report

LAVA_IMAGES = 32
"""Lava is a thousand times slower than the engine."""


def demo(
    model: str, output: Path, report: Callable[[Step], None] | None, progress: Progress
) -> tuple[dict[str, Any], list[Any]]:
    """Everything as plain values, and as tables; the report goes to `output`."""
    start = time.monotonic()
    loaded = load(model)
    data = SHOWN[model]
    compiled = compile_model(loaded, "loihi2", calibrate_on=None if data == "digits" else data, report=report)
    result = run(compiled.program, data)
    verdict = verify(compiled.program, data, model=loaded, backends=_executors_present(), progress=progress)
    if importlib.util.find_spec("lava") is not None:
        in_lava = verify(compiled.program, data, backends=("lava",), limit=LAVA_IMAGES, progress=progress)
        verdict.backends[f"lava ({LAVA_IMAGES} images)"] = in_lava.passed
    else:
        say("Lava is not installed, and nothing is compared with it: `spikdeploy setup lava` installs it")
    write_report(result, output, verdict=verdict)
    summary = compile_summary(compiled.program, model, compiled.seconds, result.peak_memory_mib)
    values = {
        "compile": summary,
        "run": result.to_dict(),
        "verify": verdict.to_dict(),
        "report": str(output),
        "seconds": time.monotonic() - start,
        "passed": verdict.passed,
    }
    return values, [program_table(model, summary), *run_tables(result), *verify_tables(verdict)]


def _executors_present() -> tuple[str, ...]:
    """The executors beside the engine that this machine has, other than Lava."""
    has_onnx = all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime"))
    return ("reference", "onnx") if has_onnx else ("reference",)
