"""Networks of NIR 1.0 (.nir, HDF5) as graphs: convolutions, linear layers, pooling and LIF, IF and CubaLIF neurons.

NIR's equations are in continuous time; a step is forward Euler with dt, as in every simulator that reads NIR:

    LIF      v = v + dt / tau * (v_leak - v + r I), fires at v > v_threshold, then v = v_reset
    IF       v = v + dt r I (r = 1 / dt; a file with r = 1 means v = v + I)
    CubaLIF  the same as LIF on a current I = w_in x, where tau_syn = dt; slower currents are refused

so that tau / dt is the graph's tau.  Edges that meet in a node add up.  What the graph cannot hold is refused by name,
never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import networkx as nx
import numpy as np

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.formats import ENTRY
from spikformer_deploy.base.values import frozen
from spikformer_deploy.converters import hdf5
from spikformer_deploy.converters.imported import (
    MOST_PIXELS,
    About,
    Imported,
    about_in,
    exact_neuron,
    imported,
    steps_of,
    unnamed_images,
)
from spikformer_deploy.converters.nir.members import (
    Members,
    array_of,
    padding_of,
    pair,
    per_channel,
    shared,
    shared_member,
    whole_number,
    whole_numbers,
    windows,
    word,
)
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.law import check

USUAL_DT = 1e-4
"""Seconds a step, where nothing tells: what snntorch and spikingjelly write and read."""
NEAR = 1e-6
"""Of each other, relatively: gains and decays of a file are rounded to fp32, and mean what they are that near to."""
IDENTITY = {"type": "Identity"}
"""In the place of the ends of a graph inside the graph; NIR has no such node."""

Edge = tuple[str, str]
"""Names of the node that sends and of the one that receives."""


def read_model(path: str | Path, *, time_steps: int | None = None, dt: float | None = None) -> Imported:
    """The model in a .nir file.

    time_steps, dt  T and the seconds of a step, where the file does not tell (only files of our own do)
    Raises InputError for a file that is damaged or foreign, ModelError for a node that the graph cannot hold.
    """
    path = Path(path)
    root = hdf5.tree(path, "node").get("node")
    if not isinstance(root, dict) or word(root.get("type")) != "NIRGraph":
        raise InputError(str(path), "it holds no NIR graph", "Give a file that nir.write has written.")
    nodes, edges = _flat(root)
    about, stated_dt = _metadata(path, root)
    notes = []
    if stated_dt is None and dt is None:
        notes.append(f"dt = {USUAL_DT} s is what snntorch and spikingjelly assume: the file does not tell (--dt)")
    if about is None:
        notes.append("the input is taken as frames of spikes, one a step, and the result as the mean over the steps")
    steps = steps_of(path, time_steps, about)
    seconds = dt or stated_dt or USUAL_DT
    if not 0 < seconds < inf:
        raise InputError("--dt", f"{seconds} seconds", "Give the seconds of a time step.")
    walk = _Walk(nodes, edges, steps, seconds, about, notes)
    graph = check(walk.graph())
    # a frame of spikes is an image whose pixels are 0 or 1, and stays as it is
    return imported("nir", path, graph, about, unnamed_images(graph, std=1.0, max_value=1), walk.notes)


def _metadata(path: Path, root: Members) -> tuple[About | None, float | None]:
    """(the entry of our own export, dt in seconds) where the file has them."""
    metadata = root.get("metadata")
    if not isinstance(metadata, dict):
        return None, None
    entry = metadata.get(ENTRY)
    about = about_in(path, entry) if isinstance(entry, str) else None
    dt = metadata.get("dt")
    if not isinstance(dt, (float, np.floating)) or not 0 < dt < inf:
        return about, None
    return about, float(dt)


# --- graphs inside graphs -------------------------------------------------------------------------------------------


def _flat(root: Members, prefix: str = "") -> tuple[dict[str, Members], list[Edge]]:
    """Nodes and edges with the graphs inside graphs dissolved, names "outer.inner"."""
    members = root.get("nodes", {})
    if not isinstance(members, dict):
        raise InputError(prefix.rstrip(".") or "nodes", "its nodes are no group")
    nodes: dict[str, Members] = {}
    edges: list[Edge] = []
    # by the name of a graph inside: the nodes at which edges of this graph enter and leave it
    entries: dict[str, str] = {}
    exits: dict[str, str] = {}
    for member, node in members.items():
        name = prefix + member
        if not isinstance(node, dict) or not word(node.get("type")):
            raise InputError(name, "it is no node of NIR: it has no type")
        if node["type"] != "NIRGraph":
            nodes[name] = node
            continue
        inner_nodes, inner_edges = _flat(node, f"{name}.")
        entries[name] = _only(name, inner_nodes, "Input")
        exits[name] = _only(name, inner_nodes, "Output")
        nodes |= inner_nodes | {entries[name]: IDENTITY, exits[name]: IDENTITY}
        edges += inner_edges
    for source, target in _edges(root, prefix):
        edges.append((exits.get(source, source), entries.get(target, target)))
    return nodes, edges


def _only(name: str, nodes: Mapping[str, Members], kind: str) -> str:
    """The one node of a kind in a graph inside the graph."""
    matching = [inner for inner, node in nodes.items() if node["type"] == kind]
    if len(matching) != 1:
        raise ModelError(name, "a graph inside the graph needs one input and one output")
    return matching[0]


def _edges(root: Members, prefix: str) -> list[Edge]:
    """The edges of one graph, between full names."""
    pairs = root.get("edges", [])
    if not isinstance(pairs, list) or not all(map(_is_edge, pairs)):
        raise InputError(prefix.rstrip(".") or "edges", "its edges are no pairs of names")
    return [(prefix + source, prefix + target) for source, target in pairs]


def _is_edge(names: object) -> bool:
    return isinstance(names, list) and len(names) == 2 and all(map(word, names))


# --- the nodes, one after the other ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Value:
    """A node of the graph, and whether NIR sees its (C, Y, X) as one row of numbers."""

    name: str
    flat: bool


@dataclass(slots=True)
class _Walk:
    """Turns NIR nodes into nodes of the graph, in topological order.

    dt       seconds of a step
    built    the nodes of the graph so far, and shapes by their names
    values   what each NIR node gives out, by the name of the NIR node
    sums     of values that meet in a node, by their names
    sources  names of the NIR nodes from which edges lead to one, by its name
    """

    nodes: Mapping[str, Members]
    edges: list[Edge]
    steps: int
    dt: float
    about: About | None
    notes: list[str]
    built: list[ir.Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, _Value] = field(default_factory=dict)
    sums: dict[tuple[str, ...], _Value] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)

    def graph(self) -> ir.Graph:
        """The graph; ModelError names the NIR node that it cannot hold."""
        order = self._order()
        for kind in ("Input", "Output"):
            ends = [name for name in order if self.nodes[name]["type"] == kind]
            if len(ends) != 1:
                raise ModelError("graph", f"it has {len(ends)} nodes of kind {kind}: {ends[:4]}", "It must have one.")
        for name in order:
            node = self.nodes[name]
            try:
                self.values[name] = self._input(name, node) if node["type"] == "Input" else self._node(name, node)
            except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
                raise ModelError(name, f"its numbers make no {node['type']}: {error}"[:200]) from None
        return ir.Graph(tuple(self.built), self.steps)

    def _order(self) -> list[str]:
        """Names in topological order; among those that may come next, the one that stands first in the file."""
        graph = nx.DiGraph()
        graph.add_nodes_from(self.nodes)
        for source, target in self.edges:
            if source not in self.nodes or target not in self.nodes:
                raise InputError("edges", f"one goes from '{source}' to '{target}', and there is no such node")
            self.sources.setdefault(target, []).append(source)
        graph.add_edges_from(self.edges)
        position = {name: i for i, name in enumerate(self.nodes)}
        try:
            return list(nx.lexicographical_topological_sort(graph, key=position.__getitem__))
        except nx.NetworkXUnfeasible:
            loop = " -> ".join(edge[0] for edge in nx.find_cycle(graph))
            way_out = "Export a feed-forward network."
            raise ModelError(loop, "recurrent connections are not supported", way_out) from None

    def _add(self, name: str, op: ir.Op, inputs: tuple[str, ...], shape: Shape, flat: bool = False) -> _Value:
        """A new node of the graph; `flat` as in _Value."""
        if name in self.shapes:
            raise ModelError(name, "two nodes would have this name")
        self.built.append(ir.Node(name, op, inputs, shape))
        self.shapes[name] = shape
        return _Value(name, flat)

    # --- what flows in ---

    def _input(self, name: str, node: Members) -> _Value:
        """The input, whose shape NIR gives without what is 1: (C,) and (C, X) stand for (C, 1, 1) and (C, 1, X)."""
        stated = whole_numbers(name, node, "shape")
        if not 1 <= len(stated) <= 3 or min(stated) < 1 or np.prod(stated, dtype=float) > MOST_PIXELS:
            raise ModelError(name, f"an input of shape {stated}", "It must be (C, Y, X), (C, X) or (C,), no batch.")
        if name in self.sources:
            raise ModelError(name, "something flows into the input")
        channels = stated[0]
        height = stated[1] if len(stated) == 3 else 1
        width = stated[-1] if len(stated) > 1 else 1
        # files of others hold frames of spikes, one a step
        per_step = self.about.per_step if self.about else True
        return self._add(name, ir.Input(per_step), (), (channels, height, width), len(stated) == 1)

    def _incoming(self, name: str) -> _Value:
        """What flows into a node: one value, or the sum of all."""
        values = [self.values[source] for source in self.sources.get(name, ())]
        if not values:
            raise ModelError(name, "nothing flows into it")
        if len(values) == 1:
            return values[0]
        # nodes that read the same values read the same sum: a residual stream is added up once
        key = tuple(value.name for value in values)
        if key not in self.sums:
            self.sums[key] = self._sum(name, values)
        return self.sums[key]

    def _sum(self, name: str, values: list[_Value]) -> _Value:
        """The sum of values of one shape, two by two in the order of the edges."""
        total = values[0]
        for i, other in enumerate(values[1:]):
            shape = self.shapes[total.name]
            other_shape = self.shapes[other.name]
            if shape != other_shape:
                raise ModelError(name, f"values of the shapes {shape} and {other_shape} meet in it")
            added = f"{name}.add" + (f".{i}" if i else "")
            total = self._add(added, ir.Add(), (total.name, other.name), shape, total.flat and other.flat)
        return total

    # --- one node ---

    def _node(self, name: str, node: Members) -> _Value:
        value = self._incoming(name)
        shape = self.shapes[value.name]
        match node["type"]:
            case "Identity":
                return value
            case "Flatten":
                return _Value(value.name, True)
            case "Output":
                return self._add(name, ir.Output(), (value.name,), shape, value.flat)
            case "Affine" | "Linear":
                return self._linear(name, node, value, shape)
            case "Conv2d" | "Conv1d":
                return self._conv(name, node, value, shape)
            case "AvgPool2d" | "SumPool2d":
                return self._pool(name, node, value, shape)
            case "Scale":
                return self._affine(name, value, array_of(name, node, "scale"), np.zeros(1))
            case "LIF":
                return self._lif(name, node, value, array_of(name, node, "tau"), array_of(name, node, "r"))
            case "CubaLIF":
                return self._lif(name, node, value, array_of(name, node, "tau_mem"), self._cuba_gain(name, node))
            case "IF":
                return self._integrate(name, node, value)
            case "Threshold":
                # without memory: tau = 1 forgets all of the step before
                threshold = shared_member(name, node, "threshold")
                return self._neuron(name, ir.Lif(1.0, threshold, False, strict=True), value)
            case kind:
                raise ModelError(
                    name,
                    f"NIR nodes of kind {kind} are not supported",
                    "Supported: Affine, Linear, Conv1d, Conv2d, AvgPool2d, SumPool2d, Flatten, Scale, LIF, CubaLIF, "
                    "IF, Threshold, and graphs of these.",
                )

    def _linear(self, name: str, node: Members, value: _Value, shape: Shape) -> _Value:
        """A layer that reads all of one row of numbers, which may be a flattened map."""
        weight = array_of(name, node, "weight")
        one_position = shape[1:] == (1, 1)
        if weight.ndim != 2 or weight.shape[1] != np.prod(shape) or not (value.flat or one_position):
            raise ModelError(
                name,
                f"a weight of shape {weight.shape} on values of {shape}",
                "A linear layer reads a row of as many numbers; put a Flatten before it.",
            )
        bias = array_of(name, node, "bias").reshape(-1) if node["type"] == "Affine" else np.zeros(len(weight))
        if one_position:
            op: ir.Op = ir.Linear(frozen(weight, np.float64), frozen(bias, np.float64))
        else:
            # a row of all positions is a convolution whose kernel is the whole map
            kernels = weight.reshape(len(weight), *shape)
            op = ir.Conv2d(frozen(kernels, np.float64), frozen(bias, np.float64))
        return self._add(name, op, (value.name,), (len(weight), 1, 1), True)

    def _conv(self, name: str, node: Members, value: _Value, shape: Shape) -> _Value:
        """A convolution; one along one axis has a kernel of one row, on maps of one row."""
        weight = array_of(name, node, "weight")
        one_axis = node["type"] == "Conv1d"
        if weight.ndim != (3 if one_axis else 4) or (one_axis and shape[1] != 1) or value.flat:
            raise ModelError(name, f"a {node['type']} with a weight of shape {weight.shape} on values of {shape}")
        if one_axis:
            weight = weight[:, :, None, :]
        if pair(name, node, "dilation", 1, one_axis) != (1, 1):
            raise ModelError(name, "a dilated convolution is not supported", "Use dilation 1.")
        kernel = (weight.shape[2], weight.shape[3])
        stride = pair(name, node, "stride", 1, one_axis)
        padding = padding_of(name, node, kernel, stride, one_axis)
        groups = whole_number(name, node, "groups") if "groups" in node else 1
        bias = array_of(name, node, "bias").reshape(-1) if "bias" in node else np.zeros(len(weight))
        extent = windows(name, shape, kernel, stride, padding)
        op = ir.Conv2d(frozen(weight, np.float64), frozen(bias, np.float64), stride, padding, groups)
        return self._add(name, op, (value.name,), (len(weight), *extent))

    def _pool(self, name: str, node: Members, value: _Value, shape: Shape) -> _Value:
        """Averages or sums over windows."""
        kernel = pair(name, node, "kernel_size", 1)
        stride = pair(name, node, "stride", 1)
        padding = pair(name, node, "padding", 0)
        if padding != (0, 0) or value.flat:
            raise ModelError(name, f"pooling with padding {padding} is not supported", "Pool maps without padding.")
        pooled_shape = (shape[0], *windows(name, shape, kernel, stride, padding))
        if node["type"] == "AvgPool2d":
            op = ir.Mean() if kernel == shape[1:] else ir.AvgPool2d(kernel, stride)
            return self._add(name, op, (value.name,), pooled_shape)
        # a sum is the average, times the number of its positions
        average = self._add(name, ir.AvgPool2d(kernel, stride), (value.name,), pooled_shape)
        taps = float(kernel[0] * kernel[1])
        return self._add(f"{name}.sum", ir.Scale(taps), (average.name,), pooled_shape)

    # --- neurons ---

    def _lif(self, name: str, node: Members, value: _Value, tau: np.ndarray, r: np.ndarray) -> _Value:
        """Neurons with a leak: gains and shifts of their input stand in a layer of their own before them."""
        # in the file's own type: 2e-4 / 1e-4 is 2 in fp32, and in double it is not where 2e-4 was rounded to fp32
        steps = shared(name, "tau", tau / tau.dtype.type(self.dt))
        if not 1 <= steps < inf:
            raise ModelError(
                name,
                f"tau is {steps:g} steps of {self.dt:g} s, and forward Euler needs at least 1",
                "Give the dt that the network was trained with (--dt).",
            )
        threshold = self._threshold(name, node)
        leak = array_of(name, node, "v_leak") if "v_leak" in node else np.zeros(1)
        lif = exact_neuron(self.about, name, ir.Lif(steps, threshold, strict=True))
        # dt / tau * r I is the input itself where r = tau / dt
        if not leak.any() and np.allclose(r, lif.tau, rtol=NEAR, atol=0):
            return self._neuron(name, replace(lif, decay_input=False), value)
        if leak.any() or (r != 1).any():
            value = self._affine(f"{name}.input", value, r, leak)
        return self._neuron(name, lif, value)

    def _integrate(self, name: str, node: Members, value: _Value) -> _Value:
        """Neurons without a leak; dt r I is the input itself where r = 1 / dt."""
        threshold = self._threshold(name, node)
        r = array_of(name, node, "r")
        if not np.allclose(r, 1 / self.dt, rtol=NEAR, atol=0):
            if (r == 1).all():
                self.notes.append(f"{name}: r = 1 is read as v = v + I, as sinabs and snntorch write it")
            else:
                value = self._affine(f"{name}.input", value, r * self.dt, np.zeros(1))
        lif = exact_neuron(self.about, name, ir.Lif(inf, threshold, False, strict=True))
        return self._neuron(name, lif, value)

    def _threshold(self, name: str, node: Members) -> float:
        """The threshold, of neurons that a spike resets to zero."""
        if "v_reset" in node and array_of(name, node, "v_reset").any():
            raise ModelError(name, "a reset to another potential than zero is not supported", "Train with v_reset 0.")
        return shared_member(name, node, "v_threshold")

    def _cuba_gain(self, name: str, node: Members) -> np.ndarray:
        """r w_in, where a synaptic current lasts for one step and so is the input itself."""
        current = shared(name, "tau_syn", array_of(name, node, "tau_syn") / self.dt)
        if not np.isclose(current, 1, rtol=NEAR):
            raise ModelError(
                name,
                f"a synaptic current that decays over several steps (tau_syn is {current:g} steps) is not supported",
                "Train it with LIF neurons, or with tau_syn = dt.",
            )
        return array_of(name, node, "r") * array_of(name, node, "w_in")

    def _neuron(self, name: str, op: ir.Lif, value: _Value) -> _Value:
        return self._add(name, op, (value.name,), self.shapes[value.name], value.flat)

    def _affine(self, name: str, value: _Value, scale: np.ndarray, shift: np.ndarray) -> _Value:
        """scale * x + shift: one factor is a Scale; one a channel is folded into the layer before."""
        shape = self.shapes[value.name]
        if (scale == scale.flat[0]).all() and not shift.any():
            return self._add(name, ir.Scale(float(scale.flat[0])), (value.name,), shape, value.flat)
        gains = frozen(per_channel(name, scale, shape))
        shifts = frozen(per_channel(name, shift, shape))
        # a batch normalisation with mean 0 and variance 1 is this very map, and the folding takes it from there
        mean = frozen(np.zeros(shape[0]))
        variance = frozen(np.ones(shape[0]))
        op = ir.BatchNorm(gains, shifts, mean, variance, 0.0)
        return self._add(name, op, (value.name,), shape, value.flat)
