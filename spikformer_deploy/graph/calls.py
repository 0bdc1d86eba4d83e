"""What handlers work with: one operation of an exported model, the values that it reads, and the graph that grows.

torch.export writes a model as a list of operations on tensors.  The tracer (trace.py) goes through the list once.  For
each operation it makes a Call and hands it to the operation's handler, a function of layouts.py, layers.py, pools.py,
neurons.py, arithmetic.py, attentions.py or parts.py.  The handler returns what the operation's result stands for: a
Value, nearly always; a Product or Padded, where only the next operation decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch

from spikformer_deploy.base.arrays import Float, Pair, Shape
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.axes import Dims

REWRITE = "Write this part with supported layers, or leave it out of the module that is compiled."
"""The way out of a refusal that knows no better one."""


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a node of the graph, in the layout that it has in the model.

    A reshape changes `dims`, and makes no node.

    name   the node
    dims   what each dimension of the model's tensor stands for
    last   it was taken out of the last time step, and has no time axis any more; what is made of it says so no more
    """

    name: str
    dims: Dims
    last: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """Half of an attention, which waits for its other factor.

    kind          "scores": q k^T, tokens by tokens; "memory": k^T v, channels by channels
    left, right   the factors, times `factor`
    dims          the layout of the product
    """

    kind: str
    left: Value
    right: Value
    factor: float
    dims: Dims


@dataclass(frozen=True, slots=True)
class Padded:
    """A value with rows and columns of zeros around it, which waits for the convolution that reads them.

    before, after   zeros (y, x) at the low and the high end
    """

    value: Value
    before: Pair
    after: Pair

    @property
    def dims(self) -> Dims:
        """The layout of what is inside."""
        return self.value.dims


@dataclass(slots=True)
class GraphBuilder:
    """The nodes of a graph of `time_steps` steps that is still growing, in order."""

    time_steps: int
    nodes: list[ir.Node] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return any(node.name == name for node in self.nodes)

    def __getitem__(self, name: str) -> ir.Node:
        # from the end: what an operation reads has mostly just been made
        return next(node for node in reversed(self.nodes) if node.name == name)

    def shape(self, name: str) -> Shape:
        """(C, Y, X) of a node's value."""
        return self[name].shape

    def graph(self) -> ir.Graph:
        """All nodes so far, as a graph."""
        return ir.Graph(tuple(self.nodes), self.time_steps)


@dataclass(slots=True)
class Call:
    """One exported operation.

    builder       where a handler adds nodes
    unique_name   the name of a node for this operation, another one at each call
    node          the operation as torch has it; only its `target` is read, the name
    args          its arguments: Values, Products, tensors (parameters of the model), numbers, lists of them
    shape         of its result in the model, with axes.BATCH for the batch
    line          of the model's source; "" where unknown
    """

    builder: GraphBuilder
    unique_name: Callable[[], str]
    node: torch.fx.Node
    args: tuple[Any, ...]
    shape: tuple[int, ...]
    line: str

    @property
    def what(self) -> str:
        """The operation as a user would call it: "cat"."""
        return plain_name(str(self.node.target))

    def argument(self, index: int, default: Any = None) -> Any:
        """Argument `index`; `default` where the model leaves it out."""
        return self.args[index] if index < len(self.args) and self.args[index] is not None else default

    def value(self, index: int = 0) -> Value:
        """Argument `index` where it is a value of the graph; ModelError where it is none."""
        value = self.argument(index)
        if not isinstance(value, Value):
            kinds = {Product: "half an attention product", Padded: "padding with zeros, which only convolutions read,"}
            kind = kinds.get(type(value), "a constant")
            raise self.refuse(f"{self.what} of {kind} is not supported", "Only activations can stand here.")
        return value

    def node_shape(self, value: Value) -> Shape:
        """(C, Y, X) of the node whose value `value` is."""
        return self.builder.shape(value.name)

    def add(self, op: ir.Op, inputs: tuple[str, ...], shape: Shape, dims: Dims) -> Value:
        """The value of a new node, laid out as `dims`."""
        name = self.unique_name()
        self.builder.nodes.append(ir.Node(name, op, inputs, shape, self.line))
        return Value(name, dims)

    def refuse(self, problem: str, way_out: str = "") -> ModelError:
        """The error that says where in the model the problem is."""
        return ModelError(self.unique_name(), problem + in_brackets(self.line), way_out or REWRITE)


Handler: TypeAlias = Callable[[Call], Any]
"""What an exported operation means: the Value of its result, or a tensor, where the model computes with constants."""


def plain_name(target: str) -> str:
    """The name of an exported operation, "aten.cat.default", without what only torch's developers call it: "cat".

    An operation of another origin keeps its whole name: a file from elsewhere may call anything.
    """
    parts = target.split(".")
    return parts[1].strip("_") if parts[0] == "aten" and len(parts) > 1 else f"operation {target}"


def in_brackets(line: str) -> str:
    """A line of the model's source, to be appended to a message; "" where it is unknown."""
    return f" ({line})" if line else ""


def float64(tensor: torch.Tensor) -> Float:
    """The values of a parameter."""
    return frozen(tensor.detach().to(torch.float64).numpy())


def bias_of(call: Call, index: int, channels: int) -> Float:
    """Argument `index`, the bias of a layer; zeros where it has none."""
    bias = call.argument(index)
    return float64(bias) if bias is not None else frozen(np.zeros(channels))


def pair_of(value: Any) -> Pair:
    """(y, x) from one number or two."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return (int(values[0]), int(values[-1]))
