"""Classes of operands against their definitions, value by value."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.operators.seen import UNITS, observe

POOLS = (
    [0.0, 1.0],
    [-1.0, 0.0, 1.0],
    [0.0, 0.3],
    [0.25, 0.5],
    [0.0, 1.0, 2.0, 255.0, 256.0],
    [0.0, 0.25, 0.5, 0.75, 1.0, 3.5],
    [0.0, 1.0, 1.0 - 2.0**-24, 2.0**-30],
    [0.0, 1.0, 0.3, -2.0, 7.0],
    [0.0, 1.0, math.inf],
    [0.0, 1.0, math.nan],
)


def class_of(values: list[float]) -> str:
    """The definition in words of counts.operations.CLASSES."""
    if set(values) <= {0.0, 1.0}:
        return "binary"
    if set(values) <= {-1.0, 0.0, 1.0}:
        return "signs"
    if len(set(values)) <= 2 and all(0 <= v <= 1 for v in values):
        return "two values"
    if all(0 <= v <= 255 and v == int(v) for v in values if math.isfinite(v)) and all(map(math.isfinite, values)):
        return "integers"
    if all(0 <= v <= 255 and v * 16 == int(v * 16) for v in values if math.isfinite(v)) and all(
        map(math.isfinite, values)
    ):
        return "levels"
    return "real"


@given(
    st.sampled_from(POOLS).flatmap(lambda pool: st.lists(st.sampled_from(pool), min_size=1, max_size=12)),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_classes_and_sums(values: list[float], dtype: torch.dtype, transposed: bool) -> None:
    x = torch.tensor([values, values], dtype=dtype)
    seen = observe(x.t() if transposed else x)
    exact = x.double()
    assert seen.operand == class_of(exact.flatten().tolist())
    assert (seen.elements, seen.nonzero) == (x.numel(), int((exact != 0).sum()))
    if bool(exact.isfinite().all()):
        assert seen.total == pytest.approx(float(exact.abs().sum()), rel=1e-12)
        assert seen.largest == float(exact.abs().max())
    distinct = set(exact.flatten().tolist())
    heights = distinct - {0.0}
    if 0.0 in distinct and len(heights) == 1 and 1 < max(heights) <= 255 and max(heights) % 1:
        # spikes of one height that is no whole number of spikes
        assert seen.unit == max(heights)
    elif seen.operand in ("integers", "levels"):
        fitting = [unit for unit in UNITS if not bool((exact / unit).frac().any())]
        assert seen.unit == fitting[0]
    elif seen.operand == "real":
        assert seen.unit == 0


@pytest.mark.parametrize("x", [torch.zeros(0, 3), torch.zeros(3, dtype=torch.bool), torch.ones(2, dtype=torch.int64)])
def test_whatever_holds_nothing_but_spikes_is_binary(x: torch.Tensor) -> None:
    assert observe(x).operand == "binary"
    assert observe(x).nonzero == int(x.sum())
