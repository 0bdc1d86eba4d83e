"""Heads at each position: accumulators that are maps, in every executor and format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from campaign.agreement import Inputs, assert_executors_agree
from support.deep import some
from support.executions import assert_equal_executions
from support.layers import dyadic
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import ModelError, ProgramError
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.netx.write import write_network
from spikformer_deploy.converters.onnx import write as onnx_model
from spikformer_deploy.converters.onnx.read import read_model as read_onnx
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.lava import execute as lava
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.network.bounds import worst_cases
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.synapses import Readout
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.pipeline.program import Program, from_bytes, to_bytes

SHAPE = (2, 3, 5)
STEPS = 3


class Net(nn.Module):
    """Frames (B, T, 2, 3, 5) -> (B, 4 classes at each of 15 positions), of the last step or the mean.

    head  "linear": of tokens; "conv": 3x3, which sees the neighbours; "sum": of two spikes, so of 0..2
    """

    def __init__(self, head: str, last: bool, seed: int = 0) -> None:
        super().__init__()
        self.head = head
        self.last = last
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.lif = LIF()
        self.other = nn.Conv2d(2, 6, 1)
        self.second = LIF()
        self.linear = nn.Linear(6, 4)
        self.window = nn.Conv2d(6, 4, 3, padding=1)
        dyadic(self, seed)

    def layer(self, conv: nn.Module, x: Tensor) -> Tensor:
        return conv(x.flatten(0, 1)).unflatten(0, (STEPS, -1))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(0, 1)
        spikes = self.lif(self.layer(self.conv, frames))
        if self.head == "sum":
            spikes = spikes + self.second(self.layer(self.other, frames))
        if self.head == "conv":
            logits = self.layer(self.window, spikes).flatten(3)
        else:
            logits = self.linear(spikes.flatten(3).transpose(2, 3)).transpose(2, 3)
        return (logits[-1] if self.last else logits.mean(0)).flatten(1)


def imported(module: nn.Module) -> Imported:
    graph = check(trace(module.eval(), SHAPE, time_steps=STEPS, per_step=True))
    preprocess = Preprocess(2, 3, (0.0, 0.0), (1.0, 1.0), 1, 5)
    return Imported("test", graph, preprocess, (), "", {}, ())


def frames(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (count, STEPS, *SHAPE)).astype(np.uint8)


def compiled(head: str, last: bool) -> Program:
    program = sd.compile(imported(Net(head, last)), check=False)
    assert isinstance(program, Program)
    return program


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("head", some(["conv"], long=["linear", "sum"]))
def test_logits_are_those_of_each_position(head: str, last: bool) -> None:
    """Of weights that need no rounding, in all executors and kernels; flattened as the model does."""
    module = Net(head, last).eval()
    program = compiled(head, last)
    network = program.network
    assert network.output.shape == (4, 3, 5)
    assert (network.rounding, network.bounds) == (0, "static")
    run = assert_executors_agree(Inputs(network, frames(), 0))
    assert run is not None
    with torch.no_grad():
        wanted = module.double()(torch.from_numpy(frames()).double()).numpy()
    assert wanted.std() > 0.1
    found = sd.run(program, frames())
    np.testing.assert_array_equal(found.accumulators, run.accumulators)
    np.testing.assert_allclose(found.logits, wanted, atol=1e-9)
    low, high = worst_cases(network)["output"].state
    assert low <= run.accumulators.min() <= run.accumulators.max() <= high


@pytest.mark.long
def test_lava_gives_the_same() -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed: see the Makefile")
    network = compiled("sum", True).network
    names = [p.name for p in network]
    right = reference.execute(network, frames(3), record=names)
    found = lava.execute(network, frames(3), record=names)
    assert_equal_executions(replace(found, peak_state=right.peak_state, kernels=""), replace(right, kernels=""))


def test_files_keep_it(tmp_path: Path) -> None:
    """A program is read as it was written; a float model goes to ONNX and back; a .net has no such head."""
    program = compiled("linear", True)
    again = from_bytes(to_bytes(program), "file")
    assert again.network.output.shape == (4, 3, 5)
    model = imported(Net("linear", True))
    onnx_model.write_model(model.graph, tmp_path / "model.onnx", model.preprocess, (), {})
    back = read_onnx(tmp_path / "model.onnx")
    real = torch.from_numpy(frames()).float()
    ours, theirs = (execute(g, real)["output"] for g in (model.graph, back.graph))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    with pytest.raises(ModelError, match="netx"):
        write_network(program.network, tmp_path / "model.net")


def test_forged_heads_are_refused() -> None:
    """Biases at each position, and a map that a readout reaches."""
    program = compiled("linear", False)
    network = program.network
    head = network.output
    assert isinstance(head.neuron, Accumulator)
    biased = replace(head, neuron=replace(head.neuron, bias=np.zeros(head.shape, np.int64)))
    forged = replace(program, network=replace(network, populations=(*network.populations[:-1], biased)))
    with pytest.raises(ProgramError, match="its bias or scale"):
        from_bytes(to_bytes(forged), "file")
    last = network.projections[-1]
    readout = replace(last, synapse=Readout(last.synapse.weight[:, :, 0, 0]))  # type: ignore[union-attr]
    forged = replace(program, network=replace(network, projections=(*network.projections[:-1], readout)))
    with pytest.raises(ProgramError, match="it needs a readout, or convolutions"):
        from_bytes(to_bytes(forged), "file")


class Turned(Net):
    def forward(self, x: Tensor) -> Tensor:
        """Positions before classes."""
        return super().forward(x).unflatten(1, (4, 15)).transpose(1, 2).flatten(1)


def test_another_order_is_refused() -> None:
    with pytest.raises(ModelError, match=r"its result is \(B, Y\*X\*C\)"):
        imported(Turned("linear", True))
