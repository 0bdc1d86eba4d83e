"""Named axes: what each dimension of a traced tensor stands for, however the model reshapes it.

A dimension is a list of atoms, major to minor.  An atom (role, size, stride) is a part of the role T, B, C, Y or X:
the whole channel axis is (C, 384, 1), split into 12 heads (C, 12, 32) and (C, 32, 1); tokens are (Y, ...), (X, ...).
Reshapes split and merge atoms, permutations reorder dimensions; what cannot be said in atoms is refused.
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


def roles(dim: Dim) -> set[str]:
    """The roles that a dimension holds parts of."""
    return {atom.role for atom in dim}


def reshape(dims: Dims, sizes: tuple[int, ...]) -> Dims:
    """`dims` read in row-major order and cut anew into `sizes`.  Raises MixedAxesError for a cut through an atom."""
    atoms = [atom for dim in dims for atom in dim]
    if prod(a.size for a in atoms) != prod(sizes):
        raise MixedAxesError(f"{prod(a.size for a in atoms)} elements cannot become {prod(sizes)}")
    atoms.reverse()
    out = []
    for wanted in sizes:
        taken: list[Atom] = []
        while (rest := wanted // size(tuple(taken))) > 1:
            taken.append(_take(atoms, rest))
        if size(tuple(taken)) != wanted:
            raise MixedAxesError(f"a dimension of {wanted} would hold a part of an axis")
        out.append(merged(tuple(taken)))
    return tuple(out)


def _take(atoms: list[Atom], wanted: int) -> Atom:
    """Take the next atom off the stack, or its major part where it is larger than `wanted`."""
    atom = atoms.pop()
    if atom.size <= wanted:
        return atom
    if atom.size % wanted:
        raise MixedAxesError(f"axis {atom.role} of {atom.size} cannot be cut into {wanted} parts")
    minor = Atom(atom.role, atom.size // wanted, atom.stride)
    atoms.append(minor)
    return Atom(atom.role, wanted, atom.stride * minor.size)


def merged(dim: Dim) -> Dim:
    """The same dimension with neighbouring parts of one axis joined."""
    out: list[Atom] = []
    for atom in dim:
        if out and out[-1].role == atom.role and out[-1].stride == atom.size * atom.stride:
            atom = Atom(atom.role, out.pop().size * atom.size, atom.stride)
        out.append(atom)
    return tuple(out)


def permute(dims: Dims, order: tuple[int, ...]) -> Dims:
    """The dimensions in another order."""
    return tuple(dims[i] for i in order)


def show(dims: Dims) -> str:
    """For a person: "(T, B, C/32, Y*X)"."""
    return "(" + ", ".join("*".join(_show_atom(a) for a in dim) or "1" for dim in dims) + ")"


def _show_atom(atom: Atom) -> str:
    return atom.role if atom.stride == 1 else f"{atom.role}/{atom.stride}"
