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
from typing import Any

import networkx as nx
import numpy as np

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.converters import hdf5
from spikformer_deploy.converters.imported import ENTRY, MOST_PIXELS, MOST_STEPS, About, Imported, parsed, sha256_of
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.law import check

USUAL_DT = 1e-4
"""Seconds a step, where nothing tells: what snntorch and spikingjelly write and read."""

LARGEST_WHOLE = 2**31

Members = Mapping[str, Any]


def read_model(path: str | Path, *, time_steps: int | None = None, dt: float | None = None) -> Imported:
    """The model in a .nir file.

    time_steps, dt  T and the seconds of a step, where the file does not tell (only files of our own do)
    Raises InputError for a file that is damaged or foreign, ModelError for a node that the graph cannot hold.
    """
    path = Path(path)
    root = hdf5.tree(path, "node").get("node")
    if not isinstance(root, dict) or _word(root.get("type")) != "NIRGraph":
        raise InputError(str(path), "it holds no NIR graph", "Give a file that nir.write has written.")
    nodes, edges = _flat(root)
    told, seconds = _about(path, root)
    notes = []
    if seconds is None and dt is None:
        notes.append(f"dt = {USUAL_DT} s is what snntorch and spikingjelly assume: the file does not tell (--dt)")
    if told is None:
        notes.append("the input is taken as frames of spikes, one a step, and the result as the mean over the steps")
    steps = time_steps or (told.time_steps if told else None)
    if steps is None or not 0 < steps <= MOST_STEPS:
        problem = f"{steps} time steps" if steps else "it does not say how many time steps an image has"
        raise ModelError(str(path), problem, "Give --time-steps.")
    step = dt or seconds or USUAL_DT
    if not 0 < step < inf:
        raise InputError("--dt", f"{step} seconds", "Give the seconds of a time step.")
    walk = _Walk(nodes, edges, steps, step, told, notes)
    graph = check(walk.graph())
    channels, height, width = graph.nodes[0].shape
    usual = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels, 1, width)
    preprocess = told.preprocess if told else usual
    if (preprocess.channels, *preprocess.extent) != graph.nodes[0].shape:
        raise InputError(str(path), f"its input is {graph.nodes[0].shape}, and the notes of its export say otherwise")
    labels, training = (told.labels, dict(told.training or {})) if told else ((), {})
    return Imported("nir", graph, preprocess, labels, sha256_of(path), training, tuple(walk.notes))


def _about(path: Path, root: Members) -> tuple[About | None, float | None]:
    """(the notes of our own export, dt) where the file has them."""
    metadata = root.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    text, dt = metadata.get(ENTRY), metadata.get("dt")
    number = isinstance(dt, (float, np.floating)) and 0 < dt < inf
    return parsed(path, text) if isinstance(text, str) else None, float(dt) if number else None  # type: ignore[arg-type]


def _flat(root: Members, prefix: str = "") -> tuple[dict[str, Members], list[tuple[str, str]]]:
    """Nodes and edges with the graphs inside graphs dissolved, names "outer.inner"."""
    nodes: dict[str, Members] = {}
    edges: list[tuple[str, str]] = []
    entries, exits = {}, {}
    members = root.get("nodes", {})
    if not isinstance(members, dict):
        raise InputError(prefix.rstrip(".") or "nodes", "its nodes are no group")
    for name, node in members.items():
        full = prefix + name
        if not isinstance(node, dict) or not _word(node.get("type")):
            raise InputError(full, "it is no node of NIR: it has no type")
        if node["type"] == "NIRGraph":
            inner, inside = _flat(node, f"{full}.")
            ends = {kind: [n for n in inner if inner[n]["type"] == kind] for kind in ("Input", "Output")}
            if len(ends["Input"]) != 1 or len(ends["Output"]) != 1:
                raise ModelError(full, "a graph inside the graph needs one input and one output")
            entries[full], exits[full] = ends["Input"][0], ends["Output"][0]
            nodes |= {n: {"type": "Identity"} if n in (entries[full], exits[full]) else inner[n] for n in inner}
            edges += inside
        else:
            nodes[full] = node
    pairs = root.get("edges", [])
    good = isinstance(pairs, list)
    if not good or not all(isinstance(p, list) and len(p) == 2 and all(map(_word, p)) for p in pairs):
        raise InputError(prefix.rstrip(".") or "edges", "its edges are no pairs of names")
    edges += [(exits.get(prefix + a, prefix + a), entries.get(prefix + b, prefix + b)) for a, b in pairs]
    return nodes, edges


@dataclass(frozen=True, slots=True)
class _Value:
    """A node of the graph, and whether NIR sees its (C, Y, X) as one row of numbers."""

    name: str
    flat: bool


@dataclass(slots=True)
class _Walk:
    """Turns NIR nodes into nodes of the graph, in topological order."""

    nodes: Mapping[str, Members]
    edges: list[tuple[str, str]]
    steps: int
    dt: float
    about: About | None
    notes: list[str]
    made: list[ir.Node] = field(default_factory=list)
    shapes: dict[str, ir.Shape] = field(default_factory=dict)
    values: dict[str, _Value] = field(default_factory=dict)
    sums: dict[tuple[str, ...], _Value] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)

    def graph(self) -> ir.Graph:
        order = self._order()
        for kind in ("Input", "Output"):
            found = [name for name in order if self.nodes[name]["type"] == kind]
            if len(found) != 1:
                raise ModelError("graph", f"it has {len(found)} nodes of kind {kind}: {found[:4]}", "It must have one.")
        for name in order:
            node = self.nodes[name]
            try:
                self.values[name] = self._input(name, node) if node["type"] == "Input" else self._node(name, node)
            except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
                raise ModelError(name, f"its numbers make no {node['type']}: {error}"[:200]) from None
        return ir.Graph(tuple(self.made), self.steps)

    def _order(self) -> list[str]:
        graph = nx.DiGraph()
        graph.add_nodes_from(self.nodes)
        for source, target in self.edges:
            if source not in self.nodes or target not in self.nodes:
                raise InputError("edges", f"one goes from '{source}' to '{target}', and there is no such node")
            self.sources.setdefault(target, []).append(source)
        graph.add_edges_from(self.edges)
        try:
            place = {name: i for i, name in enumerate(self.nodes)}
            return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
        except nx.NetworkXUnfeasible:
            loop = " -> ".join(edge[0] for edge in nx.find_cycle(graph))
            way_out = "Export a feed-forward network."
            raise ModelError(loop, "recurrent connections are not supported", way_out) from None

    def _add(self, name: str, op: ir.Op, inputs: tuple[str, ...], shape: ir.Shape, flat: bool = False) -> _Value:
        if name in self.shapes:
            raise ModelError(name, "two nodes would have this name")
        self.made.append(ir.Node(name, op, inputs, shape))
        self.shapes[name] = shape
        return _Value(name, flat)

    # --- what flows in ---

    def _input(self, name: str, node: Members) -> _Value:
        shape = _wholes(name, node, "shape")
        if not 1 <= len(shape) <= 3 or min(shape) < 1 or np.prod(shape, dtype=float) > MOST_PIXELS:
            raise ModelError(name, f"an input of shape {shape}", "It must be (C, Y, X), (C, X) or (C,), no batch.")
        if name in self.sources:
            raise ModelError(name, "something flows into the input")
        channels, height, width = {1: (*shape, 1, 1), 2: (shape[0], 1, shape[-1]), 3: (*shape,)}[len(shape)]
        per_step = self.about.per_step if self.about else True
        return self._add(name, ir.Input(per_step), (), (channels, height, width), len(shape) == 1)

    def _incoming(self, name: str) -> _Value:
        """The sum of all that flows into a node."""
        sources = tuple(self.values[source] for source in self.sources.get(name, ()))
        if not sources:
            raise ModelError(name, "nothing flows into it")
        key = tuple(value.name for value in sources)
        if len(sources) > 1 and key not in self.sums:
            total = sources[0]
            for i, other in enumerate(sources[1:]):
                shapes = self.shapes[total.name], self.shapes[other.name]
                if shapes[0] != shapes[1]:
                    raise ModelError(name, f"values of the shapes {shapes[0]} and {shapes[1]} meet in it")
                added = f"{name}.add" + (f".{i}" if i else "")
                total = self._add(added, ir.Add(), (total.name, other.name), shapes[0], total.flat and other.flat)
            self.sums[key] = total
        return self.sums[key] if len(sources) > 1 else sources[0]

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
                return self._affine(name, value, _array(name, node, "scale"), np.zeros(1))
            case "LIF":
                return self._lif(name, node, value, _array(name, node, "tau"), _array(name, node, "r"))
            case "CubaLIF":
                return self._lif(name, node, value, _array(name, node, "tau_mem"), self._cuba_gain(name, node))
            case "IF":
                return self._integrate(name, node, value)
            case "Threshold":
                threshold = _uniform(name, node, "threshold")
                return self._neuron(name, ir.Lif(1.0, threshold, False, strict=True), value)
            case kind:
                raise ModelError(
                    name,
                    f"NIR nodes of kind {kind} are not supported",
                    "Supported: Affine, Linear, Conv1d, Conv2d, AvgPool2d, SumPool2d, Flatten, Scale, LIF, CubaLIF, "
                    "IF, Threshold, and graphs of these.",
                )

    def _linear(self, name: str, node: Members, value: _Value, shape: ir.Shape) -> _Value:
        weight = _array(name, node, "weight")
        if weight.ndim != 2 or weight.shape[1] != np.prod(shape) or not (value.flat or shape[1:] == (1, 1)):
            raise ModelError(
                name,
                f"a weight of shape {weight.shape} on values of {shape}",
                "A linear layer reads a row of as many numbers; put a Flatten before it.",
            )
        bias = _array(name, node, "bias").reshape(-1) if node["type"] == "Affine" else np.zeros(len(weight))
        if shape[1:] == (1, 1):
            op: ir.Op = ir.Linear(frozen(weight, np.float64), frozen(bias, np.float64))
        else:
            op = ir.Conv2d(frozen(weight.reshape(len(weight), *shape), np.float64), frozen(bias, np.float64))
        return self._add(name, op, (value.name,), (len(weight), 1, 1), True)

    def _conv(self, name: str, node: Members, value: _Value, shape: ir.Shape) -> _Value:
        weight = _array(name, node, "weight")
        one = node["type"] == "Conv1d"
        if weight.ndim != (3 if one else 4) or (one and shape[1] != 1) or value.flat:
            raise ModelError(name, f"a {node['type']} with a weight of shape {weight.shape} on values of {shape}")
        weight = weight[:, :, None, :] if one else weight
        if _pair(name, node, "dilation", 1, one) != (1, 1):
            raise ModelError(name, "a dilated convolution is not supported", "Use dilation 1.")
        kernel, stride = (weight.shape[2], weight.shape[3]), _pair(name, node, "stride", 1, one)
        padding = _padding(name, node, kernel, stride, one)
        groups = _whole(name, node, "groups") if "groups" in node else 1
        bias = _array(name, node, "bias").reshape(-1) if "bias" in node else np.zeros(len(weight))
        size = _windows(name, shape, kernel, stride, padding)
        op = ir.Conv2d(frozen(weight, np.float64), frozen(bias, np.float64), stride, padding, groups)
        return self._add(name, op, (value.name,), (len(weight), *size))

    def _pool(self, name: str, node: Members, value: _Value, shape: ir.Shape) -> _Value:
        kernel = _pair(name, node, "kernel_size", 1, False)
        stride, padding = _pair(name, node, "stride", 1, False), _pair(name, node, "padding", 0, False)
        if padding != (0, 0) or value.flat:
            raise ModelError(name, f"pooling with padding {padding} is not supported", "Pool maps without padding.")
        size = _windows(name, shape, kernel, stride, padding)
        whole = kernel == shape[1:] and node["type"] == "AvgPool2d"
        op = ir.Mean() if whole else ir.AvgPool2d(kernel, stride)
        pooled = self._add(name, op, (value.name,), (shape[0], *size))
        if node["type"] == "AvgPool2d":
            return pooled
        taps = float(kernel[0] * kernel[1])
        return self._add(f"{name}.sum", ir.Scale(taps), (pooled.name,), (shape[0], *size))

    # --- neurons ---

    def _lif(self, name: str, node: Members, value: _Value, tau: np.ndarray, r: np.ndarray) -> _Value:
        steps = _same(name, "tau", tau / tau.dtype.type(self.dt))
        if not 1 <= steps < inf:
            raise ModelError(
                name,
                f"tau is {steps:g} steps of {self.dt:g} s, and forward Euler needs at least 1",
                "Give the dt that the network was trained with (--dt).",
            )
        threshold = self._threshold(name, node)
        leak = _array(name, node, "v_leak") if "v_leak" in node else np.zeros(1)
        found = ir.Lif(steps, threshold, strict=True)
        told = self.about.neuron(name, found) if self.about else found
        if not leak.any() and np.allclose(r, told.tau, rtol=1e-6, atol=0):
            return self._neuron(name, replace(told, decay_input=False), value)
        if leak.any() or (r != 1).any():
            value = self._affine(f"{name}.input", value, r, leak)
        return self._neuron(name, told, value)

    def _integrate(self, name: str, node: Members, value: _Value) -> _Value:
        threshold, r = self._threshold(name, node), _array(name, node, "r")
        if not np.allclose(r, 1 / self.dt, rtol=1e-6, atol=0):
            if (r == 1).all():
                self.notes.append(f"{name}: r = 1 is read as v = v + I, as sinabs and snntorch write it")
            else:
                value = self._affine(f"{name}.input", value, r * self.dt, np.zeros(1))
        told = ir.Lif(inf, threshold, False, strict=True)
        return self._neuron(name, self.about.neuron(name, told) if self.about else told, value)

    def _threshold(self, name: str, node: Members) -> float:
        if "v_reset" in node and _array(name, node, "v_reset").any():
            raise ModelError(name, "a reset to another potential than zero is not supported", "Train with v_reset 0.")
        return _uniform(name, node, "v_threshold")

    def _cuba_gain(self, name: str, node: Members) -> np.ndarray:
        current = _same(name, "tau_syn", _array(name, node, "tau_syn") / self.dt)
        if not np.isclose(current, 1, rtol=1e-6):
            raise ModelError(
                name,
                f"a synaptic current that decays over several steps (tau_syn is {current:g} steps) is not supported",
                "Train it with LIF neurons, or with tau_syn = dt.",
            )
        return _array(name, node, "r") * _array(name, node, "w_in")

    def _neuron(self, name: str, op: ir.Lif, value: _Value) -> _Value:
        return self._add(name, op, (value.name,), self.shapes[value.name], value.flat)

    def _affine(self, name: str, value: _Value, scale: np.ndarray, shift: np.ndarray) -> _Value:
        """scale * x + shift: one factor is a Scale; one a channel is folded into the layer before."""
        shape = self.shapes[value.name]
        if (scale == scale.flat[0]).all() and not shift.any():
            return self._add(name, ir.Scale(float(scale.flat[0])), (value.name,), shape, value.flat)
        gains, shifts = (_per_channel(name, values, shape) for values in (scale, shift))
        zeros, ones = np.zeros(shape[0]), np.ones(shape[0])
        op = ir.BatchNorm(frozen(gains), frozen(shifts), frozen(zeros), frozen(ones), 0.0)
        return self._add(name, op, (value.name,), shape, value.flat)


# --- members of a node ---------------------------------------------------------------------------------------------


def _array(name: str, node: Members, key: str) -> np.ndarray:
    value = node.get(key)
    if value is None or np.asarray(value).dtype.kind not in "iufb" or not np.size(value):
        raise InputError(name, f"'{node['type']}' lacks {key}, or it holds no numbers")
    array = np.asarray(value)
    array = array if array.dtype.kind == "f" and array.dtype.itemsize >= 4 else array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ModelError(name, f"its {key} holds NaN or infinite values")
    return array


def _word(value: Any) -> str:
    """A word of the file, "" where there is something else."""
    return value if isinstance(value, str) else ""


def _wholes(name: str, node: Members, key: str) -> list[int]:
    """Whole numbers in a row: int() alone would cut them."""
    values = np.atleast_1d(_array(name, node, key))
    if values.ndim != 1 or (values != np.rint(values)).any() or (np.abs(values) >= LARGEST_WHOLE).any():
        raise ModelError(name, f"its {key} is {values.tolist()}, and must be whole numbers")
    return [int(value) for value in values]


def _whole(name: str, node: Members, key: str) -> int:
    values = _wholes(name, node, key)
    if len(values) != 1:
        raise ModelError(name, f"its {key} is {values}, and must be one whole number")
    return values[0]


def _uniform(name: str, node: Members, key: str) -> float:
    return _same(name, key, _array(name, node, key))


def _same(name: str, key: str, values: np.ndarray) -> float:
    if values.size == 0 or (values != values.flat[0]).any():
        found = np.unique(values)
        raise ModelError(
            name,
            f"its neurons have {len(found)} values of {key}, from {found[0] if len(found) else '-'} on",
            "All neurons of a population must share it.",
        )
    return float(values.flat[0])


def _per_channel(name: str, values: np.ndarray, shape: ir.Shape) -> np.ndarray:
    """(C,) values that are one a channel; a (C,) array stands for (C, 1, 1)."""
    spread = values.reshape(-1, 1, 1) if values.ndim == 1 and len(values) == shape[0] else values
    try:
        maps = np.broadcast_to(spread.reshape(shape) if spread.size == np.prod(shape) else spread, shape)
    except ValueError:
        raise ModelError(name, f"parameters of shape {values.shape} for neurons of {shape}") from None
    if (maps != maps[:, :1, :1]).any():
        raise ModelError(name, "gains that differ between positions of a channel are not supported")
    return maps[:, 0, 0].astype(np.float64)


def _pair(name: str, node: Members, key: str, least: int, one: bool) -> tuple[int, int]:
    values = _wholes(name, node, key)
    if not 1 <= len(values) <= (1 if one else 2):
        raise ModelError(name, f"a {key} of {values}")
    first, second = (least, values[0]) if one else (values[0], values[-1])
    if min(first, second) < least or max(first, second) > 2**15:
        raise ModelError(name, f"a {key} of {values}")
    return first, second


def _padding(name: str, node: Members, kernel: ir.Pair, stride: ir.Pair, one: bool) -> ir.Pair:
    word = node.get("padding")
    if not isinstance(word, str):
        return _pair(name, node, "padding", 0, one)
    if word == "valid":
        return (0, 0)
    if word != "same" or stride != (1, 1) or any(k % 2 == 0 for k in kernel):
        raise ModelError(name, f"padding '{word}' of a kernel {kernel} with stride {stride} is not symmetric")
    return (kernel[0] // 2, kernel[1] // 2)


def _windows(name: str, shape: ir.Shape, kernel: ir.Pair, stride: ir.Pair, padding: ir.Pair) -> ir.Pair:
    sizes = [(e + 2 * p - k) // s + 1 for e, k, s, p in zip(shape[1:], kernel, stride, padding, strict=True)]
    if min(sizes) < 1:
        raise ModelError(name, f"a window of {kernel} is larger than its input of {shape[1:]}")
    return sizes[0], sizes[1]
