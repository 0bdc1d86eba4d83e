"""The intermediate graph: what a spiking network computes in ONE time step, in float.

Every value is a map (C, Y, X): C channels of Y rows and X columns.  What a model calls tokens are the positions of a
map, row after row; heads of an attention are equal, consecutive ranges of channels.  The model's own layouts, with
their reshapes and permutations, have vanished before (axes.py).

Values are of three kinds.  The image is what the model was trained on, after normalisation.  Spikes are 0 or 1, or
small integers.  Currents are real numbers, in the unit of the thresholds of the neurons that read them.

Only neurons have state from time step to time step.  T, the number of steps, is a property of the graph.

In the equations below, x is the value of the only input, y the result, c a channel and p a position (row, column).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, TypeAlias

import networkx as nx
import numpy as np

from spikformer_deploy.base.arrays import Float, Pair, Shape
from spikformer_deploy.base.values import digest


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """The image of a time step.

    Shapes: no input; y (C, Y, X).
    Units: those of the model's training, after normalisation.

    per_step   False: one image, repeated in all T steps.  True: a frame for every step (event data, (T, C, Y, X)).
    """

    per_step: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Conv2d:
    """Cross-correlation with zero padding, as torch.nn.Conv2d of dilation 1.

        y[o, i, j] = bias[o] + sum over c, a, b of weight[o, c, a, b] * x[g + c, i * sy + a - py, j * sx + b - px]

    (sy, sx) is the stride and (py, px) the padding; x is 0 outside the map.  g is the first channel of the group of o:
    outputs and inputs fall into `groups` equal, consecutive ranges, and each range of outputs reads one of inputs.

    Shapes: x (C_in, Y, X); y (C_out, (Y + 2 py - KY) // sy + 1, (X + 2 px - KX) // sx + 1).
    Units: x spikes, sums or means of spikes, or the image; y a current.

    weight   (C_out, C_in / groups, KY, KX) float64
    bias     (C_out,) float64
    """

    weight: Float
    bias: Float
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """The same dense layer at every position.

        y[:, p] = weight @ x[:, p] + bias

    Shapes: x (C_in, Y, X); y (C_out, Y, X).
    Units: x spikes, sums or means of spikes, or the image; y a current.

    weight   (C_out, C_in) float64
    bias     (C_out,) float64
    """

    weight: Float
    bias: Float


@dataclass(frozen=True, slots=True, eq=False)
class BatchNorm:
    """Batch normalisation in evaluation mode: its statistics are constants of the model.

        y[c] = (x[c] - mean[c]) / sqrt(var[c] + eps) * gamma[c] + beta[c]

    Shapes: x, y (C, Y, X); all arrays (C,) float64.
    Units: currents.
    """

    gamma: Float
    beta: Float
    mean: Float
    var: Float
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class Lif:
    """Leaky integrate-and-fire population: one neuron for each channel and position.

        h[t] = v[t-1] + (x[t] - v[t-1]) / tau     (decay_input; else v[t-1] * (1 - 1 / tau) + x[t])
        y[t] = h[t] >= v_threshold                (strict: h[t] > v_threshold)
        v[t] = 0 if y[t] else h[t]                (soft_reset: h[t] - v_threshold if y[t])

    v[-1] = 0: the neurons rest before the first step of each image.

    Shapes: x, y, v (C, Y, X) in each step t.
    Units: x and v those of v_threshold, y spikes; tau in time steps.

    tau   at least 1; infinite: no leak (integrate and fire), without decay_input
    Source: Zhou et al. 2023 (Spikformer), eq. 1-3, in the decay_input form of the official code.
    """

    tau: float = 2.0
    v_threshold: float = 1.0
    decay_input: bool = True
    soft_reset: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Population of integer neurons: what each sends is a whole number 0..count.

        u[t] = keep * v[t-1] + x[t]
        y[t] = round(clamp(u[t] / threshold, 0, count))   ties to the even neighbour; half_even False: upwards
        v[t] = u[t] - y[t] * threshold ;  v[-1] = 0

    Shapes: x, y, v (C, Y, X) in each step t.
    Units: x and v those of the threshold, y whole numbers.

    keep   share of the potential that a time step leaves, 0..1; 0: no state
    Source: Luo et al. 2024 (I-LIF), arXiv 2407.20708.
    """

    count: int = 4
    threshold: float = 1.0
    keep: float = 0.0
    half_even: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class MaxPool2d:
    """Maximum over windows, as torch.nn.MaxPool2d.

        y[c, i, j] = max over a, b of x[c, i * sy + a * dy - py, j * sx + b * dx - px]

    with stride (sy, sx), dilation (dy, dx) and padding (py, px).  Positions outside the map count as minus infinity.

    Shapes: x (C, Y, X); y (C, Y', X') of windows.pool_shape.
    Units: those of x.

    kernel      (y, x) values in a window
    ceil_mode   the last window may reach beyond the padding (windows.py)
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AvgPool2d:
    """Mean over windows, as torch.nn.AvgPool2d.

        y[c, i, j] = (sum over a, b of x[c, i * sy + a - py, j * sx + b - px]) / divisor[i, j]

    with stride (sy, sx) and padding (py, px).  Positions outside the map count as 0.

    Shapes: x (C, Y, X); y (C, Y', X') of windows.pool_shape; divisors (Y', X') of windows.means_of.
    Units: those of x.

    kernel              (y, x) values in a window
    ceil_mode           the last window may reach beyond the padding
    count_include_pad   the divisor counts the zeros of the padding, too (those beyond it never)
    divisor             what all sums are divided by; None: the number of values
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveAvgPool2d:
    """Mean over ranges that cover the map, as torch.nn.AdaptiveAvgPool2d.

        y[c, i, j] = mean of x[c, i * Y // Y' : ceil((i + 1) * Y / Y'), and the same of columns]

    The ranges overlap, or differ in length, where `size` does not divide the map.

    Shapes: x (C, Y, X); y (C, Y', X') with (Y', X') = size.
    Units: those of x.
    """

    size: Pair


@dataclass(frozen=True, slots=True, eq=False)
class TokenPool:
    """Maximum over neighbouring tokens and neighbouring channels of a head: a window of both, of stride 1.

        y[c, p] = max over |a| <= tokens // 2, |b| <= channels // 2 of x[c + b, p + a]

    p counts positions row after row: the last one of a row is a neighbour of the first one of the next.  What lies
    before the first position or behind the last one, and channels of other heads, count as minus infinity.

    Shapes: x, y (C, Y, X); each of the `heads` heads has C / heads channels.
    Units: those of x.

    tokens, channels   odd sizes of the window
    Source: the official code of Yao et al. 2023 (Spike-driven Transformer) on CIFAR10-DVS: MaxPool3d of a tensor
    (T, B, heads, tokens, channels of a head).
    """

    heads: int
    tokens: int
    channels: int


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """Element-wise sum of two inputs: y = a + b.

    Shapes: a, b, y (C, Y, X).
    Units: those of the inputs.  The sum of two maps of spikes has the values 0, 1 and 2.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Concat:
    """The channels of its inputs, one input after the other.

    Shapes: inputs (C_1, Y, X), (C_2, Y, X), ...; y (C_1 + C_2 + ..., Y, X).
    Units: those of the inputs.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Offset:
    """Addition of a constant, the same in all images and time steps (a position embedding): y = x + value.

    Shapes: x, y, value (C, Y, X); value float64.
    Units: those of x.
    """

    value: Float


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Multiplication by a constant: y = x * factor.

    Shapes: x, y (C, Y, X).
    Units: currents.
    """

    factor: float


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Spiking self-attention of three inputs q, k and v.  It has no softmax.

        y[c, p] = scale * sum over r of (sum over e of q[e, p] * k[e, r]) * v[c, r]

    r runs over all positions, and e over those channels of q and k that belong to the head of c.  The same sum in the
    other order, q (k^T v), is the same number; which one is cheaper depends on the sizes.

    Shapes: q, k (C, Y, X); v, y (C', Y, X); each of the `heads` heads has C / heads, and C' / heads, channels.
    Units: q, k, v spikes or small integers, y a current.
    Source: Zhou et al. 2023 (Spikformer), eq. 6.
    """

    heads: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class DualSpike:
    """Dual spike transformation: a matrix product of currents y, its first input, and spikes s, its second.

        z[h * M + m, p] = scale[h] * sum over c of y[h * d + c, m] * s[h * d + c, p]
        z[h * d + c, p] = scale[h] * sum over m of y[h * d + c, m] * s[h * M + m, p]     (over_tokens)

    h is one of the `heads` heads, m one of the M positions of y, row after row, p one of those of s; each head has d
    channels of y.  Over channels, y is transposed, and every position of y becomes a channel of the result.

    Shapes: y (C, Y', X'); s (C, Y, X), z (heads * M, Y, X); over_tokens: s (heads * M, Y, X), z (C, Y, X).
    Units: y and z currents, s spikes or small integers.

    scale   (heads,) float64
    Source: Shi et al. 2024 (SpikingResformer), arXiv 2403.14302, eq. 8 and 9.
    """

    heads: int
    over_tokens: bool
    scale: Float


@dataclass(frozen=True, slots=True, eq=False)
class SpikeMask:
    """Element-wise product of two inputs, x and a mask: y = x * mask.

    The mask has the shape of x, or one position that holds for all ("which channels"), or one channel that holds for
    several consecutive ones ("which tokens of a head").

    Shapes: x, y (C, Y, X); mask (C / n, Y, X) or (C / n, 1, 1).
    Units: spikes.
    Source: Yao et al. 2023 (Spike-driven Transformer), eq. 8; Zhou et al. 2024 (QKFormer), eq. 6.
    """


@dataclass(frozen=True, slots=True, eq=False)
class TokenSum:
    """Sum over all positions: y[c] = sum over p of x[c, p].

    Shapes: x (C, Y, X); y (C, 1, 1).
    Units: those of x.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Mean over all positions: y[c] = (sum over p of x[c, p]) / (Y * X).

    Shapes: x (C, Y, X); y (C, 1, 1).
    Units: those of x.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """The result of the network, one number for each class; of a map, one for each class at each position.

        y = mean over t of x[t]          (last: x[T - 1])

    Shapes: x (C, Y, X) in each time step; y flattened, C * Y * X logits.
    Units: those of the model's logits.
    """

    last: bool = False


Neuron: TypeAlias = Lif | Levels
"""Operations that fire spikes, or small integers, and may have state.  Another kind of neuron is added here."""

Pool: TypeAlias = MaxPool2d | AvgPool2d | AdaptiveAvgPool2d

ChannelByChannel: TypeAlias = Neuron | Pool | BatchNorm | Scale
"""Operations of one input that make each channel of their map from the same channel of the input."""

Op: TypeAlias = (
    Input
    | Conv2d
    | Linear
    | BatchNorm
    | Neuron
    | Pool
    | TokenPool
    | Add
    | Concat
    | Offset
    | Scale
    | Attention
    | DualSpike
    | SpikeMask
    | TokenSum
    | Mean
    | Output
)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation of a graph, and where its inputs come from.

    name     unique; the module path of the traced model where there is one ("block.0.attn.q_lif")
    inputs   names of the nodes that it reads
    shape    (C, Y, X) of its value, for one image and one time step
    line     the line of the model's source that made the node, for error messages; "" where unknown
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: Shape
    line: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in topological order, Input first and Output last, for `time_steps` steps an image.

    A graph never changes: a pass returns a new one.
    """

    nodes: tuple[Node, ...]
    time_steps: int
    # filled once: passes look up nodes by name for every node that they visit
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

    def of(self, *kinds: type | UnionType) -> Iterator[Node]:
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
        # a moved line of the model's source makes no other network
        return digest([self.time_steps, [(n.name, n.op, n.inputs, n.shape) for n in self.nodes]])

    def dump(self) -> str:
        """The graph as text, a line a node, for a person to read and diff."""
        lines = [f"graph T={self.time_steps} nodes={len(self)}"]
        for node in self.nodes:
            shape = "x".join(map(str, node.shape))
            lines.append(f"  {node.name}: {shape} = {_show_op(node.op)}({', '.join(node.inputs)})")
        return "\n".join(lines) + "\n"


def _show_op(op: Op) -> str:
    """For a person: "Lif[tau=2.0 v_threshold=1.0 ...]"."""
    parts = [f"{name}={_show(getattr(op, name))}" for name in op.__dataclass_fields__]
    return type(op).__name__ + ("[" + " ".join(parts) + "]" if parts else "")


def _show(value: Any) -> str:
    """A field of an operation: of an array its shape and the start of its digest, so that dumps can be compared."""
    if isinstance(value, np.ndarray):
        return f"{'x'.join(map(str, value.shape))}:{digest(value)[:8]}"
    return "x".join(map(str, value)) if isinstance(value, tuple) else repr(value)
