"""What the engine finds on this machine, and what it will run: plain data for the command `machine`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from spikformer_deploy.executors.fast import costs, measure, synapses
from spikformer_deploy.network.synapses import Conv

CHANNELS = 128
"""Of the layer that stands for all: 3x3, as many outputs, weights of all sizes."""
MESSAGES = (1, 8, 64, 128, 255, 256)
"""Largest messages, by which kernels are chosen."""


def describe_machine() -> dict[str, Any]:
    """Processor, threads, versions, costs (measured now, and kept), and the kernel of each class of messages."""
    measured = measure.measure()
    file = costs.keep(measured)
    about = costs.machine()
    return {
        "processor": about["processor"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "limits": {library: about[f"{library} limited to"] for library in ("oneDNN", "numba")},
        "versions": {library: about[library] for library in ("torch", "oneDNN", "numba")},
        "int8_exact_up_to": synapses.int8_limit(),
        "costs_ns": measured._asdict(),
        "costs_file": None if file is None else str(file),
        "forced": os.environ.get("SPIKDEPLOY_KERNELS") or None,
        "kernels": [_chosen(most) for most in MESSAGES],
    }


def _chosen(most: int) -> dict[str, Any]:
    """What runs a layer of messages up to `most`, and up to which mean message events do."""
    weight = np.random.default_rng(0).integers(-127, 128, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
    conv = Conv(weight, (1, 1), (1, 1))
    layer = synapses.convolution(conv, (CHANNELS, 1, 1), most, 2**23)
    return {"messages_up_to": most, "dense": layer.kinds[0], "events_below_mean": layer.events_below}
