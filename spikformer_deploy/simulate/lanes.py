"""Loops of vector instructions that numba does not find by itself: many neurons, or many time steps, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array

LANES = 8
"""Sums that `add_rows` makes side by side: 64-bit integers that fill a register of 512 bits."""
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


def _add_rows(typing: Any, tables: Any, span: Any, out: Any) -> Any:
    """out[k] = sum over i of first[i] * rows[cell[i], k], other[k] of second; LANES lanes k of 64 bits.

    tables  addresses of cell, first and second (int32), and of rows (cells, LANES) int32
    span    from and to which i
    out     addresses of out and other (LANES,) int64
    """
    numbers = (types.UniTuple(types.int64, count) for count in (4, 2, 2))
    return types.void(*numbers), _emit_add_rows


add_rows: Any = intrinsic(_add_rows)


def _emit_add_rows(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
    cells, *weights, rows = (build.extract_value(arguments[0], i) for i in range(4))
    start, end = (build.extract_value(arguments[1], i) for i in range(2))
    wide = ir.VectorType(WORD, LANES)
    zero, before = ir.Constant(wide, [0] * LANES), build.block
    head, body, done = (build.append_basic_block(name) for name in ("row", "add", "added"))
    build.branch(head)
    build.position_at_end(head)
    index, sums = build.phi(WORD), [build.phi(wide), build.phi(wide)]
    build.cbranch(build.icmp_signed("<", index, end), body, done)
    build.position_at_end(body)
    offset = build.mul(index, WORD(4))
    cell = build.zext(read(build, build.add(cells, offset), SINGLE), WORD)
    row = build.add(rows, build.mul(cell, WORD(4 * LANES)))
    sent = build.sext(read(build, row, ir.VectorType(SINGLE, LANES)), wide)
    added = []
    for total, weight in zip(sums, weights, strict=True):
        factor = build.sext(read(build, build.add(weight, offset), SINGLE), WORD)
        added.append(build.add(total, build.mul(splat(build, factor, LANES), sent)))
    following, last = build.add(index, WORD(1)), build.block
    for phi, first, after in zip((index, *sums), (start, zero, zero), (following, *added), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(after, last)
    build.branch(head)
    build.position_at_end(done)
    for total, place in zip(sums, (build.extract_value(arguments[2], i) for i in range(2)), strict=True):
        write(build, total, place)
    return context.get_dummy_value()
