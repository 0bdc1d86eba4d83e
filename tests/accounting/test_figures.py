"""Figures as people read them, and what the notes say of the target's."""

from dataclasses import replace

import numpy as np
import pytest
from support.networks import random_images, random_network

from spikformer_deploy.accounting.energy import Duration, account
from spikformer_deploy.accounting.figures import by_boundary, interval, largest, range_values, time_figures
from spikformer_deploy.accounting.notes import notes
from spikformer_deploy.accounting.target import CHIPS
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.profile import Profile, load_profile, under
from spikformer_deploy.counts import events
from spikformer_deploy.counts.events import Events
from spikformer_deploy.executors import reference
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.spread import spread
from spikformer_deploy.timing.times import StepTimes

LOIHI2 = load_profile("loihi2")


@pytest.fixture(scope="module")
def counted() -> tuple[Network, Mapping, Events]:
    network = random_network(4, blocks=2)
    mapping = map_network(network, LOIHI2, {})
    there = events.geometry(network, mapping)
    found = events.count(there, reference.execute(network, random_images(network, 0, 2), cells=there.cells))
    return network, mapping, found


def text_under(counted: tuple[Network, Mapping, Events], profile: Profile) -> tuple[str, StepTimes]:
    """The notes, and the times, under a profile."""
    network, mapping, found = counted
    times = estimate(found, network, mapping, profile)
    energies = account(network, found, mapping, profile, Duration(times, spread(found, network, mapping, profile)))
    return " ".join(notes(network, found, energies, times)), times


def test_times_follow_from_the_step(counted: tuple[Network, Mapping, Events]) -> None:
    network, mapping, found = counted
    times = estimate(found, network, mapping, LOIHI2)
    figures = time_figures(times, spread(found, network, mapping, LOIHI2))
    steps = network.time_steps + times.depth - 1
    np.testing.assert_allclose(figures["latency_us"].likely, steps * np.array(figures["step_us"].likely))
    # the longest step gives the fewest images
    low, high = figures["step_us"].likely
    expected = [1e6 / (network.time_steps * high), 1e6 / (network.time_steps * low)]
    np.testing.assert_allclose(figures["images_per_second"].likely, expected, rtol=1e-3)
    for figure in figures.values():
        values = range_values(figure)
        assert values["low"] < values["likely_low"] < values["nominal"] < values["likely_high"] < values["high"]


def test_the_note_on_energy_says_likely_and_boundary(counted: tuple[Network, Mapping, Events]) -> None:
    network, mapping, found = counted
    text, times = text_under(counted, LOIHI2)
    duration = Duration(times, spread(found, network, mapping, LOIHI2))
    energy = account(network, found, mapping, LOIHI2, duration)[7]
    total = by_boundary(energy)[CHIPS].total
    assert f"within the boundary 'chips' is likely {interval(*total.likely)} mJ an image" in text


def test_the_note_on_sub_steps_names_the_runtime_where_it_is_large(counted: tuple[Network, Mapping, Events]) -> None:
    text, times = text_under(counted, LOIHI2)
    assert times.bound == "sub_steps"
    share = (times.chip_steps - 1) * times.runtime_ns[NOMINAL] / 1e3 / times.step_us_mean[NOMINAL]
    assert share > 0.5
    assert f"the runtime takes 1.09 us, and {times.chip_steps - 1} of these are {share:.0%} of a step" in text
    text, times = text_under(counted, under(LOIHI2, "bare"))
    assert times.bound == "sub_steps"
    assert "every core of the chip sweeps" in text
    assert "runtime" not in text


def test_models_that_are_far_apart_are_explained(counted: tuple[Network, Mapping, Events]) -> None:
    network, mapping, found = counted
    closed = estimate(found, network, mapping, LOIHI2)

    def followed(waiting_ns: float, sub_steps_ns: float) -> StepTimes:
        """The same, message by message, with so much more of two parts."""
        parts = closed.parts | {"waiting": np.full_like(closed.parts["link"], waiting_ns)}
        parts["sub_steps"] = parts["sub_steps"] + sub_steps_ns
        return replace(closed, step_ns=closed.step_ns + waiting_ns + sub_steps_ns, parts=parts, model="cycle")

    def said(times: StepTimes) -> list[str]:
        return [text for text in notes(network, found, account(network, found), times, closed) if "Message by" in text]

    (text,) = said(followed(20_000, 5_000))
    assert text.endswith(
        "Between them lie +20 us of waiting, of messages for places in queues and on links, and of sweeps that these "
        "hold up; +5 us of sub-steps, with what waits in them."
    )
    (text,) = said(followed(20_000, 500))
    assert "sub-steps" not in text, "what explains less than a tenth is not worth a word"
    (text,) = said(followed(0, -8_000))
    assert "Between them lie -8 us of sub-steps" in text
    assert not said(followed(1_000, 0)), "within 15 % nothing is said"
    assert not [text for text in notes(network, found, account(network, found), closed) if "Message by" in text]


def test_the_rest_of_the_rulers_is_others() -> None:
    shares = {f"time.{i}": share for i, share in enumerate((0.05, 0.3, 0.2, 0.15, 0.1, 0.12, 0.08))}
    told = largest(shares)
    assert list(told) == ["time.1", "time.2", "time.3", "time.5", "time.4", "others"]
    assert told["others"] == pytest.approx(0.13)
    assert largest({"time.a": 1.0}) == {"time.a": 1.0}


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0, 1, "0 to 1"), (2, 2.0001, "2"), (999.6, 23456.7, "1,000 to 23,500"), (0.00123456, 98.76, "0.00123 to 98.8")],
)
def test_intervals(low: float, high: float, text: str) -> None:
    assert interval(low, high) == text
