"""Neurons of the float graph: what the tracer makes of their calls, and what they do over all time steps at once.

Exported models call ours, or those of spikingjelly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import torch
from typing_extensions import assert_never

from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.attentions import settled
from spikformer_deploy.graph.axes import axis
from spikformer_deploy.graph.calls import Call, Handler, Value
from spikformer_deploy.nn.levels import levels
from spikformer_deploy.nn.lif import lif


def fire(op: ir.Neuron, x: torch.Tensor) -> torch.Tensor:
    """What neurons send for their input `x`, both (T, B, C, Y, X)."""
    match op:
        case ir.Lif(tau, v_threshold, decay_input, soft_reset, strict):
            # the slope of the surrogate gradient changes no spike
            return lif(x, tau, v_threshold, decay_input, 4.0, soft_reset, strict)
        case ir.Levels(count, threshold, keep, half_even):
            return levels(x, count, threshold, keep, half_even)
        case _:
            assert_never(op)


def _lif(call: Call) -> Value:
    """Arguments: x, tau, v_threshold, decay_input, slope of the surrogate gradient, soft_reset, strict."""
    tau, v_threshold, decay_input = call.args[1:4]
    soft_reset = bool(call.argument(5, False))
    strict = bool(call.argument(6, False))
    return _add_neuron(call, ir.Lif(tau, v_threshold, decay_input, soft_reset, strict), "LIF")


def _levels(call: Call) -> Value:
    """Arguments: x, count, threshold, keep, half_even."""
    count, threshold, keep, half_even = call.args[1:5]
    return _add_neuron(call, ir.Levels(int(count), float(threshold), float(keep), bool(half_even)), "integer neuron")


def _add_neuron(call: Call, op: ir.Neuron, kind: str) -> Value:
    """A new population that reads the first argument; its neurons go through the time steps, the first dimension."""
    call = replace(call, args=(settled(call, call.args[0]), *call.args[1:]))
    value = call.value()
    steps = call.builder.time_steps
    if value.dims[0] != axis("T", steps):
        problem = f"the {kind} sees {axes.show(value.dims)}: its first dimension must be the time axis only"
        repeated = "" if steps == 1 else f".repeat({steps}, 1, ...)"
        way_out = f"Give images a time axis of T = {steps} by x.unsqueeze(0){repeated}, and end it behind all neurons."
        raise call.refuse(problem, way_out)
    return call.add(op, (value.name,), call.node_shape(value), value.dims)


# --- spikingjelly ---------------------------------------------------------------------------------------------
# Arguments: x, the potential before the first step, then (of the LIF) tau, decay_input, v_threshold, v_reset.
# Results: spikes, last potential, all potentials.  A model that reads a potential is refused: None is no value.

_Outputs: TypeAlias = tuple[Value, None, None]


def _full_like(call: Call) -> float:
    """The potential at rest that spikingjelly hands to its neurons: the number in every place."""
    return float(call.args[1])


def _spikingjelly_lif(call: Call) -> _Outputs:
    """Neurons whose time constant is a number."""
    tau, decay_input, v_threshold, v_reset = call.args[2:6]
    return _spikingjelly(call, float(tau), bool(decay_input), v_threshold, v_reset)


def _spikingjelly_plif(call: Call) -> _Outputs:
    """Neurons that learn their time constant: 1 / tau is the sigmoid of a parameter."""
    weight, decay_input, v_threshold, v_reset = call.args[2:6]
    assert isinstance(weight, torch.Tensor)
    return _spikingjelly(call, 1 / float(weight.double().sigmoid()), bool(decay_input), v_threshold, v_reset)


def _spikingjelly_if(call: Call) -> _Outputs:
    """Neurons without leak."""
    v_threshold, v_reset = call.args[2:4]
    return _spikingjelly(call, float("inf"), False, v_threshold, v_reset)


def _spikingjelly(call: Call, tau: float, decay_input: bool, v_threshold: float, v_reset: float | None) -> _Outputs:
    """A LIF of spikingjelly; v_reset None: soft reset.

    Our potentials are theirs minus v_reset, at which theirs rest: the threshold moves by as much, and the reset is to
    zero.
    """
    rest = 0.0 if v_reset is None else float(v_reset)
    if call.argument(1, 0.0) != rest:
        raise call.refuse(
            "a neuron that holds the potential of an earlier run", "Reset it: functional.reset_net(model)."
        )
    op = ir.Lif(tau, float(v_threshold) - rest, decay_input, soft_reset=v_reset is None)
    return _add_neuron(call, op, "neuron"), None, None


def _spikingjelly_ilif(call: Call) -> _Outputs:
    """Integer neurons.

    Arguments: x, the potential before the first step, tau, D, the ends of the window of the gradient, which change
    nothing that is sent, v_threshold.
    """
    tau, count, _, _, v_threshold = call.args[2:7]
    if call.argument(1, 0.0) != 0.0:
        raise call.refuse(
            "a neuron that holds the potential of an earlier run", "Reset it: functional.reset_net(model)."
        )
    op = ir.Levels(int(count), float(v_threshold), 1.0 - 1.0 / float(tau), half_even=True)
    return _add_neuron(call, op, "integer neuron"), None, None


NEURONS: dict[str, Handler] = {
    "spikformer.lif": _lif,
    "spikformer.levels": _levels,
    "aten.full_like": _full_like,
    "sj_lif.forward": _spikingjelly_lif,
    "sj_plif.forward": _spikingjelly_plif,
    "sj_if.forward": _spikingjelly_if,
    "sj_ilif.forward": _spikingjelly_ilif,
}
"""Exported operation -> handler."""
