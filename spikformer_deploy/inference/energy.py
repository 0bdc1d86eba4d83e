"""What a float model costs in operations on images, under every convention: no quantization, no mapping, no chip."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from spikformer_deploy.accounting.figures import energy_values
from spikformer_deploy.accounting.operators import CONVENTIONS, Account, account, place_energy
from spikformer_deploy.accounting.uncertainty import Energy
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.notebook import as_html, as_text
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.converters.factory import Made
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.converters.own import about, own_steps
from spikformer_deploy.counts.operations import NeuronRecord, OperationCounts
from spikformer_deploy.counts.silence import note_on_silence
from spikformer_deploy.data.given import Given
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.graph.ir import Attention
from spikformer_deploy.graph.module import GraphModule
from spikformer_deploy.inference.forward import OWN_STEPS, WAYS, Forward, evaluating, forward_of
from spikformer_deploy.inference.regression import scores
from spikformer_deploy.operators.count import count_operations
from spikformer_deploy.pipeline.sample import fitted_to

AT_ONCE = 16
"""Images of a batch at most.  What a call reads is judged call by call, by the whole batch."""
MOST_PIXELS = 2**22
"""Of a batch, over all time steps: 28 images of 3x224x224 in one."""
NO_NEURONS = "no neurons were found: what is counted is a model without spikes, or its neurons are not understood"
KV_FIRST = (
    "an attention of a graph is counted as q (k^T v), whatever the model's own order was: a graph does not keep it"
)

AnyModel: TypeAlias = "str | Path | Model | Made | nn.Module"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Counted:
    """What a float model costs on a set of images.

    model        its name
    takes        how it was run, one of forward.WAYS
    batch        images at once: rules that judge a call judge that many
    task         "classification" or "regression"
    accuracy     of the float model; None where the images have no labels, or the model no classes
    regression   its errors against real targets (see regression.scores); None where there are none
    accounts     one a convention, in the order in which they were asked for; see `energies`
    notes        what a user must know of the model, the images and what is not understood
    """

    model: str
    takes: str
    batch: int
    task: str
    accuracy: float | None
    regression: dict[str, float | None] | None
    counts: OperationCounts
    accounts: tuple[Account, ...]
    notes: tuple[str, ...]
    seconds: float

    def __repr__(self) -> str:
        return as_text("Counted", self._facts())

    def _repr_html_(self) -> str:
        return as_html("Counted", self._facts())

    def _facts(self) -> dict[str, str]:
        """What it shows of itself, in words."""
        facts = {"model": self.model, "images": f"{self.counts.images:,} of {self.counts.time_steps} time steps"}
        if self.accuracy is not None:
            facts["accuracy"] = f"{self.accuracy:.2%}"
        return facts | {energy.convention: f"{energy.total.nominal:.4g} mJ an image" for energy in self.energies}

    @property
    def energies(self) -> tuple[Energy, ...]:
        """Of those accounts whose convention has prices: others only count (neurobench)."""
        return tuple(a.energy for a in self.accounts if a.energy is not None)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """A record of plain values for each place, in the order of the model: pandas.DataFrame(counted.layers).

        name, kind  as in counts.operations.Operation; kind is "neuron" for neurons
        and by the name of each convention that has prices: mJ an image, nominal; None where it does not see the place
        """
        priced = [a for a in self.accounts if a.energy is not None]
        energies = {a.convention: {place.name: place_energy(a, place) for place in a.places} for a in priced}
        counts = self.counts
        places = [(o.name, o.kind) for o in counts.operations] + [(n.name, "neuron") for n in counts.neurons]
        return [
            {"name": name, "kind": kind, **{convention: of.get(name) for convention, of in energies.items()}}
            for name, kind in places
        ]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `spikdeploy energy`; figures, MACs, ACs and energies an image."""
        return {
            "model": self.model,
            "images": self.counts.images,
            "time_steps": self.counts.time_steps,
            "takes": WAYS[self.takes],
            "batch": self.batch,
            "task": self.task,
            "accuracy": self.accuracy,
            "regression": self.regression,
            "energy_mj": {energy.convention: energy_values(energy) for energy in self.energies},
            "conventions": {a.convention: _account_facts(a) for a in self.accounts},
            "operations": [asdict(operation) for operation in self.counts.operations],
            "neurons": [_neuron_facts(record) for record in self.counts.neurons],
            "parameters": asdict(self.counts.parameters),
            "not_understood": list(self.counts.not_understood),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def energy(
    model: AnyModel,
    data: Given | ImageSet,
    *,
    conventions: Sequence[str] = (),
    time_steps: int | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    progress: Progress = silent,
    **loading: Any,
) -> Counted:
    """Count the operations of a float model while it runs on `data`, and price them.

    model        a file or a bundled model by name (see converters.models.load), one that is loaded, or any nn.Module:
                 what it says of its images is read from its attributes (see converters.own.about)
    data         images, as of data.read.read, or a set of them
    conventions  names of accounting.operators.CONVENTIONS; none: all
    time_steps   T, where the model does not tell
    labels       a file of the classes of the images (see data/labels.py)
    task         as of run: "classification" or "regression"
    progress     called with (images done, images in all, a note)
    loading      arch, heads, dt, allow_pickle: see converters.models.load
    Raises InputError for an unknown convention, and for a model or images that cannot be used, ModelError for a model
    that fails on them.
    """
    names = _known(tuple(conventions) or tuple(CONVENTIONS))
    start = time.monotonic()
    if isinstance(model, nn.Module):
        model = Made(model, type(model).__name__)
    with evaluating(model.module) if isinstance(model, Made) else nullcontext():
        # what is beside images says nothing of their shape and range
        subject = _subject(model, data[0] if isinstance(data, tuple) else data, time_steps, loading)
        images = data if isinstance(data, ImageSet) else _images(subject, data, limit, labels, task)
        if not len(images):
            raise InputError("input", "there are no images", "Give at least one.")
        seen = _run(subject, images, progress)
    accuracy, note = _accuracy(seen, images, subject.labels)
    regression = _regression(seen, images)
    of_images = images.all_notes(seen.brightest, images.lost_in(slice(0, len(images))))
    return Counted(
        model=subject.forward.place,
        takes=subject.forward.takes,
        batch=_at_once(subject),
        task=images.task,
        accuracy=accuracy,
        regression=regression,
        counts=seen.counts,
        accounts=tuple(account(seen.counts, name) for name in names),
        notes=(*subject.notes, *of_images, *note, *_on_counts(seen.counts)),
        seconds=time.monotonic() - start,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Subject:
    """A model as it is run, and the images that it takes."""

    forward: Forward
    preprocess: Preprocess
    frames: int
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, each once.  Raises InputError, before any work, for one of no convention."""
    for name in names:
        if name not in CONVENTIONS:
            raise InputError("--convention", f"there is none called '{name}'", f"Known: {', '.join(CONVENTIONS)}.")
    return tuple(dict.fromkeys(names))


def _subject(model: str | Path | Model | Made, data: Any, time_steps: int | None, loading: dict[str, Any]) -> _Subject:
    """Any model, and how it is run."""
    if isinstance(model, Made):
        return _own(model, data, time_steps)
    place = str(model) if isinstance(model, (str, Path)) else "model"
    if time_steps is not None and not isinstance(model, (str, Path)):
        problem = f"the model is loaded already, with {model.time_steps} time steps"
        raise InputError("--time-steps", problem, "Say it where the model is loaded.")
    loaded = load(model, time_steps=time_steps, **loading) if isinstance(model, (str, Path)) else model
    loaded = fitted_to(loaded, None if isinstance(data, ImageSet) else data)
    takes = "recordings" if loaded.per_step else "images"
    notes = loaded.notes
    if isinstance(loaded, Imported):
        module: nn.Module = GraphModule(loaded.graph)
        notes += (KV_FIRST,) if any(loaded.graph.of(Attention)) else ()
    else:
        module = loaded.module
    forward = Forward(module, place, takes, loaded.time_steps)
    return _Subject(forward, loaded.preprocess, loaded.time_steps if loaded.per_step else 0, loaded.labels, notes)


def _own(made: Made, data: Any, time_steps: int | None) -> _Subject:
    """A module of the user's own."""
    known = about(made.module, made.place, time_steps, None if isinstance(data, ImageSet) else data)
    image = (known.preprocess.channels, *known.preprocess.extent)
    frames = 0
    if known.per_step:
        if known.time_steps is None:
            raise InputError(made.place, "it does not say how many frames a recording has", "Give --time-steps.")
        frames = known.time_steps
    shape = (frames, *image) if frames else image
    with count_operations(made.module):  # it refuses what is compiled or scripted, before that is tried out
        pass
    forward = forward_of(made.module, made.place, shape, known.time_steps)
    own = own_steps(made.module)
    if forward.takes == "images" and own not in (None, forward.time_steps):
        problem = f"it makes its own {own} time steps, and {forward.time_steps} are asked for"
        raise InputError(made.place, problem, OWN_STEPS)
    return _Subject(forward, known.preprocess, frames, known.labels, (*made.notes, *known.notes))


def _images(subject: _Subject, data: Any, limit: int | None, labels: str | Path | None, task: str | None) -> ImageSet:
    return read(data, subject.preprocess, limit=limit, frames=subject.frames, labels=labels, task=task)


def _at_once(subject: _Subject) -> int:
    """Images of a batch: memory stays bounded."""
    pixels = subject.preprocess.channels * math.prod(subject.preprocess.extent) * (subject.forward.time_steps or 1)
    return max(1, min(AT_ONCE, MOST_PIXELS // pixels))


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What a run over all images gave.

    predictions  (N,) the class with the largest logit; None where the results are no logits of classes
    results      (N, O) of a regression; None of classes
    classes      how many; brightest: the largest pixel
    """

    counts: OperationCounts
    predictions: NDArray[np.int64] | None
    results: NDArray[np.float64] | None
    classes: int
    brightest: int


def _run(subject: _Subject, images: ImageSet, progress: Progress) -> _Seen:
    """Count while the model runs on all images, in batches."""
    forward = subject.forward
    predictions: list[NDArray[np.int64]] = []
    results: list[NDArray[np.float64]] = []
    classes = brightest = done = 0
    with count_operations(forward.module, forward.time_steps, len(images)) as counting:
        for pixels, _ in images.batches(_at_once(subject)):
            logits = forward.logits(subject.preprocess.normalised(pixels))
            if logits.ndim == 2:
                predictions.append(logits.argmax(1))
                classes = logits.shape[1]
            if images.forecast is not None:
                results.append(images.forecast.of(logits.reshape(len(logits), -1), done))
            brightest = max(brightest, int(pixels.max()))
            done += len(pixels)
            progress(done, len(images), "")
    counts = counting.counts
    # neurons that are written by hand say only now how many steps they took
    made = max((len(record.updates) for record in counts.neurons), default=1)
    if forward.takes == "images" and forward.time_steps and 1 < made != forward.time_steps:
        problem = f"it makes its own {made} time steps, and {forward.time_steps} are asked for"
        raise InputError(forward.place, problem, OWN_STEPS)
    return _Seen(
        counts,
        np.concatenate(predictions) if predictions else None,
        np.concatenate(results) if results else None,
        classes,
        brightest,
    )


def _regression(seen: _Seen, images: ImageSet) -> dict[str, float | None] | None:
    """Errors against real targets; InputError where these are others than the model makes."""
    targets = None if images.forecast is None else images.forecast.targets
    if targets is None or seen.results is None:
        return None
    images.of_classes((), seen.results.shape[1])
    return scores(seen.results, targets)


def _accuracy(seen: _Seen, images: ImageSet, labels: tuple[str, ...]) -> tuple[float | None, tuple[str, ...]]:
    """Share of images whose largest logit is at their label, and a note where labels are of other classes.

    Counts do not need classes: labels that do not fit are no error, unless the user gave a file of them.
    """
    if images.labels is None or seen.predictions is None:
        return None, ()
    try:
        matched = images.of_classes(labels, seen.classes)
    except InputError as error:
        if images.named_by:
            raise
        return None, (f"no accuracy: {error.problem}",)
    return float((seen.predictions == matched.labels).mean()), ()


def _on_counts(counts: OperationCounts) -> tuple[str, ...]:
    """What a user must know of the counts."""
    notes: tuple[str, ...] = () if counts.neurons else (NO_NEURONS,)
    silent = [record.name for record in counts.neurons if not record.spikes.any()]
    notes += note_on_silence(silent, len(counts.neurons))
    if counts.not_understood:
        names = ", ".join(counts.not_understood)
        notes += (f"operators without a rule, counted dense where their shapes tell: {names}",)
    return notes


def _neuron_facts(record: NeuronRecord) -> dict[str, Any]:
    """A population; `firing_rate` has a value for every time step."""
    sums = {"updates": record.updates, "spikes": record.spikes, "values": record.values}
    return {
        "name": record.name,
        "neuron": record.neuron,
        "elements": record.elements,
        "largest": record.largest,
        "sends": record.operand,
        **{name: values.tolist() for name, values in sums.items()},
        "firing_rate": (record.spikes / np.maximum(record.updates, 1)).tolist(),
    }


def _account_facts(account: Account) -> dict[str, Any]:
    return {
        "rule": account.rule,
        "source": account.source,
        "boundary": account.boundary,
        "figures": dict(account.figures),
        "layers": [
            {"name": p.name, "kind": p.kind, **asdict(p.work), "energy_mj": place_energy(account, p)}
            for p in account.places
        ],
        "excluded": {kind: list(names) for kind, names in account.excluded.items()},
    }
