"""What an attention is in numbers: heads, their channels, tokens, and the counters that compute it on a chip.

And what a product of currents and spikes is, half of a dual spike self-attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Attention, DualSpike


@dataclass(frozen=True, slots=True)
class Heads:
    """The shapes of an attention.

    depth   channels of q and of k that a head has; width: those of v and of the target
    tokens  positions of the map
    most    largest values that q, k and v send
    """

    heads: int
    depth: int
    width: int
    tokens: int
    most: tuple[int, int, int]

    def counters(self, serial: str) -> Shape:
        """(C, Y, X) of the counters; serial: as in a Site.

        "tokens"    (channel of k, 0, channel of v within the head) sums k * v over the tokens
        "channels"  (head, token of q, token of k) sums q * k over the channels of the head
        """
        if serial == "tokens":
            return self.heads * self.depth, 1, self.width
        return self.heads, self.tokens, self.tokens

    @property
    def fewest_counters(self) -> str:
        """The serial that has fewer counters: where no mapping says which."""
        return "tokens" if self.depth * self.width <= self.tokens**2 else "channels"

    def rounds(self, serial: str) -> tuple[int, int]:
        """Sub-steps in which the counters count, and in which they answer: a token each, or a channel of each head."""
        return (self.tokens, self.tokens) if serial == "tokens" else (self.depth, self.width)

    def turns(self, serial: str, copies: int) -> tuple[int, int]:
        """Sub-steps of both rounds where so many copies of the counters share the tokens, or channels, of each."""
        first, second = self.rounds(serial)
        return -(-first // copies), -(-second // copies)

    def shares(self, serial: str, copy: int, copies: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The tokens, or channels of each head, [first, end) that one copy takes in the first and in the second round.

        In the order of their turns.
        """
        first, second = zip(self.rounds(serial), self.turns(serial, copies), strict=True)
        return _share(*first, copy), _share(*second, copy)

    def sub_steps(self, serial: str, copies: int) -> int:
        """Sub-steps in which the counters are sent something: both rounds, and one in which copies exchange sums."""
        return sum(self.turns(serial, copies)) + (copies > 1)

    def most_copies(self, serial: str) -> int:
        """Copies of the counters that have a turn each in both rounds."""
        return min(self.rounds(serial))

    def useful_copies(self, serial: str, copies: int) -> int:
        """The fewest copies that take no more sub-steps than `copies`: of 32 with 196 tokens, 4 would have no turn."""
        limited = min(copies, self.most_copies(serial))
        both = zip(self.rounds(serial), self.turns(serial, limited), strict=True)
        return max(-(-items // turns) for items, turns in both)

    def largest_sum(self, serial: str) -> int:
        """The largest value that a counter holds."""
        q, k, v = self.most
        return (k * v * self.tokens) if serial == "tokens" else q * k * self.depth

    def largest_answer(self, serial: str) -> int:
        """The largest value that a counter sends: what it holds, times the third operand."""
        q, _, v = self.most
        return self.largest_sum(serial) * (q if serial == "tokens" else v)


def _share(items: int, turns: int, copy: int) -> tuple[int, int]:
    """[first, end) of the items that a copy takes; the last copies may find none left."""
    return min(copy * turns, items), min((copy + 1) * turns, items)


def heads_of(network: Network, projection: Projection) -> Heads:
    """The numbers of an attention; its law (synapses.check_synapse) says which shapes go together."""
    assert isinstance(projection.synapse, Attention)
    heads = projection.synapse.heads
    q, k, v = (network[name] for name in projection.sources)
    channels, height, width = v.shape
    return Heads(heads, q.shape[0] // heads, channels // heads, height * width, (q.max_out, k.max_out, v.max_out))


def heads_into(network: Network, target: str) -> Heads:
    """Those of the attention into the population `target`, which must have one."""
    return heads_of(network, next(p for p in network.into(target) if isinstance(p.synapse, Attention)))


@dataclass(frozen=True, slots=True)
class Factors:
    """The shapes of a dual spike transformation: of each head, products of `width` channels of y with spikes.

    width       channels of y
    at_y, at_s  positions of y, and of the spikes and of the target
    """

    heads: int
    width: int
    at_y: int
    at_s: int
    over_tokens: bool

    @property
    def addends(self) -> int:
        """Products in each sum: channels of a head, or positions of y."""
        return self.at_y if self.over_tokens else self.width

    @property
    def reached(self) -> int:
        """Neurons that a spike reaches, at its own position; a message of y reaches `at_s`, one a position."""
        return self.width if self.over_tokens else self.at_y

    @property
    def dense(self) -> int:
        """Additions where no zero is skipped."""
        return self.heads * self.width * self.at_y * self.at_s


def factors_of(network: Network, projection: Projection) -> Factors:
    """The numbers of a dual spike transformation; its law (synapses.check_synapse) says which shapes go together."""
    dual = projection.synapse
    assert isinstance(dual, DualSpike)
    channels, rows, columns = network[projection.sources[0]].shape
    _, height, width = network[projection.target].shape
    return Factors(dual.heads, channels // dual.heads, rows * columns, height * width, dual.over_tokens)


def product_into(network: Network, target: str) -> Projection | None:
    """The dual spike transformation into a population; None where it has none."""
    return next((p for p in network.into(target) if isinstance(p.synapse, DualSpike)), None)
