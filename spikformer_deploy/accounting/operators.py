"""Energy from the operations of a float model: the conventions of papers and tools, each by its name.

A convention says of every place of a model how many multiply-accumulates (MACs) and additions (ACs) it is, or that it
is nothing; all else is a sum.  So the table by layer, the totals and the list of what a convention leaves out come from
one rule.  What the model computes is what is counted: its steps, its order of products, its float spikes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from spikformer_deploy.accounting import tools
from spikformer_deploy.accounting.conventions import ARITHMETIC, MEMORY, ac_part, mac_parts, memory_part
from spikformer_deploy.accounting.tools import LAYERS, NO_WORK, SYNAPTIC, Work, additions, approximate
from spikformer_deploy.accounting.uncertainty import Energy, Part
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.counts.operations import Counted, NeuronRecord, Operation, OperationCounts

Figures = Callable[[OperationCounts, Work], dict[str, float]]

LEFT_OUT = "no neurons, normalization, pooling or residual sums; no memory, messages or static power"
"""What conventions of synaptic work leave out."""


def _mac_and_ac(counts: OperationCounts, total: Work) -> dict[str, float]:
    return {"MACs": total.macs, "ACs": total.acs}


@dataclass(frozen=True, slots=True)
class Convention:
    """A way to count.

    rule      what is a MAC, what an AC, in a sentence or two
    source    where it is from
    boundary  what is inside and what is left out
    work      of calls of one operation: their MACs and ACs; None where the convention does not see them
    neurons   the same of a population of neurons
    prices    of a MAC: the names of its multiplication and its addition in asic45nm.toml; None: it counts, and has no
              prices
    one_pass  whether its figures are those of one time step: the share of T, but of what runs once an image already
    memory    what is inside and left out where its energy has memory as well; empty where it has none
    figures   its numbers by its own names, an image
    """

    rule: str
    source: str
    boundary: str
    work: Callable[[Operation, Counted], Work | None]
    neurons: Callable[[NeuronRecord], Work | None] = lambda record: None
    prices: tuple[str, str] | None = ("fp32_multiply", "fp32_add")
    one_pass: bool = False
    memory: str = ""
    figures: Figures = _mac_and_ac


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a model under a convention.

    name, kind  as in Operation; kind is "neuron" for neurons
    work        an image
    """

    name: str
    kind: str
    work: Work


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """A model under one convention.

    figures   numbers an image by the convention's own names: "MACs" and "ACs", or NeuroBench's
    places    what it counts, in the order of the model
    excluded  names of places that compute and that it does not see, by kind
    energy    None where the convention has no prices
    """

    convention: str
    rule: str
    source: str
    boundary: str
    figures: Mapping[str, float]
    places: tuple[Place, ...]
    excluded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    energy: Energy | None = None


# --- rules of papers -------------------------------------------------------------------------------------------------


def _paper(operation: Operation, counted: Counted) -> Work | None:
    return _behind_first(operation, counted, additions)


def _paper_approximate(operation: Operation, counted: Counted) -> Work | None:
    return _behind_first(operation, counted, approximate)


def _paper_messages(operation: Operation, counted: Counted) -> Work | None:
    return _behind_first(operation, counted, tools.messages)


def _behind_first(operation: Operation, counted: Counted, sops: Callable[[Operation, Counted], float]) -> Work | None:
    """The layer that reads the image dense, all others by their synaptic operations."""
    if operation.kind not in SYNAPTIC:
        return None
    if operation.kind == "unknown" or (operation.first and operation.kind in LAYERS):
        return Work(macs=counted.dense_padded)
    return Work(acs=sops(operation, counted))


def _syops(operation: Operation, counted: Counted) -> Work | None:
    if operation.kind not in SYNAPTIC:
        return None
    if "binary" in (counted.operand, counted.other):
        return Work(acs=additions(operation, counted))
    return Work(macs=counted.dense_padded)


def _dense(operation: Operation, counted: Counted) -> Work | None:
    return Work(macs=counted.dense_padded) if operation.kind in SYNAPTIC else None


SPIKFORMER = "Zhou et al. 2023 (Spikformer), App. C.2; 45 nm: Horowitz, ISSCC 2014"
FIRST = "Multiply-accumulates of the layer that reads the image, padding counted, at 4.6 pJ"

CONVENTIONS: dict[str, Convention] = {
    "spikformer-paper": Convention(
        f"{FIRST}; 0.9 pJ for each spike and each synapse that it meets elsewhere, borders exact, a message of value s "
        "as s spikes. A product of two activations is additions, zeros of its sparser binary operand skipped. Where a "
        "layer reads real values, each that is not zero counts as a spike.",
        SPIKFORMER,
        f"Arithmetic in 45 nm fp32; {LEFT_OUT}.",
        _paper,
    ),
    "spikformer-paper-approx": Convention(
        f"{FIRST}; 0.9 pJ * mean value of the input * T * FLOPs elsewhere, padding counted.",
        SPIKFORMER,
        f"Arithmetic in 45 nm fp32; {LEFT_OUT}.",
        _paper_approximate,
    ),
    "spikformer-paper-messages": Convention(
        f"{FIRST}; 0.9 pJ for each message and each synapse that it meets elsewhere, whatever its value: what a chip "
        "with graded messages does, and what is counted of a compiled program.",
        f"{SPIKFORMER}; a graded message once",
        f"Arithmetic in 45 nm fp32; {LEFT_OUT}.",
        _paper_messages,
    ),
    "syops": Convention(
        "What reads other values than 0 and 1 is multiply-accumulates, dense, padding counted; what reads binary "
        "spikes is additions, one for each spike and synapse, borders exact; a product is additions where one operand "
        "is binary.",
        "the rule of syops-counter on operators, and with products; 45 nm: Horowitz, ISSCC 2014",
        f"Arithmetic in 45 nm fp32; {LEFT_OUT}.",
        _syops,
    ),
    "syops-counter": Convention(
        "A layer whose input in a call has at most two values, within [0, 1], is additions: dense, padding and biases "
        "counted, times the mean of the input; any other is dense multiply-accumulates. Normalization is two "
        "operations an element, pooling one; IF, LIF and PLIF neurons are one addition.",
        "syops 0.0.5, as it counts; 45 nm: Horowitz, ISSCC 2014",
        "Arithmetic in 45 nm fp32 of layers that are modules; no functional operator (attention, residual sums), no "
        "other neuron; no memory, messages or static power.",
        tools.syops_counter,
        tools.syops_counter_neurons,
    ),
    "syops-slots": Convention(
        "As syops-counter, but whole-number messages are sent as that many binary spikes, each in a slot of its own; "
        "synaptic layers alone.",
        "syops 0.0.5 on unary slots, as integer-trained models unfold them; 45 nm: Horowitz, ISSCC 2014",
        f"Arithmetic in 45 nm fp32 of layers that are modules; {LEFT_OUT}.",
        tools.syops_slots,
    ),
    "spikingjelly": Convention(
        "A layer or product with an operand of zeros and ones is one operation for each spike and synapse, borders "
        "exact; any other is dense multiply-accumulates, padding counted; batch normalization is one an element. A "
        "weight is read for each of them, a bias for each output, a membrane is read and written once a step, in fp32.",
        "MACCounter, SynOpCounter and NeuromorphicMemoryAccessCounter of spikingjelly 2.0, with the prices of its "
        "SimpleEnergyCostConfig",
        "Arithmetic in 45 nm fp32 of synapses and normalization; additions of other operators and inside of neurons, "
        "which its ACCounter has, are left out.",
        tools.spikingjelly,
        tools.spikingjelly_neurons,
        figures=tools.spikingjelly_figures,
        memory="And every read of a weight and a bias, and reads and writes of membranes, at 24.96 pJ a byte; no "
        "activations, no messages, no static power.",
    ),
    "neurobench": Convention(
        "Pairs of an input and a weight of which neither is zero, without padding: Effective_ACs where a call reads "
        "only -1, 0 and 1, else Effective_MACs; a graded message once.",
        "NeuroBench 2.3.0 (Yik et al., arXiv 2304.04640)",
        "Counts of linear and convolution modules; transposed convolutions, recurrent layers, functional operators, "
        "normalization and pooling are left out.",
        tools.neurobench,
        prices=None,
        figures=tools.neurobench_figures,
    ),
    "ann-equivalent-fp32": Convention(
        "Every multiply-accumulate of the model, dense, padding counted, that of all time steps divided by them: the "
        "same layers as an ANN in one pass, products in the order in which the model has them.",
        "45 nm: Horowitz, ISSCC 2014",
        "Arithmetic in 45 nm fp32 of the same layers in one dense pass; no memory, no static power.",
        _dense,
        one_pass=True,
    ),
    "ann-equivalent-int8": Convention(
        "As ann-equivalent-fp32, with multiplications of 8 bits and additions of 32.",
        "45 nm: Horowitz, ISSCC 2014",
        "Arithmetic in 45 nm int8 of the same layers in one dense pass; no memory, no static power.",
        _dense,
        prices=("int8_multiply", "int32_add"),
        one_pass=True,
    ),
}
"""By name, in the order of tables."""


# --- accounts --------------------------------------------------------------------------------------------------------


def account(counts: OperationCounts, name: str) -> Account:
    """A model under the convention `name`.  Raises InputError where there is no such convention."""
    convention = _named(name)
    places: list[Place] = []
    excluded: dict[str, list[str]] = {}
    for place, kind, work, passes in _works(counts, convention):
        if work is None:
            excluded.setdefault(kind, []).append(place)
        else:
            places.append(Place(place, kind, work.scaled(1 / (counts.images * passes))))
    total = sum((place.work for place in places), NO_WORK)
    return Account(
        name,
        convention.rule,
        convention.source,
        convention.boundary,
        convention.figures(counts, total),
        tuple(places),
        {kind: tuple(names) for kind, names in excluded.items()},
        _priced(name, convention, places),
    )


def accounts(counts: OperationCounts) -> tuple[Account, ...]:
    """A model under every convention."""
    return tuple(account(counts, name) for name in CONVENTIONS)


def energy(counts: OperationCounts, name: str) -> Energy:
    """Energy of an image under the convention `name`.

    Raises InputError where there is no such convention, and where it counts and has no prices.
    """
    found = account(counts, name).energy
    if found is None:
        raise InputError(f"convention '{name}'", "it counts operations and has no prices", "See its figures.")
    return found


def place_energy(account: Account, place: Place) -> float | None:
    """Energy in mJ an image of one place of an account; None where its convention has no prices."""
    convention = _named(account.convention)
    if convention.prices is None:
        return None
    return sum(part.energy.nominal for part in _parts(place.name, place.work, convention.prices))


def _named(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise InputError(f"convention '{name}'", "there is none of that name", f"Known: {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[name]


def _works(counts: OperationCounts, convention: Convention) -> Iterator[tuple[str, str, Work | None, int]]:
    """Name, kind, work, and passes an image that are to be one, of every place over all images; neurons come last."""
    for operation in counts.operations:
        seen = [work for c in operation.counted if (work := convention.work(operation, c)) is not None]
        passes = 1 if not convention.one_pass or _once(operation, counts.images) else counts.time_steps or 1
        yield operation.name, operation.kind, sum(seen, NO_WORK) if seen else None, passes
    for record in counts.neurons:
        yield record.name, "neuron", convention.neurons(record), 1


def _once(operation: Operation, images: int) -> bool:
    """Whether a layer took one input an image: a stem before the image is repeated, a head on the mean of the steps."""
    return operation.kind in LAYERS and sum(c.rows for c in operation.counted) == images


def _priced(name: str, convention: Convention, places: list[Place]) -> Energy | None:
    """The energy, with parts for each kind of place."""
    if convention.prices is None:
        return None
    parts: list[Part] = []
    for kind in dict.fromkeys(place.kind for place in places):
        work = sum((place.work for place in places if place.kind == kind), NO_WORK)
        parts += _parts(kind, work, convention.prices)
    boundaries = {ARITHMETIC: convention.boundary, **({MEMORY: convention.memory} if convention.memory else {})}
    return Energy(name, boundaries, [*boundaries][-1], tuple(parts))


def _parts(name: str, work: Work, prices: tuple[str, str]) -> tuple[Part, ...]:
    multiplied = mac_parts(name, work.macs, *prices) if work.macs else ()
    added = (ac_part(f"{name}: additions of spikes", work.acs),) if work.acs else ()
    moved = (memory_part(f"{name}: bytes read and written", work.bytes),) if work.bytes else ()
    return (*multiplied, *added, *moved)
