"""Models made of spikingjelly's layers, of either generation (0.0.0.0.12 to 0.0.0.0.14, and 2.0).

Neurons are swapped for ours before export, told by the name of their class and their attributes.  Layers and containers
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

import torch
from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Lif
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.source import of_library
from spikformer_deploy.graph.trace import trace
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
}
"""Classes of neurons by name; those of 0.0.0.0.12's clock_driven that work on sequences are called MultiStep..."""
SCALES = (1, 2, 4, 8, 16, 64, 256)
"""The comparison's images are scaled by these, one after the other, until every layer of neurons has fired."""
CLOSE = 1e-4
"""Logits of the swapped model differ from the original's by so much at most, of the largest: rounding, and no spike."""


class Neuron(nn.Module):
    """LIF neurons that are reset to zero (or softly), in place of spikingjelly's.

    time_steps  0: the first dimension is time; else it is time and batch in one, for models that work step by step
    """

    def __init__(self, tau: float, v_threshold: float, decay_input: bool, soft_reset: bool, time_steps: int) -> None:
        super().__init__()
        self.tau, self.v_threshold, self.decay_input = tau, v_threshold, decay_input
        self.soft_reset, self.time_steps = soft_reset, time_steps

    def forward(self, x: Tensor) -> Tensor:
        by_step = x.unflatten(0, (self.time_steps, -1)) if self.time_steps else x
        spikes = lif(by_step, self.tau, self.v_threshold, self.decay_input, 4.0, self.soft_reset)
        return spikes.flatten(0, 1) if self.time_steps else spikes


class Flatten(nn.Module):
    """torch.nn.Flatten behind the time axis: spikingjelly's own fixes the batch where it is exported."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.start, self.end = (start + 1, end + 1 if end >= 0 else end)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start, self.end)


class _Model(nn.Module):
    """The model as the tracer takes it: images (B, C, Y, X), or frames (B, T, C, Y, X), to mean logits (B, classes).

    takes  "images": the model repeats them itself; "sequence": (T, B, C, Y, X); "steps": (T * B, C, Y, X)
    """

    def __init__(self, model: nn.Module, takes: str, time_steps: int, per_step: bool) -> None:
        super().__init__()
        self.model, self.takes, self.time_steps, self.per_step = model, takes, time_steps, per_step

    def forward(self, x: Tensor) -> Tensor:
        if self.takes == "images":
            return self._mean(self.model(x))
        x = x.transpose(0, 1) if self.per_step else x.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)
        if self.takes == "sequence":
            return self._mean(self.model(x))
        return self.model(x.flatten(0, 1)).unflatten(0, (self.time_steps, -1)).mean(0)

    def _mean(self, logits: Tensor) -> Tensor:
        return logits.mean(0) if logits.ndim == 3 else logits


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
                that it repeats itself; its result (T, B, classes) is averaged over the steps, (B, classes) taken as is
    preprocess  what its images look like, and how they were normalised; per_step: it takes a frame for each step
    Raises ModelError for neurons that are not supported, by path and class, for neurons that hold a potential, and
    where the swapped model does not give the logits of the original.
    """
    if not 0 < time_steps <= MOST_STEPS:
        raise InputError("time_steps", f"{time_steps} time steps", f"Give 1 to {MOST_STEPS}.")
    modes = {_step_mode(neuron) for _, neuron in _neurons(module)}
    if len(modes) != 1:
        raise _without_mode(module, bool(modes))
    (mode,) = modes
    ours = _swapped(copy.deepcopy(module).eval(), time_steps if mode == "s" else 0)
    shape = (preprocess.channels, *preprocess.extent)
    takes = "steps" if mode == "s" else _takes(ours, (time_steps, *shape), per_step)
    wrapped = _Model(ours, takes, time_steps, per_step).eval()
    _refuse_repeated(wrapped, _images(wrapped, shape), time_steps)
    graph = check(trace(wrapped, shape, time_steps=time_steps, per_step=per_step))
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode() + value.detach().cpu().numpy().tobytes())
    made = Imported("spikingjelly", graph, preprocess, labels, digest.hexdigest(), {}, ())
    return replace(made, notes=_compare(module, made, takes))


def _without_mode(module: nn.Module, mixed: bool) -> ModelError:
    if mixed:
        problem, way_out = "some neurons work step by step and others on sequences", "Call functional.set_step_mode"
        return ModelError("model", problem, f"{way_out}(model, 'm').")
    found = sorted({type(layer).__name__ for layer in module.modules()} - {type(module).__name__})
    problem = f"no neurons of spikingjelly's among its layers ({', '.join(found) or 'none'})"
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
    told = getattr(neuron, "step_mode", None)
    return str(told) if told is not None else "m" if type(neuron).__name__.startswith("MultiStep") else "s"


def _swapped(module: nn.Module, time_steps: int) -> nn.Module:
    """`module` with its neurons in place of spikingjelly's, changed in place."""
    for path, neuron in list(_neurons(module)):
        replacement = _ours(path, neuron, time_steps)
        if not path:
            return replacement
        _exchange(module, neuron, replacement)
    for _, layer in list(module.named_modules()):
        if type(layer).__name__ == "Flatten" and getattr(layer, "step_mode", "s") == "m":
            _exchange(module, layer, Flatten(int(layer.start_dim), int(layer.end_dim)))
    return module


def _exchange(module: nn.Module, layer: nn.Module, replacement: nn.Module) -> None:
    """Put `replacement` wherever `layer` stands: one module may have several names, and is one nevertheless."""
    for path, other in list(module.named_modules(remove_duplicate=False)):
        if other is layer:
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, replacement)


def _ours(path: str, neuron: nn.Module, time_steps: int) -> Neuron:
    """A neuron with the same spikes: a reset to v_reset is a reset to zero below a threshold that much lower."""
    v_reset = getattr(neuron, "v_reset", 0.0)
    rest = 0.0 if v_reset is None else float(v_reset)
    v = getattr(neuron, "v", rest)
    if bool((torch.as_tensor(v) != rest).any()):
        raise ModelError(
            path, "it holds the potential of an earlier run", "Reset the model before: functional.reset_net(model)."
        )
    decay_input = bool(getattr(neuron, "decay_input", True))
    match NEURONS[type(neuron).__name__]:
        case "IF":
            tau, decay_input = inf, False
        case "PLIF":
            weight = neuron.w
            assert isinstance(weight, Tensor)
            tau = 1 / float(weight.detach().double().sigmoid())
        case _:
            tau = float(neuron.tau)  # type: ignore[arg-type]
    return Neuron(tau, float(neuron.v_threshold) - rest, decay_input, v_reset is None, time_steps)  # type: ignore[arg-type]


def _takes(model: nn.Module, shape: tuple[int, ...], per_step: bool) -> str:
    """What a multi-step model takes: tried out on nothing but zeros."""
    if not per_step:
        try:
            with torch.no_grad():
                found = model(torch.zeros(shape[0] + 1, *shape[1:]))
            if found.ndim in (2, 3) and shape[0] + 1 in found.shape[:-1]:
                return "images"
        except Exception:  # whatever a model says to a shape that it does not take
            pass
    return "sequence"


def _images(model: _Model, shape: tuple[int, ...]) -> Tensor:
    """Two random inputs: images in -1 to 1, or frames of 0 and 1."""
    steps = (model.time_steps,) if model.per_step else ()
    images = torch.rand(2, *steps, *shape, generator=torch.Generator().manual_seed(0))
    return images.round() if steps else images * 2 - 1


def _refuse_repeated(model: _Model, images: Tensor, time_steps: int) -> None:
    """ModelError where a module of neurons is called more than once, or where a second call gives other logits.

    spikingjelly's neurons keep their potentials from call to call, so that the second starts where the first ended.
    """
    lines: dict[str, list[str]] = {}
    layers: Counter[str] = Counter()

    def count(path: str, layer: nn.Module) -> None:
        if isinstance(layer, Neuron):
            lines.setdefault(path, []).append(_calling_line())
        elif next(layer.parameters(recurse=False), None) is not None:
            layers[path] += 1

    hooks = [
        layer.register_forward_pre_hook(lambda layer, _, path=path: count(path, layer))
        for path, layer in model.model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(images * SCALES[2])
    except Exception:  # the tracer says what is wrong with it
        return
    finally:
        for hook in hooks:
            hook.remove()
    for path, places in lines.items():
        if len(places) > 1:
            every_step = all(len(calls) == time_steps for calls in lines.values())
            raise _repeated(path or "model", places, loop=every_step and time_steps in layers.values())
    with torch.no_grad():
        first, second = model(images * SCALES[2]), model(images * SCALES[2])
    if not torch.equal(first, second):
        raise ModelError(
            type(model.model).__name__,
            "it gives other logits when it is called again on the same images",
            "Its forward pass must keep nothing from call to call, and must not draw random numbers.",
        )


def _repeated(path: str, places: list[str], *, loop: bool) -> ModelError:
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
    found = [f for f in traceback.extract_stack() if not of_library(f.filename)]
    return f"{Path(found[-1].filename).name}:{found[-1].lineno}: {found[-1].line}" if found else ""


def _compare(module: nn.Module, made: Imported, takes: str) -> tuple[str, ...]:
    """Notes of the comparison of the graph's logits with the original's; ModelError where they differ.

    In doubles, so that rounding decides no spike; in fp32 where the model makes tensors of that type itself.
    On random images that are scaled until every neuron layer has fired.
    """
    problem: Exception | None = None
    for dtype in (torch.float64, torch.float32):
        original = copy.deepcopy(module).eval().to(dtype)
        model = _Model(original, takes, made.time_steps, made.per_step)
        images = _images(model, made.input_shape).to(dtype)
        try:
            with torch.no_grad():
                _original(copy.deepcopy(original), model, images)
        except Exception as error:  # an old version of spikingjelly that does not run with this torch
            problem = error
            continue
        return _compared(original, model, made, images)
    return (f"not compared with spikingjelly, which does not run it here ({type(problem).__name__})",)


def _compared(original: nn.Module, model: _Model, made: Imported, images: Tensor) -> tuple[str, ...]:
    """The notes, for an original that runs."""
    silent = {node.name for node in made.graph.of(Lif)}
    for scale in SCALES:
        # positive ones too: smoothing kernels average the noise away
        given = torch.cat([images, images.abs()]) * scale
        with torch.no_grad():
            theirs = _original(copy.deepcopy(original), model, given)
        ours = execute(made.graph, given, dtype=images.dtype)
        _refuse_other(ours[made.graph.nodes[-1].name], theirs)
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
    worst = float((ours - theirs).abs().max())
    if not worst <= CLOSE * max(1.0, float(theirs.abs().max())):
        raise ModelError(
            "model",
            f"with its neurons swapped its logits differ by {worst:.3g}",
            "Its neurons are not those that their class names say, or it is no function of its input alone.",
        )
