"""Images and time steps, as models of one's own have them, and neurons of several levels."""

from __future__ import annotations

import pytest
import torch
from support.counted import Steps, only, operation
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.nn.lif import LIF


class Stream(nn.Module):
    """Neurons that take all time steps, behind a layer that takes them as images."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.fc = nn.Linear(4, 6)
        self.lif = LIF(v_threshold=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.fc(x).unflatten(0, (5, -1)) if self.flat else self.fc(x))


@pytest.mark.parametrize("flat", [False, True])
def test_time_that_leads(flat: bool) -> None:
    model = Stream(flat)
    x = torch.rand(5, 3, 4)
    with sd.count_operations(model) as counting:
        model(x.flatten(0, 1) if flat else x)
    counts = counting.counts
    assert (counts.images, counts.time_steps) == (3, 5)
    assert counts.neurons[0].updates.tolist() == [18] * 5


def test_what_is_told_wins() -> None:
    model = nn.Sequential(nn.Linear(4, 6), Steps())
    with sd.count_operations(model, time_steps=5, images=3) as counting:
        model(torch.rand(15, 4))
    counts = counting.counts
    assert (counts.images, counts.time_steps) == (3, 5)
    assert counts.neurons[0].updates.tolist() == [18] * 5


def test_steps_in_a_loop_outside_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 6), Steps())
    frames = torch.rand(2, 5, 3, 4)
    with sd.count_operations(model, time_steps=5) as counting:
        for batch in frames:
            for frame in batch:
                model(frame)
    counts = counting.counts
    assert (counts.images, counts.time_steps, counts.passes) == (6, 5, 10)
    expected = [int((model[0](frames[:, t]) > 0.5).sum()) for t in range(5)]
    assert counts.neurons[0].spikes.tolist() == expected


def test_an_argument_that_is_the_same_in_each_pass_is_no_state() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 6)
            self.lif = LIF()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.lif(self.fc(x * mask).unsqueeze(0))

    model, mask = Model(), torch.ones(4)
    with sd.count_operations(model) as counting:
        for _ in range(3):
            model(torch.rand(5, 4), mask)
    assert counting.counts.images == 15


def test_states_that_are_handed_on_are_the_same_images() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 6)
            self.steps = Steps()

        def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
            v = self.fc(x) if v is None else v + self.fc(x)
            return self.steps(v), v

    model = Cell()
    with sd.count_operations(model) as counting:
        for _ in range(2):
            v = None
            for _ in range(4):
                _, v = model(torch.rand(5, 4), v)
    assert (counting.counts.images, counting.counts.time_steps) == (10, 4)


def test_weights_that_learn_in_the_forward_pass_stay_weights() -> None:
    class Plastic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(6, 4), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            out = nn.functional.linear(x, self.weight)
            self.weight.add_(out.t() @ x, alpha=0.01)
            return out

    model = Plastic()
    with sd.count_operations(model) as counting:
        for _ in range(2):
            model(torch.rand(5, 4))
    assert only(operation(counting.counts, "matmul", "linear")).calls == 2


def test_complex_numbers_are_reals() -> None:
    model = nn.Conv1d(2, 3, 3, dtype=torch.complex64)
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(torch.rand(2, 2, 8, dtype=torch.complex64))
    assert counting.counts.images == 2


def test_rounding_neurons_and_levels() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6)
            self.b = nn.Linear(6, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b((4 * self.a(x)).clamp(0, 4).round() / 4)

    torch.manual_seed(0)
    model, x = Model(), torch.rand(8, 4)
    with torch.no_grad(), sd.count_operations(model) as counting:
        model(x)
        levels = (4 * model.a(x)).clamp(0, 4).round()
    (record,) = counting.counts.neurons
    assert (record.neuron, record.operand, record.largest) == ("threshold", "integers", float(levels.max()))
    assert record.values.sum() == float(levels.sum())
    graded = only(operation(counting.counts, "b"))
    assert (graded.operand, graded.slots) == ("levels", 2 * float(levels.sum()))
    assert graded.weighted == float(levels.sum()) / 2
    assert graded.pairs == 2 * int((levels != 0).sum())
