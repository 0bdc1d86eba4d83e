"""Run a network in ONNX Runtime: an executor that shares no arithmetic with the engine, the reference or Lava."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.converters.onnx.nodes import check_installed
from spikformer_deploy.converters.onnx.program import pixel_type, to_model
from spikformer_deploy.executors.execution import Cells, Execution, Executor, Request, check_state, frames
from spikformer_deploy.executors.recorded import execution
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Max

BATCH_BYTES = 2**29
"""Images are run in batches whose messages and potentials stay below this."""


def prepare(request: Request) -> Executor:
    """ONNX Runtime; raises InputError where it is missing."""
    check_installed()
    network = request.network
    image_bytes = 20 * network.time_steps * sum(p.size for p in network)
    return Executor(
        lambda images, record=(): execute(network, images, record=record, cells=request.cells),
        request.images_at_once(image_bytes, BATCH_BYTES),
    )


def execute(
    network: Network,
    images: NDArray[np.integer],
    *,
    record: Sequence[str] = (),
    cells: Mapping[str, Cells] | None = None,
) -> Execution:
    """Run `images` in ONNX Runtime on the CPU; arguments and result as reference.execute.

    Raises InputError where ONNX Runtime is missing or images do not fit, OverflowDetected where a state leaves its
    bits, ModelError for sums that it cannot hold.
    """
    check_installed()
    frames(network, images)
    session = _session(network)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {"pixels": images.astype(pixel_type(network))}), strict=True))
    sent = _of_kind("sent/", outputs)
    potentials = _of_kind("potential/", outputs)
    peak = {p.name: _peak(network, p, outputs, sent) for p in network}
    for population in network:
        # before what is recorded after a reset: the engine looks at what a reset hides, too
        check_state(network, population, peak[population.name])
    done = execution(network, outputs["accumulators"], sent, potentials, record, cells, "onnxruntime")
    return replace(done, peak_state=peak)


def _of_kind(prefix: str, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs whose names start with `prefix`, by the names of their populations."""
    return {
        name.removeprefix(prefix): values.astype(np.int64)
        for name, values in outputs.items()
        if name.startswith(prefix)
    }


def _peak(network: Network, population: Population, outputs: Mapping[str, Any], sent: Mapping[str, Any]) -> int:
    """Largest magnitude of the states and sums of a population."""
    if population is network.input:
        return 0
    if isinstance(population.neuron, Max):
        return int(np.abs(sent[population.name]).max(initial=0))
    return int(outputs[f"reached/{population.name}"])


@lru_cache(maxsize=1)
def _session(network: Network) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = to_model(network, [p.name for p in network]).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
