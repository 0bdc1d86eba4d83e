"""What is known of an operator before it is called: its name, its arguments, and what kind of thing it does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from spikformer_deploy.operators.rules import (
    ADDITIONS,
    COMPARISONS,
    FRESH,
    KEEPING_COMPARED,
    MOVING,
    MULTIPLICATIONS,
    ROUNDING,
    WEIGHTED,
    Rule,
    rule_of,
)

_ELEMENTWISE = ("add", "sub", "rsub", "mul", "div")
"""Of an activation and constants: what they give is the activation, scaled."""
_SHOWN = {
    "mm": "matmul",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "addmm": "linear",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "native_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
}
"""What people call an operator."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One overload of one operator.

    name       without namespace, overload and the underscore of those that write in place
    shown      what people call it
    composite  torch can take it apart
    view       its result shows the elements of an operand
    writes     it writes into an operand
    early      it is counted before it runs: it may write over what is counted
    moving, fresh, comparison, rounding, keeping  as the tables of rules.py say
    truth      it gives truth values, and no arithmetic is counted
    weighted   it has weights, or multiplies activations as matrices
    scaling    of one activation it gives the same, scaled
    rule       what it costs; None of what moves, and of what is not understood
    names, defaults  of its arguments
    """

    name: str
    shown: str
    composite: bool
    view: bool
    writes: bool
    early: bool
    moving: bool
    fresh: bool
    comparison: bool
    rounding: bool
    keeping: bool
    truth: bool
    weighted: bool
    scaling: bool
    rule: Rule | None
    names: tuple[str, ...]
    defaults: tuple[Any, ...]

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name; those that are not given have their defaults."""
        bound = dict(zip(self.names, self.defaults, strict=True))
        bound.update(zip(self.names, args, strict=False))
        bound.update(kwargs)
        return bound


@cache
def operator_of(func: Any) -> Operator:
    """What is known of `func`, an overload of an operator or a higher-order one."""
    if not isinstance(func, torch._ops.OpOverload):
        return _foreign(str(func))
    schema = func._schema
    namespace, full = schema.name.split("::")
    known = namespace in ("aten", "prims")
    writes = any(
        argument.is_out or (argument.alias_info and argument.alias_info.is_write) for argument in schema.arguments
    )
    # in-place ones end with one underscore, private ones begin with it
    name = full.rstrip("_") if known and not full.endswith("__") else full
    pointwise = torch.Tag.pointwise in func.tags
    moving = known and (name in MOVING or func.is_view)
    return Operator(
        name=name,
        shown=_SHOWN.get(name, name.strip("_")) if known else f"{namespace}::{full}",
        composite=torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"),
        view=func.is_view,
        writes=writes,
        early=writes and known and name in (*ADDITIONS, *MULTIPLICATIONS),
        moving=moving,
        fresh=known and name in FRESH,
        comparison=known and name in COMPARISONS,
        rounding=known and name in ROUNDING,
        keeping=moving or (known and name in KEEPING_COMPARED),
        truth=known and (name in COMPARISONS or name in KEEPING_COMPARED or name in ("eq", "ne")),
        weighted=known and name in WEIGHTED,
        scaling=known and name in _ELEMENTWISE,
        rule=rule_of(name, pointwise) if known and not moving else None,
        names=tuple(argument.name for argument in schema.arguments),
        defaults=tuple(argument.default_value for argument in schema.arguments),
    )


def _foreign(name: str) -> Operator:
    """An operator without a schema: nothing is known of it."""
    return Operator(
        name=name,
        shown=name,
        composite=False,
        view=False,
        writes=False,
        early=False,
        moving=False,
        fresh=False,
        comparison=False,
        rounding=False,
        keeping=False,
        truth=False,
        weighted=False,
        scaling=False,
        rule=None,
        names=(),
        defaults=(),
    )
