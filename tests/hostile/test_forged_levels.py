"""Forged networks of integer neurons: each is refused, or means the same in every executor.

Every kind of field and of array of a saved network is forged in turn, as in whole programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hostile.forging import Forged, forged_arrays, forged_structures, opened, sealed
from support.networks import graded_network, random_images

from spikformer_deploy.base.errors import ModelError, OverflowDetected
from spikformer_deploy.base.flat import built, flat
from spikformer_deploy.executors import onnx, reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels

pytest.importorskip("onnxruntime")
CHANGES = 2
"""Of each kind of field."""


@cache
def content() -> bytes:
    """A network as program files hold it."""
    tensors: dict[str, np.ndarray] = {}
    return sealed({"network": flat(graded_network(4, 2, 24), "network", tensors)}, tensors)


def accepted(file: bytes) -> Network | None:
    """The network; None where it is refused as loading refuses it."""
    structure, tensors = opened(file)
    try:
        network = built(Network, structure["network"], tensors, "network")
        check_network(network)
    except ValueError:
        return None
    return network


def answer(executor: Any, network: Network, images: np.ndarray) -> Any:
    """All that integer neurons sent and kept, and the accumulators."""
    names = [p.name for p in network if isinstance(p.neuron, Levels)]
    try:
        ran = executor.execute(network, images, record=names)
    except OverflowDetected:
        return "overflow"
    return [ran.accumulators.tolist(), *(kept[n].tolist() for kept in (ran.spikes, ran.membranes) for n in names)]


def forged() -> Iterator[Forged]:
    rng = np.random.default_rng(0)
    yield from forged_structures(content(), "network", rng, CHANGES)
    yield from forged_arrays(content(), rng, 2 * CHANGES)


def test_a_network_of_integers_comes_back() -> None:
    network = accepted(content())
    assert network is not None
    assert network.digest() == graded_network(4, 2, 24).digest()
    tensors: dict[str, np.ndarray] = {}
    assert sealed({"network": flat(network, "network", tensors)}, tensors) == content()
    assert "Levels[" in network.dump()


@pytest.mark.long
def test_every_field_has_a_law() -> None:
    taken = refused = 0
    for what, file in forged():
        network = accepted(file)
        if network is None:
            refused += 1
            continue
        images = random_images(network, 1, 1)
        right = answer(reference, network, images)
        assert network.bounds == "observed" or right != "overflow", what
        assert answer(engine, network, images) == right, what
        try:
            assert answer(onnx, network, images) == right, what
        except ModelError:
            continue
        taken += 1
    assert taken >= 10
    assert refused >= 40


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("levels", 2**23, "a level of 8388608 does not fit 24 bits"),
        ("reset", -1, "a reset of -1"),
        ("reset", 2**23 - 1, "a potential after a reset of"),
        ("bias", -(2**63), "a bias of"),
        ("decay", 4097, "decay 4097"),
        ("shift", 32, "shift 32"),
        ("rounding", "down", "rounding down"),
        ("exact", True, "said to be exact"),
    ],
)
def test_fields_of_integer_neurons(field: str, value: Any, message: str) -> None:
    structure, tensors = opened(content())
    neuron = next(
        p["neuron"]
        for p in structure["network"]["populations"]
        if p["neuron"]["type"] == "Levels" and p["neuron"]["decay"] and not p["neuron"]["exact"]
    )
    if isinstance(neuron[field], dict):
        tensors[neuron[field]["tensor"]][:] = value
    else:
        neuron[field] = value
    with pytest.raises(ValueError, match=message):
        check_network(built(Network, structure["network"], tensors, "network"))
