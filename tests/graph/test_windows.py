"""Windows are those of torch, for every geometry."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from spikformer_deploy.graph.ir import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from spikformer_deploy.graph.windows import framed, means_of, one_window, overhang, pool_shape

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
margins = st.tuples(st.integers(0, 3), st.integers(0, 3))
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
MANY = settings(max_examples=200, deadline=None)


@MANY
@given(st.tuples(st.integers(9, 14), st.integers(9, 14)), pairs, pairs, pairs, margins, margins)
def test_framed_kernels_are_dilated_and_padded(
    size: tuple[int, int],
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    stride: tuple[int, int],
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    assume(all((k - 1) * d < s for k, d, s in zip(kernel, dilation, size, strict=True)))
    weight = torch.randint(-4, 5, (3, 2, *kernel), dtype=torch.float64)
    x = torch.randint(0, 3, (2, 2, *size), dtype=torch.float64)
    full, padding = framed(weight.numpy(), dilation, before, after)
    right = F.conv2d(F.pad(x, (before[1], after[1], before[0], after[0])), weight, None, stride, 0, dilation)
    assert torch.equal(F.conv2d(x, torch.from_numpy(full), None, stride, padding), right)


def averaged(op: AvgPool2d | AdaptiveAvgPool2d, x: torch.Tensor) -> torch.Tensor:
    if isinstance(op, AdaptiveAvgPool2d):
        return F.adaptive_avg_pool2d(x, op.size)
    return F.avg_pool2d(x, op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad, op.divisor)


average_pools = st.one_of(
    st.builds(AdaptiveAvgPool2d, pairs),
    st.builds(AvgPool2d, pairs, pairs, margins, st.booleans(), st.booleans(), st.sampled_from([None, 8])),
)


@MANY
@given(average_pools, sizes)
def test_means_are_those_of_torch(op: AvgPool2d | AdaptiveAvgPool2d, size: tuple[int, int]) -> None:
    if isinstance(op, AvgPool2d):
        assume(all(2 * p <= k for p, k in zip(op.padding, op.kernel, strict=True)))
        assume(
            min(pool_shape(op, size)) >= 1
            and all(k <= s + 2 * p for k, s, p in zip(op.kernel, size, op.padding, strict=True))
        )
    x = torch.randint(0, 9, (1, 1, *size), dtype=torch.float64)
    right = averaged(op, x)[0, 0].numpy()
    assert right.shape == pool_shape(op, size)
    units, weights = means_of(op, size).in_units(size)
    np.testing.assert_allclose(
        (weights * x[0, 0].numpy().astype(int)).sum((2, 3)) / units, right, rtol=1e-12, atol=1e-12
    )
    if (plain := one_window(op, size)) is not None:
        kernel, stride, padding, divisor = plain
        padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        sums = F.conv2d(padded, torch.ones(1, 1, *kernel, dtype=torch.float64), None, stride)[0, 0].numpy()
        np.testing.assert_allclose(sums / divisor, right, rtol=1e-12, atol=1e-12)


@MANY
@given(pairs, pairs, st.tuples(*[st.integers(0, 2)] * 2), pairs, st.booleans(), sizes)
def test_sizes_of_max_pools(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    up: bool,
    size: tuple[int, int],
) -> None:
    assume(all(2 * p <= k for p, k in zip(padding, kernel, strict=True)))
    op = MaxPool2d(kernel, stride, padding, dilation, up)
    x = torch.rand(1, 1, *size, dtype=torch.float64)
    try:
        right = F.max_pool2d(x, kernel, stride, padding, dilation, up)
    except RuntimeError:  # no window fits
        assert min(pool_shape(op, size)) < 1
        return
    assert right.shape[2:] == pool_shape(op, size)
    more = overhang(op, size)
    full = F.pad(x, (padding[1], padding[1] + more[1], padding[0], padding[0] + more[0]), value=float("-inf"))
    whole = F.max_pool2d(full, kernel, stride, 0, dilation)
    assert torch.equal(whole[..., : right.shape[2], : right.shape[3]], right)


def test_pools_that_divide_a_map_are_plain_windows() -> None:
    assert one_window(AdaptiveAvgPool2d((2, 4)), (6, 8)) == ((3, 2), (3, 2), (0, 0), 6)
    assert one_window(AdaptiveAvgPool2d((3, 1)), (7, 5)) == ((3, 5), (2, 1), (0, 0), 15)  # overlapping, all alike
    assert one_window(AdaptiveAvgPool2d((3, 1)), (8, 5)) is None
    assert one_window(AvgPool2d((3, 3), (2, 2), (1, 1)), (8, 8)) == ((3, 3), (2, 2), (1, 1), 9)
    assert one_window(AvgPool2d((3, 3), (2, 2), (1, 1), count_include_pad=False), (8, 8)) is None
