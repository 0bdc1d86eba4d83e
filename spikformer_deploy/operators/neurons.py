"""Which modules are neurons, of whichever library, and where time is in what they give.

Libraries are told by the module that their classes stand in, so that none has to be there.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor, nn

from spikformer_deploy.nn.lif import SPIKING

Layout: TypeAlias = Literal["step", "time first", "images first", "images and time"]
"""What neurons give in one call.

step             (N, ...) one time step
time first       (T, N, ...)
images first     (N, T, ...)
images and time  (N * T, ...) all steps of an image side by side
"""

_SNNTORCH_SEQUENCES = ("LeakyParallel", "LeakyKernel", "AssociativeLeaky", "StateLeaky", "LinearLeaky")
"""Neurons of snntorch that take (T, N, C); all others take a step."""
_NORSE_BASES = ("SNN", "SNNCell", "SNNRecurrent", "SNNRecurrentCell")
OPERATORS = ("spikformer::lif", "spikformer::levels")
"""Operators that are neurons, over all time steps: (T, N, ...) to (T, N, ...)."""
_SNNTORCH_STATES = ("mem", "syn", "syn_exc", "syn_inh", "spk")


def layout_of(module: nn.Module) -> Layout | None:
    """Where time is in the output of `module`; None if it is not known to be neurons."""
    if isinstance(module, SPIKING):
        return "time first"
    if _stands_in(module, "spikingjelly.activation_based.neuron") or _stands_in(
        module, "spikingjelly.clock_driven.neuron"
    ):
        return "time first" if getattr(module, "step_mode", "m") == "m" else "step"
    if _stands_in(module, "snntorch._neurons"):
        return "time first" if _has_base(module, _SNNTORCH_SEQUENCES) else "step"
    if _stands_in(module, "norse.torch.module") and _has_base(module, _NORSE_BASES):
        return "step" if _has_base(module, ("SNNCell", "SNNRecurrentCell")) else "time first"
    if _stands_in(module, "sinabs.layers") and _has_base(module, ("StatefulLayer",)):
        return "images and time" if type(module).__name__.endswith("Squeeze") else "images first"
    return None


def _stands_in(module: nn.Module, place: str) -> bool:
    """Whether the class of `module`, or one that it is made from, stands in the Python module `place` or below it."""
    return any(f"{base.__module__}.".startswith(f"{place}.") for base in type(module).__mro__)


def _has_base(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether the class of `module`, or one that it is made from, has one of these names."""
    return any(base.__name__ in names for base in type(module).__mro__)


def holds_state(module: nn.Module) -> bool:
    """Whether neurons that take single steps hold the state of an earlier one, so that the next call goes on from it.

    spikingjelly's are plain numbers after a reset; snntorch's are tensors of zeros.
    """
    memories = getattr(module, "_memories", None)
    if memories is not None:
        return any(isinstance(value, Tensor) for value in memories.values())
    if not getattr(module, "init_hidden", False):
        return False
    states = (getattr(module, name, None) for name in _SNNTORCH_STATES)
    return any(isinstance(state, Tensor) and bool(state.any()) for state in states)


def spikes_of(output: object) -> Tensor | None:
    """What neurons send, of all that their module gives: the tensor, or the first of several (states follow)."""
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def steps_in(output: Tensor, layout: Layout, module: nn.Module) -> int:
    """Time steps in one output of neurons."""
    match layout:
        case "step":
            return 1
        case "time first":
            return output.shape[0]
        case "images first":
            return output.shape[1]
        case _:
            steps = getattr(module, "num_timesteps", None) or -1
            return steps if steps > 0 else max(1, output.shape[0] // max(1, getattr(module, "batch_size", 1) or 1))


def by_step(output: Tensor, layout: Layout, steps: int) -> Tensor:
    """(T, N, ...) of one output of neurons, as a view."""
    match layout:
        case "step":
            return output.unsqueeze(0)
        case "time first":
            return output
        case "images first":
            return output.transpose(0, 1)
        case _:
            return output.unflatten(0, (-1, steps)).transpose(0, 1)
