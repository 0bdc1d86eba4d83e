"""Everything that must be equal of one network and its images: executors and their kernels, counts, files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from support.durations import duration
from support.executions import assert_equal_executions, random_cells
from support.mappings import random_mapping
from support.networks import preprocess_of
from support.profiles import with_wide_states

from spikformer_deploy.accounting import layers as counts
from spikformer_deploy.accounting.energy import account
from spikformer_deploy.base.errors import MappingError, ModelError, OverflowDetected
from spikformer_deploy.chips.loihi.memory import token_wise
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.onnx.program import to_model
from spikformer_deploy.counts import events
from spikformer_deploy.executors import gpu as device
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.execution import Cells, Execution
from spikformer_deploy.executors.fast import engine, plan, synapses
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.bounds import largest_sum
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.neurons import idle
from spikformer_deploy.network.synapses import Attention, Conv, Readout, synaptic_sum
from spikformer_deploy.pipeline.program import Program, from_bytes, to_bytes
from spikformer_deploy.pipeline.sample import firing_rates

MULTIPLYING = [kind for kind, works in (("int8", synapses.int8_limit), ("pairs", synapses.pairs_work)) if works()]
KERNELS = ("", "plain", "events", *MULTIPLYING)
CPU = torch.device("cpu")
LOIHI2 = with_wide_states(load_profile("loihi2"))
Execute = Callable[[], Execution]


class Inputs:
    """A network, its images and the cells in which messages are counted."""

    def __init__(self, network: Network, images: np.ndarray, seed: int) -> None:
        self.network, self.images = network, images
        self.names = [p.name for p in network]
        self.cells: dict[str, Cells] = random_cells(network, seed)
        self.sums = int(np.random.default_rng(seed).choice([1, 700, 2**22]))

    def reference(self) -> Execution:
        return reference.execute(self.network, self.images, record=self.names, cells=self.cells)

    def engine(self, kind: str) -> Execution:
        with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind), mock.patch.object(plan, "SUMS_BYTES", self.sums):
            return engine.execute(self.network, self.images, record=self.names, cells=self.cells)

    def torch(self) -> Execution:
        loaded = device.load(plan.make_plan(self.network, self.cells), CPU)
        return device.run(loaded, self.images, self.names)

    def onnx(self) -> Execution:
        return onnx_backend.execute(self.network, self.images, record=self.names, cells=self.cells)


def assert_executors_agree(given: Inputs) -> Execution | None:
    """Every executor gives what the reference gives, or reports an overflow where it does; None where it does."""
    try:
        right: Execution | None = given.reference()
    except OverflowDetected:
        right = None
    for kind in KERNELS:
        assert_same(lambda kind=kind: given.engine(kind), right, f"engine {kind}")
    assert_same(given.torch, right, "torch")
    if fits_onnx(given.network):
        assert_same(given.onnx, right, "onnx")
    return right


def assert_same(execute: Execute, right: Execution | None, name: str) -> None:
    try:
        found: Execution | None = execute()
    except OverflowDetected:
        found = None
    assert (found is None) == (right is None), f"{name}: overflow in one of the two alone"
    if found is not None and right is not None:
        try:
            assert_equal_executions(found, right)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def fits_onnx(network: Network) -> bool:
    """Whether floats of ONNX Runtime hold all sums; else the export must refuse them."""
    convs = [p for p in network.projections if not isinstance(p.synapse, (Attention, Readout))]
    if max((largest_sum(network, p) for p in convs), default=0) < 2**24:
        return True
    try:
        to_model(network)
    except ModelError as error:
        if "not exact in" not in str(error):
            raise
        return False
    return True


# --- counts ---


def synaptic_operations(network: Network, projection: Projection, sent: dict[str, np.ndarray]) -> np.ndarray:
    """(T,) messages times the targets that they reach: the sums of a network of ones, of messages of 1."""
    fired = [(sent[s] != 0).astype(np.int64) for s in projection.sources]
    synapse = projection.synapse
    if isinstance(synapse, (Conv, Readout)):
        synapse = replace(synapse, weight=np.ones_like(synapse.weight), **no_shift(synapse))
    assert not isinstance(synapse, Attention)
    shape = network[projection.target].shape
    steps = range(network.time_steps)
    return np.array([synaptic_sum(synapse, [f[:, t] for f in fired], shape).sum() for t in steps])


def no_shift(synapse: Conv | Readout) -> dict[str, int]:
    return {"shift": 0} if isinstance(synapse, Conv) else {}


def assert_counts(network: Network, mapping: Mapping, images: np.ndarray) -> None:
    """Synaptic operations of the layers = of the cores = of the energy = of a walk; so with spikes, messages, idle."""
    there = events.geometry(network, mapping)
    names = [p.name for p in network]
    run = reference.execute(network, images, record=names, cells=there.cells)
    found = events.count(there, run)
    for projection, counted in zip(network.projections, found.projections, strict=True):
        if not isinstance(projection.synapse, Attention):
            expected = synaptic_operations(network, projection, run.spikes)
            np.testing.assert_array_equal(counted.synops, expected, f"{projection.sources} -> {projection.target}")
    slices = found.slices
    assert slices is not None
    for layer in counts.layers(network, found):
        own = [i for i, site in enumerate(mapping.sites) if site.population == layer.name]
        at_cores = slices.synops[..., np.isin(slices.sites, own)].sum((0, 2))
        np.testing.assert_array_equal(found.synops_of(layer.name), at_cores, layer.name)
        np.testing.assert_array_equal(layer.synops, at_cores / len(images), layer.name)
        fired = run.spikes[layer.name] != 0
        np.testing.assert_array_equal(found.populations[layer.name].spikes, fired.sum((0, 2, 3, 4)), layer.name)
        assert layer.silent == (~fired.any((0, 1))).sum()
        marked = idle(network[layer.name].neuron, run.spikes[layer.name], run.membranes[layer.name])
        rested = np.zeros(network.time_steps, np.int64) if marked is None else marked.sum((0, 2, 3, 4))
        np.testing.assert_array_equal(found.populations[layer.name].idle, rested, layer.name)
        np.testing.assert_array_equal(slices.idle[..., np.isin(slices.sites, own)].sum((0, 2)), rested, layer.name)
    assert slices.messages_in.sum() == slices.messages_out.sum()
    how_long = duration(found, network, mapping, LOIHI2)
    parts = [
        part
        for energy in account(network, found, mapping, LOIHI2, how_long)
        for part in energy.parts
        if energy.convention.startswith("profile") and part.name == "synaptic operations"
    ]
    assert all(part.events == found.synops for part in parts), (parts, found.synops)
    assert parts or not found.synops


# --- mapping and files ---


def mappings(network: Network, images: np.ndarray, seed: int) -> list[Mapping]:
    """A random one, and that of both schedules on Loihi 2 where the network fits it."""
    rates, out = firing_rates(network, images), [random_mapping(network, seed)]
    for schedule in ("spatial", *(["token-serial"] if token_wise(network) else [])):
        try:
            out.append(map_network(network, LOIHI2, rates, schedule=schedule))
        except MappingError:
            break
    return out


def assert_file_keeps(network: Network, mapping: Mapping, images: np.ndarray, right: Execution) -> None:
    """A saved program comes back with the same bytes, and gives the same integers."""
    content = to_bytes(Program(network, mapping, LOIHI2, preprocess_of(network), (), {}))
    again = from_bytes(content, "again.spk")
    assert to_bytes(again) == content
    np.testing.assert_array_equal(engine.execute(again.network, images).accumulators, right.accumulators)
