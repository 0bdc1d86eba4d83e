"""Graded messages and the same sent as D unary spikes, a slot each: what conventions make of both."""

import pytest
import torch
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.accounting import operators
from spikformer_deploy.accounting.tools import Work

LARGEST = 4


class Reader(nn.Module):
    """A convolution of whole numbers 0..D, divided by `unit`: in one call, or slot by slot."""

    def __init__(self, unrolled: bool, unit: int) -> None:
        super().__init__()
        self.unrolled = unrolled
        self.unit = unit
        self.stem = nn.Conv2d(4, 4, 1, bias=False)
        self.stem.weight.data = torch.eye(4)[:, :, None, None]
        self.layer = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        slots = [(x > slot).float() for slot in range(LARGEST)] if self.unrolled else [x / self.unit]
        return torch.stack([self.layer(slot) for slot in slots]).sum(0)


def work(unrolled: bool, convention: str, unit: int = 1) -> Work:
    """Of the layer that reads the numbers."""
    torch.manual_seed(0)
    model = Reader(unrolled, unit)
    numbers = torch.randint(0, LARGEST + 1, (2, 4, 7, 7)).float()
    with sd.count_operations(model) as counting, torch.no_grad():
        model(numbers)
    places = operators.account(counting.counts, convention).places
    return next(place.work for place in places if place.name == "layer")


@pytest.mark.parametrize("unit", [1, 4])
def test_papers_count_values(unit: int) -> None:
    """A message of value s, or s / D, is s spikes: as many as in D slots."""
    for convention in ("spikformer-paper", "spikformer-paper-approx"):
        graded, slots = work(False, convention, unit), work(True, convention)
        assert graded.macs == slots.macs == 0
        assert graded.acs == pytest.approx(slots.acs, rel=1e-6)


def test_a_graded_message_is_one_and_a_slot_is_one() -> None:
    graded, slots = (work(unrolled, "spikformer-paper-messages").acs for unrolled in (False, True))
    assert graded < slots == work(False, "spikformer-paper").acs


@pytest.mark.parametrize("unit", [1, 4])
def test_syops_multiplies_graded_messages_and_adds_slots(unit: int) -> None:
    graded, slots = work(False, "syops-counter", unit), work(True, "syops-counter")
    assert (graded.acs, slots.macs) == (0, 0)
    assert graded.macs > 0
    assert work(False, "syops-slots", unit).acs == pytest.approx(slots.acs, rel=1e-6)


def test_neurobench_has_other_names_for_both() -> None:
    graded, slots = work(False, "neurobench"), work(True, "neurobench")
    assert (graded.acs, slots.macs) == (0, 0)
    assert (graded.macs, slots.acs) == tuple(
        work(False, convention).acs for convention in ("spikformer-paper-messages", "spikformer-paper")
    )
