"""Published rows from the operations of the models themselves, at their published sizes."""

import pytest
import torch

import spikformer_deploy as sd
from spikformer_deploy.accounting import operators
from spikformer_deploy.counts.operations import OperationCounts
from spikformer_deploy.nn import zoo


@pytest.fixture(scope="module")
def cifar10() -> OperationCounts:
    """Spikformer-4-384 on one image; normalization takes the statistics of a batch, so that neurons fire."""
    torch.manual_seed(0)
    model = zoo.build(zoo.named("v1-4-384"))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 32, 32))
        with sd.count_operations(model.eval()) as counting:
            model(torch.randn(1, 3, 32, 32))
    return counting.counts


def macs(counts: OperationCounts, convention: str) -> float:
    return sum(place.work.macs for place in operators.account(counts, convention).places)


def test_the_macs_that_users_of_the_official_tool_get(cifar10: OperationCounts) -> None:
    """0.005312266 G: the first convolution in four steps, and the head with its ten biases."""
    assert macs(cifar10, "syops-slots") == 48 * 27 * 1024 * 4 + 384 * 10 + 10 == 5_312_266
    assert macs(cifar10, "spikformer-paper") == 5_308_416


def test_sums_of_spikes_are_what_syops_multiplies(cifar10: OperationCounts) -> None:
    """q, k, v and the first layer of each MLP read them: 99.5 % of its multiply-accumulates."""
    readers = 4 * 4 * 64 * (3 * 384 * 384 + 384 * 1536)
    assert macs(cifar10, "syops") == 5_308_416 + readers + 3840


def test_the_ann_has_the_products_in_the_order_of_the_model(cifar10: OperationCounts) -> None:
    """Layers of one pass, attention as (q k^T) v: 64 tokens, 384 channels, four blocks; the head runs once."""
    layers = 921_452_544 + 3840
    assert macs(cifar10, "ann-equivalent-fp32") == layers + 4 * 2 * 64**2 * 384


def test_operations_of_the_rows_at_a_firing_rate(cifar10: OperationCounts) -> None:
    """0.245851 G additions are 6.7 % of the layers behind the first convolution."""
    dense = sum(c.dense_padded for o in cifar10.operations for c in o.counted if o.kind in ("convolution", "linear"))
    assert 0.245851e9 / (dense - 5_308_416) == pytest.approx(0.067, abs=5e-4)


def test_average_pooling_in_four_ways() -> None:
    """The example of docs/energy-numbers.md: one spike in five, 2x2 means, a 3x3 convolution of 16 to 32 channels."""
    spikes = (torch.arange(16**3) % 5 == 0).float().reshape(1, 16, 16, 16)
    stem = torch.nn.Conv2d(16, 16, 1, bias=False)
    stem.weight.data = torch.eye(16)[:, :, None, None]
    model = torch.nn.Sequential(stem, torch.nn.AvgPool2d(2), torch.nn.Conv2d(16, 32, 3, padding=1, bias=False))
    with sd.count_operations(model) as counting, torch.no_grad():
        model(spikes)
    counts = counting.counts
    dense, spikes_met, messages, mean = 294_912, 198_336, 148_544, 49_584
    for name in ("syops", "spikingjelly"):
        assert operators.account(counts, name).places[-1].work.macs == dense
    assert operators.account(counts, "spikformer-paper").places[-1].work.acs == spikes_met
    assert operators.account(counts, "spikformer-paper-messages").places[-1].work.acs == messages
    assert counts.operations[-1].counted[0].weighted == mean == spikes_met / 4
