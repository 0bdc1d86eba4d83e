"""What a first use of the counter found to be wrong, each by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.accounting import operators
from spikformer_deploy.base.errors import InputError

PAPER = "spikformer-paper"


def figures(counting: object) -> tuple[float, float]:
    """(MACs, ACs) an image by the paper's convention."""
    account = operators.account(counting.counts, PAPER)
    return account.figures["MACs"], account.figures["ACs"]


class Standardised(nn.Module):
    """A convolution of an image of which something was made before."""

    def __init__(self, before: nn.Module | None) -> None:
        super().__init__()
        self.before = before
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean()) / x.std() if self.before is None else self.before(x)
        return self.conv(x)


@pytest.mark.parametrize("before", [None, nn.BatchNorm2d(1), nn.Hardtanh(0, 1), nn.Identity(), nn.AvgPool2d(1)])
def test_the_first_layer_reads_the_image_whatever_is_made_of_it(before: nn.Module | None) -> None:
    model = Standardised(before).eval()
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(torch.rand(2, 1, 8, 8) + 0.1)
    assert figures(counting) == (4 * 9 * 36, 0)


@pytest.mark.parametrize("height", [1.0, 0.75, 1.25, 1.4, 1.0625])
def test_a_spike_of_a_height_that_is_no_whole_number_counts_once(height: float) -> None:
    class Tall(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.second = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second((self.first(x) > 0).float() * height)

    torch.manual_seed(0)
    model = Tall()
    x = torch.randn(3, 6)
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(x)
    spikes = int((model.first(x) > 0).sum())
    assert figures(counting)[1] == pytest.approx(5 * spikes / 3)


def test_a_residual_image_is_no_first_layer() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spikes = (torch.mm(x, self.weight) > 0).float()
            return torch.addmm(x, spikes, self.weight)

    model = Residual()
    x = torch.randn(2, 8)
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(x)
    spikes = int((x @ model.weight > 0).sum())
    assert figures(counting) == pytest.approx((64, 8 * spikes / 2))


def test_sparse_buffers_do_not_stop_a_model() -> None:
    model = nn.Linear(3, 2)
    model.register_buffer("mask", torch.eye(3).to_sparse())
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(torch.rand(4, 3))
    assert counting.counts.images == 4


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(2, 2), {"images": 0}, "0 is no number"),
        (nn.Linear(2, 2), {"images": -2}, "-2 is no number"),
        (nn.Linear(2, 2), {"time_steps": 2.5}, "2.5 is a float"),
        (np.mean, {}, "is no torch module"),
    ],
)
def test_what_cannot_be_counted_is_refused(model: object, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message), sd.count_operations(model, **options):
        pass


def test_a_state_that_replaces_a_buffer_is_an_activation() -> None:
    """The storage of the old buffer is free then, and may become that of the state."""

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("state", torch.zeros(4, 16))
            self.recurrent = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.state = None
            self.state = torch.zeros_like(x)
            return self.recurrent(self.state) + x

    for _ in range(50):
        model = Stateful()
        with torch.no_grad(), sd.count_operations(model) as counting:
            model(torch.rand(4, 16))
        (operation,) = [o for o in counting.counts.operations if o.name == "recurrent"]
        assert sum(c.dense for c in operation.counted) == 4 * 16 * 16


def test_keys_that_heads_share_meet_each_of_them() -> None:
    """Grouped queries: four heads of q, two of k and v."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Linear(3, 8 * 5 * 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (self.make(x).view(2, 8, 5, 6) > 0).float().split([4, 2, 2], 1)
            self.last = q, k
            return nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    torch.manual_seed(0)
    model = Grouped()
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(torch.randn(2, 3))
    q, k = model.last
    k = k.repeat_interleave(2, 1)
    scores = next(o for o in counting.counts.operations if o.kind == "product").counted[0]
    assert scores.first_pairs == int(q.sum()) * 5
    assert scores.second_pairs == int(k.sum()) * 5
    assert scores.pairs == int((q @ k.mT).sum())


def test_sums_into_places_are_named() -> None:
    class Events(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(4).index_add(0, torch.tensor([0, 1, 1]), x.sum(0))

    model = Events()
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(torch.rand(2, 3))
    assert any("index_add" in name for name in counting.not_understood)
