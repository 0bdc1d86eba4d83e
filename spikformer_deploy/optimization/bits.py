"""Weight bits by layer: as few as an allowed drop of accuracy lets a model have.

Three steps.  Each layer alone is given few bits, and how much the loss on the validation images rises says what it
costs: that is far less noisy than accuracy.  How far probabilities move would be less noisy still, but says nothing of
early layers: the least change there flips spikes everywhere behind, to no harm.  Then layers are lowered one after
another, always the one that saves the most words of memory for its damage, which makes a path from all bits to the
fewest.  Last, whole settings on the path are compiled and run on the validation images: the furthest found there within
the allowed drop is returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.base.errors import InputError, QuantizeError
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.chips.loihi.memory import box_words
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.read import read
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.ir import Graph
from spikformer_deploy.inference.run import run
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.sample import Sample, fitted_to
from spikformer_deploy.pipeline.stages import check_labels, float_graph, images_of, mapped, quantized
from spikformer_deploy.quantization.build import LEAST_BITS, layers_with_bits
from spikformer_deploy.quantization.settings import Settings

PROBED = (6, 4, 3)
"""Bits that each layer alone is tried with; of the others the damage follows from these."""
PROBE_IMAGES = 2048
"""Images that the damage of one layer is seen on, at most."""
AT_ONCE = 512
"""Images that the engine is given at once."""
FACTOR = 4.0
"""A bit less doubles the rounding of weights, and the square of the error with it: beyond what is probed."""
NO_DAMAGE = 1e-9
"""Of a layer whose fewer bits change nothing: a number to divide by."""


@dataclass(frozen=True, eq=False)
class ChosenBits:
    """The bits of each layer that has other ones than the rest, the program that they make, and all that was tried.

    damage  by layer and bits: how much more the loss is (mean cross-entropy in nats, and its standard error) than that
            of the program with all bits, where that layer alone has them; infinite where the target cannot hold it
    tried   a row a program that was run on the validation images, in that order, the one with all bits first: accuracy,
            drop (points), memory_words, cores, synops (an image) and layer_bits
    """

    layer_bits: dict[str, int]
    program: Program
    accuracy: float
    damage: dict[str, dict[int, float]]
    tried: tuple[dict[str, Any], ...]


def choose_bits(
    model: str | Path | Model,
    data: str | Path | np.ndarray | tuple[Any, Any] | ImageSet,
    *,
    calibrate_on: str | Path | np.ndarray | None = None,
    max_drop: float = 0.5,
    target: str = "loihi2",
    weight_bits: int = 8,
    least_bits: int = LEAST_BITS,
    rounding: str = "calibrated",
    objective: str = "energy",
    limit: int | None = None,
    labels: str | Path | None = None,
    progress: Progress = silent,
    **loading: Any,
) -> ChosenBits:
    """Bits of each layer with which accuracy on labelled images drops by `max_drop` points at most.

    weight_bits   the most that a layer has; least_bits: the fewest
    data          validation images with labels, as of data.read.read: none that the result is reported on
    calibrate_on  images to calibrate on, as of compile_model
    max_drop      points of accuracy that may be lost against `weight_bits` for all
    limit         at most that many validation images; None: all
    progress      called with (steps done, steps in all, a note)
    loading       as of compile_model
    What is returned was run on all validation images.  The same arguments give the same bits.
    Raises InputError for images without labels and for what cannot be read, QuantizeError and MappingError where the
    target cannot hold even the model with all bits.
    """
    if not max_drop >= 0:
        raise InputError("--max-drop", f"{max_drop} points", "Give 0 or more.")
    check_least(least_bits, weight_bits)
    profile = hardware.load_profile(target)
    name = str(model) if isinstance(model, (str, Path)) else "model"
    loaded = load(model, **loading) if isinstance(model, (str, Path)) else model
    calibrate_on = images_of(name) if calibrate_on is None else calibrate_on
    loaded = fitted_to(loaded, calibrate_on)
    frames = loaded.time_steps if loaded.per_step else 0
    images = (
        data
        if isinstance(data, ImageSet)
        else read(data, loaded.preprocess, limit=limit, frames=frames, labels=labels, split="train")
    )
    graph = float_graph(loaded)
    check_labels(name, loaded.labels, graph.nodes[-1].shape[0])
    sample = Sample(loaded, calibrate_on, remember=True)
    search = _Search(graph, sample, profile, weight_bits, least_bits, rounding, objective, images, progress)
    return search.chosen(max_drop)


def check_least(least_bits: int, weight_bits: int) -> None:
    """Raise InputError, by the option's name, for fewest bits that are more than the most, or than no layer has."""
    if least_bits not in range(LEAST_BITS, max(LEAST_BITS, weight_bits) + 1):
        raise InputError("--least-bits", f"{least_bits} bits", f"Give {LEAST_BITS} to {weight_bits}.")


class _Search:
    """What all steps share: the model, its images, the program with all bits, and what was tried."""

    def __init__(
        self,
        graph: Graph,
        sample: Sample,
        profile: Profile,
        weight_bits: int,
        least_bits: int,
        rounding: str,
        objective: str,
        images: ImageSet,
        progress: Progress,
    ) -> None:
        if images.labels is None:
            raise InputError("data", "validation images without labels", "Give images with labels.")
        self.graph, self.sample, self.profile = graph, sample, profile
        self.settings = Settings(weight_bits, neuron=profile.limits.neuron)
        self.least, self.rounding, self.objective = least_bits, rounding, objective
        self.images = images.of_classes(sample.loaded.labels, prod(graph.nodes[-1].shape))
        self.tried: list[dict[str, Any]] = []
        self.programs: list[Program] = []
        self.weighted = [n.name for n in graph.of(ir.Conv2d, ir.Linear)]
        # an attention has no weights to round: its synapses are ones, and fewer bits change no spike
        self.free = {n: self.least for n in layers_with_bits(graph) if n not in self.weighted}
        self.steps = 1 + len(self.weighted)
        self.done, self.progress = 0, progress

    def chosen(self, max_drop: float) -> ChosenBits:
        """The furthest setting on the path that was found within `max_drop` points."""
        # steps of the bisection are not known before: at most as many as halve all settings
        self.steps += (len(self.weighted) * (self.settings.weight_bits - self.least) + 1).bit_length()
        self._validated({})
        damage, words = self._probed()
        path = _path(damage, words, self.settings.weight_bits, self.least)
        best, low, high = 0, -1, len(path)
        # bisection: accuracy falls along the path, but for noise; only what was run and held counts
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds(path[middle] | self.free, max_drop):
                low, best = middle, len(self.tried) - 1
            else:
                high = middle
        found = self.tried[best]
        return ChosenBits(found["layer_bits"], self.programs[best], found["accuracy"], damage, tuple(self.tried))

    def _step(self, note: str) -> None:
        self.progress(min(self.done, self.steps), self.steps, note)
        self.done += 1

    def _holds(self, bits: Mapping[str, int], max_drop: float) -> bool:
        try:
            self._validated(bits)
        except QuantizeError:
            return False
        # points are differences of counts: no rounding decides
        return bool(self.tried[-1]["drop"] <= max_drop + 1e-9)

    def _validated(self, bits: Mapping[str, int]) -> None:
        """Compile a setting, run it on all validation images, and keep the figures."""
        self._step(f"validates {len(bits)} layers with fewer bits")
        settings = replace(self.settings, layer_bits=dict(bits))
        front = quantized(self.graph, self.sample, self.profile, settings, self.rounding)
        program = mapped(front, self.profile, self.objective, "lava", "spatial")
        result = run(program, self.images, timing="none")
        if result.accuracy is None:
            raise InputError("data", "validation images without classes", "Give images with labels.")
        first = self.tried[0]["accuracy"] if self.tried else result.accuracy
        self.tried.append(
            {
                "accuracy": result.accuracy,
                "drop": 100 * (first - result.accuracy),
                "memory_words": int(program.mapping.words.sum()),
                "cores": program.mapping.cores_used,
                "synops": float(result.events.synops),
                "layer_bits": dict(bits),
            }
        )
        self.programs.append(program)

    def _probed(self) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, int]]]:
        """Of each layer with weights, by bits: the damage, and the words of memory where the boxes stay as they are."""
        first = self.programs[0]
        right = self._losses(first.network)
        damage: dict[str, dict[int, float]] = {}
        words: dict[str, dict[int, int]] = {}
        for layer in self.weighted:
            self._step(f"probes {layer}")
            seen: dict[int, float] = {}
            own: tuple[int, ...] = ()
            for bits in (b for b in (*PROBED, self.least) if self.least <= b < self.settings.weight_bits):
                if bits not in PROBED and seen:
                    continue
                try:
                    network = self._network({layer: bits})
                except QuantizeError:
                    seen[bits] = np.inf
                    continue
                own = tuple(i for i, p in enumerate(network.projections) if p.weight_bits)
                seen[bits] = _rise(right, self._losses(network))
            damage[layer] = _filled(seen, self.settings.weight_bits, self.least)
            words[layer] = {bits: _words(first, own, bits) for bits in (*damage[layer], self.settings.weight_bits)}
        return damage, words

    def _losses(self, network: Network) -> Float:
        """(N,) the cross-entropy of the first images, in nats."""
        assert self.images.labels is not None
        end = min(PROBE_IMAGES, len(self.images))
        parts = [slice(start, min(start + AT_ONCE, end)) for start in range(0, end, AT_ONCE)]
        return np.concatenate([_losses(network, self.images.pixels_in(p), self.images.labels[p]) for p in parts])

    def _network(self, bits: dict[str, int]) -> Network:
        settings = replace(self.settings, layer_bits=bits)
        return self.sample.quantized(self.graph, self.profile.limits, settings, self.rounding)


def _words(program: Program, projections: Sequence[int], bits: int) -> int:
    """Words of a program, cut as it is, if some projections had that many bits."""
    network, mapping = program.network, program.mapping
    changed = tuple(replace(p, weight_bits=bits) if i in projections else p for i, p in enumerate(network.projections))
    with_bits = replace(network, projections=changed)
    return int(box_words(with_bits, mapping.sites, mapping.boxes, program.profile.core).sum())


def _losses(network: Network, pixels: NDArray[np.integer], labels: NDArray[np.int64]) -> Float:
    """(N,) minus the log of the softmax of the logits at the classes (N,) of images."""
    head = network.output.neuron
    assert isinstance(head, Accumulator)
    found = engine.execute(network, pixels).accumulators
    logits = found.reshape(len(found), -1) * np.repeat(head.scale, found[0].size // len(head.scale))
    logits = logits - logits.max(1, keepdims=True)
    losses: Float = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    return losses


def _rise(before: Float, after: Float) -> float:
    """How much more a loss (N,) is, with the standard error of that: never less than nothing, which would be luck."""
    more = after - before
    return float(max(0.0, more.mean()) + more.std() / np.sqrt(len(more)))


def _filled(seen: Mapping[int, float], most: int, least: int = LEAST_BITS) -> dict[int, float]:
    """The damage of all bits below `most` down to `least`, the most bits first.

    Between two that were seen it is the geometric mean's line.
    Never less for fewer bits: what looks so is noise.
    """
    known = sorted(seen)
    out: dict[int, float] = {}
    for bits in range(most - 1, least - 1, -1):
        below = [b for b in known if b <= bits]
        above = [b for b in known if b >= bits]
        if below and above:
            lower, upper = below[-1], above[0]
            share = (bits - lower) / max(1, upper - lower)
            ends = (max(seen[lower], NO_DAMAGE), max(seen[upper], NO_DAMAGE))
            value = (
                ends[0] if not share else ends[1] if np.isinf(ends[0]) else ends[0] ** (1 - share) * ends[1] ** share
            )
        else:
            nearest = below[-1] if below else above[0]
            value = max(seen[nearest], NO_DAMAGE) * FACTOR ** (nearest - bits)
        out[bits] = max(value, *out.values()) if out else value
    return out


def _path(
    damage: Mapping[str, Mapping[int, float]],
    words: Mapping[str, Mapping[int, int]],
    most: int,
    least: int = LEAST_BITS,
) -> list[dict[str, int]]:
    """Settings from all bits to the fewest: each lowers the layer that saves the most words for its damage.

    A layer may fall by several bits at once, as words are whole.  Ties go to the first layer, and to more bits.
    """
    bits = dict.fromkeys(damage, most)
    path: list[dict[str, int]] = [{}]
    while True:
        best: tuple[float, str, int] | None = None
        for layer, now in bits.items():
            before = damage[layer][now] if now < most else 0.0
            for fewer in range(now - 1, least - 1, -1):
                saved = words[layer][now] - words[layer][fewer]
                if saved <= 0 or np.isinf(damage[layer][fewer]):
                    continue
                ratio = saved / max(damage[layer][fewer] - before, NO_DAMAGE)
                if best is None or ratio > best[0]:
                    best = ratio, layer, fewer
        if best is None:
            return path
        _, layer, bits[layer] = best
        path.append({name: b for name, b in bits.items() if b < most})
