"""Counting as users meet it: in training, under autocast, with exceptions, and with what is not understood."""

from __future__ import annotations

import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.counted import Steps, only, operation
from torch import Tensor, nn
from torch.library import custom_op

import spikformer_deploy as sd
from spikformer_deploy.api.records import Counting
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.counts.operations import NeuronRecord


def sequential() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), Steps(), nn.Flatten(), nn.Linear(4 * 25, 7))


IMAGES = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def test_classes_biases_and_padding() -> None:
    model = sequential()
    with sd.count_operations(model) as counting:
        model(IMAGES)
    counts = counting.counts
    first = only(operation(counts, "0"))
    assert (first.operand, first.calls, first.pairs) == ("real", 1, first.dense)
    assert (
        first.dense == 6 * 3 * 4 * 13 * 13
    )  # of 5 positions in a row, 4 have a left neighbour, 5 a middle, 4 a right one
    assert first.dense_padded == 6 * 3 * 4 * 9 * 25
    assert (first.biases, first.bias_size, first.weights) == (6 * 4 * 25, 4, 108)
    assert first.biases_by_mean == pytest.approx(float(IMAGES.double().mean()) * first.biases)
    assert operation(counts, "0").first
    last = only(operation(counts, "4"))
    spikes = int(counts.neurons[0].spikes.sum())
    assert (last.operand, last.nonzero_in, last.pairs) == ("binary", spikes, 7 * spikes)
    assert last.by_rate == pytest.approx(last.pairs)
    assert not operation(counts, "4").first
    assert [n.neuron for n in counts.neurons] == ["Steps"]
    assert counts.neurons[0].updates.tolist() == [6 * 100]
    assert operation(counts, "1").kind == "norm"
    assert counts.time_steps is None


def test_training_is_unchanged_and_the_backward_pass_is_not_counted() -> None:
    plain, counted = sequential(), sequential()
    plain(IMAGES).square().sum().backward()
    with sd.count_operations(counted) as counting:
        counted(IMAGES).square().sum().backward()
        before = counting.counts.operations
        torch.optim.SGD(counted.parameters(), 0.1).step()
        assert counting.counts.operations == before
    for mine, theirs in zip(counted.parameters(), plain.parameters(), strict=True):
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)
    assert {o.kind for o in before} == {"convolution", "norm", "linear"}
    assert only(operation(counting.counts, "0")).calls == 1


def test_checkpointed_forwards_count_once() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    model = Model()
    with sd.count_operations(model) as counting:
        model(torch.rand(2, 4, requires_grad=True)).sum().backward()
    assert only(operation(counting.counts, "inner.0")).calls == 1


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_counts_do_not_depend_on_gradients(context: Any) -> None:
    model = sequential().eval()
    with context(), sd.count_operations(model) as counting:
        model(IMAGES)
    with torch.no_grad(), sd.count_operations(model) as expected:
        model(IMAGES)
    assert counting.counts.operations == expected.counts.operations


def test_autocast() -> None:
    model = sequential().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), sd.count_operations(model) as counting:
        model(IMAGES)
    counts = counting.counts
    assert only(operation(counts, "0")).dense == 6 * 3 * 4 * 13 * 13
    assert only(operation(counts, "4")).pairs == 7 * int(counts.neurons[0].spikes.sum())
    assert operation(counts, "0").first


def test_hooks_are_gone_afterwards_even_if_the_model_raises() -> None:
    model = sequential()

    def twice() -> None:
        with sd.count_operations(model) as counting:
            counted.append(counting)
            model(IMAGES)
            model(IMAGES[:, :1])

    counted: list[Counting] = []
    with pytest.raises(RuntimeError):
        twice()
    (counting,) = counted
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert counting.counts.images == 6
    with sd.count_operations(model) as again:
        model(IMAGES)
    assert again.counts.operations[0] == counting.counts.operations[0]


def test_a_pass_that_raised_does_not_disturb_the_next() -> None:
    model = sequential()
    with sd.count_operations(model) as counting:
        with pytest.raises(RuntimeError):
            model(IMAGES[:, :1])
        model(IMAGES)
    assert counting.counts.images == 6
    assert only(operation(counting.counts, "0")).calls == 1


def test_nested_counts_are_equal() -> None:
    model = sequential()
    with sd.count_operations(model) as outer, sd.count_operations(model) as inner:
        model(IMAGES)
    assert outer.counts.operations == inner.counts.operations


def test_no_activation_is_kept() -> None:
    model = sequential()
    with sd.count_operations(model) as counting:
        out = model(IMAGES.clone())
        reference = weakref.ref(out)
        del out
        gc.collect()
        assert reference() is None
        for _ in range(50):
            model(IMAGES)
        assert len(counting.mode.followed.known) < 60


def test_a_model_that_was_not_called_is_an_error() -> None:
    model = sequential()
    with sd.count_operations(model) as counting:
        pass
    with pytest.raises(InputError, match="has not run"):
        _ = counting.counts


def test_compiled_and_scripted_models_are_refused() -> None:
    with pytest.raises(InputError, match="scripted"), sd.count_operations(torch.jit.script(nn.Linear(2, 2))):
        pass
    with pytest.raises(InputError, match="compiled"), sd.count_operations(torch.compile(nn.Linear(2, 2))):
        pass
    inner = nn.Sequential(nn.Linear(2, 2))
    inner[0].compile()
    with pytest.raises(InputError, match="module 0"), sd.count_operations(inner):
        pass


class Mixer(nn.Module):
    """A model with what has no rule."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real + x


def test_what_is_not_understood_is_named_and_counted() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Mixer(), nn.Linear(8, 2))
    with sd.count_operations(model) as counting:
        model(torch.rand(3, 8))
    assert counting.not_understood == ("1: fft_r2c",)
    assert only(operation(counting.counts, "1: fft_r2c")).dense == 3 * 8
    assert only(operation(counting.counts, "2")).dense == 3 * 8 * 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: nn.functional.interpolate(x, scale_factor=2),
        lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: nn.functional.pixel_unshuffle(nn.functional.pixel_shuffle(x, 2), 2),
        lambda x: nn.functional.fold(nn.functional.unfold(x, 2, stride=2), (8, 8), 2, stride=2),
        lambda x: nn.functional.dropout(nn.functional.gelu(x).softmax(-1)),
        lambda x: nn.functional.hardswish(nn.functional.prelu(x, torch.tensor([0.2]))),
        lambda x: nn.functional.group_norm(nn.functional.instance_norm(x), 2),
        lambda x: nn.functional.normalize(nn.functional.rms_norm(x, (8,))),
        lambda x: torch.tensordot(x, x, dims=([1], [1])),
        lambda x: x.masked_fill(x > 0.5, 0).cumsum(0).sort()[0].topk(3)[0].amax(1),
        lambda x: x[x > 0.5].var() + x.logsumexp(1).norm(),
    ],
)
@pytest.mark.parametrize("context", [torch.enable_grad, torch.inference_mode])
def test_what_people_use_is_understood(function: Any, context: Any) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    model = Model()
    with context(), sd.count_operations(model) as counting:
        model(torch.rand(2, 4, 8, 8))
    assert not counting.not_understood


@custom_op("test_counting::mixed", mutates_args=())
def mixed(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.t()


def test_custom_operators_are_counted_dense_by_their_weights() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return mixed(x, self.weight)

    model = Model()
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(torch.rand(3, 8))
    assert counting.not_understood == ("test_counting::mixed",)
    assert only(operation(counting.counts, "test_counting::mixed")).dense == 3 * 5 * 8


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised anew in each pass."""

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight.transpose(2, 3), self.bias)


def test_functions_of_parameters_are_weights() -> None:
    model = Standardised(3, 4, 3)
    with sd.count_operations(model) as counting:
        model(IMAGES)
    (found,) = counting.counts.operations
    assert (found.kind, found.functional, found.first) == ("convolution", False, True)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_one_operator(causal: bool) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = ((x.roll(shift, 0) > 0.5).float() for shift in range(3))
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    x = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    model = Model()
    with sd.count_operations(model) as counting:
        model(x)
    q, k, v = ((x.roll(shift, 0) > 0.5).double() for shift in range(3))
    scores, values = operation(counting.counts, "scaled_dot_product_flash_attention_for_cpu", "product").counted
    assert (scores.operand, scores.other, values.operand) == ("binary", "binary", "real")
    assert scores.pairs == int((q @ k.mT).sum())
    allowed = torch.ones(5, 5).tril() if causal else torch.ones(5, 5)
    assert values.pairs == int((allowed.double() @ v).sum())
    assert scores.dense == values.dense == 2 * 3 * 5 * 5 * 4
    assert values.first_pairs == 2 * 3 * int(allowed.sum()) * 4


@pytest.mark.parametrize("training", [True, False])
def test_multi_head_attention_is_seen_into(training: bool) -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True).train(training)
    x = torch.rand(3, 5, 8)
    with torch.set_grad_enabled(training), sd.count_operations(model) as counting:
        model(x, x, x)
    kinds = [o.kind for o in counting.counts.operations]
    assert kinds.count("product") == 2
    dense = sum(c.dense for o in counting.counts.operations if o.kind == "linear" for c in o.counted)
    assert dense == 4 * 3 * 5 * 8 * 8
    biases = sum(c.biases for o in counting.counts.operations for c in o.counted)
    assert biases == 4 * 3 * 5 * 8
    assert not counting.not_understood


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers(kind: type[nn.RNNBase]) -> None:
    model = kind(6, 4)
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(torch.rand(5, 3, 6))
    gates = 4 if kind is nn.LSTM else 3
    dense = sum(c.dense for o in counting.counts.operations if o.kind == "linear" for c in o.counted)
    assert dense == 5 * 3 * gates * 4 * (6 + 4)
    assert not counting.not_understood


def test_sparse_weights_are_named() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(torch.eye(4).to_sparse(), x)

    model = Model()
    with sd.count_operations(model) as counting:
        model(torch.rand(4, 2))
    assert counting.not_understood


def test_pooling_counts_elements_under_windows() -> None:
    model = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1))
    x = (torch.rand(2, 3, 7, 7) < 0.3).float()
    with sd.count_operations(model) as counting:
        model(x)
    maximum, average, adaptive = (only(o) for o in counting.counts.operations)
    ones = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    windows = nn.functional.conv2d(x.double().flatten(0, 1).unsqueeze(1), ones, stride=2, padding=1)
    assert (maximum.pairs, maximum.dense, maximum.dense_padded) == (
        int(windows.sum()),
        6 * 11 * 11 - 6 * 21,
        6 * 16 * 9,
    )
    assert (average.dense, adaptive.dense) == (6 * 9 * 4, 6 * 9)
    assert {o.kind for o in counting.counts.operations} == {"pooling"}
    assert not any(o.functional for o in counting.counts.operations)


def test_products_of_spikes_element_by_element() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0.3).float() * (x < 0.6).float()

    x = torch.rand(4, 9)
    model = Model()
    with sd.count_operations(model) as counting:
        model(x)
    # the model is nothing but thresholds, and so it is a neuron: its inner product is its own
    (record,) = counting.counts.neurons
    assert (record.neuron, int(record.spikes.sum())) == ("Model", int(((x > 0.3) & (x < 0.6)).sum()))
    assert not counting.counts.operations


def test_records_are_plain_and_rates_are_arrays() -> None:
    model = sequential()
    with sd.count_operations(model) as counting:
        model(IMAGES)
    records = counting.to_records()
    assert [r["name"] for r in records] == ["0", "1", "4"]
    assert {type(value) for record in records for value in record.values()} <= {str, int, float, bool, type(None)}
    rates = counting.firing_rates()
    assert rates.shape == (1, 1)
    record: NeuronRecord = counting.counts.neurons[0]
    assert rates[0, 0] == np.float64(record.spikes[0] / record.updates[0])
    assert "spikformer-paper" in counting.table()
    assert counting.energy("spikformer-paper").total.nominal > 0


def counted_calls(model: nn.Module, inputs: list[Tensor], **told: int) -> int:
    """The images that were counted."""
    with sd.count_operations(model, **told) as counting:
        for x in inputs:
            model(x)
    return counting.counts.images


def test_the_same_input_again_may_be_a_time_step() -> None:
    """Neurons that are written by hand say nothing of steps: four calls on one image are not four images unsaid."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    image = torch.rand(1, 1, 8, 8)
    with pytest.warns(UserWarning, match="if these are its time steps, give time_steps") as warned:
        assert counted_calls(model, [image] * 4) == 4
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counted_calls(model, [image] * 4, time_steps=4)
        assert counted_calls(model, [image, image.clone()]) == 2


def test_training_mode_is_told() -> None:
    """Batch normalisation by the batch lets other neurons fire: a figure would be of no trained model."""
    model = sequential()
    with (
        pytest.warns(UserWarning, match=r"^1 is in training mode .* call model\.eval\(\) first") as told,
        sd.count_operations(model) as training,
    ):
        model(IMAGES)
    assert [Path(warning.filename).name for warning in told] == ["test_counting.py"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sd.count_operations(model.eval()) as evaluating:
            model(IMAGES)
    fired = [counting.counts.neurons[0].spikes.sum() for counting in (training, evaluating)]
    assert fired[0] != fired[1], "of another number of spikes, which is why it must be told"
