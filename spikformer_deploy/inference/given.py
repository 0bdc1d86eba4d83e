"""A program as people pass it: compiled in this process, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from spikformer_deploy.base.errors import InputError, ProgramError, SpikdeployError
from spikformer_deploy.converters.checkpoints.read import BUNDLED
from spikformer_deploy.converters.kinds import Kind, kind_of
from spikformer_deploy.pipeline.program import Program

AnyProgram: TypeAlias = "Program | str | Path"
MODELS = (Kind.TORCH, Kind.TORCHSCRIPT, Kind.PT2, Kind.ONNX, Kind.NIR, Kind.NETX)
"""Kinds of files that are to be compiled; reading a program says it of those that look like one."""


def program_of(program: AnyProgram) -> Program:
    """A program, of a .spk file where it is a path.

    Raises InputError for anything else, a model among it, and as Program.load does.
    """
    if isinstance(program, (str, Path)):
        try:
            return Program.load(program)
        except (InputError, ProgramError):
            _check_no_model(program)
            raise
    if not isinstance(program, Program):
        problem = f"it is a {type(program).__name__}, and no program"
        raise InputError("program", problem, "Give what sd.compile returned, or the path of a .spk file.")
    return program


def _check_no_model(path: str | Path) -> None:
    """Raise InputError where it is a model that is to be compiled first."""
    if str(path) in BUNDLED:
        problem = "it is the name of a bundled model, and no program"
        raise InputError(str(path), problem, f'Compile it: sd.compile("{path}").')
    try:
        kind = kind_of(Path(path))
    except SpikdeployError:
        return
    if kind in MODELS:
        raise InputError(str(path), f"it is {kind.value}: a model, and no program", "Compile it: sd.compile.")
