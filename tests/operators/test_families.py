"""Every family of models, counted in floats: its neurons and dense work are those of its integer program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support.deep import some
from support.masks import masks, of_layers
from support.models import FEW, MORE, SIBLINGS, SMALL, graph_of, model_and_images
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.api.records import Counting
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.counts.dense import dense_macs
from spikformer_deploy.counts.operations import OperationCounts
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels, Lif
from spikformer_deploy.network.synapses import Attention, Conv
from spikformer_deploy.nn.attention import TokenAttention
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.lif import SPIKING
from spikformer_deploy.quantization.build import Pixels, quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings

FAMILIES = SMALL | SIBLINGS
SCORES_FIRST = ("cifar", "spikingformer", "spikingformer-dvs", "sdt3")
LIMITS = CoreLimits(True, 8, 24, 17, 12, 8, 24)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One small model, what was counted while it ran on its images, its graph as it was traced, and its integers."""

    name: str
    config: ModelConfig
    module: nn.Module
    images: torch.Tensor
    counting: Counting
    raw: ir.Graph
    network: Network


@pytest.fixture(scope="module", params=some(["v2"], MORE, long=[name for name in FEW if name != "v2"]))
def case(request: pytest.FixtureRequest) -> Case:
    config = FAMILIES[request.param]
    module, images = model_and_images(config)
    with torch.no_grad(), sd.count_operations(module) as counting:
        module(images)
    return Case(request.param, config, module, images, counting, *compiled(config, images))


def compiled(config: ModelConfig, images: torch.Tensor) -> tuple[ir.Graph, Network]:
    """The graph as it was traced, and the integer network."""
    raw = graph_of(config)
    graph = simplify(fold_batch_norm(raw))
    pixels = Pixels((0.0 if config.per_step else 0.4,) * config.in_channels, (0.01,) * config.in_channels)
    return raw, quantize(graph, pixels, Calibration(graph, images), LIMITS, Settings())


def dense(counts: OperationCounts, *kinds: str, within: tuple[str, ...] = ("",)) -> int:
    """Multiply-accumulates of all images, padding counted, of kinds within modules; heads are left out."""
    return sum(
        counted.dense_padded
        for operation in counts.operations
        if operation.kind in kinds and not operation.name.startswith("head") and operation.name.startswith(within)
        for counted in operation.counted
    )


def test_neurons_and_dense_work_are_those_of_the_program(case: Case) -> None:
    counts, steps = case.counting.counts, case.config.time_steps
    assert (counts.images, counts.time_steps, counts.not_understood) == (len(case.images), steps, ())
    raw, network = case.raw, case.network
    sizes = {p.name: p.size for p in network if isinstance(p.neuron, Levels | Lif)}
    assert {record.name: record.elements for record in counts.neurons} == sizes
    passes = counts.images * steps
    traced = [(n.op.weight.size, n.shape) for n in raw.of(ir.Conv2d, ir.Linear) if not n.name.startswith("head")]
    layers = dense(counts, "convolution", "linear")
    masking = tuple(path for path, module in case.module.named_modules() if isinstance(module, TokenAttention))
    sums_of_tokens = dense(counts, "reduction", within=masking)  # of the trace they are a convolution with ones
    assert layers + sums_of_tokens == passes * sum(size * shape[1] * shape[2] for size, shape in traced)
    if case.name != "sdt2":  # its convolutions without neurons between them are merged in the program, which adds work
        masks_of_tokens = sums_of_tokens + dense(counts, "multiplication", within=masking)
        convolutions = [dense_macs(network, p) for p in network.projections if isinstance(p.synapse, Conv)]
        assert layers + masks_of_tokens == passes * sum(convolutions)


def test_attention_is_counted_in_the_order_of_the_model(case: Case) -> None:
    """The program's figure is that of the cheaper order, the float model's is what it computes."""
    network = case.network
    found = [p for p in network.projections if isinstance(p.synapse, Attention)]
    orders = {"scores": 0, "values": 0}
    for projection in found:
        # v and what comes out may be wider than q and k
        channels, height, width = network[projection.target].shape
        inner = network[projection.sources[0]].shape[0]
        tokens = height * width
        orders["scores"] += tokens * tokens * (inner + channels)
        orders["values"] += 2 * tokens * channels * (inner // projection.synapse.heads)
    passes = len(case.images) * case.config.time_steps
    order = "scores" if case.name in SCORES_FIRST else "values"
    assert dense(case.counting.counts, "product") == passes * orders[order]
    assert sum(dense_macs(network, p) for p in found) <= min(orders.values())


def test_synaptic_operations_are_those_of_masks(case: Case) -> None:
    with torch.no_grad(), masks(case.module) as expected:
        case.module(case.images)
    assert of_layers(case.counting.counts) == dict(expected)


def test_firing_rates_are_those_of_the_neurons(case: Case) -> None:
    outputs: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, path=path: outputs.__setitem__(path, out))
        for path, layer in case.module.named_modules()
        if isinstance(layer, SPIKING)
    ]
    with torch.no_grad():
        case.module(case.images)
    for hook in hooks:
        hook.remove()
    for index, record in enumerate(case.counting.counts.neurons):
        # an integer is one message
        spikes = (outputs[record.name].flatten(1) != 0).float().numpy()
        np.testing.assert_array_equal(record.spikes, spikes.sum(1))
        np.testing.assert_allclose(case.counting.firing_rates()[:, index], spikes.mean(1), rtol=1e-6)
