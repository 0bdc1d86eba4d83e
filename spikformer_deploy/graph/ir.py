"""The intermediate graph: what a spiking network computes in ONE time step, in float.

Every value has the canonical layout (C, Y, X): layout operations of the traced model have vanished (axes.py).
Tokens are the positions (Y, X) in row-major order; heads are equal, consecutive ranges of C.
The LIF is the only node with state; T, the number of time steps, is a property of the graph's input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import networkx as nx
import numpy as np

from spikformer_deploy.base.arrays import Float, Pair, Shape
from spikformer_deploy.base.values import digest


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """The image of a time step, normalised as in training.  No inputs; out (C, Y, X).

    per_step   False: one image, repeated for all T steps; True: a frame for every step (event data, (T, C, Y, X))
    """

    per_step: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Conv2d:
    """Cross-correlation with zero padding, as torch.nn.Conv2d with dilation 1.

    weight (C_out, C_in / groups, KY, KX) float64; bias (C_out,) float64; stride, padding (y, x)
    """

    weight: Float
    bias: Float
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """y[:, p] = weight @ x[:, p] + bias at every position p.  weight (C_out, C_in), bias (C_out,)."""

    weight: Float
    bias: Float


@dataclass(frozen=True, slots=True, eq=False)
class BatchNorm:
    """Evaluation-mode batch normalisation of C: (x - mean) / sqrt(var + eps) * gamma + beta.  Arrays (C,) float64."""

    gamma: Float
    beta: Float
    mean: Float
    var: Float
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class Lif:
    """Leaky integrate-and-fire population.

        h[t] = v[t-1] + (x[t] - v[t-1]) / tau     (decay_input; else v[t-1] * (1 - 1 / tau) + x[t])
        s[t] = h[t] >= v_threshold                (strict: h[t] > v_threshold)
        v[t] = 0 if s[t] else h[t]                (soft_reset: h[t] - v_threshold if s[t])

    tau is at least 1; infinite: no leak (integrate and fire), without decay_input.
    Source: Zhou et al. 2023 (Spikformer), eq. 1-3, in the decay_input form of the official code.
    """

    tau: float = 2.0
    v_threshold: float = 1.0
    decay_input: bool = True
    soft_reset: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class MaxPool2d:
    """Maximum over windows; padding counts as minus infinity.  kernel, stride, padding, dilation (y, x).

    ceil_mode  the last window may reach beyond the padding (windows.py)
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AvgPool2d:
    """Mean over windows, as torch.nn.AvgPool2d.  kernel, stride, padding (y, x).

    ceil_mode          the last window may reach beyond the padding
    count_include_pad  the zeros of the padding count as values (those beyond it never do)
    divisor            what sums are divided by; None: the number of values
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveAvgPool2d:
    """Means over `size` (y, x) ranges that cover the map, as torch.nn.AdaptiveAvgPool2d; they overlap or differ in
    length where they do not divide it.
    """

    size: Pair


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """Element-wise sum of the two inputs, of equal shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Concat:
    """The channels of its inputs, one after the other; they have the same positions."""


@dataclass(frozen=True, slots=True, eq=False)
class Offset:
    """Addition of a constant to each channel and position (a position embedding).  value (C, Y, X) float64."""

    value: Float


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Multiplication by a constant."""

    factor: float


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Spiking self-attention of (q, k, v), each (C, Y, X), without softmax: per head (q k^T) v * scale.

    The order of the two products is free: both give the same number.
    Source: Zhou et al. 2023 (Spikformer), eq. 6.
    """

    heads: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class SpikeMask:
    """Element-wise product of x and a mask, both spikes: (C, Y, X) of x.

    The mask has the shape of x, or one position for all ("which channels"), or one channel for several consecutive
    ones ("which tokens of a head").
    Source: Yao et al. 2023 (Spike-driven Transformer), eq. 8; Zhou et al. 2024 (QKFormer), eq. 6.
    """


@dataclass(frozen=True, slots=True, eq=False)
class TokenSum:
    """Sum over all positions: (C, Y, X) -> (C, 1, 1)."""


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Mean over all positions: (C, Y, X) -> (C, 1, 1)."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """The result of the network: the mean of its input over the T time steps, or with `last` that of the last step."""

    last: bool = False


Op: TypeAlias = (
    Input
    | Conv2d
    | Linear
    | BatchNorm
    | Lif
    | MaxPool2d
    | AvgPool2d
    | AdaptiveAvgPool2d
    | Add
    | Concat
    | Offset
    | Scale
    | Attention
    | SpikeMask
    | TokenSum
    | Mean
    | Output
)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation: `inputs` name the nodes it reads, `shape` is that of its value for one image and step.

    name   unique; the module path of the traced model where there is one ("block.0.attn.q_lif")
    line   the line of the model's source that made the node ("" where unknown), for error messages
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: Shape
    line: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in topological order, Input first and Output last, for `time_steps` steps an image."""

    nodes: tuple[Node, ...]
    time_steps: int
    _by_name: dict[str, Node] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {node.name: node for node in self.nodes})

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def of(self, *kinds: type) -> Iterator[Node]:
        """The nodes whose operation is one of `kinds`, in order."""
        return (node for node in self.nodes if isinstance(node.op, kinds))

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read the value of `name`, in order."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def to_networkx(self) -> nx.DiGraph:
        """The same graph for networkx: node attribute `op` is the name of the operation."""
        out = nx.DiGraph()
        for node in self.nodes:
            out.add_node(node.name, op=type(node.op).__name__, shape=node.shape)
            out.add_edges_from((source, node.name) for source in node.inputs)
        return out

    def digest(self) -> str:
        """sha256 over the content, source lines left out."""
        return digest([self.time_steps, [(n.name, n.op, n.inputs, n.shape) for n in self.nodes]])

    def dump(self) -> str:
        """The graph as text, a line a node, for a person to read and diff."""
        lines = [f"graph T={self.time_steps} nodes={len(self)}"]
        for node in self.nodes:
            shape = "x".join(map(str, node.shape))
            lines.append(f"  {node.name}: {shape} = {_show_op(node.op)}({', '.join(node.inputs)})")
        return "\n".join(lines) + "\n"


def _show_op(op: Op) -> str:
    parts = [f"{name}={_show(getattr(op, name))}" for name in op.__dataclass_fields__]
    return type(op).__name__ + ("[" + " ".join(parts) + "]" if parts else "")


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{'x'.join(map(str, value.shape))}:{digest(value)[:8]}"
    return "x".join(map(str, value)) if isinstance(value, tuple) else repr(value)
