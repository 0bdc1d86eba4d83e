"""Spiking self-attention as a chip does it: counters that get spikes in turns, and the sums of what they answer.

A time step of the network has sub-steps, which are written out in loops: what one pass takes and sends is what a chip
does in one sub-step.  With `serial` "tokens" items are tokens, with "channels" channels of a head.  Each of two rounds
goes through all of its items, `copies` of them at a time: turn t of copy g is item g * turns + t.
"""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

Maps = tuple[tuple[int, ...], tuple[int, ...]]
"""(images, Y, X, C) of q and of k, and of v and of the target."""


def counters_of(maps: Maps, heads: int, serial: str) -> tuple[int, ...]:
    """(images, heads, rows, columns) of the counters of one copy."""
    (images, height, width, narrow), (*_, wide) = maps
    tokens = height * width
    return (images, heads, *((narrow // heads, wide // heads) if serial == "tokens" else (tokens, tokens)))


def items_of(maps: Maps, heads: int, serial: str) -> tuple[int, int]:
    """Items of the round in which counters count, and of that in which they answer."""
    (_, height, width, narrow), (*_, wide) = maps
    tokens = height * width
    return (tokens, tokens) if serial == "tokens" else (narrow // heads, wide // heads)


def sub_steps_of(maps: Maps, heads: int, serial: str, copies: int) -> int:
    """Sub-steps in which counters are sent something: both rounds, and one in which copies exchange their sums."""
    return sum(-(-items // copies) for items in items_of(maps, heads, serial)) + (copies > 1)


class Counters(AbstractProcess):
    """The counters of an attention, in several copies that share out the turns.

    serial "tokens"     the counter (channel c of k, channel x of v) of a head adds k[n, c] * v[n, x], token n by token;
                        then, to q[n, c], the counters of row c answer
    serial "channels"   the counter (token n, token m) of a head adds q[n, c] * k[m, c], channel c by channel; then, to
                        v[m, c], the counters of column m answer
    A counter answers with its sum times what asked it.  Between the rounds each counter away from its home, the copy
    whose number is that of its column modulo the copies, sends its sum there, and gets back the whole sum.

    shapes   of the ports of q and k, and of that of v
    maps     see Maps
    heads    each has an equal, consecutive range of the channels
    arrived  Var, (sub-steps,) operations at the counters in each sub-step of the time step: what arrives, times the
             counters that it reaches
    sent     Var, (sub-steps,) messages that they send, those that carry a zero among them
    Source: Zhou et al. 2023 (Spikformer), eq. 6, without the scale, which the next thresholds hold.
    """

    def __init__(
        self, *, shapes: tuple[tuple[int, ...], tuple[int, ...]], maps: Maps, heads: int, serial: str, copies: int,
        **other: object,
    ) -> None:  # fmt: skip
        super().__init__(maps=maps, heads=heads, serial=serial, copies=copies, **other)
        self.q_in, self.k_in, self.v_in = InPort(shapes[0]), InPort(shapes[0]), InPort(shapes[1])
        self.answers_out = OutPort(counters_of(maps, heads, serial))
        sub_steps = sub_steps_of(maps, heads, serial, copies)
        self.arrived, self.sent = Var((sub_steps,), init=0), Var((sub_steps,), init=0)


class Answers(AbstractProcess):
    """weight * 2^shift times the sums of what counters answer, each at the neuron that it is for.

    shape  of what goes out, of which maps[1] is the map; all others as of Counters
    """

    def __init__(
        self, *, shape: tuple[int, ...], maps: Maps, heads: int, serial: str, copies: int, weight: int, shift: int,
        **other: object,
    ) -> None:  # fmt: skip
        super().__init__(maps=maps, heads=heads, serial=serial, copies=copies, weight=weight, shift=shift, **other)
        self.answers_in = InPort(counters_of(maps, heads, serial))
        self.a_out = OutPort(shape)


@implements(proc=Counters, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class CountersModel(PyLoihiProcessModel):
    """Counters on a CPU: in 64 bits, all copies and images of a sub-step at once."""

    q_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    k_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    v_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    answers_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    arrived: np.ndarray = LavaPyType(np.ndarray, np.int32)
    sent: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.maps, self.heads, self.serial, self.copies = (
            proc_params[key] for key in ("maps", "heads", "serial", "copies")
        )
        self.shape = counters_of(self.maps, self.heads, self.serial)
        counted, self.answered = items_of(self.maps, self.heads, self.serial)
        self.counting, self.answering = -(-counted // self.copies), -(-self.answered // self.copies)
        # (copies, columns): which columns have their home in which copy
        self.at_home = np.arange(self.shape[3]) % self.copies == np.arange(self.copies)[:, None]

    def run_spk(self) -> None:
        q, k, v = self._items(self.q_in, 0), self._items(self.k_in, 0), self._items(self.v_in, 1)
        first, second, third = (k, v, q) if self.serial == "tokens" else (q, k, v)
        self.arrived[...] = self.sent[...] = 0
        counts = self._count(self._in_turns(first, self.counting), self._in_turns(second, self.counting))
        if self.copies > 1:
            self._exchange(counts)
        self._answer(counts, self._in_turns(third, self.answering))

    def _count(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(copies, images, heads, rows, columns) what counters hold after the sub-steps of the first round.

        first   (turns, copies, images, heads, rows) what arrives at the rows of counters; second: at the columns
        """
        rows, columns = self.shape[2:]
        counts = np.zeros((self.copies, *self.shape), np.int64)
        for sub_step in range(self.counting):
            to_rows, to_columns = first[sub_step], second[sub_step]
            counts += to_rows[..., :, None] * to_columns[..., None, :]
            self.arrived[sub_step] = np.count_nonzero(to_rows) * columns + np.count_nonzero(to_columns) * rows
        return counts

    def _exchange(self, counts: np.ndarray) -> None:
        """Two sub-steps, the last one of the first round and the one after it, in which all copies get whole sums."""
        home = self.at_home[:, None, None, None]
        to_home = np.where(home, 0, counts).sum(0)
        # who has sent its sum holds nothing until the whole one comes
        counts *= home
        counts += home * to_home
        to_others = np.where(home, counts, 0).sum(0)
        counts += ~home * to_others
        # each counter has a home, and a sum travels between it and all other copies
        messages = (self.copies - 1) * int(np.prod(self.shape))
        # what is sent in one sub-step arrives in the next
        self.sent[self.counting - 1 : self.counting + 1] = messages
        self.arrived[self.counting : self.counting + 2] = messages

    def _answer(self, counts: np.ndarray, third: np.ndarray) -> None:
        """The sub-steps of the second round; third: (turns, copies, images, heads, rows or columns) what asks."""
        rows, columns = self.shape[2:]
        begin = self.counting + (self.copies > 1)
        for turn in range(self.answering):
            asked = third[turn]
            by_row = self.serial == "tokens"
            answers = (counts * (asked[..., :, None] if by_row else asked[..., None, :])).astype(np.int32)
            # last copies may have no turn any more
            for copy, _ in enumerate(range(turn, self.answered, self.answering)):
                self.answers_out.send(answers[copy])
            messages = np.count_nonzero(asked) * (columns if by_row else rows)
            self.arrived[begin + turn] += messages
            self.sent[begin + turn] += messages

    def _items(self, port: PyInPort, which: int) -> np.ndarray:
        """(images, heads, rows or columns of counters, items) of what has come."""
        images, height, width, channels = self.maps[which]
        by_head = port.recv().reshape(images, height * width, self.heads, channels // self.heads)
        return by_head.transpose((0, 2, 3, 1) if self.serial == "tokens" else (0, 2, 1, 3))

    def _in_turns(self, operand: np.ndarray, turns: int) -> np.ndarray:
        """(turns, copies, images, heads, rows or columns) of what `_items` gives; zeros where a copy has no turn."""
        *lines, items = operand.shape
        shared = np.zeros((*lines, self.copies * turns), np.int64)
        shared[..., :items] = operand
        return np.moveaxis(shared.reshape(*lines, self.copies, turns), (4, 3), (0, 1))


@implements(proc=Answers, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class AnswersModel(PyLoihiProcessModel):
    """Answers on a CPU."""

    answers_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        maps, heads, copies = (proc_params[key] for key in ("maps", "heads", "copies"))
        self.by_token = proc_params["serial"] == "tokens"
        _, self.items = items_of(maps, heads, proc_params["serial"])
        self.turns = -(-self.items // copies)
        self.sums = np.zeros((maps[1][0], maps[1][1] * maps[1][2], heads, maps[1][3] // heads), np.int64)
        self.factor = proc_params["weight"] << proc_params["shift"]

    def run_spk(self) -> None:
        # (images, tokens, heads, channels of a head); in a sub-step each copy answers for an item of its own
        for turn in range(self.turns):
            for item in range(turn, self.items, self.turns):
                # (images, heads, rows, columns)
                answers = self.answers_in.recv()
                if self.by_token:
                    self.sums[:, item] = answers.sum(2)
                else:
                    self.sums[..., item] = answers.sum(3).swapaxes(1, 2)
        self.a_out.send((self.sums * self.factor).astype(np.int32).reshape(self.a_out.shape))
