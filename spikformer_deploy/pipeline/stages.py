"""The ordered stages from a model to a program, and the runner that times, checks and dumps each."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from spikformer_deploy.base.errors import InputError, MappingError, printable
from spikformer_deploy.base.files import check_folder_output, write_whole, writing
from spikformer_deploy.base.values import digest
from spikformer_deploy.base.words import check_positive, check_word
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.converters.checkpoints.read import SHOWN
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model, is_netx, load
from spikformer_deploy.converters.netx.read import delay_note, read_network
from spikformer_deploy.counts.silence import note_on_silence
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.labels import class_names
from spikformer_deploy.data.read import read
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.ir import Graph
from spikformer_deploy.graph.law import check as check_law
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.mapping.map import map_explained
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import LifKind, Source
from spikformer_deploy.pipeline.layer_bits import bits_for
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.sample import (
    CALIBRATION_IMAGES,
    RANDOM,
    RANDOM_IMAGES,
    RANDOM_NOTE,
    Sample,
    firing_rates,
    fitted_to,
)
from spikformer_deploy.pipeline.spikes import Checks
from spikformer_deploy.quantization.settings import ROUNDINGS, Settings

STAGES = ("trace", "fold", "simplify", "quantize", "calibrate", "map")
NETX_STAGES = ("read", "calibrate", "map")


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
    layer_bits: Mapping[str, int] | None = None,
    granularity: str = "group",
    rounding: str = "nearest",
    neuron: str | None = None,
    objective: str = "energy",
    runtime: str = "lava",
    schedule: str = "spatial",
    check: bool = True,
    dump_ir: str | Path | None = None,
    report: Callable[[Step], None] | None = None,
    **loading: Any,
) -> Compiled:
    """Compile a model file (or a bundled model by name) for a target; of a .net of lava-dl the integers as they are.

    target        a name of `profile_names()` or a TOML file
    calibrate_on  images as in data.read.read; by default those in the box for a bundled model, else random pixels
    layer_bits    weight bits of some layers, by their names in the folded graph; None: what a checkpoint of ours says
    rounding      "nearest", or "calibrated": weights are rounded together, by what reaches them on those images
    neuron        a LifKind: "programmable" or "stock"; by default what the target offers
    objective     what the cut into cores is best in: one of mapping.objective.OBJECTIVES
    runtime       what it is best under: "lava", or "bare", a runtime that costs nothing
    schedule      "spatial", or "token-serial": tokens stream through the blocks, in far fewer cores and longer steps
    check         compare the spikes of every LIF with the eager model's after each pass over the graph
    dump_ir       a folder that gets each stage as text
    report        called after every stage
    loading       arch, heads, levels, time_steps, dt, allow_pickle: see converters.models.load
    Raises the errors of base/errors.py, each naming the place, the limit and the way out; a MappingError has the notes.
    """
    start = time.monotonic()
    check_word("--rounding", rounding, ROUNDINGS)
    profile = hardware.load_profile(target)
    dump = Path(dump_ir) if dump_ir else None
    if isinstance(model, (str, Path)) and is_netx(model):
        _check_as_they_are(weight_bits=weight_bits != 8, granularity=granularity != "group", neuron=neuron is not None)
        _check_as_they_are(rounding=rounding != "nearest", layer_bits=layer_bits is not None)
        run = _Runner(report, dump, NETX_STAGES)
        front = _integers(Path(model), profile, run, calibrate_on, loading.get("time_steps"))
    else:
        place = str(model) if isinstance(model, (str, Path)) else "model"
        loaded = load(model, **loading) if isinstance(model, (str, Path)) else model
        calibrate_on = images_of(place) if calibrate_on is None else calibrate_on
        loaded = fitted_to(loaded, calibrate_on)
        bits, notes = bits_for(loaded, weight_bits, layer_bits)
        kind = _kind_of(neuron) if neuron else profile.limits.neuron
        settings = Settings(weight_bits, granularity, kind, layer_bits=bits)
        first = "read" if isinstance(loaded, Imported) else "trace"
        run = _Runner(report, dump, (first, *STAGES[1:]))
        sample = Sample(loaded, calibrate_on)
        graph = _graph(loaded, run, Checks(loaded, sample.images) if check else None)
        check_labels(place, loaded.labels, prod(graph.nodes[-1].shape))
        front = quantized(graph, sample, profile, settings, rounding, run)
        front = replace(front, notes=(*front.notes, *notes))
    try:
        program = mapped(front, profile, objective, runtime, schedule, run)
    except MappingError as error:
        # what a program of it would have said: whether it fits may follow from rates of weights that are random
        error.notes = front.notes
        raise
    return Compiled(program, front.graph, front.notes, time.monotonic() - start, run.seconds, front.rates)


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """All that comes before the mapping: the network, how often its neurons fire, and what a program keeps of both.

    rates  messages a neuron and step of each population, from calibration
    """

    network: Network
    rates: dict[str, float]
    graph: Graph | None
    preprocess: Preprocess
    labels: tuple[str, ...]
    origin: dict[str, Any]
    notes: tuple[str, ...]


Stage: TypeAlias = Callable[[str, Callable[[], Any]], Any]
"""Runs a stage, which has a name."""


def at_once(_name: str, stage: Callable[[], Any]) -> Any:
    """Run a stage, and keep no record of it."""
    return stage()


def images_of(model: str) -> str | None:
    """The images in the box that a bundled model is calibrated on, where its recipe does not name them."""
    return "drawn" if SHOWN.get(model) == "drawn" else None


def quantized(
    graph: Graph, sample: Sample, profile: Profile, settings: Settings, rounding: str, run: Stage = at_once
) -> Front:
    """The integers of a folded and simplified float graph; sample: of its model.

    Raises QuantizeError, naming the layer, where the target's integers cannot hold it.
    """
    loaded = sample.loaded
    network = run("quantize", lambda: sample.quantized(graph, profile.limits, settings, rounding))
    rates = run("calibrate", lambda: sample.rates(network))
    origin = {
        "model_sha256": loaded.sha256,
        "graph_sha256": digest_of_structure(loaded),
        "training": loaded.training,
        "settings": {"target": profile.name, "rounding": rounding, **settings.shown()},
        "calibration": {"images": len(sample.images), "data": sample.remark},
    }
    of_random = (RANDOM_NOTE,) if sample.remark == RANDOM else ()
    notes = (*loaded.notes, *of_random, *_on_silence(network, rates, sample.remark == RANDOM))
    return Front(network, rates, graph, loaded.preprocess, loaded.labels, origin, notes)


def _on_silence(network: Network, rates: dict[str, float], random: bool) -> tuple[str, ...]:
    """A note on layers of neurons that never fired on the calibration images.

    random  pixels are: then only where no layer did, as what they wake is not what images wake
    """
    layers = [p.name for p in network if p.neuron.fires]
    silent = [name for name in layers if rates[name] == 0]
    if random and len(silent) < len(layers):
        return ()
    return note_on_silence(silent, len(layers), "random pixels" if random else "the calibration images")


def mapped(
    front: Front, profile: Profile, objective: str, runtime: str, schedule: str, run: Stage = at_once
) -> Program:
    """The program of a front on a target; arguments as of compile_model.

    Raises MappingError, naming the layer and the limit, where it does not fit, InputError for a schedule that its
    network cannot have.
    """
    network = front.network
    timed = hardware.under(profile, runtime)
    mapping, explained = run("map", lambda: map_explained(network, timed, front.rates, objective, schedule=schedule))
    origin = {**front.origin, "mapping": {**explained, "runtime": runtime}, "versions": versions()}
    return Program(network, mapping, profile, front.preprocess, front.labels, origin)


def _graph(loaded: Model, run: _Runner, checks: Checks | None) -> Graph:
    """The folded and simplified graph, its spikes compared with the model's after each pass."""
    against_model, against_last = (checks.against_model, checks.against_last) if checks else (None, None)
    raw = run(run.stages[0], lambda: _traced(loaded), against_model)
    folded = run("fold", lambda: check_law(fold_batch_norm(raw)), against_last)
    graph: Graph = run("simplify", lambda: check_law(simplify(folded)), against_last)
    return graph


def _integers(
    path: Path, profile: Profile, run: _Runner, calibrate_on: str | Path | np.ndarray | None, time_steps: int | None
) -> Front:
    """The integers of a .net of lava-dl, as they are."""
    check_positive(time_steps=time_steps)
    network = run("read", lambda: read_network(path, time_steps))
    if network.state_bits > profile.limits.state_bits:
        problem = f"its neurons have {profile.limits.state_bits} bits of state, and a .net has {network.state_bits}"
        raise InputError(profile.name, problem, "Take a target with wider neurons, as loihi1 or loihi2.")
    channels, height, width = network.input.shape
    source = network.input.neuron
    assert isinstance(source, Source)
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels, source.max_value, width)
    frames = network.time_steps if source.per_step else 0
    images: np.ndarray
    if calibrate_on is None:
        shape = (frames, *network.input.shape) if frames else network.input.shape
        images = np.random.default_rng(0).integers(0, source.max_value + 1, (RANDOM_IMAGES, *shape)).astype(np.uint8)
    else:
        images = read(calibrate_on, preprocess, limit=CALIBRATION_IMAGES, frames=frames).pixels
    rates = run("calibrate", lambda: firing_rates(network, images))
    origin = {
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "training": {},
        "settings": {"target": profile.name, "weights": "as in the .net file", "neuron": LifKind.STOCK.value},
        "calibration": {"images": len(images), "data": "random pixels" if calibrate_on is None else "images"},
    }
    random = calibrate_on is None
    notes = (delay_note(network), *((RANDOM_NOTE,) if random else ()), *_on_silence(network, rates, random))
    return Front(network, rates, None, preprocess, (), origin, notes)


def _check_as_they_are(**changed: bool) -> None:
    """Raise InputError for options that would change integers that are there already."""
    for name, differs in changed.items():
        if differs:
            option = f"--{name.replace('_', '-')}"
            raise InputError(option, "the integers and the neurons of a .net are taken as they are", "Leave it out.")


def check_labels(place: str, labels: tuple[str, ...], classes: int) -> None:
    """Raise InputError where a model has names for other classes than it tells apart."""
    try:
        class_names(labels, classes)
    except ValueError as error:
        raise InputError(place, f"{error}", "Give one name a class, in the order of the outputs, or none.") from None


def _kind_of(neuron: str) -> LifKind:
    try:
        return LifKind(neuron)
    except ValueError:
        known = " and ".join(LifKind)
        raise InputError("--neuron", f"there are no '{neuron}' neurons", f"Known: {known}.") from None


def digest_of_structure(loaded: Model) -> str:
    """Of what options and code make of a file of weights: a checkpoint's configuration, other models' float graph."""
    return loaded.graph.digest() if isinstance(loaded, Imported) else digest(loaded.config)


def float_graph(loaded: Model) -> Graph:
    """The folded float graph of a model, that the integers are compared with."""
    return check_law(simplify(fold_batch_norm(_traced(loaded))))


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

    def __post_init__(self) -> None:
        if self.dump is not None:
            check_folder_output(self.dump)

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
        with writing(self.dump):
            self.dump.mkdir(parents=True, exist_ok=True)
        text = value.dump() if hasattr(value, "dump") else f"{value}\n"
        write_whole(self.dump / f"{self.done}-{name}.txt", printable(text).encode())


def versions() -> dict[str, str]:
    """Of what makes a program, by name."""
    out = {"python": platform.python_version()}
    for package in ("spikformer-deploy", "torch", "numpy"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "unknown"
    return out
