"""Models made of spikingjelly's layers, of either generation (0.0.0.0.12 to 0.0.0.0.14, and 2.0).

Neurons are swapped for ours before export, by the name of their class and their attributes.  Layers and containers
trace as they are.
"""

from __future__ import annotations

import copy
import hashlib
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.converters.checkpoints.slots import LAYERS, LeftOut, check_slots
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.source import of_library
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.levels import levels
from spikformer_deploy.nn.lif import lif

NEURONS = {
    "IFNode": "IF",
    "MultiStepIFNode": "IF",
    "SimpleIFNode": "IF",
    "LIFNode": "LIF",
    "MultiStepLIFNode": "LIF",
    "SimpleLIFNode": "LIF",
    "ParametricLIFNode": "PLIF",
    "MultiStepParametricLIFNode": "PLIF",
    "ILIFNode": "ILIF",
}
"""Classes of neurons by exact name, as an ILIFNode is a LIFNode too.

Those of 0.0.0.0.12's clock_driven that work on sequences are called MultiStep...
"""
SCALES = (1, 2, 4, 8, 16, 64, 256)
"""The comparison's images are scaled by these, one after the other, until every layer of neurons has fired."""
TRIED_SCALE = SCALES[2]
"""The scale at which a model is called to see what it does: enough for most neurons to fire."""
CLOSE = 1e-4
"""The largest difference of the swapped model's logits from the original's, as a share of the largest logit.

It leaves room for rounding, and for no spike.
"""
SURROGATE_SLOPE = 4.0
"""An argument of the operator that only gradients use."""


class Neuron(nn.Module):
    """LIF neurons that are reset to zero (or softly), in place of spikingjelly's.

    in, out     (T, B, ...), or (T * B, ...) where time_steps is given; currents in, spikes out
    time_steps  0: the first dimension is time; else it is time and batch in one, for models that work step by step
    """

    def __init__(self, tau: float, v_threshold: float, decay_input: bool, soft_reset: bool, time_steps: int) -> None:
        super().__init__()
        self.tau = tau
        self.v_threshold = v_threshold
        self.decay_input = decay_input
        self.soft_reset = soft_reset
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of the shape of x."""
        by_step = x.unflatten(0, (self.time_steps, -1)) if self.time_steps else x
        spikes = lif(by_step, self.tau, self.v_threshold, self.decay_input, SURROGATE_SLOPE, self.soft_reset)
        return spikes.flatten(0, 1) if self.time_steps else spikes


class IntegerNeuron(nn.Module):
    """Neurons that send 0..count, in place of spikingjelly's ILIFNode; see Neuron for shapes.

    keep  the share of the potential that a time step leaves
    """

    def __init__(self, count: int, v_threshold: float, keep: float, time_steps: int) -> None:
        super().__init__()
        self.count = count
        self.v_threshold = v_threshold
        self.keep = keep
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Tensor:
        """Whole numbers of the shape of x."""
        by_step = x.unflatten(0, (self.time_steps, -1)) if self.time_steps else x
        sent = levels(by_step, self.count, self.v_threshold, self.keep, True)
        return sent.flatten(0, 1) if self.time_steps else sent


class Flatten(nn.Module):
    """torch.nn.Flatten behind the time axis: spikingjelly's own fixes the batch where it is exported.

    start, end  dimensions of (B, ...), as torch.nn.Flatten counts them; x is (T, B, ...)
    """

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.start = start + 1
        self.end = end + 1 if end >= 0 else end

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, ...) with those dimensions in one."""
        return x.flatten(self.start, self.end)


class _Model(nn.Module):
    """The model as the tracer takes it: images (B, C, Y, X), or frames (B, T, C, Y, X), to mean logits (B, classes).

    takes  "images": the model repeats them itself; "sequence": (T, B, C, Y, X); "steps": (T * B, C, Y, X)
    """

    def __init__(self, model: nn.Module, takes: str, time_steps: int, per_step: bool) -> None:
        super().__init__()
        self.model = model
        self.takes = takes
        self.time_steps = time_steps
        self.per_step = per_step

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits (B, classes)."""
        if self.takes == "images":
            return self._mean(self.model(x))
        x = x.transpose(0, 1) if self.per_step else x.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)
        if self.takes == "sequence":
            return self._mean(self.model(x))
        return self.model(x.flatten(0, 1)).unflatten(0, (self.time_steps, -1)).mean(0)

    def _mean(self, logits: Tensor) -> Tensor:
        """(B, classes) of (T, B, classes), or as it is."""
        return logits.mean(0) if logits.ndim == 3 else logits


class _Lines(nn.Module):
    """A model of lines of points (..., C, L), on images of one row (..., C, 1, L)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """What the model makes of the rows."""
        out: Tensor = self.model(x.squeeze(-2))
        return out


def from_spikingjelly(
    module: nn.Module,
    preprocess: Preprocess,
    time_steps: int,
    *,
    per_step: bool = False,
    labels: tuple[str, ...] = (),
) -> Imported:
    """The float model of any module made of spikingjelly's layers, for `compile`.

    module      single-step (it is run T times and its outputs are averaged) or multi-step: (T, B, C, Y, X), or images
                that it repeats itself; its result (T, B, classes) is averaged over the steps, (B, classes) taken as is.
                Of images with one row it may take the row alone, (..., C, L): time series, for Conv1d
    preprocess  what its images look like, and how they were normalised; per_step: it takes a frame for each step
    Raises ModelError for neurons that are not supported, by path and class, for neurons that hold a potential, and
    where the swapped model does not give the logits of the original.
    """
    if not 0 < time_steps <= MOST_STEPS:
        raise InputError("time_steps", f"{time_steps} time steps", f"Give 1 to {MOST_STEPS}.")
    modes = {_step_mode(neuron) for _, neuron in _neurons(module)}
    if len(modes) != 1:
        raise _without_mode(module, bool(modes))
    by_step = modes == {"s"}
    shape = (preprocess.channels, *preprocess.extent)
    sha256 = digest_of(module)
    module = _of_rows(module, shape, 0 if by_step else time_steps)
    ours = _swapped(copy.deepcopy(module).eval(), time_steps if by_step else 0)
    takes = "steps" if by_step else _takes(ours, (time_steps, *shape), per_step)
    wrapped = _Model(ours, takes, time_steps, per_step).eval()
    # before the trace, which would unroll a loop over time steps into a graph that is wrong
    images = _images(wrapped, shape)
    _refuse_repeated(wrapped, images, time_steps)
    check_slots(wrapped, images, _most)
    graph = check(trace(wrapped, shape, time_steps=time_steps, per_step=per_step))
    imported = Imported("spikingjelly", graph, preprocess, labels, sha256, {}, ())
    return replace(imported, notes=_compare(module, imported, takes))


def digest_of(module: nn.Module) -> str:
    """Of the names and values of its parameters, in place of a file's sha256."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _without_mode(module: nn.Module, mixed: bool) -> ModelError:
    """The error of a model whose neurons have two modes, or of one without neurons."""
    if mixed:
        problem = "some neurons work step by step and others on sequences"
        return ModelError("model", problem, "Call functional.set_step_mode(model, 'm').")
    classes = sorted({type(layer).__name__ for layer in module.modules()} - {type(module).__name__})
    problem = f"no neurons of spikingjelly's among its layers ({', '.join(classes) or 'none'})"
    return ModelError(type(module).__name__, problem, f"Use neurons of these classes: {', '.join(NEURONS)}.")


def _neurons(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All neurons with their paths; ModelError for those that are none of NEURONS."""
    for path, layer in module.named_modules():
        kind = type(layer).__name__
        if kind in NEURONS:
            yield path, layer
        elif hasattr(layer, "v_threshold") or (kind.endswith("Node") and hasattr(layer, "surrogate_function")):
            raise ModelError(path, f"neurons of class {kind} are not supported", f"Known: {', '.join(NEURONS)}.")


def _step_mode(neuron: nn.Module) -> str:
    """ "s" or "m"; clock_driven's neurons have it in their name."""
    mode = getattr(neuron, "step_mode", None)
    if mode is not None:
        return str(mode)
    return "m" if type(neuron).__name__.startswith("MultiStep") else "s"


def _swapped(module: nn.Module, time_steps: int) -> nn.Module:
    """`module` with its neurons in place of spikingjelly's, changed in place."""
    # lists, since both loops change what they run over
    for path, neuron in list(_neurons(module)):
        replacement = _ours(path, neuron, time_steps)
        if not path:
            return replacement
        _exchange(module, neuron, replacement)
    for _, layer in list(module.named_modules()):
        if type(layer).__name__ == "Flatten" and getattr(layer, "step_mode", "s") == "m":
            _exchange(module, layer, Flatten(int(layer.start_dim), int(layer.end_dim)))
        if type(layer).__name__ in LAYERS:
            _exchange(module, layer, LeftOut(type(layer).__name__ == LAYERS[1], int(layer.num_slots)))
    return module


def _exchange(module: nn.Module, layer: nn.Module, replacement: nn.Module) -> None:
    """Put `replacement` wherever `layer` stands: one module may have several names, and is one nevertheless."""
    for path, other in list(module.named_modules(remove_duplicate=False)):
        if other is layer:
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, replacement)


def _ours(path: str, neuron: nn.Module, time_steps: int) -> Neuron | IntegerNeuron:
    """A neuron with the same spikes: a reset to v_reset is a reset to zero below a threshold that much lower."""
    v_reset = getattr(neuron, "v_reset", 0.0)
    rest = 0.0 if v_reset is None else float(v_reset)
    potential = torch.as_tensor(getattr(neuron, "v", rest))
    if bool((potential != rest).any()):
        way_out = "Reset the model before: functional.reset_net(model)."
        raise ModelError(path, "it holds the potential of an earlier run", way_out)
    kind = NEURONS[type(neuron).__name__]
    if kind == "ILIF":
        most = neuron.surrogate_function.max_spike_count  # type: ignore[union-attr]
        keep = 1.0 - 1.0 / _tau(neuron, kind)
        return IntegerNeuron(int(most), float(neuron.v_threshold), keep, time_steps)  # type: ignore[arg-type]
    # neurons that forget nothing have no decay that their input could share
    decay_input = kind != "IF" and bool(getattr(neuron, "decay_input", True))
    v_threshold = float(neuron.v_threshold) - rest  # type: ignore[arg-type]
    return Neuron(_tau(neuron, kind), v_threshold, decay_input, v_reset is None, time_steps)


def _tau(neuron: nn.Module, kind: str) -> float:
    """The time constant, in time steps."""
    match kind:
        case "IF":
            return inf
        case "PLIF":
            # what it learns is the logit of 1 / tau
            weight = neuron.w
            assert isinstance(weight, Tensor)
            return 1 / float(weight.detach().double().sigmoid())
        case _:
            return float(neuron.tau)  # type: ignore[arg-type]


def _most(layer: nn.Module) -> int | None:
    """The largest number that neurons send; None of layers that are none."""
    if isinstance(layer, IntegerNeuron):
        return layer.count
    return 1 if isinstance(layer, Neuron) else None


def _takes(model: nn.Module, shape: tuple[int, ...], per_step: bool) -> str:
    """What a multi-step model takes, "images" or "sequence": tried out on nothing but zeros.

    shape  (T, C, Y, X)
    The sequence comes first: a model whose layers take any dimensions would take images for time steps.
    """
    if per_step:
        return "sequence"
    # T + 1 images: a model that took them for time steps would not have that many images in its result
    images = shape[0] + 1
    for takes, leading in (("sequence", (shape[0], images)), ("images", (images,))):
        try:
            with torch.no_grad():
                logits = model(torch.zeros(*leading, *shape[1:]))
            if logits.ndim in (2, 3) and images in (logits.shape[:-1] if takes == "images" else logits.shape[-2:-1]):
                return takes
        except Exception:  # whatever a model says to a shape that it does not take
            pass
    return "sequence"


def _of_rows(module: nn.Module, shape: tuple[int, ...], time_steps: int) -> nn.Module:
    """The module for images of one row, where it takes rows and no images; else as it is.

    shape       (C, Y, X); time_steps: T of a multi-step model, 0 of one that makes a step
    """
    if shape[1] > 1 or _runs(module, shape, time_steps):
        return module
    rows = _Lines(module)
    return rows if _runs(rows, shape, time_steps) else module


def _runs(module: nn.Module, shape: tuple[int, ...], time_steps: int) -> bool:
    """Whether a module takes images of a shape, or sequences of them: tried out on zeros, and on a copy."""
    for leading in ((time_steps, 2), (2,)) if time_steps else ((2,),):
        try:
            with torch.no_grad():
                copy.deepcopy(module).eval()(torch.zeros(*leading, *shape))
            return True
        except Exception:  # whatever a model says to a shape that it does not take
            pass
    return False


def _images(model: _Model, shape: tuple[int, ...]) -> Tensor:
    """Two random inputs: images in -1 to 1, or frames of 0 and 1."""
    steps = (model.time_steps,) if model.per_step else ()
    images = torch.rand(2, *steps, *shape, generator=torch.Generator().manual_seed(0))
    return images.round() if steps else images * 2 - 1


def _refuse_repeated(model: _Model, images: Tensor, time_steps: int) -> None:
    """ModelError where a module of neurons is called more than once, or where a second call gives other logits.

    spikingjelly's neurons keep their potentials from call to call, so that the second starts where the first ended.
    """
    images = images * TRIED_SCALE
    calls = _calls(model, images)
    if calls is None:
        return
    for path, places in calls.lines.items():
        if len(places) > 1:
            every_step = all(len(others) == time_steps for others in calls.lines.values())
            raise _repeated(path or "model", places, loop=every_step and time_steps in calls.layers.values())
    with torch.no_grad():
        first = model(images)
        second = model(images)
    if not torch.equal(first, second):
        raise ModelError(
            type(model.model).__name__,
            "it gives other logits when it is called again on the same images",
            "Its forward pass must keep nothing from call to call, and must not draw random numbers.",
        )


class _Calls(NamedTuple):
    """The calls of one forward pass, by path: the lines that call neurons, and how often other layers are called."""

    lines: dict[str, list[str]]
    layers: Counter[str]


def _calls(model: _Model, images: Tensor) -> _Calls | None:
    """The calls of a forward pass; None where it fails, of which the tracer says more."""
    calls = _Calls({}, Counter())

    def count(path: str, layer: nn.Module) -> None:
        if isinstance(layer, (Neuron, IntegerNeuron)):
            calls.lines.setdefault(path, []).append(_calling_line())
        elif next(layer.parameters(recurse=False), None) is not None:
            calls.layers[path] += 1

    hooks = [
        layer.register_forward_pre_hook(lambda layer, _, path=path: count(path, layer))
        for path, layer in model.model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(images)
    except Exception:
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _repeated(path: str, places: list[str], *, loop: bool) -> ModelError:
    """The error of neurons that are called at these lines of one forward pass."""
    where = ", ".join(sorted(set(places)))
    if loop:
        return ModelError(
            path,
            f"its neurons are called {len(places)} times in one forward pass: a loop over time steps ({where})",
            "Give the module that makes one step: it is run time_steps times, and its outputs are averaged.",
        )
    return ModelError(
        path,
        f"its neurons are called {len(places)} times in one forward pass, and share their potentials ({where})",
        "Give each place a module of neurons of its own.",
    )


def _calling_line() -> str:
    """The innermost line of the user's code on the stack, "model.py:12: x = ..."."""
    frames = [frame for frame in traceback.extract_stack() if not of_library(frame.filename)]
    if not frames:
        return ""
    innermost = frames[-1]
    return f"{Path(innermost.filename).name}:{innermost.lineno}: {innermost.line}"


def _compare(module: nn.Module, imported: Imported, takes: str) -> tuple[str, ...]:
    """Notes of the comparison of the graph's logits with the original's; ModelError where they differ.

    In doubles, so that rounding decides no spike; in fp32 where the model makes tensors of that type itself.
    On random images that are scaled until every neuron layer has fired.
    """
    problem: Exception | None = None
    for dtype in (torch.float64, torch.float32):
        original = copy.deepcopy(module).eval().to(dtype)
        model = _Model(original, takes, imported.time_steps, imported.per_step)
        images = _images(model, imported.input_shape).to(dtype)
        try:
            with torch.no_grad():
                _original(copy.deepcopy(original), model, images)
        except Exception as error:  # an old version of spikingjelly that does not run with this torch
            problem = error
            continue
        return _compared(original, model, imported, images)
    return (f"not compared with spikingjelly, which does not run it here ({type(problem).__name__})",)


def _compared(original: nn.Module, model: _Model, imported: Imported, images: Tensor) -> tuple[str, ...]:
    """The notes, for an original that runs."""
    graph = imported.graph
    silent = {node.name for node in graph.of(ir.Neuron)}
    for scale in SCALES:
        # positive ones too: smoothing kernels average the noise away
        scaled = torch.cat([images, images.abs()]) * scale
        with torch.no_grad():
            # a copy for each call: its neurons keep their potentials
            theirs = _original(copy.deepcopy(original), model, scaled)
        ours = execute(graph, scaled, dtype=images.dtype)
        _refuse_other(ours[graph.nodes[-1].name], theirs)
        silent = {name for name in silent if not bool(ours[name].any())}
        if not silent:
            return ()
    return (f"neurons that never fired when the logits were compared with spikingjelly's: {', '.join(sorted(silent))}",)


def _original(original: nn.Module, model: _Model, images: Tensor) -> Tensor:
    """Logits (B, classes) of spikingjelly itself, from rest."""
    if model.takes != "steps":
        return _Model(original, model.takes, model.time_steps, model.per_step)(images)
    frames = images.transpose(0, 1) if model.per_step else [images] * model.time_steps
    return torch.stack([original(frame) for frame in frames]).mean(0)


def _refuse_other(ours: Tensor, theirs: Tensor) -> None:
    """ModelError where the logits of the graph are not those of the original."""
    worst = float((ours - theirs).abs().max())
    # "not <=" and not ">": NaN is refused too
    if not worst <= CLOSE * max(1.0, float(theirs.abs().max())):
        raise ModelError(
            "model",
            f"with its neurons swapped its logits differ by {worst:.3g}",
            "Its neurons are not those that their class names say, or it is no function of only its input.",
        )
