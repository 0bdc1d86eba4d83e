"""The calls: each says all of its options, takes what people have, and hands both on to the function of its room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from spikformer_deploy.api.given import (
    AnyModel,
    Data,
    Models,
    OnePath,
    calibration_of,
    check_unused,
    images_of,
    model_of,
    models_by_name,
)
from spikformer_deploy.api.records import Counted, Counting, Run
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.options import named
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.converters import models as files
from spikformer_deploy.data.given import gathered
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.inference import energy as energies
from spikformer_deploy.inference import run as runs
from spikformer_deploy.inference import verify as verification
from spikformer_deploy.inference.exits import ExitRun, run_with_exit
from spikformer_deploy.inference.given import AnyProgram, program_of
from spikformer_deploy.inference.recorded import check_layers, check_room, recorded, recorder
from spikformer_deploy.inference.results import Verdict
from spikformer_deploy.operators import count
from spikformer_deploy.pipeline import export as exports
from spikformer_deploy.pipeline import stages
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import Step
from spikformer_deploy.report.sweep import write_sweep
from spikformer_deploy.space.axes import space_of
from spikformer_deploy.space.budget import parse_budget, verdicts
from spikformer_deploy.space.sweep import sweep_space

if TYPE_CHECKING:
    from torch import nn

load = named(files.load)


@named
def compile(
    model: AnyModel,
    target: str | Path = "loihi2",
    *,
    calibrate_on: Data = None,
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
    arch: str | None = None,
    heads: int | None = None,
    levels: int | None = None,
    time_steps: int | None = None,
    dt: float | None = None,
    window: int | None = None,
    variables: int | None = None,
    image_size: int | None = None,
    allow_pickle: bool = False,
) -> Program:
    """Compile a model to the Program of a target.  sd.compile_model gives the float graph and the notes too.

    model         a file, a bundled model by name ("digits-v2"), a torch.nn.Module, or what sd.load returned
    target        a name that `spikdeploy targets` lists, or a TOML file
    calibrate_on  images to calibrate on: a path or word as of sd.run, an array, a tensor, a Dataset or a DataLoader;
                  None: those in the box for a bundled model, else random pixels.  The first 64 count; with calibrated
                  rounding up to 1,024, where maps are small.  `calibrate` of sd.sweep, --calibrate in the shell
    weight_bits   bits of a weight, 2 to 8
    layer_bits    weight bits of some layers, {"block.0.fc1": 4}, by their names in the folded graph; all others have
                  weight_bits.  None: what a checkpoint of ours says, if it does
    granularity   what shares a scale of weights: "group", "tensor" or "channel"
    rounding      "nearest", or "calibrated": weights are rounded together, by what reaches them on those images
    neuron        "programmable" or "stock"; None: what the target offers
    objective     what the cut into cores is best in: "energy", "latency", "cores" or "tiles"
    runtime       what it is best under: "lava", or "bare", a runtime that costs nothing
    schedule      "spatial", or "token-serial": tokens stream through the blocks, in far fewer cores and longer steps
    check         compare the spikes of every LIF with the model's after each pass over the graph
    dump_ir       a folder that gets each stage as text; None: nothing is written
    report        called with a pipeline.stages.Step after every stage; None: nothing is said
    time_steps    T, whatever the file or the module says; None: as they say
    arch, heads, levels  where a checkpoint does not tell: a published size as "v1-4-384", attention heads, the largest
                  integer that integer neurons send
    dt            seconds of a time step, where a .nir does not tell
    window, variables  where a checkpoint on time series does not tell: points that it sees, and their variables
    image_size    pixels, of the (square) images of an official checkpoint, whose keys tell none
    allow_pickle  load files that run code when loaded; only if you trust them
    Raises InputError for what cannot be read and for options (OptionError, also a TypeError, for unknown ones),
    ModelError for a model that is not supported, QuantizeError and MappingError where the target cannot hold it.
    """
    loading: dict[str, Any] = {"arch": arch, "heads": heads, "levels": levels, "dt": dt, "window": window}
    loading |= {"variables": variables, "image_size": image_size, "allow_pickle": allow_pickle}
    images = calibration_of(calibrate_on)
    found = model_of(model, loading, time_steps, images)
    return stages.compile_model(
        found,
        str(target),
        calibrate_on=images,
        weight_bits=weight_bits,
        layer_bits=layer_bits,
        granularity=granularity,
        rounding=rounding,
        neuron=neuron,
        objective=objective,
        runtime=runtime,
        schedule=schedule,
        check=check,
        dump_ir=dump_ir,
        report=report,
        **({**loading, "time_steps": time_steps} if isinstance(found, (str, Path)) else {}),
    ).program


@overload
def run(
    program: AnyProgram,
    data: Data,
    *,
    early_exit: None = None,
    record: str | Sequence[str] = (),
    backend: str = "engine",
    device: str = "cpu",
    timing: str = "estimate",
    runtime: str = "lava",
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    memory_limit: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    send_images: bool = False,
    unfinished: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Run: ...


@overload
def run(
    program: AnyProgram,
    data: Data,
    *,
    early_exit: int,
    record: str | Sequence[str] = (),
    backend: str = "engine",
    device: str = "cpu",
    timing: str = "estimate",
    runtime: str = "lava",
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    memory_limit: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    send_images: bool = False,
    unfinished: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> ExitRun: ...


@named
def run(
    program: AnyProgram,
    data: Data,
    *,
    early_exit: int | None = None,
    record: str | Sequence[str] = (),
    backend: str = "engine",
    device: str = "cpu",
    timing: str = "estimate",
    runtime: str = "lava",
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    memory_limit: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    send_images: bool = False,
    unfinished: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Run | ExitRun:
    """Run a program on images, in exact integers, in batches so that memory stays bounded.

    program       a Program, or the path of a .spk file
    data          "digits", "drawn", a folder, zip or file of images (docs/images.md), an array (N, C, Y, X) or tensor
                  of pixels, (images, labels), or a Dataset or DataLoader of (image, label).  Recordings of a program
                  that takes frames: (N, T, C, Y, X).  Real images: pixels / 255, or normalised as the model's
    early_exit    a margin in units of the accumulators, at least 1: an image leaves after the first time step in which
                  its largest accumulator is that far ahead of the second largest, and the record is an ExitRun, of
                  mean steps; None: all steps.  sd.choose_exit finds one
    record        names of layers whose spikes and potentials are kept, for run.spikes and run.potentials; for that the
                  images run through the program a second time
    backend       "engine", or one to check it against: "reference", "lava", "onnx"
    device        "cpu", or "cuda" for the engine on a GPU: the same integers
    timing        "estimate": the closed form; "cycle": besides, the first images message by message; or "none"
    runtime       "lava", or "bare": one that costs nothing; the other one's times are given too
    limit         at most that many images; None: all
    labels        a file of the classes of the images, for a folder or zip
    task          "classification" or "regression": what is beside the images; None: as the program says
    memory_limit  bytes that the process may take; with workers: each of them.  None: no limit, but 2 GiB of records
    workers       that many processes of this machine; scheduler: the address of Dask's workers, tcp://HOST:PORT
    send_images   with workers: files are read here and sent, instead of being read by the workers
    unfinished    a file that gets what has been found so far, every few seconds; resume: go on from it
    progress      called with (images done, images in all, a note)
    Raises InputError for images that do not fit, layers and options that there are not (OptionError, also a TypeError,
    for unknown ones), ProgramError for a damaged program, OverflowDetected where a state leaves its bits, BackendError
    where a backend or the workers are lost.
    """
    ready = program_of(program)
    layers = check_layers(ready.network, record)
    images = images_of(ready, data, limit, labels, task)
    if early_exit is not None:
        kept = {"record": layers or None, "unfinished": unfinished, "resume": resume}
        check_unused(kept, "images leave early, and nothing but their results is kept")
        return run_with_exit(
            ready,
            images,
            early_exit,
            backend=backend,
            device=device,
            timing=timing,
            runtime=runtime,
            memory_limit=memory_limit,
            workers=workers,
            scheduler=scheduler,
            send_images=send_images,
            progress=progress,
        )
    check_room(ready.network, layers, len(images), memory_limit)
    second = recorder(ready, layers, backend, device, memory_limit)
    found = runs.run(
        ready,
        images,
        backend=backend,
        device=device,
        timing=timing,
        runtime=runtime,
        memory_limit=memory_limit,
        workers=workers,
        scheduler=scheduler,
        send_images=send_images,
        unfinished=None if unfinished is None else Path(unfinished),
        resume=resume,
        progress=progress,
    )
    records = None if second is None else recorded(ready.network, images, layers, second)
    return Run(**{field.name: getattr(found, field.name) for field in fields(found)}, recorded=records)


@named
def verify(
    program: AnyProgram,
    data: Data,
    *,
    model: AnyModel | None = None,
    backends: str | Sequence[str] = ("reference",),
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    send_images: bool = False,
    progress: Progress = silent,
    arch: str | None = None,
    heads: int | None = None,
    levels: int | None = None,
    time_steps: int | None = None,
    dt: float | None = None,
    window: int | None = None,
    variables: int | None = None,
    image_size: int | None = None,
    allow_pickle: bool = False,
) -> Verdict:
    """Compare a program with its float model, layer by layer, and the engine with other backends, for equality.

    program       a Program, or the path of a .spk file
    data          images, as of sd.run
    model         what the program was compiled from, as of sd.compile; None: backends are compared alone
    backends      what the engine is compared with: of "reference", "lava", "onnx"
    limit, labels, task, workers, scheduler, send_images, progress  as of sd.run
    time_steps    T of the model, as of sd.compile: that of the program
    arch, heads, levels, dt, window, variables, image_size, allow_pickle  as of sd.load, for a `model` that is a path
    Raises InputError where the model is not the one that the program was compiled from, and as sd.run and sd.load do.
    """
    ready = program_of(program)
    loading: dict[str, Any] = {"arch": arch, "heads": heads, "levels": levels, "dt": dt, "window": window}
    loading |= {"variables": variables, "image_size": image_size, "allow_pickle": allow_pickle}
    images = images_of(ready, data, limit, labels, task)
    loaded = None
    if model is None:
        check_unused({**loading, "time_steps": time_steps}, "there is no model")
    else:
        loaded = model_of(model, loading, time_steps, images.pixels_in(slice(0, 1)))
        if isinstance(loaded, (str, Path)):
            loaded = files.load(loaded, time_steps=time_steps, **loading)
    return verification.verify(
        ready,
        images,
        model=loaded,
        backends=(backends,) if isinstance(backends, str) else backends,
        workers=workers,
        scheduler=scheduler,
        send_images=send_images,
        progress=progress,
    )


@named
def energy(
    model: AnyModel,
    data: Data,
    *,
    conventions: str | Sequence[str] = (),
    time_steps: int | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    progress: Progress = silent,
    arch: str | None = None,
    heads: int | None = None,
    levels: int | None = None,
    dt: float | None = None,
    window: int | None = None,
    variables: int | None = None,
    image_size: int | None = None,
    allow_pickle: bool = False,
) -> Counted:
    """Count the operations of a float model while it runs on images, and price them: no chip, no compile.

    model        a file, a bundled model by name, any torch.nn.Module, or what sd.load returned
    data         images, as of sd.run
    conventions  a name of accounting.operators.CONVENTIONS, as "spikformer-paper", or several; none: all.
                 Energies are mJ an image
    time_steps   T, whatever the model says; None: as it says
    limit        at most that many images; None: all
    labels       a file of the classes of the images, for a folder or zip
    task         "classification" or "regression": what is beside the images; None: as the model says
    progress     called with (images done, images in all, a note)
    arch, heads, levels, dt, window, variables, image_size, allow_pickle  as of sd.load, for a `model` that is a path
    Raises InputError for an unknown convention, a model or images that cannot be used and for options (OptionError,
    also a TypeError, for unknown ones), ModelError for a model that fails on the images.
    """
    loading: dict[str, Any] = {"arch": arch, "heads": heads, "levels": levels, "dt": dt, "window": window}
    loading |= {"variables": variables, "image_size": image_size, "allow_pickle": allow_pickle}
    if not isinstance(model, (str, Path)):
        check_unused(loading, "the model is no file")
        loading = {}
    found = energies.energy(
        model,
        data if isinstance(data, ImageSet) else gathered(data, limit),
        conventions=(conventions,) if isinstance(conventions, str) else conventions,
        time_steps=time_steps,
        limit=limit,
        labels=labels,
        task=task,
        progress=progress,
        **loading,
    )
    return Counted(**{field.name: getattr(found, field.name) for field in fields(found)})


@named
def export(
    source: AnyProgram | AnyModel,
    to: str,
    output: str | Path,
    *,
    data: Data = None,
    arch: str | None = None,
    heads: int | None = None,
    levels: int | None = None,
    time_steps: int | None = None,
    dt: float | None = None,
    window: int | None = None,
    variables: int | None = None,
    image_size: int | None = None,
    allow_pickle: bool = False,
) -> None:
    """Write a program or a float model in another form.

    source  a Program or a .spk file (to "lava", "netx", "onnx"), or a model as of sd.compile (to "nir", "onnx", "pt2")
    to      "lava": a folder that runs with lava-nc only; "netx": a .net for lava-dl; "onnx": standard operators; "nir";
            "pt2": torch.export, of a checkpoint
    output  the file, or for "lava" the folder, that is written whole or not at all
    data    images as of sd.run: to "lava" the first ten go along, with the spikes that are expected of them
    time_steps  T of a model, as of sd.compile
    arch, heads, levels, dt, window, variables, image_size, allow_pickle  as of sd.load, for a `source` that is a path
    Raises InputError where the format is not for what is given or `output` cannot be written, ModelError for what the
    format cannot hold, and as sd.load does.
    """
    loading: dict[str, Any] = {"arch": arch, "heads": heads, "levels": levels, "dt": dt, "window": window}
    loading |= {"variables": variables, "image_size": image_size, "allow_pickle": allow_pickle}
    if isinstance(source, Program):
        check_unused({**loading, "time_steps": time_steps}, "a program is no file of a model")
        exports.export(source, to, output, data=calibration_of(data))
        return
    found = model_of(source, loading, time_steps)
    of_file = {**loading, "time_steps": time_steps} if isinstance(found, (str, Path)) else {}
    exports.export(found, to, output, data=calibration_of(data), **of_file)


@named
def sweep(
    models: Models,
    data: OnePath,
    *,
    output: str | Path | None = None,
    time_steps: int | Sequence[int] | None = None,
    weight_bits: int | Sequence[int] | None = None,
    granularity: str | Sequence[str] | None = None,
    rounding: str | Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    schedule: str | Sequence[str] | None = None,
    objective: str | Sequence[str] | None = None,
    calibrate: str | Path | None = None,
    labels: str | Path | None = None,
    limit: int | None = None,
    runtime: str | None = None,
    arch: str | None = None,
    heads: int | None = None,
    levels: int | None = None,
    image_size: int | None = None,
    dt: float | None = None,
    budget: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Run every setting against every other: a row a point, as docs/sweep.md says.

    models        a file, a bundled model by name, a torch.nn.Module, or what sd.load returned; a list of such, or a
                  mapping from names of yours to modules.  A module is traced here, for each number of time steps, and
                  the rows of a folder go on only while weights and code give the same graph
    data          a file or a word: other processes and later calls read it again
    output        a folder that gets rows, page and CSV file, and whose rows are not run again; None: no file is written
    time_steps    numbers of steps; None: each model's own
    weight_bits, granularity, rounding, targets, schedule, objective  values as of sd.compile, one or several of each;
                  None: the default of sd.compile
    calibrate     images to calibrate on, a file or a word: `calibrate_on` of sd.compile; None: as sd.compile does it
    labels        a file of the classes of the images, for a folder or zip
    limit         at most that many images; None: all
    runtime       "lava" (None) or "bare"
    arch, heads, levels, image_size, dt, allow_pickle  as of sd.load, for `models` that are paths
    budget        what a point must keep to, as "accuracy>=best-1%, cores<200"; its rows then say it as "budget": "yes",
                  "nominal" (its likely intervals go beyond) or "no"; None: nothing
    workers       that many processes of this machine; scheduler: the address of Dask's workers, tcp://HOST:PORT
    progress      called with (points done, points in all, a note)
    Raises InputError for what cannot be read, for options (OptionError, also a TypeError, for unknown ones) and for a
    folder of another sweep, ModelError for a module that cannot be traced at all.  What a target cannot hold, and a
    number of time steps that a module cannot have, is a row that says so.
    """
    names, own = models_by_name(models, None if calibrate is None else str(calibrate))
    if len(own) == len(names):
        of_files = {"arch": arch, "heads": heads, "levels": levels, "image_size": image_size, "dt": dt}
        check_unused({**of_files, "allow_pickle": allow_pickle}, "the model is no file")
    space = space_of(
        models=names,
        input=_file("data", data),
        time_steps=_axis(time_steps),
        weight_bits=_axis(weight_bits),
        granularity=_axis(granularity),
        rounding=_axis(rounding),
        targets=_axis(targets),
        schedule=_axis(schedule),
        objective=_axis(objective),
        calibrate=None if calibrate is None else str(calibrate),
        labels=None if labels is None else str(labels),
        limit=limit,
        runtime=runtime,
        arch=arch,
        heads=heads,
        levels=levels,
        image_size=image_size,
        dt=dt,
        budget=budget,
    )
    folder = None if output is None else Path(output)
    swept = sweep_space(
        space, folder, own=own, workers=workers, scheduler=scheduler, allow_pickle=allow_pickle, progress=progress
    )
    if folder is not None:
        write_sweep(swept, folder)
    if not swept.space.budget:
        return swept.rows
    kept = verdicts(swept.rows, parse_budget(swept.space.budget))
    return [{**row, "budget": str(verdict)} for row, verdict in zip(swept.rows, kept, strict=True)]


def _file(option: str, given: Any) -> str:
    """A path of an option.  Raises InputError for what no later call could read."""
    if not isinstance(given, (str, Path)):
        problem = f"a {type(given).__name__}, and points of a sweep read files"
        raise InputError(option, problem, "Give a path or a name, or call sd.compile and sd.run in a loop.")
    return str(given)


def _axis(values: int | str | Sequence[int] | Sequence[str] | None) -> list[Any] | None:
    """The values of an axis, of which one may stand alone."""
    if values is None:
        return None
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]


@named
@contextmanager
def count_operations(model: nn.Module, time_steps: int | None = None, images: int | None = None) -> Iterator[Counting]:
    """Count what the forward passes of a model cost, in training as well; nothing of it changes.

    model       a torch.nn.Module
    time_steps  T of one image; None: the leading dimension of multi-step neurons, or how often single-step neurons ran
                between two resets
    images      that went through the model, all passes together; None: the batch of the neurons where the input leads
                with time, else the leading dimension of the model's first argument
    Gives a Counting, to be read within the `with` and after it: .table() .to_csv(path)
    .to_latex(path) .energy(name) .to_records() .firing_rates().
    Raises InputError for what is no module, is compiled or scripted, and for numbers below 1.
    """
    with count.count_operations(model, time_steps, images) as counting:
        yield Counting(counting.mode)
