"""Programs are what they stand for: run instruction by instruction, they give the integers of the neurons."""

import operator
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from support.deep import thinned

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.loihi.microcode import (
    COUNTER,
    PROJECTED_GRADIENT,
    PROPORTIONAL_INTEGRAL,
    REFERENCE_LENGTH,
    RELAY,
    Program,
    counter_program,
    operand_bits,
    product_program,
    program_of,
)
from spikformer_deploy.network.heads import Heads
from spikformer_deploy.network.neurons import (
    HALF_UP,
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
    potential_of,
    step,
)
from spikformer_deploy.network.synapses import Attention, DualSpike, Window, largest_of, synaptic_sum

OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "&": operator.and_,
    "<<": operator.lshift,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
TIMING = (Path(__file__).parents[2] / "docs" / "timing.md").read_text()


class Machine:
    """Runs a program; registers hold states and parameters, and what is no register is a number."""

    def __init__(self, program: Program, **registers: int) -> None:
        self.program, self.registers, self.run = program, registers, 0

    def visit(self, **inputs: int) -> int | None:
        """One visit: what the neuron sends, None where nothing.  `run` says how many instructions it took."""
        self.registers |= inputs
        at, sent, self.run = 0, None, 0
        while at < len(self.program.lines):
            line = self.program.lines[at]
            at, self.run = at + 1, self.run + 1
            match line.split():
                case ["skip", lines, "unless", flag]:
                    at += 0 if self.value(flag) else int(lines)
                    assert at <= len(self.program.lines)
                case ["jump", "to", "the", "end"]:
                    at = len(self.program.lines)
                case ["spike", payload]:
                    assert sent is None
                    sent = self.value(payload)
                case [out, "=", x, "*", y, ">>", bits]:
                    self.registers[out] = self.value(x) * self.value(y) >> self.value(bits)
                case [out, "=", x, "if", flag, "else", y]:
                    self.registers[out] = self.value(x if self.value(flag) else y)
                case [out, "=", x, operation, y]:
                    self.registers[out] = int(OPERATIONS[operation](self.value(x), self.value(y)))
                case _:
                    raise AssertionError(f"no instruction: {line}")
        return sent

    def value(self, operand: str) -> int:
        return int(operand) if re.fullmatch(r"-?\d+", operand) else self.registers[operand]


def lif(decay: int = 2048, shift: int = 0, soft: bool = False, strict: bool = False) -> Lif:
    threshold, bias = np.arange(3, 8), np.array([-2, 0, 0, 1, 3])
    return Lif(LifKind.PROGRAMMABLE, decay, shift, threshold, bias, soft=soft, strict=strict)


def stream(drop: int = 0) -> Stream:
    return Stream(np.array([-2, 0, 0, 1, 3]), drop)


def accumulator(last: bool = False) -> Accumulator:
    return Accumulator(np.array([-2, 0, 0, 1, 3]), np.ones(5), last)


def levels(count: int, decay: int = 0, shift: int = 0, bias: int = 0) -> Levels:
    """Levels of which some are equal and some negative; what keeps nothing takes nothing off."""
    rungs = np.sort(np.random.default_rng(count).integers(-2, 9, (5, count)) << shift, 1)
    reset = np.array([1, 4, 0, 2, 9]) * (decay > 0)
    return Levels(decay, shift, rungs, reset, np.array([-2, 0, 0, 1, 3]) * bias, HALF_UP)


KINDS: dict[str, Neuron] = {
    **{
        f"levels {count} {decay} {shift} {bias}": levels(count, decay, shift, bias)
        for count, decay, shift, bias in product((1, 2, 4, 8), (0, 1000, 2048, 4096), (0, 3), (0, 1))
    },
    **{
        f"lif {decay} {shift} {soft} {strict}": lif(decay, shift, soft, strict)
        for decay, shift, soft, strict in product(
            (0, 1, 1000, 2048, 3000, 4095, 4096), (0, 3), (False, True), (False, True)
        )
    },
    "or": Or(),
    "sum": Sum(),
    "and 2": And(2),
    "and 3": And(3),
    "stream": stream(),
    "stream drop 1": stream(1),
    "stream drop 4": stream(4),
    "accumulator": accumulator(),
    "accumulator last": accumulator(last=True),
}


def machines(neuron: Neuron, channels: int) -> list[Machine]:
    """One for each channel, with the channel's parameters and first states."""
    program = program_of(neuron)
    assert program is not None
    parameters: list[dict[str, int]] = [{"v": 0} for _ in range(channels)]
    if isinstance(neuron, Lif):
        for channel in range(channels):
            names = {"threshold": neuron.threshold, "fires_from": neuron.fires_from, "bias": neuron.bias}
            parameters[channel] |= {name: int(values[channel]) for name, values in names.items()}
    if isinstance(neuron, Levels):
        for channel, own in enumerate(parameters):
            own |= {"reset": int(neuron.reset[channel]), "bias": int(neuron.bias[channel])}
            own |= {f"level{j}": int(level) for j, level in enumerate(neuron.levels[channel], 1)}
    if isinstance(neuron, Stream):
        half = 1 << neuron.drop >> 1
        parameters = [{"bias": int(bias), "bias_and_half": int(bias) + half} for bias in neuron.bias]
    if isinstance(neuron, Accumulator):
        parameters = [{"bias": int(bias), "v": int(bias)} for bias in neuron.bias]
    return [Machine(program, **own) for own in parameters]


def inputs(neuron: Neuron, rng: np.random.Generator, steps: int, channels: int) -> Int:
    """(steps, channels): small ones meet their thresholds exactly, large ones fill their bits; unsigned by the law."""
    small = rng.integers(-8, 9, (steps, channels))
    large = rng.integers(-(2**17), 2**17, (steps, channels))
    drawn = np.where(rng.random((steps, channels)) < 0.9, small, large)
    return np.abs(drawn) if isinstance(neuron, Or | Sum | And) else drawn


@pytest.mark.parametrize("name", thinned(KINDS, 8))
def test_a_program_is_its_neuron(name: str) -> None:
    neuron = KINDS[name]
    channels, steps = 5, 400
    running = machines(neuron, channels)
    state = None
    fired = 0
    for total in inputs(neuron, np.random.default_rng(7), steps, channels):
        after = step(neuron, total.reshape(1, channels, 1, 1), state)
        state = after.state
        sent = [machine.visit(a=int(a)) for machine, a in zip(running, total, strict=True)]
        assert [0 if value is None else value for value in sent] == after.sent.ravel().tolist()
        assert 0 not in sent
        if isinstance(neuron, Lif | Accumulator) or (isinstance(neuron, Levels) and neuron.decay):
            potential = potential_of(neuron, state).ravel().tolist()
            assert [machine.registers["v"] for machine in running] == potential
        fired += sum(value is not None for value in sent)
    assert fired or isinstance(neuron, Accumulator)


@pytest.mark.parametrize(("strict", "fires_at"), [(False, 5), (True, 6)])
def test_a_tie_is_what_strict_says(strict: bool, fires_at: int) -> None:
    program = program_of(lif(decay=0, strict=strict))
    assert program is not None
    threshold = {"threshold": 5, "fires_from": 6, "bias": 0, "v": 0}
    fired = [a for a in range(10) if Machine(program, **threshold).visit(a=a) is not None]
    assert fired == list(range(fires_at, 10))


@pytest.mark.parametrize(
    ("kernel", "padding"), [((1, 1), (0, 0)), ((2, 2), (0, 0)), ((3, 3), (1, 1)), ((1, 3), (0, 2))]
)
def test_the_largest_of_a_window(kernel: tuple[int, int], padding: tuple[int, int]) -> None:
    window = Window(kernel, (1, 1), padding)
    positions = kernel[0] * kernel[1]
    program = program_of(Max(), positions)
    assert program is not None
    shape = [5 + 2 * p - k + 1 for p, k in zip(padding, kernel, strict=True)]
    maps = np.random.default_rng(3).integers(-3, 4, (20, 1, 5, 5))
    expected = step(Max(), largest_of(window, maps, (1, *shape)), None).sent
    padded = np.pad(maps, ((0, 0), (0, 0), *((p, p) for p in padding)), constant_values=-(2**23))
    for image, y, x in np.ndindex(20, *shape):
        seen = padded[image, 0, y : y + kernel[0], x : x + kernel[1]].ravel()
        sent = Machine(program).visit(**{f"a{i}": int(a) for i, a in enumerate(seen)})
        assert (sent or 0) == expected[image, 0, y, x]


def test_a_max_needs_its_window() -> None:
    with pytest.raises(ValueError, match="a Max without a window"):
        program_of(Max())


@pytest.mark.parametrize(("most", "of_v"), [(1, 3), (1, 6), (2, 3), (4, 6), (7, 2), (8, 3)])
@pytest.mark.parametrize("serial", ["tokens", "channels"])
def test_counters_are_the_attention(serial: str, most: int, of_v: int) -> None:
    """Two time steps of a head, as mapping has it: operands in turn, then the third replayed and answered.

    most  that q, k and v send; of_v: channels of v, where q and k have 3
    """
    depth, tokens, weight = 3, 5, 2
    rng = np.random.default_rng(11)
    turns, rows, columns = (tokens, depth, of_v) if serial == "tokens" else (depth, tokens, tokens)
    asking = tokens if serial == "tokens" else of_v
    # the weights of the second and the third operand: bits of their own in the input
    apart = 2 ** most.bit_length()
    second_weight, third_weight = (1, 4) if most == 1 else (apart, apart**2)
    counters = {place: Machine(counter_program(most), count=0) for place in np.ndindex(rows, columns)}
    for _ in range(2):
        q, k = rng.integers(0, most + 1, (2, depth, tokens))
        v = rng.integers(0, most + 1, (of_v, tokens))
        # who is added up over which turns, and what the third operand asks for
        first, second, third = (k, v, q) if serial == "tokens" else (q.T, k.T, v.T)
        out = np.zeros((asking, columns if serial == "tokens" else rows), np.int64)
        for turn in range(turns):
            for (row, column), counter in counters.items():
                assert (
                    counter.visit(a=int(first[row, turn] + second_weight * second[column, turn]), sub_step=turn) is None
                )
        for turn in range(asking):
            for (row, column), counter in counters.items():
                asked, target = (row, column) if serial == "tokens" else (column, row)
                out[turn, target] += counter.visit(a=third_weight * int(third[asked, turn]), sub_step=turns + turn) or 0
        operands = [x.reshape(1, -1, tokens, 1) for x in (q, k, v)]
        expected = synaptic_sum(Attention(1, weight), operands, (of_v, tokens, 1)).reshape(of_v, tokens)
        assert np.array_equal(weight * out, expected.T if serial == "tokens" else expected)


@pytest.mark.parametrize("over_tokens", [False, True])
def test_products_of_currents_and_spikes_are_the_neurons_behind_them(over_tokens: bool) -> None:
    """Three time steps of a head: a pair of factors in each sub-step, currents of either sign; then what a LIF does."""
    depth, patches, tokens, bits = 3, 4, 5, 8
    rng = np.random.default_rng(3)
    turns, rows = (patches, depth) if over_tokens else (depth, patches)
    neuron = Lif(LifKind.PROGRAMMABLE, 2048, 0, np.full(rows, 30), np.full(rows, -4))
    program = product_program(neuron, bits)
    registers = {"sum": 0, "v": 0, "bias": -4, "threshold": 30, "last": turns - 1}
    neurons = {place: Machine(program, **registers) for place in np.ndindex(rows, tokens)}
    state, fired = None, 0
    for _ in range(3):
        y = rng.integers(-127, 128, (depth, patches))
        spikes = rng.integers(0, 2, (turns, tokens))
        sent = np.zeros((rows, tokens), np.int64)
        for turn in range(turns):
            for (row, token), machine in neurons.items():
                current = y[row, turn] if over_tokens else y[turn, row]
                sent[row, token] = machine.visit(a=int(current + 2**bits * spikes[turn, token]), sub_step=turn) or 0
        factors = [x.reshape(1, -1, *x.shape[-1:], 1) for x in (y, spikes)]
        total = synaptic_sum(DualSpike(1, over_tokens), factors, (rows, tokens, 1))
        out, state, _ = step(neuron, total, state, None)
        assert np.array_equal(sent, out.reshape(rows, tokens))
        fired += sent.sum()
    assert 0 < fired < 3 * rows * tokens
    assert program.share == len(program.lines) / REFERENCE_LENGTH


@pytest.mark.parametrize(("most", "of_v", "copies"), [(1, 3, 2), (1, 6, 3), (1, 4, 2), (4, 6, 3), (3, 2, 2)])
@pytest.mark.parametrize("serial", ["tokens", "channels"])
def test_copies_of_counters_are_the_attention(serial: str, most: int, of_v: int, copies: int) -> None:
    """Two time steps of a head: every copy counts its share, they exchange sums, and each answers to its share."""
    depth, tokens, weight = 3, 5, 2
    rng = np.random.default_rng(12)
    heads = Heads(1, depth, of_v, tokens, (most, most, most))
    rows, columns = heads.counters(serial)[::2] if serial == "tokens" else (tokens, tokens)
    counting, answering = heads.turns(serial, copies)
    apart = 2 ** most.bit_length()
    second_weight, third_weight = (1, 4) if most == 1 else (apart, apart**2)
    sum_weight = 2 ** operand_bits(most)
    program = counter_program(most, copies)
    counters = {
        (copy, row, column): Machine(program, count=0, home=int(home), due=counting - 1 + home)
        for copy, row, column in np.ndindex(copies, rows, columns)
        for home in [column % copies == copy]
    }
    for _ in range(2):
        q, k = rng.integers(0, most + 1, (2, depth, tokens))
        v = rng.integers(0, most + 1, (of_v, tokens))
        first, second, third = (k, v, q) if serial == "tokens" else (q.T, k.T, v.T)
        out = np.zeros((third.shape[1], columns if serial == "tokens" else rows), np.int64)
        arriving: dict[tuple[int, ...], int] = {}
        for sub_step in range(counting + 1 + answering):
            sums, arriving = arriving, dict.fromkeys(counters, 0)
            for (copy, row, column), counter in counters.items():
                (low, end), (low_third, end_third) = heads.shares(serial, copy, copies)
                turn, asking = low + sub_step, low_third + sub_step - counting - 1
                a = sum_weight * sums.get((copy, row, column), 0)
                if turn < end:
                    a += int(first[row, turn] + second_weight * second[column, turn])
                asked, target = (row, column) if serial == "tokens" else (column, row)
                if low_third <= asking < end_third:
                    a += third_weight * int(third[asked, asking])
                sent = counter.visit(a=a, sub_step=sub_step) or 0
                if low_third <= asking < end_third:
                    out[asking, target] += sent
                elif sub_step == counter.registers["due"]:
                    others = set(range(copies)) - {copy} if counter.registers["home"] else {column % copies}
                    for other in others:
                        arriving[other, row, column] += sent
        operands = [x.reshape(1, -1, tokens, 1) for x in (q, k, v)]
        expected = synaptic_sum(Attention(1, weight), operands, (of_v, tokens, 1)).reshape(of_v, tokens)
        assert np.array_equal(weight * out, expected.T if serial == "tokens" else expected)
        assert expected.any()


def test_a_relay_sends_what_it_gets() -> None:
    assert [Machine(RELAY).visit(a=a) for a in (-5, 0, 1, 2**20)] == [-5, None, 1, 2**20]


def test_the_reference_is_the_qp_solver() -> None:
    """x and y as the published models update them, in whole numbers; changes of alpha and beta run the rare lines."""
    rng = np.random.default_rng(5)
    gradient = Machine(PROJECTED_GRADIENT, x=700, q=0, p=9, alpha=1 << 9, exponent=10, due=8, changes=1, interval=4)
    integral = Machine(PROPORTIONAL_INTEGRAL, y=-40, k=6, beta=3, exponent=2, due=5, wait=2)
    x, alpha, due, changes = 700, 1 << 9, 8, 1
    y, beta, next_change, wait = -40, 3, 5, 2
    before, ordinary = 0, set()
    for t in range(1, 200):
        a = int(rng.integers(-500, 500))
        sent = gradient.visit(a=a, t=t), integral.visit(a=a, t=t)
        if t % 2 == 0:
            changed = t == due
            if changed:
                alpha, changes = alpha // 2, changes + 1
                due += 4 * changes
            x -= alpha * (a + 9 + before) >> 10
            assert sent == (x, None)
            machine = gradient
        else:
            changed = t == next_change
            if changed:
                beta, next_change, wait = 2 * beta, next_change + 2 * wait, 2 * wait
            omega = beta * (a - 6) >> 2
            y += omega
            assert sent == (None, y + omega)
            machine, before = integral, a
        if not changed:
            ordinary.add(machine.run)
    assert alpha < 1 << 7, "it was halved"
    assert beta > 12, "it was doubled"
    assert ordinary == {PROJECTED_GRADIENT.length} == {PROPORTIONAL_INTEGRAL.length} == {REFERENCE_LENGTH}


@pytest.mark.parametrize("neuron", KINDS.values(), ids=KINDS.keys())
def test_the_length_is_that_of_a_visit_that_sends(neuron: Neuron) -> None:
    (machine, *_) = machines(neuron, 5)
    machine.visit(a=1000)
    assert machine.run == machine.program.length == len(machine.program.lines)
    assert machine.program.share == machine.run / REFERENCE_LENGTH


def test_fixed_functions_have_no_program() -> None:
    stock = Lif(LifKind.STOCK, 2048, 0, np.array([1]), np.array([0]))
    assert program_of(stock) is program_of(Source()) is None


def rows() -> Iterator[tuple[str, Program | None]]:
    """The rows of the table in the docs."""
    yield "LIF, hard reset", program_of(lif())
    yield "LIF, soft reset", program_of(lif(soft=True))
    yield "LIF, strict", program_of(lif(strict=True))
    yield "LIF without decay", program_of(lif(decay=4096))
    yield "LIF that forgets all", program_of(lif(decay=0))
    yield "LIF with fractional bits", program_of(lif(shift=3))
    yield "or", program_of(Or())
    yield "and", program_of(And(2))
    yield "sum, partial sum", RELAY
    yield "stream", program_of(stream())
    yield "stream that drops bits", program_of(stream(drop=4))
    yield "max of 2x2", program_of(Max(), 4)
    yield "max of 3x3", program_of(Max(), 9)
    yield "accumulator", program_of(accumulator())
    yield "4 levels, keeping nothing", program_of(levels(4))
    yield "4 levels, soft reset", program_of(levels(4, decay=2048))
    yield "8 levels, keeping nothing", program_of(levels(8))
    yield "attention counter", COUNTER
    yield "attention counter, values up to 4", counter_program(4)
    yield "attention counter with copies", counter_program(1, copies=2)
    yield "LIF behind products of currents and spikes", product_program(lif())
    yield "reference: projected gradient", PROJECTED_GRADIENT
    yield "reference: proportional-integral", PROPORTIONAL_INTEGRAL


def test_the_docs_have_the_programs() -> None:
    section = TIMING.split("## What a neuron's program takes\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    expected = [
        f"| {name} | {program.length} | {program.share:.2f} | {'; '.join(f'`{line}`' for line in program.lines)} |"
        for name, program in rows()
        if program is not None
    ]
    assert table == expected
