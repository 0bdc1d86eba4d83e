"""Neurons of every library, in each form in which they take time: images, steps, and spikes step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spikformer_deploy as sd

TIME_STEPS, IMAGES, INPUTS, HIDDEN, CLASSES = 7, 5, 8, 6, 3


def layers(first: nn.Module, second: nn.Module) -> list[nn.Module]:
    torch.manual_seed(0)
    weights = [nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, CLASSES)]
    for weight in weights:
        nn.init.uniform_(weight.weight, 0.0, 1.0)
    return [weights[0], first, weights[1], second]


def inputs() -> Tensor:
    """(T, N, C) spikes."""
    return (torch.rand(TIME_STEPS, IMAGES, INPUTS, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def step_by_step(model: nn.Module) -> None:
    for step in inputs():
        model(step)


def handing_on(model: nn.Module) -> None:
    state = None
    for step in inputs():
        _, state = model(step, state)


def snntorch_hidden() -> tuple[nn.Module, Callable[[nn.Module], Any], str]:
    snn = pytest.importorskip("snntorch")

    def neurons(**more: bool) -> nn.Module:
        return snn.Leaky(beta=0.9, threshold=2.0, init_hidden=True, **more)

    model = nn.Sequential(*layers(neurons(), neurons(output=True)))
    return model, step_by_step, "Leaky"


def snntorch_parallel() -> tuple[nn.Module, Callable[[nn.Module], Any], str]:
    snn = pytest.importorskip("snntorch")
    neurons = [snn.LeakyParallel(size, size, threshold=0.01) for size in (HIDDEN, CLASSES)]
    return nn.Sequential(*layers(*neurons)), lambda model: model(inputs()), "LeakyParallel"


def spikingjelly_steps() -> tuple[nn.Module, Callable[[nn.Module], Any], str]:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    return nn.Sequential(*layers(neuron.LIFNode(), neuron.LIFNode())), step_by_step, "LIFNode"


def spikingjelly_sequences() -> tuple[nn.Module, Callable[[nn.Module], Any], str]:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    neurons = [neuron.ParametricLIFNode(step_mode="m") for _ in range(2)]
    return nn.Sequential(*layers(*neurons)), lambda model: model(inputs()), "ParametricLIFNode"


def norse_cells() -> tuple[nn.Module, Callable[[nn.Module], Any], str]:
    norse = pytest.importorskip("norse.torch")
    parameters = norse.LIFParameters(v_th=torch.as_tensor(0.2))
    return norse.SequentialState(*layers(norse.LIFCell(parameters), norse.LIFCell(parameters))), handing_on, "LIFCell"


def norse_sequences() -> tuple[nn.Module, Callable[[nn.Module], Any], str]:
    norse = pytest.importorskip("norse.torch")
    parameters = norse.LIFParameters(v_th=torch.as_tensor(0.2))
    model = norse.SequentialState(*layers(norse.LIF(parameters), norse.LIF(parameters)))
    return model, lambda model: model(inputs()), "LIF"


def sinabs_sequences() -> tuple[nn.Module, Callable[[nn.Module], Any], str]:
    neurons = pytest.importorskip("sinabs.layers")
    return nn.Sequential(*layers(neurons.IAF(), neurons.IAF())), lambda m: m(inputs().transpose(0, 1)), "IAF"


def sinabs_squeezed() -> tuple[nn.Module, Callable[[nn.Module], Any], str]:
    neurons = pytest.importorskip("sinabs.layers")
    model = nn.Sequential(*layers(*(neurons.IAFSqueeze(batch_size=IMAGES) for _ in range(2))))
    return model, lambda m: m(inputs().transpose(0, 1).flatten(0, 1)), "IAFSqueeze"


CASES = (
    snntorch_hidden,
    snntorch_parallel,
    spikingjelly_steps,
    spikingjelly_sequences,
    norse_cells,
    norse_sequences,
    sinabs_sequences,
    sinabs_squeezed,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_images_steps_and_spikes(case: Callable[[], tuple[nn.Module, Callable[[nn.Module], Any], str]]) -> None:
    model, run, neuron = case()
    sent: dict[nn.Module, list[Tensor]] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        sent.setdefault(module, []).append((output[0] if isinstance(output, tuple) else output).detach())

    hooks = [m.register_forward_hook(keep) for m in model.modules() if type(m).__name__ == neuron]
    with sd.count_operations(model) as counting:
        run(model)
    for hook in hooks:
        hook.remove()
    counts = counting.counts
    assert (counts.images, counts.time_steps) == (IMAGES, TIME_STEPS)
    assert [record.neuron for record in counts.neurons] == [neuron, neuron]
    assert not counts.not_understood
    for record, outputs, size in zip(counts.neurons, sent.values(), (HIDDEN, CLASSES), strict=True):
        assert record.elements == size
        assert record.updates.tolist() == [IMAGES * size] * TIME_STEPS
        np.testing.assert_array_equal(record.spikes, by_step(case.__name__, outputs).count_nonzero((1, 2)))
    assert counts.neurons[0].spikes.sum() > 0
    linear = {o.name: o.counted for o in counts.operations if o.kind == "linear"}
    assert sum(c.pairs for c in linear["0"]) == int(inputs().sum()) * HIDDEN
    assert sum(c.pairs for c in linear["2"]) == int(counts.neurons[0].spikes.sum()) * CLASSES


def by_step(name: str, outputs: list[Tensor]) -> Tensor:
    """(T, N, C) of what neurons gave, all calls."""
    if len(outputs) > 1:
        return torch.stack(outputs)
    if name == "sinabs_squeezed":
        return outputs[0].unflatten(0, (IMAGES, TIME_STEPS)).transpose(0, 1)
    return outputs[0].transpose(0, 1) if name == "sinabs_sequences" else outputs[0]


def test_a_reset_begins_other_images() -> None:
    activation_based = pytest.importorskip("spikingjelly.activation_based")
    model, run, _ = spikingjelly_steps()
    with sd.count_operations(model) as counting:
        for _ in range(3):
            run(model)
            activation_based.functional.reset_net(model)
    assert (counting.counts.images, counting.counts.time_steps) == (3 * IMAGES, TIME_STEPS)
    assert counting.counts.passes == 3 * TIME_STEPS
