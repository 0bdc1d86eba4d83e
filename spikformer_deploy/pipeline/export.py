"""Programs and float models in the formats of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_folder, check_new_folder, check_output
from spikformer_deploy.base.words import check_word
from spikformer_deploy.converters.checkpoints.read import BUNDLED
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.kinds import Kind, kind_of
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.network.network import Network
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import float_graph


def export(
    source: str | Path | Program | Model,
    to: str,
    output: str | Path,
    *,
    data: str | Path | np.ndarray | None = None,
    **loading: Any,
) -> None:
    """Write a program ("lava", "netx", "onnx") or a float model ("nir", "onnx", "pt2"), or what a file holds of either.

    data     images as in data.read.read: to "lava" the first ten go along, with the spikes that are expected of them
    loading  arch, heads, levels, time_steps, dt, allow_pickle: see converters.models.load
    Raises InputError where the format is not for what is given or `output` cannot be written, ModelError for what the
    format cannot hold.
    """
    check_word("--to", to, dict.fromkeys(("lava", *OF_PROGRAMS, *OF_MODELS)))
    if data is not None and to != "lava":
        raise InputError("--input", f"only --to lava takes images along, and this is --to {to}", "Leave it out.")
    if to == "lava":
        check_folder(Path(output))
        check_new_folder(Path(output))
    else:
        check_output(Path(output))
    if isinstance(source, (str, Path)):
        program = str(source) not in BUNDLED and kind_of(Path(source)) is Kind.PROGRAM
        source = Program.load(source) if program else load(source, **loading)
    if isinstance(source, Program):
        if to not in ("lava", *OF_PROGRAMS):
            raise InputError(f"--to {to}", "it holds float models, and this is a program", "Export the model instead.")
        if to == "lava":
            _lava(source, Path(output), data)
        else:
            OF_PROGRAMS[to](source.network, Path(output))
    else:
        if to not in OF_MODELS:
            raise InputError(f"--to {to}", "it holds programs, and this is a float model", "Compile it first.")
        OF_MODELS[to](source, Path(output))


def _lava(program: Program, path: Path, data: str | Path | np.ndarray | None) -> None:
    from spikformer_deploy.data.read import read
    from spikformer_deploy.executors.lava.export import export as write
    from spikformer_deploy.pipeline.board import EXPECTED_IMAGES, board_files

    images = None
    if data is not None:
        images = read(data, program.preprocess, limit=EXPECTED_IMAGES, frames=program.frames).pixels
    write(program.network, path, board_files(program, path.name, images), program.mapping.ways)


def _netx(network: Network, path: Path) -> None:
    from spikformer_deploy.converters.netx.write import write_network

    write_network(network, path)


def _onnx_program(network: Network, path: Path) -> None:
    from spikformer_deploy.converters.onnx.program import write_program

    write_program(network, path)


def _onnx_model(model: Model, path: Path) -> None:
    from spikformer_deploy.converters.onnx.write import write_model

    write_model(float_graph(model), path, model.preprocess, model.labels, model.training)


def _pt2(model: Model, path: Path) -> None:
    from spikformer_deploy.converters.pt2 import write_model

    if isinstance(model, Imported):
        raise InputError("--to pt2", f"a graph from {model.kind} has no module to export", "Export to nir or onnx.")
    write_model(model, path)


def _nir(model: Model, path: Path) -> None:
    from spikformer_deploy.converters.nir.write import write_model

    write_model(float_graph(model), path, model.preprocess, model.labels, model.training)


OF_PROGRAMS: dict[str, Callable[[Network, Path], None]] = {"netx": _netx, "onnx": _onnx_program}
OF_MODELS: dict[str, Callable[[Model, Path], None]] = {"nir": _nir, "onnx": _onnx_model, "pt2": _pt2}
