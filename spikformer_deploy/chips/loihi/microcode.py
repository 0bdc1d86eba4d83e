"""What neurons run on Loihi 2, instruction by instruction: a visit to a neuron takes as long as its program.

Instructions are of the kinds that Intel's Loihi 2 technology brief of 2021 names, one a line:

    bitwise and arithmetic   x = y + z    (-, &, <<)
    shift-multiply           x = y * z >> bits, rounded down
    compare                  x = y >= z   (==, !=); 1 or 0
    select                   x = y if flag else z
    skip, jump               skip LINES unless flag; jump to the end
    spike                    spike payload

The brief gives no timing of them.  Assumed: each takes as long as any other; states, parameters, the input `a`, the
number of the time step and constants are operands, which no instruction has to load; products are signed and as wide as
they need to be.  An image's first states are set from outside, between images, and are no part of a program.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import assert_never

from spikformer_deploy.base.plain import require
from spikformer_deploy.network.neurons import (
    DECAY_BITS,
    DECAY_ONE,
    Accumulator,
    And,
    Levels,
    Lif,
    LifKind,
    Max,
    Neuron,
    Or,
    Source,
    Stream,
    Sum,
)


@dataclass(frozen=True, slots=True)
class Program:
    """What a core does when it visits a neuron.

    lines   one instruction each
    rarely  how many of them only a few visits run: they do not count
    """

    lines: tuple[str, ...]
    rarely: int = 0

    @property
    def length(self) -> int:
        """Instructions of a visit in which the neuron has something to send."""
        return len(self.lines) - self.rarely

    @property
    def share(self) -> float:
        """Of `time.neuron_programmable`, the time of a reference program: what a visit takes."""
        return self.length / REFERENCE_LENGTH


def program_of(neuron: Neuron, window: int = 0) -> Program | None:
    """The program of a neuron; None of stock LIFs, whose function is fixed, and of Sources, the input itself.

    window  of a Max: the positions that it looks at, each an input of its own, a0, a1, ...; at a border some stay empty
    """
    match neuron:
        case Source() | Lif(kind=LifKind.STOCK):
            return None
        case Or():
            return Program(_firing("a != 0"))
        case Sum():
            return RELAY
        case And(inputs=inputs):
            return Program(_firing(f"a >= {inputs}"))
        case Stream(drop=0):
            return Program(("x = a + bias", *_sending("x")))
        case Stream(drop=drop):
            # the half that rounds to the nearest is added to the bias once and for all
            return Program(("x = a + bias_and_half", f"x = x * 1 >> {drop}", *_sending("x")))
        case Max():
            require(window >= 1, "a Max without a window")
            return Program(_largest(window))
        case Accumulator(last=last):
            return Program(("v = bias + a" if last else "v = v + a",))
        case Lif():
            return Program((*_leak(neuron), *_fire_and_reset(neuron)))
        case Levels():
            return Program(_levels(neuron))
        case _:
            assert_never(neuron)


def _leak(lif: Lif) -> tuple[str, ...]:
    """v = decayed v + (a << shift) + bias."""
    shifted = (f"a = a << {lif.shift}",) if lif.shift else ()
    if lif.decay == 0:
        return (*shifted, "v = a + bias")
    if lif.decay == DECAY_ONE:
        return (*shifted, "v = v + a", "v = v + bias")
    if lif.strict:
        # ceil(x) = -floor(-x): rounding up takes no more than rounding down
        return (*shifted, f"v = v * -{lif.decay} >> {DECAY_BITS}", "v = a - v", "v = v + bias")
    return (*shifted, f"v = v * {lif.decay} >> {DECAY_BITS}", "v = v + a", "v = v + bias")


def _fire_and_reset(lif: Lif) -> tuple[str, ...]:
    compared = "s = v >= fires_from" if lif.strict else "s = v >= threshold"
    reset = ("r = v - threshold", "v = r if s else v") if lif.soft else ("v = 0 if s else v",)
    return (compared, *reset, "skip 1 unless s", "spike 1")


def _levels(neuron: Levels) -> tuple[str, ...]:
    """It counts the levels that its potential reaches, and takes off what each of them costs.

    A potential that is not kept is what arrives: where batch normalisation is in the levels, there is no bias to add.
    """
    shifted = (f"a = a << {neuron.shift}",) if neuron.shift else ()
    decayed = (f"v = v * {neuron.decay} >> {DECAY_BITS}",) if neuron.decay not in (0, DECAY_ONE) else ()
    added = ["v = v + a"] if neuron.decay else []
    if neuron.bias.any():
        added.append("v = v + bias" if neuron.decay else "v = a + bias")
    potential = "v" if added else "a"
    # levels ascend: who reaches the first sends something
    counted = [f"f = {potential} >= level1"]
    so_far = "f"
    for level in range(2, neuron.count + 1):
        counted += [f"g = {potential} >= level{level}", f"s = {so_far} + g"]
        so_far = "s"
    reset = (f"r = {so_far} * reset >> 0", "v = v - r") if neuron.decay else ()
    return (*shifted, *decayed, *added, *counted, *reset, "skip 1 unless f", f"spike {so_far}")


def _firing(condition: str) -> tuple[str, ...]:
    """It fires 1 where the condition holds."""
    return (f"s = {condition}", "skip 1 unless s", "spike 1")


def _sending(value: str) -> tuple[str, ...]:
    """It sends a value as one graded spike, where that is not zero."""
    return (f"s = {value} != 0", "skip 1 unless s", f"spike {value}")


def _largest(window: int) -> tuple[str, ...]:
    lines: list[str] = []
    best = "a0"
    for position in range(1, window):
        lines += [f"s = {best} >= a{position}", f"m = {best} if s else a{position}"]
        best = "m"
    return (*lines, *_sending(best))


RELAY = Program(_sending("a"))
"""Of a Sum, and of partial sums on their way to their neuron."""

_COUNTING = ("s = a == 2", "count = count + s")
_ANSWERING = ("s = a >= 4", "skip 1 unless s", "spike count")

COUNTER = Program(("s = sub_step == 0", "count = 0 if s else count", *_COUNTING, *_ANSWERING))
"""Of the counters of an attention: they count where both operands arrive (weight 1 each), and answer with their count
where the third, which is replayed, does (weight 4).  `sub_step` of the time step: by the chip's own count of steps."""


def operand_bits(most: int) -> int:
    """Bits of a counter's input that q, k and v take, which send up to `most`."""
    return 3 if most == 1 else 3 * most.bit_length()


def exchange_bits(most: int, largest_sum: int) -> int:
    """Bits of the input of a counter that has copies: the operands', and above them those of a sum."""
    return operand_bits(most) + largest_sum.bit_length()


def counter_program(most: int = 1, copies: int = 1) -> Program:
    """The program of the counters of an attention; most: the largest value that q, k or v sends.

    Of small integers, each operand has bits of the input to itself: weights 1, 2^bits and 2^(2 bits).  The counter adds
    up products of two messages, and multiplies its sum with the third: multiplications of microcode.

    Where there are copies, their sums come with a weight above all operands.  A counter that is not `home` sends what
    it has counted when its copy's last turn has come, in the sub-step `due`, and then holds nothing until the whole sum
    comes back; the one at home is due a sub-step later.
    """
    if most == 1 and copies == 1:
        return COUNTER
    counting, answering = (_COUNTING, _ANSWERING) if most == 1 else _of_integers(most.bit_length())
    taken: tuple[str, ...] = ()
    exchange: tuple[str, ...] = ()
    if copies > 1:
        bits = operand_bits(most)
        taken = (f"x = a * 1 >> {bits}", "count = count + x", f"a = a & {2**bits - 1}")
        exchange = ("s = sub_step == due", "skip 3 unless s", "spike count", "count = count if home else 0")
        # nothing asks for an answer in the sub-step in which a counter is due
        exchange += ("jump to the end",)
    reset = ("s = sub_step == 0", "count = 0 if s else count")
    return Program((*reset, *taken, *counting, *exchange, *answering), rarely=len(exchange[2:]))


def _of_integers(bits: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How counters of small integers of so many bits count, and how they answer."""
    counting = (f"x = a & {2**bits - 1}", f"y = a * 1 >> {bits}", "p = x * y >> 0", "count = count + p")
    # the third alone arrives when it does: x was 0, and so was what was added
    answering = (f"s = a >= {2 ** (2 * bits)}", "skip 2 unless s", f"z = a * count >> {2 * bits}", "spike z")
    return counting, answering


WIDEST_CURRENT = 22
"""Bits of a current that fits an input of 24 bits, its sign among them, together with a spike above it."""


def product_program(neuron: Neuron, bits: int = WIDEST_CURRENT) -> Program:
    """Of neurons that sum products of currents and spikes: two factors in each sub-step, then what they always do.

    bits  of the current, its sign among them: it arrives with weight 1, and the spike with 2^bits, as one input
    """
    program = program_of(neuron)
    assert program is not None
    return Program(
        (
            "s = sub_step == 0",
            "sum = 0 if s else sum",
            f"s = a >= {2 ** (bits - 1)}",
            f"y = a - {2**bits}",
            "y = y if s else 0",
            "sum = sum + y",
            "s = sub_step == last",
            f"skip {len(program.lines) + 1} unless s",
            "a = sum + 0",
            *program.lines,
        ),
        program.rarely,
    )


PROJECTED_GRADIENT = Program(
    (
        "odd = t & 1",
        "skip 2 unless odd",
        "q = a if odd else q",
        "jump to the end",
        "s = t == due",
        "skip 4 unless s",
        "alpha = alpha * 1 >> 1",
        "changes = changes + 1",
        "wait = changes * interval >> 0",
        "due = due + wait",
        "g = a + q",
        "g = g + p",
        "g = g * alpha >> exponent",
        "x = x - g",
        "spike x",
    ),
    rarely=6,
)
"""x = x - alpha * (Q x + A^T y + p) in every second step; Q x came in the one before, and alpha is halved now and then.

Source: PIPG (Yu, Elango, Acikmese, 2021) as lava-optimization's models run it on a CPU
(ProjectedGradientNeuronsPIPGeq, computed schedule).  Intel's own microcode of it is not public.
"""

PROPORTIONAL_INTEGRAL = Program(
    (
        "odd = t & 1",
        "skip 10 unless odd",
        "s = t == due",
        "skip 3 unless s",
        "beta = beta << 1",
        "wait = wait << 1",
        "due = due + wait",
        "g = a - k",
        "g = g * beta >> exponent",
        "y = y + g",
        "sum = y + g",
        "spike sum",
    ),
    rarely=3,
)
"""g = beta * (A x - k), y = y + g, and it sends y + g, in the steps between; beta is doubled now and then.

Source: as above (ProportionalIntegralNeuronsPIPGeq).
"""

REFERENCE_LENGTH = PROJECTED_GRADIENT.length
"""Of the program that `time.neuron_programmable` is the time of.  On silicon, a step of the QP solver in tutorial 01 of
lava-optimization bounds the visits to its larger layer, 264 projected-gradient neurons.  Those to its 144
proportional-integral neurons are as long.  A layer works in every second step: this is its length in a step at work.
"""
