"""Conventions on counts that are written down by hand, so that every figure can be worked out on paper."""

from dataclasses import MISSING, fields, replace
from pathlib import Path

import numpy as np
import pytest

from spikformer_deploy.accounting import operators
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.counts.operations import Counted, NeuronRecord, Operation, OperationCounts, ParameterCounts

MAC, AC = 4.6e-9, 0.9e-9
"""mJ of a multiply-accumulate and of an addition, fp32 in 45 nm."""

IMAGES, STEPS = 2, 4


def counted(operand: str, **sums: float) -> Counted:
    """Sums of alike calls; what is not given is 0."""
    nothing = {f.name: 0 for f in fields(Counted) if f.default is MISSING and f.name not in ("operand", "other")}
    return Counted(operand=operand, **{"other": None, **nothing, **sums})  # type: ignore[arg-type]


def operation(name: str, kind: str, module: str, *calls: Counted, first: bool = False) -> Operation:
    operator = "native_batch_norm" if kind == "norm" else kind
    return Operation(name, kind, module, ":" in name, (operator,), first, calls)


PIXELS = counted(
    "real", elements_in=48, sum_in=20.0, dense=900, dense_padded=1000, pairs=890, effective=880, weighted=400.0,
    biases=64, biases_by_mean=25.0, bias_size=4, bias_size_by_mean=1.5, by_rate=990.0, by_mean=420.0,
)  # fmt: skip
SPIKES = counted(
    "binary", elements_in=64, sum_in=16.0, dense=1800, dense_padded=2000, pairs=450, effective=440, weighted=450.0,
    slots=450.0, by_rate=500.0, by_mean=500.0, biases=64, biases_by_mean=16.0, bias_size=8, bias_size_by_mean=2.0,
)  # fmt: skip
STREAM = counted(
    "levels", elements_in=64, sum_in=24.0, dense=1800, dense_padded=2000, pairs=600, effective=590, weighted=450.0,
    slots=900.0, by_rate=700.0, by_mean=550.0,
)  # fmt: skip
HEAD = counted(
    "real", elements_in=64, sum_in=9.0, dense=640, dense_padded=640, pairs=600, effective=600, weighted=90.0,
    by_rate=600.0, by_mean=90.0, biases=20, biases_by_mean=3.0, bias_size=10, bias_size_by_mean=1.4,
)  # fmt: skip
SCORES = counted(
    "binary", other="binary", dense=512, dense_padded=512, pairs=60, effective=60, weighted=60.0, slots=160.0,
    first_pairs=160, second_pairs=180, fewer_pairs=150, by_rate=165.0, by_rate_other=185.0, by_rate_smaller=155.0,
)  # fmt: skip
VALUES = counted(
    "integers", other="binary", dense=512, dense_padded=512, pairs=100, effective=100, weighted=300.0, slots=700.0,
    first_pairs=300, second_pairs=180, fewer_pairs=180, by_rate=310.0, by_rate_other=190.0, by_rate_smaller=190.0,
)  # fmt: skip
NORM = counted("real", elements_in=128, sum_in=70.0, dense=128, dense_padded=128, by_mean=70.0, biases=128)
POOL = counted("binary", elements_in=64, sum_in=16.0, dense=64, dense_padded=64, by_mean=16.0)
SUM = counted("binary", other="binary", dense=64, dense_padded=64)

COUNTS = OperationCounts(
    images=IMAGES,
    time_steps=STEPS,
    passes=1,
    operations=(
        operation("stem", "convolution", "Conv2d", PIXELS, first=True),
        operation("norm", "norm", "BatchNorm2d", NORM),
        operation("pool", "pooling", "MaxPool2d", POOL),
        operation("block.mlp", "convolution", "Conv2d", SPIKES, STREAM),
        operation("block.attn: matmul", "product", "Attention", SCORES),
        operation("block.attn: matmul#2", "product", "Attention", VALUES),
        operation("block: add", "addition", "Block", SUM),
        operation("head", "linear", "Linear", HEAD),
    ),
    neurons=(
        NeuronRecord("lif", "LIFNode", 32, np.full(4, 64), np.array([10, 20, 5, 5]), np.full(4, 10.0), 1.0, "binary"),
        NeuronRecord("block: gt", "threshold", 8, np.full(4, 16), np.full(4, 8), np.full(4, 8.0), 1.0, "binary"),
    ),
    parameters=ParameterCounts(1000, 990, 4000, 88, 900, 9),
    not_understood=(),
)


def energy(name: str, counts: OperationCounts = COUNTS) -> float:
    return operators.energy(counts, name).total.nominal


@pytest.mark.parametrize(
    ("name", "macs", "acs"),
    [
        # the head reads real values: each that is not zero is a spike; the product of spikes skips the sparser operand
        ("spikformer-paper", 1000, 450 + 900 + 150 + 180 + 600),
        ("spikformer-paper-approx", 1000, 500 + 550 * 900 / 450 + 155 + 190 + 600),
        ("spikformer-paper-messages", 1000, 450 + 600 + 150 + 180 + 600),
        ("syops", 1000 + 2000 + 640, 450 + 150 + 180),
        # biases, padding, two operations an element of the normalization; the pool and LIFNode are additions
        ("syops-counter", 1064 + 2 * 128 + 2000 + 640 + 10, 16 + 516 + 256),
        ("syops-slots", 1064 + 650, 516 + 1100),
    ],
)
def test_work_of_a_convention(name: str, macs: float, acs: float) -> None:
    account = operators.account(COUNTS, name)
    expected = (macs / IMAGES, acs / IMAGES)
    assert tuple(account.figures.values()) == pytest.approx(expected, rel=1e-12)
    assert energy(name) == pytest.approx((MAC * macs + AC * acs) / IMAGES, rel=1e-12)


def test_spikingjelly_has_memory() -> None:
    """Batch normalization once an element; of two spiking operands the coincidences; all that moves is fp32."""
    macs, acs = 1000 + 128 + 2000 + 640, 450 + 60 + 180
    moved = 4 * (1000 + 64 + 450 + 64 + 2000 + 640 + 20 + 2 * 256)
    account = operators.account(COUNTS, "spikingjelly")
    assert account.figures == {
        "mac": macs / IMAGES,
        "synop": acs / IMAGES,
        "memory_access_bytes": moved / IMAGES,
    }
    found = operators.energy(COUNTS, "spikingjelly")
    arithmetic = (MAC * macs + AC * acs) / IMAGES
    assert found.within("arithmetic").nominal == pytest.approx(arithmetic, rel=1e-12)
    assert found.total.nominal == pytest.approx(arithmetic + 24.96e-9 * moved / IMAGES, rel=1e-12)


def test_the_ann_is_one_pass() -> None:
    dense = 1000 + 2 * 2000 + 2 * 512 + 640
    assert energy("ann-equivalent-fp32") == pytest.approx(MAC * dense / IMAGES / STEPS, rel=1e-12)
    assert energy("ann-equivalent-int8") == pytest.approx(0.3e-9 * dense / IMAGES / STEPS, rel=1e-12)
    # what took one input an image is one pass already
    stem, *others = COUNTS.operations
    once = replace(COUNTS, operations=(replace(stem, counted=(replace(PIXELS, rows=IMAGES),)), *others))
    expected = MAC * (1000 + (dense - 1000) / STEPS) / IMAGES
    assert energy("ann-equivalent-fp32", once) == pytest.approx(expected, rel=1e-12)
    # without steps that can be told, the sums are one pass
    untold = replace(COUNTS, time_steps=None)
    assert energy("ann-equivalent-fp32", untold) == pytest.approx(MAC * dense / IMAGES, rel=1e-12)


def test_neurobench_by_its_own_names() -> None:
    account = operators.account(COUNTS, "neurobench")
    assert account.energy is None
    assert account.figures == {
        "ParameterCount": 1000,
        "Footprint": 4088,
        "ConnectionSparsity": 0.01,
        "ActivationSparsity": 1 - 40 / 256,
        "Effective_MACs": (880 + 590 + 600) / IMAGES,
        "Effective_ACs": 440 / IMAGES,
        "Dense": (900 + 1800 + 1800 + 640) / IMAGES,
    }
    with pytest.raises(InputError, match="has no prices"):
        operators.energy(COUNTS, "neurobench")


def test_neurobench_counts_the_neurons_that_it_knows() -> None:
    leaky = replace(COUNTS.neurons[0], neuron="Leaky")
    figures = operators.account(replace(COUNTS, neurons=(leaky,)), "neurobench").figures
    assert figures["Neuron Dense Ops"] == 4 * 256 / IMAGES


def test_what_a_convention_does_not_see_is_named() -> None:
    excluded = {name: operators.account(COUNTS, name).excluded for name in operators.CONVENTIONS}
    attention = ("block.attn: matmul", "block.attn: matmul#2")
    neurons = ("lif", "block: gt")
    seen = {"norm": ("norm",), "pooling": ("pool",), "addition": ("block: add",), "neuron": neurons}
    assert excluded["spikformer-paper"] == excluded["syops"] == seen
    assert excluded["syops-counter"] == {"product": attention, "addition": ("block: add",), "neuron": ("block: gt",)}
    assert excluded["neurobench"] == {"product": attention, **seen}


def test_every_place_is_counted_or_named() -> None:
    names = {o.name for o in COUNTS.operations} | {r.name for r in COUNTS.neurons}
    for account in operators.accounts(COUNTS):
        counted_names = {place.name for place in account.places}
        left_out = {name for group in account.excluded.values() for name in group}
        assert counted_names | left_out == names, account.convention
        assert not counted_names & left_out, account.convention


def test_places_add_up() -> None:
    for account in operators.accounts(COUNTS):
        if account.energy is not None:
            parts = [operators.place_energy(account, place) for place in account.places]
            assert sum(parts) == pytest.approx(account.energy.total.nominal, rel=1e-12)


def test_what_is_not_understood_is_dense() -> None:
    strange = operation("mixer: fft_rfft", "unknown", "Mixer", counted("real", dense=300, dense_padded=300, pairs=300))
    counts = replace(COUNTS, operations=(*COUNTS.operations, strange), not_understood=("mixer: fft_rfft",))
    for name in ("spikformer-paper", "syops"):
        assert energy(name, counts) - energy(name) == pytest.approx(MAC * 300 / IMAGES, rel=1e-9)
    assert operators.account(counts, "syops-counter").excluded["unknown"] == ("mixer: fft_rfft",)


def test_a_tool_of_modules_sees_no_function() -> None:
    called = replace(COUNTS.operations[3], name="block: conv2d", functional=True)
    counts = replace(COUNTS, operations=(called,), neurons=())
    for name in ("syops-counter", "syops-slots", "neurobench"):
        assert operators.account(counts, name).excluded == {"convolution": ("block: conv2d",)}
    assert operators.account(counts, "spikformer-paper").places


@pytest.mark.parametrize(("kind", "expected"), [("two values", 16.0), ("levels", 64.0), ("signs", 64.0)])
def test_the_spike_test_of_syops(kind: str, expected: float) -> None:
    """{0, 0.5} and a constant within [0, 1] pass; {0, 0.5, 1} and {-1, 0, 1} do not."""
    pool = operation("pool", "pooling", "AvgPool2d", replace(POOL, operand=kind))
    figures = operators.account(replace(COUNTS, operations=(pool,), neurons=()), "syops-counter").figures
    assert sum(figures.values()) == expected / IMAGES


def test_every_convention_says_what_it_is() -> None:
    for name, convention in operators.CONVENTIONS.items():
        for text in (convention.rule, convention.source, convention.boundary):
            assert text.strip(), name
        account = operators.account(COUNTS, name)
        assert (account.rule, account.source) == (convention.rule, convention.source)
        if account.energy is not None:
            assert account.energy.boundary == (convention.memory or convention.boundary)


def test_an_unknown_convention() -> None:
    with pytest.raises(InputError, match=r"spikformer-paper, spikformer-paper-approx"):
        operators.account(COUNTS, "paper")


def test_the_page_of_numbers_has_every_convention() -> None:
    page = (Path(__file__).parents[2] / "docs" / "energy-numbers.md").read_text()
    for name in operators.CONVENTIONS:
        assert name in page or f"| {name.rsplit('-', 1)[0]}-* |" in page, name
