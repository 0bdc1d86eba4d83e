"""The one ordered list of stages from a model to a program, and the runner that times, checks and dumps each."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikformer_deploy import hardware
from spikformer_deploy.converters.checkpoint import SHOWN
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.converters.netx import read_network
from spikformer_deploy.errors import InputError, ModelError
from spikformer_deploy.graph.check import check as check_law
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.ir import Graph, Lif
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.hardware import CoreLimits
from spikformer_deploy.images import ImageSet, Preprocess, read
from spikformer_deploy.mapping import map_explained
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.program import Program
from spikformer_deploy.quantize.build import Pixels, quantize
from spikformer_deploy.quantize.calibrate import Calibration
from spikformer_deploy.quantize.network import Network, Source
from spikformer_deploy.quantize.rounding import Moments, images_for_rounding, second_moments
from spikformer_deploy.quantize.settings import Settings
from spikformer_deploy.simulate import engine
from spikformer_deploy.simulate.run import Execution

STAGES = ("trace", "fold", "simplify", "quantize", "calibrate", "map")
NETX_STAGES = ("read", "calibrate", "map")
CALIBRATION_IMAGES = 64
CHECK_IMAGES, CHECK_PIXELS = 4, 2**18
"""Spikes are compared on so many images, or fewer large ones, but one at least: 224x224 pixels make 10^8 spikes."""
FLIPPED_SHARE = 1e-5
"""A pass that flips more spikes than this, each layer on equal inputs, is wrong; float rounding flips one in 10^8."""


@dataclass(frozen=True, slots=True)
class Step:
    """A stage that has finished: its name, number and of how many, how long it took, and what its check found."""

    name: str
    number: int
    of: int
    seconds: float
    remark: str


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A program, the folded float graph that it came from (none of a .net), and what had to be assumed on the way.

    stages  seconds of each
    rates   messages a neuron and step of each population, from calibration: what the mapping was made for
    """

    program: Program
    graph: Graph | None
    notes: tuple[str, ...]
    seconds: float
    stages: dict[str, float]
    rates: dict[str, float]


def compile_model(
    model: str | Path | Model,
    target: str = "loihi2",
    *,
    calibrate_on: str | Path | np.ndarray | None = None,
    weight_bits: int = 8,
    granularity: str = "group",
    rounding: str = "nearest",
    neuron: str | None = None,
    objective: str = "energy",
    check: bool = True,
    dump_ir: str | Path | None = None,
    report: Callable[[Step], None] | None = None,
    **loading: Any,
) -> Compiled:
    """Compile a model file (or a bundled model by name) for a target.

    target        a name of `profile_names()` or a TOML file
    calibrate_on  images as in images.read; by default those in the box for a bundled model, else random pixels
    rounding      "nearest", or "calibrated": weights are rounded together, by what reaches them on those images
    neuron        "programmable" or "stock"; by default what the target offers
    objective     what the cut into cores is best in: one of mapping.OBJECTIVES
    check         compare the spikes of every LIF with the eager model's after each pass over the graph
    dump_ir       a folder that gets each stage as text
    report        called after every stage
    loading       arch, heads, time_steps, dt, allow_pickle: see converters.models.load
    Raises the errors of errors.py, each naming the place, the limit and the way out.
    """
    start = time.monotonic()
    profile = hardware.load_profile(target)
    loaded = load(model, **loading) if isinstance(model, (str, Path)) else model
    if calibrate_on is None and SHOWN.get(str(model)) == "drawn":
        calibrate_on = "drawn"
    images, remark = calibration_images(loaded, calibrate_on)
    first = "read" if isinstance(loaded, Imported) else "trace"
    run = _Runner(report, Path(dump_ir) if dump_ir else None, (first, *STAGES[1:]))
    graph = _checked_graph(loaded, images, run, check)
    kind = neuron or ("programmable" if profile.limits.programmable else "stock")
    integers = _Integers(images)

    def quantized() -> Network:
        moments = None
        if rounding == "calibrated":
            most = max(CALIBRATION_IMAGES, images_for_rounding(graph))
            moments = _moments(graph, loaded, calibration_images(loaded, calibrate_on, most)[0])
        return integers.quantized(graph, loaded, profile.limits, Settings(weight_bits, granularity, kind, moments))

    network = run("quantize", quantized)
    rates = run("calibrate", lambda: integers.rates(network))
    mapping, explained = run("map", lambda: map_explained(network, profile, rates, objective))
    chosen = {"weight_bits": weight_bits, "granularity": granularity, "rounding": rounding, "neuron": kind}
    provenance = {
        "model_sha256": loaded.sha256,
        "training": loaded.training,
        "settings": {"target": profile.name, **chosen},
        "calibration": {"images": len(images), "data": remark},
        "mapping": explained,
        "versions": _versions(),
    }
    program = Program(network, mapping, profile, loaded.preprocess, loaded.labels, provenance)
    notes = loaded.notes if remark != "random pixels" else (*loaded.notes, RANDOM_NOTE)
    return Compiled(program, graph, notes, time.monotonic() - start, run.seconds, rates)


def _checked_graph(loaded: Model, images: np.ndarray, run: _Runner, check: bool) -> Graph:
    """The folded and simplified graph, its spikes compared with the model's after each pass where asked for."""
    few = images[: max(1, min(CHECK_IMAGES, CHECK_PIXELS // images[0].size))]
    checks = _Checks(loaded, torch.from_numpy(loaded.preprocess.normalised(few))) if check else None
    against_model, against_last = (checks.against_model, checks.against_last) if checks else (None, None)
    raw = run(run.stages[0], lambda: _traced(loaded), against_model)
    folded = run("fold", lambda: check_law(fold_batch_norm(raw)), against_last)
    graph: Graph = run("simplify", lambda: check_law(simplify(folded)), against_last)
    return graph


def _moments(graph: Graph, loaded: Model, images: np.ndarray) -> Moments:
    """What reaches each layer on some images, for calibrated rounding."""
    real = torch.from_numpy(loaded.preprocess.normalised(images))
    std, mean, largest = np.array(loaded.preprocess.std), np.array(loaded.preprocess.mean), loaded.preprocess.max_value
    return second_moments(graph, real, std * largest, mean * largest, min(_float_batch(graph), 64))


def _float_batch(graph: Graph) -> int:
    """Images that the float graph takes at once, so that no value of it has more than 2^24 elements."""
    return max(1, 2**24 // max(n.shape[0] * n.shape[1] * n.shape[2] * graph.time_steps for n in graph))


@dataclass(slots=True)
class _Integers:
    """The integer network on the calibration images: it runs once, for the range of its head and for the rates.

    A head does not change what reaches it, so the rates of a run with a wider one are those of the network.
    """

    images: np.ndarray
    done: Execution | None = None

    def quantized(self, graph: Graph, loaded: Model, limits: CoreLimits, settings: Settings) -> Network:
        """The integers of a graph; the float graph runs only for ranges that no worst case bounds."""
        preprocess = loaded.preprocess
        real = torch.from_numpy(preprocess.normalised(self.images))
        pixels = Pixels(preprocess.mean, preprocess.std, preprocess.max_value)
        calibration = Calibration(graph, real, min(_float_batch(graph), 16))
        return quantize(graph, pixels, calibration, limits, settings, self._largest_accumulator)

    def _largest_accumulator(self, network: Network) -> int:
        self.done = engine.execute(network, self.images)
        return self.done.peak_state[network.output.name]

    def rates(self, network: Network) -> dict[str, float]:
        """As firing_rates."""
        return _rates(network, self.done or engine.execute(network, self.images))


def compile_netx(
    path: str | Path,
    target: str = "loihi2",
    *,
    calibrate_on: str | Path | np.ndarray | None = None,
    time_steps: int | None = None,
    objective: str = "energy",
    dump_ir: str | Path | None = None,
    report: Callable[[Step], None] | None = None,
) -> Compiled:
    """Compile a .net file of lava-dl, its integers and its neurons as they are; arguments as compile_model."""
    start = time.monotonic()
    profile = hardware.load_profile(target)
    run = _Runner(report, Path(dump_ir) if dump_ir else None, NETX_STAGES)
    network = run("read", lambda: read_network(path, time_steps))
    channels, height, width = network.input.shape
    source = network.input.neuron
    assert isinstance(source, Source)
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels, source.max_value, width)
    if calibrate_on is None:
        shape = (network.time_steps, *network.input.shape) if source.per_step else network.input.shape
        images = np.random.default_rng(0).integers(0, source.max_value + 1, (CHECK_IMAGES, *shape)).astype(np.uint8)
    else:
        images = _some(read(calibrate_on, preprocess, limit=CALIBRATION_IMAGES))
    mapping_rates = run("calibrate", lambda: firing_rates(network, images))
    mapping, explained = run("map", lambda: map_explained(network, profile, mapping_rates, objective))
    provenance = {
        "model_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "training": {},
        "settings": {"target": profile.name, "weights": "as in the .net file", "neuron": "stock"},
        "calibration": {"images": len(images), "data": "random pixels" if calibrate_on is None else "images"},
        "mapping": explained,
        "versions": _versions(),
    }
    program = Program(network, mapping, profile, preprocess, (), provenance)
    notes = () if calibrate_on is not None else (RANDOM_NOTE,)
    return Compiled(program, None, notes, time.monotonic() - start, run.seconds, mapping_rates)


def firing_rates(network: Network, images: np.ndarray) -> dict[str, float]:
    """Share of non-zero outputs per neuron and step, by population, of an integer network on some images."""
    return _rates(network, engine.execute(network, images))


def _rates(network: Network, done: Execution) -> dict[str, float]:
    counts = {name: a.messages for name, a in done.activity.items()}
    return {name: float(n.sum()) / (network[name].size * n.shape[0] * n.shape[1]) for name, n in counts.items()}


RANDOM_NOTE = "calibrated on random pixels: firing rates, and bounds that are only observed, are not those of your data"


def float_graph(loaded: Model) -> Graph:
    """The folded float graph of a model, that the integers are compared with."""
    return check_law(simplify(fold_batch_norm(_traced(loaded))))


def calibration_images(
    loaded: Model, data: str | Path | np.ndarray | None, most: int = CALIBRATION_IMAGES
) -> tuple[np.ndarray, str]:
    """Images to calibrate on, uint8, at most so many, and a word on what they are."""
    if data is not None:
        remark = "an array" if isinstance(data, np.ndarray) else Path(data).name[:80]
        return _some(read(data, loaded.preprocess, limit=most, split="train")), remark
    source = loaded.training.get("recipe", {}).get("data", {}).get("source")
    if source == "digits":
        return _some(read("digits", loaded.preprocess, limit=most, split="train")), "digits, training split"
    steps = (loaded.time_steps,) if loaded.per_step else ()
    rng = np.random.default_rng(0)
    largest = 2 if loaded.per_step else loaded.preprocess.max_value + 1
    return rng.integers(0, largest, (CHECK_IMAGES, *steps, *loaded.input_shape)).astype(np.uint8), "random pixels"


def _some(images: ImageSet) -> np.ndarray:
    return images.pixels


def _traced(loaded: Model) -> Graph:
    if isinstance(loaded, Imported):
        return check_law(loaded.graph)
    return check_law(trace(loaded.module, loaded.input_shape, time_steps=loaded.time_steps, per_step=loaded.per_step))


@dataclass(slots=True)
class _Runner:
    report: Callable[[Step], None] | None
    dump: Path | None
    stages: tuple[str, ...] = STAGES
    done: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str, stage: Callable[[], Any], check: Callable[[str, Any], str] | None = None) -> Any:
        """Run the next stage, check and dump what it made, and report."""
        assert self.stages[self.done] == name
        start = time.monotonic()
        value = stage()
        remark = check(name, value) if check else ""
        self.done += 1
        self.seconds[name] = time.monotonic() - start
        if self.dump is not None:
            self._write(name, value)
        if self.report is not None:
            self.report(Step(name, self.done, len(self.stages), self.seconds[name], remark))
        return value

    def _write(self, name: str, value: Any) -> None:
        assert self.dump is not None
        try:
            self.dump.mkdir(parents=True, exist_ok=True)
            text = value.dump() if hasattr(value, "dump") else f"{value}\n"
            (self.dump / f"{self.done}-{name}.txt").write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(str(self.dump), f"it cannot be written: {error.strerror}") from None


class _Checks:
    """Spikes of a few images after every pass: the traced graph against the model, each pass against the last."""

    def __init__(self, loaded: Model, images: torch.Tensor) -> None:
        self.loaded, self.images = loaded, images
        self.last: dict[str, torch.Tensor] = {}

    def against_model(self, name: str, graph: Graph) -> str:
        """Spikes of each LIF module in every step and image, and the logits; a file's graph is the model itself."""
        if isinstance(self.loaded, Imported):
            self.last = execute(graph, self.images)
            return ""
        counts: dict[str, torch.Tensor] = {}
        hooks = [
            module.register_forward_hook(lambda _m, _i, out, path=path: counts.__setitem__(path, _per_step(out)))
            for path, module in self.loaded.module.named_modules()
            if isinstance(module, LIF)
        ]
        with torch.inference_mode():
            logits = self.loaded.module(self.images)
        for hook in hooks:
            hook.remove()
        self.last = execute(graph, self.images)
        differ = {
            n: int((counts[n] - _per_step(self.last[n].transpose(0, 1))).abs().sum()) for n in counts if n in self.last
        }
        total = sum(self.last[n].numel() for n in differ)
        remark = self._verdict(name, differ, total)
        worst = float((self.last[graph.nodes[-1].name] - logits).abs().max())
        if worst > 1e-3 * max(1.0, float(logits.abs().max())) and not any(differ.values()):
            raise ModelError(name, f"the logits of the graph differ from the model's by {worst:.3g}")
        return remark

    def against_last(self, name: str, graph: Graph) -> str:
        """Every spike of every LIF, each layer on the spikes of the traced graph."""
        lifs = [n.name for n in graph.of(Lif)]
        now = execute(graph, self.images, forced={n: self.last[n] for n in lifs})
        differ = {n: int((now[n] != self.last[n]).sum()) for n in lifs}
        return self._verdict(name, differ, sum(now[n].numel() for n in lifs))

    def _verdict(self, name: str, differ: dict[str, int], total: int) -> str:
        flipped = sum(differ.values())
        if flipped > FLIPPED_SHARE * total:
            worst = max(differ, key=lambda n: differ[n])
            raise ModelError(
                worst,
                f"the pass '{name}' flips {flipped} of {total} spikes, {differ[worst]} of them here",
                "This is an error of the compiler; --no-check compiles all the same. Please report it.",
            )
        return f"{flipped} of {total:,} spikes flipped"


def _per_step(spikes: torch.Tensor) -> torch.Tensor:
    """(T, B) number of spikes."""
    return spikes.flatten(2).sum(2, dtype=torch.float64)


def _versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for package in ("spikformer-deploy", "torch", "numpy"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "unknown"
    return out
