"""Named axes: what each dimension of a traced tensor stands for, however the model reshapes it.

There are five axes: time T, batch B, channels C, rows Y and columns X.  A dimension is a list of atoms, parts of axes,
the slowest first.  The whole channel axis of 384 channels is one atom, (C, 384, stride 1); split into 12 heads it is
two, (C, 12, stride 32) and (C, 32, stride 1); tokens are two atoms in one dimension, (Y, ...) and (X, ...).

Reshapes split and merge atoms, permutations reorder dimensions.  A layout that cannot be said in atoms is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Atom:
    """`size` steps of `stride` along the axis `role` ("T", "B", "C", "Y" or "X")."""

    role: str
    size: int
    stride: int = 1


BATCH = 1_000_003
"""The size that stands for the symbolic batch: a prime, so that no reshape can hide a part of it elsewhere."""

Dim: TypeAlias = tuple[Atom, ...]
Dims: TypeAlias = tuple[Dim, ...]


class MixedAxesError(Exception):
    """A layout operation whose result cannot be described by whole parts of named axes."""


def axis(role: str, size: int) -> Dim:
    """The whole axis `role`; an axis of size 1 has no atoms."""
    return (Atom(role, size),) if size > 1 else ()


def size(dim: Dim) -> int:
    """Number of elements along a dimension."""
    return prod(atom.size for atom in dim)


def sizes(dims: Dims) -> tuple[int, ...]:
    """The shape of a tensor with these dimensions."""
    return tuple(size(dim) for dim in dims)


def roles(dim: Dim) -> set[str]:
    """The roles that a dimension holds parts of."""
    return {atom.role for atom in dim}


def reshape(dims: Dims, sizes: tuple[int, ...]) -> Dims:
    """`dims` read in row-major order and cut anew into `sizes`.  Raises MixedAxesError for a cut through an atom."""
    atoms = [atom for dim in dims for atom in dim]
    elements = size(tuple(atoms))
    if elements != prod(sizes):
        raise MixedAxesError(f"{show_size(elements)} elements cannot become {show_size(prod(sizes))}")
    # a stack: the slowest atom on top
    atoms.reverse()
    out = []
    for extent in sizes:
        taken: list[Atom] = []
        while (missing := extent // size(tuple(taken))) > 1:
            taken.append(_take(atoms, missing))
        if size(tuple(taken)) != extent:
            raise MixedAxesError(f"a dimension of {show_size(extent)} would hold a part of an axis")
        out.append(merged(tuple(taken)))
    return tuple(out)


def _take(atoms: list[Atom], extent: int) -> Atom:
    """Take the next atom off the stack; where it is larger than `extent`, only its slower part of that size."""
    atom = atoms.pop()
    if atom.size <= extent:
        return atom
    if atom.size % extent:
        whole = f"axis {atom.role}" + ("" if atom.size == BATCH else f" of {atom.size}")
        raise MixedAxesError(f"{whole} cannot be cut into {show_size(extent)} parts")
    faster = Atom(atom.role, atom.size // extent, atom.stride)
    atoms.append(faster)
    return Atom(atom.role, extent, atom.stride * faster.size)


def merged(dim: Dim) -> Dim:
    """The same dimension with neighbouring parts of one axis joined."""
    out: list[Atom] = []
    for atom in dim:
        if out and out[-1].role == atom.role and out[-1].stride == atom.size * atom.stride:
            slower = out.pop()
            atom = Atom(atom.role, slower.size * atom.size, atom.stride)
        out.append(atom)
    return tuple(out)


def permute(dims: Dims, order: tuple[int, ...]) -> Dims:
    """The dimensions in another order."""
    return tuple(dims[i] for i in order)


def replaced(dims: Dims, at: int, *new: Dim) -> Dims:
    """The dimensions with `new` ones in the place of dimension `at`, or without it."""
    return (*dims[:at], *new, *dims[at + 1 :])


def in_order(dims: Dims, shape: tuple[int, int, int]) -> bool:
    """Whether a layout has batch, channels, rows and columns, whole and in this order: flattened, those of a node."""
    whole = (*axis("B", BATCH), *(atom for role, size in zip("CYX", shape, strict=True) for atom in axis(role, size)))
    return merged(tuple(atom for dim in dims for atom in dim)) == whole


def show(dims: Dims) -> str:
    """For a person: "(T, B, C/32, Y*X)"."""
    return "(" + ", ".join("*".join(_show_atom(a) for a in dim) or "1" for dim in dims) + ")"


def show_size(size: int) -> str:
    """A number of elements for a person, the batch as "B": "384", "B", "4*B"."""
    times, rest = divmod(size, BATCH)
    if rest or not times:
        return str(size)
    return "B" if times == 1 else f"{times}*B"


def _show_atom(atom: Atom) -> str:
    return atom.role if atom.stride == 1 else f"{atom.role}/{atom.stride}"
