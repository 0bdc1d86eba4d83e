"""Three packages that count, run as their users run them: syops and neurobench are in the extra `compare`."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

SYOPS_NEURONS = ("IFNode", "LIFNode", "ParametricLIFNode")


class Bar:
    """A progress bar that shows nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.suffix = ""

    def next(self) -> None:
        """Nothing to show."""

    finish = next


@contextmanager
def _stand_ins() -> Iterator[None]:
    """What syops 0.0.5 imports and is not there: `progress`, which it does not declare, and spikingjelly <= 0.0.0.0.12.

    It looks for six classes of neurons; three are spikingjelly's own of today, the multi-step ones are none.
    """
    from spikingjelly.activation_based import functional, neuron, surrogate

    clock: Any = ModuleType("spikingjelly.clock_driven")
    clock.functional, clock.surrogate, clock.neuron = (
        functional,
        surrogate,
        ModuleType("spikingjelly.clock_driven.neuron"),
    )
    for name in SYOPS_NEURONS:
        setattr(clock.neuron, name, getattr(neuron, name))
        setattr(clock.neuron, f"MultiStep{name}", type(f"MultiStep{name}", (), {}))
    progress: Any = ModuleType("progress")
    progress.bar = ModuleType("progress.bar")
    progress.bar.Bar = Bar
    with pytest.MonkeyPatch.context() as patch:
        for module in (clock, clock.neuron, progress, progress.bar):
            patch.setitem(sys.modules, module.__name__, module)
        yield


def syops(model: nn.Module, *batches: torch.Tensor) -> dict[str, float]:
    """{"AC", "MAC"} an image as syops 0.0.5 counts them; a batch (N, ...) for each call of the model."""
    pytest.importorskip("spikingjelly")
    with _stand_ins():
        engine = pytest.importorskip("syops.engine")
    (_, acs, macs, _), _ = engine.get_syops_pytorch(
        model, (), [(batch, None) for batch in batches], print_per_layer_stat=False, ost=io.StringIO()
    )
    return {"MACs": macs, "ACs": acs}


def neurobench(model: nn.Module, images: torch.Tensor, *activations: type[nn.Module]) -> dict[str, Any]:
    """The metrics of NeuroBench 2.3.0 by their names; images (N, ...), one batch; activations: classes of neurons."""
    pytest.importorskip("neurobench")
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import TorchModel

    wrapped = TorchModel(model)
    for activation in activations:
        wrapped.add_activation_module(activation)
    return _benchmark(wrapped, images, [ActivationSparsity, SynapticOperations])


def neurobench_of_snntorch(model: nn.Module, frames: torch.Tensor) -> dict[str, Any]:
    """The same of a network of snntorch, with NeuroBench's metrics of its neurons; frames (N, T, ...)."""
    pytest.importorskip("neurobench")
    from neurobench.metrics.workload import ActivationSparsity, NeuronOperations, SynapticOperations
    from neurobench.models import SNNTorchModel

    return _benchmark(SNNTorchModel(model), frames, [ActivationSparsity, SynapticOperations, NeuronOperations])


def _benchmark(wrapped: Any, images: torch.Tensor, workload: list[Any]) -> dict[str, Any]:
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount

    data = torch.utils.data.TensorDataset(images, torch.zeros(len(images)))
    loader = torch.utils.data.DataLoader(data, batch_size=len(images))
    metrics = [[ParameterCount, Footprint, ConnectionSparsity], workload]
    with torch.no_grad():
        found = Benchmark(wrapped, loader, [], [], metrics).run(quiet=True)
    # metrics of several figures stand beside those of one
    for name in [name for name, value in found.items() if isinstance(value, dict)]:
        found |= found.pop(name)
    return found


def spikingjelly(model: nn.Module, batch: torch.Tensor) -> Any:
    """The report of spikingjelly 2.0's simple energy model, over the whole batch: .counts and .breakdown_pj by name."""
    op_counter = pytest.importorskip("spikingjelly.activation_based.op_counter")
    return op_counter.estimate_simple_energy(model, batch)
