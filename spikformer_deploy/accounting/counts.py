"""Counts a layer: dense work, synaptic operations, firing rates, silent neurons, sparsity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.quantize.network import Shape


@dataclass(frozen=True, slots=True, eq=False)
class LayerCounts:
    """One population and the synapses that reach it.

    kind        "source" | "lif" | "or" | "sum" | "accumulator"
    rate        (T,) share of the neurons that send something in a step, mean over the images
    synops      (T,) synaptic operations that reach the layer, mean over the images
    dense_macs  multiply-accumulates of the layer for one image and step where no zero is skipped
    silent      neurons that sent nothing in any step of any image
    graded      it sends values beyond 1
    """

    name: str
    kind: str
    shape: Shape
    neurons: int
    rate: NDArray[np.float64]
    synops: NDArray[np.float64]
    dense_macs: int
    silent: int
    graded: bool


@dataclass(frozen=True, slots=True, eq=False)
class Sparsity:
    """Shares of zeros, as NeuroBench defines them (Yik et al., arXiv 2304.04640), and the mean firing rate.

    activation  zeros among all outputs of all LIF neurons, steps and images
    connection  zeros among all stored weights
    rate        mean share of LIF neurons that fire in a step (1 - activation)
    silent      share of LIF neurons that never fired
    """

    activation: float
    connection: float
    rate: float
    silent: float
