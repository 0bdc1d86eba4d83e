"""Models of the user's own code in a design space: the float model of each number of time steps, and who names it.

Their code runs in the process that sweeps, and nowhere else: workers are sent the graphs that came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.values import digest
from spikformer_deploy.converters.factory import Made, arguments_of, make
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model
from spikformer_deploy.converters.own import graph_of, steps_argument
from spikformer_deploy.inference.forward import evaluating
from spikformer_deploy.pipeline.stages import digest_of_structure


def _nothing(_time_steps: int) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """A model that a space has by a name, and that no file holds.

    model  the float model of a number of time steps; None: of as many as it says itself.  Raises InputError and
           ModelError, by the name of the model, for what it cannot be
    words  what stands in place of MODEL on a command line for a number of time steps; () where nothing does
    """

    model: Callable[[int | None], Model]
    words: Callable[[int], tuple[str, ...]] = _nothing


def of_factory(
    factory: str,
    pairs: Iterable[str] = (),
    weights: str | None = None,
    *,
    allow_pickle: bool = False,
    images: str | None = None,
) -> Own:
    """What a function of the user's makes, "module:function"; an argument of it that is its time steps gets theirs.

    pairs    arguments, "name=value"; weights, allow_pickle: as of converters.factory.make
    images   a file that tells which images the model takes, where it does not say so itself
    Raises InputError for a function that is not there and for arguments that cannot be read.
    """
    pairs = tuple(pairs)
    arguments = arguments_of(pairs)
    argument = steps_argument(factory)

    def model(time_steps: int | None) -> Imported:
        given = dict(arguments)
        if argument is not None and time_steps is not None:
            if argument in arguments:
                problem = f"it is the number of time steps, which --time-steps {time_steps} says already"
                raise InputError(f"--arg {argument}", problem, "Leave one of the two out.")
            given[argument] = time_steps
        made = make(factory, given, weights, allow_pickle=allow_pickle)
        function = factory.partition(":")[2]
        way_out = (
            f"Let {function} have an argument T or time_steps: each number of them is then given to it."
            if argument is None
            else f"Let {function} make a model of as many as its argument {argument} says."
        )
        return _traced(made, time_steps, images, way_out)

    def words(time_steps: int) -> tuple[str, ...]:
        steps = [] if argument is None or argument in arguments else [f"{argument}={time_steps}"]
        of_arguments = [word for pair in (*pairs, *steps) for word in ("--arg", pair)]
        return ("--factory", factory, *of_arguments, *(("--weights", weights) if weights else ()))

    return Own(model, words)


def of_module(name: str, module: nn.Module, images: str | None = None) -> Own:
    """A module of the user's; images: as of `of_factory`."""
    way_out = f"Give a module for each number of steps, by names of yours: {{'{name} T=2': ..., '{name} T=4': ...}}."

    def model(time_steps: int | None) -> Imported:
        with evaluating(module):
            return _traced(Made(module, name), time_steps, images, way_out)

    return Own(model)


def of_loaded(name: str, loaded: Model) -> Own:
    """A model that is loaded already, for the number of time steps that it has."""

    def model(time_steps: int | None) -> Model:
        if time_steps not in (None, loaded.time_steps):
            problem = f"it is loaded for {loaded.time_steps} time steps, and not for {time_steps}"
            raise ModelError(name, problem, "Give its file: it is then loaded for each number of them.")
        return loaded

    return Own(model)


def fingerprint(model: Model) -> str:
    """Of all that decides its rows: weights, what its code does with them, how images become its input, its classes."""
    return digest([model.sha256, digest_of_structure(model), model.preprocess, model.labels])


def _traced(made: Made, time_steps: int | None, images: str | None, way_out: str) -> Imported:
    """The float graph of a module; way_out: where it can have only as many steps as it says itself."""
    try:
        return graph_of(made, time_steps, images)
    except ModelError as error:
        if time_steps is not None:
            _refuse_steps(made, time_steps, images, error, way_out)
        raise


def _refuse_steps(made: Made, time_steps: int, images: str | None, error: ModelError, way_out: str) -> None:
    """Raise ModelError where a module that failed with these time steps works with its own."""
    try:
        own = graph_of(made, None, images).time_steps
    except (InputError, ModelError):
        return
    if own != time_steps:
        problem = f"it is made for {own} time steps, and not for {time_steps} ({error.place}: {error.problem})"
        raise ModelError(made.place, problem, way_out) from None
