"""One vocabulary of LLVM vector operations, for loops whose vectors numba does not find by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array

WORD, SINGLE, BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)


@njit(cache=True, nogil=True, inline="always")
def address(array: Array) -> np.int64:
    """Of its first element; numba's own is unsigned, and a sum with a signed number would be a float."""
    return np.int64(array.ctypes.data)


def splat(build: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector of one value."""
    kind = ir.VectorType(value.type, lanes)
    first = build.insert_element(ir.Constant(kind, ir.Undefined), value, SINGLE(0))
    return build.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(SINGLE, lanes), [0] * lanes)
    )


def read(build: ir.IRBuilder, place: ir.Value, kind: ir.Type) -> ir.Value:
    """What stands at an address, aligned or not."""
    return build.load(build.inttoptr(place, kind.as_pointer()), align=1)


def write(build: ir.IRBuilder, value: ir.Value, place: ir.Value) -> None:
    """Store at an address, aligned or not."""
    build.store(value, build.inttoptr(place, value.type.as_pointer()), align=1)


def _eight_bytes(typing: Any, place: Any) -> Any:
    """The word at an address, aligned or not."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return read(build, arguments[0], WORD)

    return types.uint64(types.int64), emit


def _four_bytes(typing: Any, place: Any) -> Any:
    """The signed 32-bit number at an address."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return read(build, arguments[0], SINGLE)

    return types.int32(types.int64), emit


eight_bytes: Any = intrinsic(_eight_bytes)


four_bytes: Any = intrinsic(_four_bytes)


@intrinsic
def _lowest_bit(typing: Any, mask: Any) -> Any:
    """The number of the lowest set bit; the mask must not be zero."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return build.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.int64), emit


@intrinsic
def _highest_bit(typing: Any, mask: Any) -> Any:
    """The number of the highest set bit; the mask must not be zero."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return build.sub(ir.IntType(64)(63), build.ctlz(arguments[0], ir.IntType(1)(1)))

    return types.int64(types.int64), emit
