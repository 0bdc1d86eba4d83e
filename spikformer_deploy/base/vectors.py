"""One vocabulary of LLVM vector operations, for loops whose vectors numba does not find by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.base.compiled import inlined

# An alignment of 1 is always true.  On processors of today an unaligned access costs no more where the address happens
# to be aligned, while a promise that is not kept is a crash.

WORD = ir.IntType(64)
SINGLE = ir.IntType(32)
HALF = ir.IntType(16)
BYTE = ir.IntType(8)
FLOAT = ir.FloatType()


@inlined
def address(array: Array) -> np.int64:
    """Of its first element.

    Signed: numba's own is not, and its sum of an unsigned and a signed number is a float.
    """
    return np.int64(array.ctypes.data)


def splat(build: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """A vector of one value.

    LLVM has no instruction for it: the value is put in the first lane, and every lane is taken from there.
    """
    kind = ir.VectorType(value.type, lanes)
    unknown = ir.Constant(kind, ir.Undefined)
    first = build.insert_element(unknown, value, SINGLE(0))
    return build.shuffle_vector(first, unknown, ir.Constant(ir.VectorType(SINGLE, lanes), [0] * lanes))


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
def lowest_bit(typing: Any, mask: Any) -> Any:
    """The number of the lowest set bit; the mask must not be zero."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return build.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.int64), emit


@intrinsic
def highest_bit(typing: Any, mask: Any) -> Any:
    """The number of the highest set bit; the mask must not be zero."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return build.sub(WORD(63), build.ctlz(arguments[0], ir.IntType(1)(1)))

    return types.int64(types.int64), emit
