"""What an engineer with access to a chip reads first: layers, cores, microcode, and expected spikes, as files.

They go into the folder that `export --to lava` writes, beside the scripts that run the program on a CPU.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import printable
from spikformer_deploy.base.formats import RANDOM, RANDOM_NOTE
from spikformer_deploy.base.json_text import written
from spikformer_deploy.base.words import counted
from spikformer_deploy.chips.loihi.microcode import operand_bits
from spikformer_deploy.chips.loihi.sites import program_at
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Request
from spikformer_deploy.executors.lava.export import images_of, process_of, summary_of
from spikformer_deploy.network.heads import heads_into
from spikformer_deploy.network.mapping import OPERANDS, SECTIONS, Mapping, Site
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Lif, Max, kind_of
from spikformer_deploy.network.synapses import Attention
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.layout import depths

EXPECTED_IMAGES = 10
"""Enough to see every layer fire, few enough for a folder that is sent around."""

README = """\
**What this is not: it holds no NeuroCore models and no microcode. It runs in Lava on a CPU, and on no chip as it is.**

# {name}: a spiking network for {target}

{summary}
{warnings}Everything here is integers: every spike and every potential is that of the program that was exported. Intel's
compiler, its NeuroCore models and its microcode come with access to the hardware; this says what they have to do.

## Run it on a CPU

    pip install numpy scipy scikit-learn networkx asteval
    pip install --no-deps --ignore-requires-python lava-nc==0.10.0
    python run.py IMAGES.npy -o results/ --record spikes

IMAGES.npy is a file of yours: unsigned integers {images}; pixels are taken as they are.
`results/layers.json` says which file has the spikes of which layer (`sent`), and in which order of axes.

## Check it against expected spikes

{expected}
## Processes

*Process*: its class in Lava, in `processes/` where Lava has none. *Instructions*: of the program that a core would run
for a neuron that works{works}; "fixed" is a LIF whose function is
built into the chip. *Words*: the most that one of its cores holds, of {words:,} words of 64 bits. *Level*: layers on
the longest way from the images to this one.

| layer | | level | shape | Process | neuron | instructions | cores | most words a core |
|--:|---|--:|---|---|---|--:|--:|--:|
{processes}

## Levels, and what has to wait

In Lava here all Processes receive and send in the same time step. On a chip a spike that is sent in one time step
arrives in the next, so that in its step s the layer at level l works on time step s - l of the images{per_step}.
An image begins for that layer l steps after its first frame: its states are set to 0 then.{partial}
{waiting}
{turns}
## Microcode that is needed

In the instructions that Intel's Loihi 2 technology brief of 2021 names, one a line: a specification, not a binary. `a`
is what has arrived since the neuron last worked, added up; of a `max`, which must not add, `a0`, `a1`, ... are what
arrived from each position of its window, each in a sum of its own (the memory counts a word for each). Positions beyond
the border are left out, and are no zeros: a neuron there compares those that it has. `v` is the potential, `sub_step`
counts the time steps of the chip within one of the network.

{microcode}

{attention}## Which core holds what

{cores} on {chips} of `{target}`, with {per_chip:,} cores a chip for programs. `mapping.json` has a record
of each box of neurons: chip and core, the site (a layer, the counters of an attention, or partial sums), the channels,
rows and columns [first, end) that stand there, its `offset` (the neurons of the same core before it; within a box they
are numbered channel by channel, row by row) and the words of each section of the memory. Chip c stands in column
c mod {columns}, row c // {columns} of the board that the mapping had in mind; some places may be empty. Cores count
from 0 in each chip. Which physical core that is, Intel's tools say. The estimates of memory are fitted to what its
compiler printed.

Of a site, `kind` is "population" (the neurons of a layer; where an attention leads to it, they sum up what its
counters answer), "attention" (the counters of the one that leads to `population`) or "partial" (partial sums of it),
and `process` its Processes in Lava. `part` is the range of source channels whose synapses stand there, where a fan-in
is split ([0, 0]: all); `sub_steps` how many time steps of the chip one of the network takes it beyond the ordinary one
(in one more, counters answer last); `serial` what comes one after the other in them, "tokens" or "channels" (else "");
`copy` which of the `copies` of an attention's counters it is.

## Files

network.json describes populations and synapses, weights.npz holds their integers, assemble.py makes Lava Processes of
both, processes/ has those that Lava itself lacks, each with its fixed-point model for CPUs.

## An image

All states, `v` and the currents of LIFs that have one, are 0 before every image. Each accumulator of the head starts
every image at its bias, once, and adds up over all time steps; one with `last` starts every time step at its bias. The
class is that of the largest accumulator * scale.

## network.json

A text "POPULATION.KEY" or "PROJECTION.KEY" in place of numbers names an array of weights.npz. Arrays have their axes in
C order, channels C first, then rows Y, then columns X. A LIF is of the kind `programmable` or `stock`.

| key | of | what |
|---|---|---|
| time_steps, state_bits | network | T; bits of every state, the sign among them |
| bounds | network | `static`: the ranges of states are proven; `observed`: only seen, so that a run checks |
| name, shape | population | unique; [C, Y, X] |
| kind | population | `source`, `programmable`, `stock`, `levels`, `or`, `sum`, `max`, `and`, `stream`, `accumulator` |
| largest | population | the largest magnitude that it sends in a time step |
| max_value, per_step | source | the largest pixel; whether there is a frame for every time step |
| shift | LIF, levels | fractional bits of what arrives: a sum is shifted left by it |
| decay, current | LIF, levels | v keeps decay / 4096 a time step, the current of a stock LIF current / 4096 |
| threshold, bias | LIF | (C,); (C,) or (C, Y, X) |
| soft | LIF | a spike takes the threshold off; else v becomes 0 |
| strict | LIF | it fires above its threshold, not at it, and the decay rounds up |
| exact | LIF, levels | no time step rounds v: for people |
| levels, reset | levels | (C, D), ascending; (C,), what each unit that is sent takes off |
| rounding | levels | how the model rounds: for people |
| inputs | and | how many of its sources must fire |
| drop | stream | bits that are rounded away, halves up |
| scale, last | accumulator | (C,) logit = accumulator * scale; whether it forgets before every time step |
| sources, target | projection | names; of `attention` q, k, v, of `dual_spike` y, s |
| kind | projection | `conv`, `window` (sums), `largest` (maxima), `readout`, `attention`, `dual_spike` |
| weight | conv | (C_out, C_in / groups, KY, KX), a cross-correlation with zero padding; groups are runs of channels |
| weight | readout | (O, C), from every position of channel C to target O |
| stride, padding, kernel, offset | conv, window, largest | [y, x] each; offset moves every window |
| padding | window, largest | beyond the border there are zeros, and for `largest` nothing: it is left out |
| groups, shift | conv | a synapse weighs weight * 2^shift |
| heads, factor | attention | heads are runs of channels; factor multiplies the product |
| serial, copies | attention | the way that its counters work in, as of a site |
| heads, over_tokens | dual_spike | as there; whether the product is taken over tokens |
| float, dense | projection | for assemble.py: which floats hold its sums, whether lava.proc.dense may serve |
"""

ATTENTION = """\
## The counters of attention

A time step of the network in which an attention works has sub-steps, each a time step of the chip: what is sent in one
arrives in the next. For its counters `sub_step` is 0 where the first turn arrives. Where they have several
copies, each takes a share of both rounds, and sums are exchanged between the rounds: the home of a counter is the copy
whose number is its column modulo the copies; `home` is 1 there, and 0 in the others.

| counters | sums at | of q, k, v | shape | first round | second round | copies | both turns | `due`, away and at home |
|---|---|---|---|---|---|--:|--:|--:|
{rows}

- First round, turn t of copy g: both operands of item g * turns + t, while there are any, arrive at its counters in
  sub-step t, with weights {first} and {second}.
- `due`: a counter away from its home sends its sum in that sub-step, with weight {exchange}, to the counter of the same
  place in its home, which sends the whole sum to all other copies a sub-step later.
- Second round, turn t of copy g: the third operand of item g * turns + t arrives in sub-step t + the turns of the first
  round, one later where there are copies, with weight {third}. Each counter that it reaches answers in that visit with
  its sum (times the operand, of integers), to one neuron.
- {tokens}
- {channels}
- In Lava here, sub-steps are passes of loops within a time step, in `processes/attention.py`: `Counters` are all copies
  of the counters, and `Answers` the sums of what they answer, which on a chip the neurons of the layer do. The Vars of
  `Counters` say, of each sub-step of its last time step, how many operations arrive there (`arrived`) and how many
  messages counters send (`sent`, zeros among them): sums over the images that go side by side.

"""
OVER_TOKENS = """\
over tokens: the counter (channel c of k, column x) of a head adds k[c, n] * v[x, n]; to q[c, n] answer the counters
  of its row, to channel x of the layer at token n."""
OVER_CHANNELS = """\
over channels: the counter (head, token n, token m) adds q[n, c] * k[m, c]; to v[m, c] answer the counters of its
  column, to channel c of the layer at token n."""

WAITING = """\
What skips levels, a residual branch, would arrive before what it is added to: it has to wait, in delays of the synapses
or in relays, for up to {most} time steps of the chip. Neither the estimates of memory nor those of time and energy
count what that takes.

| from | to | waits for steps of the network |
|---|---|--:|
{lines}
"""

PARTIAL = """
Partial sums take a time step of the chip to arrive where the others are added up: that neuron has to work later by as
much, which neither these levels nor any estimate count."""
TURNS = """
## Who works when

A step of the network is {steps} time steps of the chip: number 0, and the sub-steps 1 to {last}. The chip visits every
neuron in each of them; a visit that this table does not name changes nothing, neither `v` nor what is gathered in `a`,
and sends nothing.

| neurons | from | to | what they do |
|---|--:|--:|---|
{rows}

"""
"""Of programs with sub-steps."""

WITH_IMAGES = """\
`expected/images.npy` holds {count} images; `expected/spikes.npz` what every layer sends for them, (images, T, C, Y, X),
layer 3 of the table below under `layer3`; `expected/accumulators.npy` what each class has gathered.

    python run.py expected/images.npy -o results/ --record spikes
    python check.py results/

`check.py` compares every value of every layer, and says where the first one differs. Results of the first few of these
images will do.
"""
WITHOUT_IMAGES = """\
There are none here: the program was exported without images. Export it again with some, and the first {count} come
along with the spikes of every layer:

    spikdeploy export PROGRAM.spk --to lava --input IMAGES -o FOLDER/
"""


def board_files(program: Program, name: str, images: np.ndarray | None) -> dict[str, bytes]:
    """README.md, mapping.json and, where there are images, expected/...: path in the folder -> content.

    name    of the program, for the title
    images  (N, C, Y, X) or (N, T, C, Y, X) unsigned pixels, N at most EXPECTED_IMAGES
    Raises OverflowDetected where an image leaves the range that the program was calibrated for.
    """
    files = {"README.md": _readme(program, name, images).encode(), "mapping.json": _mapping(program).encode()}
    return files if images is None else files | _expected(program.network, images)


def _expected(network: Network, images: np.ndarray) -> dict[str, bytes]:
    """The images, and what comes of them by the engine."""
    executor = prepare("engine", Request(network))
    names = [population.name for population in network.populations[:-1]]
    parts = [executor.execute(images[start : start + 1], record=names) for start in range(len(images))]
    spikes = {name: _smallest(np.concatenate([part.spikes[name] for part in parts])) for name in names}
    accumulators = np.concatenate([part.accumulators for part in parts])
    # an archive's members have names of their own: layers may be called anything
    layers = {f"layer{number}": values for number, values in enumerate(spikes.values())}
    return {
        "expected/images.npy": _npy(images),
        "expected/accumulators.npy": _npy(accumulators),
        "expected/spikes.npz": _npz(layers),
    }


def _smallest(values: np.ndarray) -> np.ndarray:
    """The same integers in the narrowest type that holds them."""
    return values.astype(np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


# --- README.md ---------------------------------------------------------------------------------------------------


def _readme(program: Program, name: str, images: np.ndarray | None) -> str:
    network, mapping, profile = program.network, program.mapping, program.profile
    checked = WITHOUT_IMAGES.format(count=EXPECTED_IMAGES) if images is None else WITH_IMAGES.format(count=len(images))
    return README.format(
        name=_cell(name),
        target=_cell(profile.name),
        summary=summary_of(network),
        warnings="".join(f"**{warning}**\n" for warning in _warnings(program)),
        images=images_of(network),
        expected=checked,
        words=int(profile.core.memory_words),
        processes="\n".join(_row(program, site) for site in _first_copies(mapping)),
        works="" if not mapping.chip_sub_steps else " (once a step of the network, but for counters: below)",
        partial=PARTIAL if any(site.kind == "partial" for site in mapping.sites) else "",
        turns=_turns(program),
        per_step=f"; a step is {1 + mapping.chip_sub_steps} time steps of the chip" if mapping.chip_sub_steps else "",
        waiting=_waiting(program),
        microcode=_microcode(program),
        attention=_attention(program),
        cores=counted(mapping.cores_used, "core"),
        chips=counted(mapping.chips, "chip"),
        per_chip=mapping.cores_per_chip,
        columns=int(profile.board.columns),
    )


def _warnings(program: Program) -> Iterator[str]:
    """What a port has to know before all else."""
    if RANDOM in program.provenance.get("training", {}):
        yield f"{RANDOM_NOTE[0].upper()}{RANDOM_NOTE[1:]}."
    if program.network.bounds == "observed":
        bits = program.network.state_bits
        yield f"Not all states are proven to fit {bits} bits: some ranges were only observed; images may leave them."


def _first_copies(mapping: Mapping) -> list[Site]:
    """The sites, of counters that there are several times the first ones."""
    return [site for site in mapping.sites if site.copy == 0]


def _row(program: Program, site: Site) -> str:
    """The line of a site in the table of processes; copies of counters are one line."""
    network, mapping = program.network, program.mapping
    population = network[site.population]
    all_copies = [n for n, s in enumerate(mapping.sites) if _whose(s) == _whose(site)]
    cores = np.unique(np.concatenate([mapping.cores[mapping.slices_of(number)] for number in all_copies]))
    code = program_at(network, site, program.profile.core)
    neuron = _neuron(population)
    if site.kind == "attention":
        neuron = "counters" + f", {site.copies} copies" * (site.copies > 1)
    if site.kind == "partial":
        neuron = "partial sums"
    cells = (
        str([p.name for p in network].index(site.population)),
        _cell(site.name),
        str(depths(network, mapping)[site.population]),
        "x".join(map(str, site.shape)),
        _process(network, site),
        neuron,
        "fixed" if code is None else str(code.length),
        f"{len(cores):,}",
        f"{_words_by_core(program)[cores].max():,}",
    )
    return f"| {' | '.join(cells)} |"


def _process(network: Network, site: Site) -> str:
    """The Processes in Lava that are a site; those of synapses where they add up what a chip's neurons do."""
    if site.kind == "attention":
        return "Counters"
    if site.kind == "partial":
        return "none: its port adds up"
    population = network[site.population]
    if isinstance(population.neuron, Max):
        return "Largest, Sum"
    attended = any(isinstance(p.synapse, Attention) for p in network.into(population.name))
    return "Answers, " * attended + process_of(network, population)


def _waiting(program: Program) -> str:
    """What arrives early at which layer, by how many time steps of the network."""
    network, levels = program.network, depths(program.network, program.mapping)
    early = {
        (source, projection.target): wait
        for projection in network.projections
        for source in projection.sources
        if (wait := levels[projection.target] - levels[source] - 1)
    }
    if not early:
        return "Nothing skips a level here, so that nothing has to wait."
    most = max(early.values()) * (1 + program.mapping.chip_sub_steps)
    lines = "\n".join(f"| {_cell(source)} | {_cell(target)} | {wait} |" for (source, target), wait in early.items())
    return WAITING.format(most=most, lines=lines)


def _turns(program: Program) -> str:
    """Who works in which time step of the chip; empty where one of the network is one of the chip."""
    mapping = program.mapping
    if not mapping.chip_sub_steps:
        return ""
    in_series = {site.population for site in mapping.sites if site.token_serial}
    later = ", and to layers whose tokens come in series," * bool(in_series)
    alone = in_series or any(site.serial == OPERANDS for site in mapping.sites)
    others = "all but counters" + " and layers that run their program in sub-steps" * bool(alone)
    rows = [
        f"| {others} | 0 | 0 | run their program once, on all that has arrived since the last 0; "
        f"what fires sends to layers now, and what it has for counters{later} in its turn |"
    ]
    for site in _first_copies(mapping):
        if site.kind == "attention":
            rows += _turns_of_counters(program.network, site, in_series)
        elif site.token_serial:
            what = "run their program for token n in n + 1, and send in the same visit"
            rows.append(f"| {_cell(site.name)} | 1 | {site.sub_steps} | {what} |")
        elif site.sub_steps:
            rows.append(f"| {_cell(site.name)} | 1 | {site.sub_steps} | a pair of factors each: run their program |")
    return TURNS.format(steps=1 + mapping.chip_sub_steps, last=mapping.chip_sub_steps, rows="\n".join(rows))


def _turns_of_counters(network: Network, site: Site, in_series: set[str]) -> Iterator[str]:
    """The lines of one attention: its operands, and its counters.

    in_series  layers whose tokens come in series, where a channel's turn needs all of them: a step later
    """
    first, second = heads_into(network, site.population).turns(site.serial, site.copies)
    begin = 1 + first + (site.copies > 1)
    q, k, v = _operands(network, site)
    counters = _cell(site.name)
    for sources, start, turns in (
        ((k, v) if site.serial == "tokens" else (q, k), 1, first),
        ((q,) if site.serial == "tokens" else (v,), begin, second),
    ):
        for source in dict.fromkeys(sources):
            found = "in 0"
            if site.serial == "channels" and not in_series.isdisjoint((q, k, v)):
                found = "in the step of the network before"
            elif source in in_series:
                found = "in their token's visit"
            what = f"send to {counters}, each in its turn, what they found {found}"
            yield f"| {_cell(source)} | {start} | {start + turns - 1} | {what} |"
    yield (
        f"| {counters} | 2 | {begin + second} | run their program in each, on what was sent in the one before; "
        "their `sub_step` is this number less 2 |"
    )


def _operands(network: Network, site: Site) -> tuple[str, ...]:
    """q, k and v of the attention of these counters."""
    return next(p.sources for p in network.into(site.population) if isinstance(p.synapse, Attention))


def _whose(site: Site) -> tuple[str, str, tuple[int, int]]:
    return site.kind, site.population, site.part


def _words_by_core(program: Program) -> Int:
    """Words that each core holds, by its number; a core may hold boxes of several sites."""
    mapping = program.mapping
    words = np.zeros(mapping.cores.max() + 1, np.int64)
    np.add.at(words, mapping.cores, mapping.words.sum(1))
    return words


def _neuron(population: Population) -> str:
    match population.neuron:
        case Lif() as lif:
            return f"LIF, {lif.kind.value}" + ", soft reset" * lif.soft + ", strict" * lif.strict
        case neuron:
            return kind_of(neuron)


def _microcode(program: Program) -> str:
    """Every program that is needed, with the layers that run it."""
    layers: dict[tuple[str, ...], list[str]] = {}
    for site in _first_copies(program.mapping):
        code = program_at(program.network, site, program.profile.core)
        if code is not None:
            layers.setdefault(code.lines, []).append(site.name)
    if not layers:
        return f"None: the cores of `{_cell(program.profile.name)}` have neurons of fixed function alone."
    return "\n".join(_listing(lines, names) for lines, names in layers.items())


def _attention(program: Program) -> str:
    """What the counters of attention are sent when, as their microcode expects it; empty where there are none."""
    counters = [site for site in _first_copies(program.mapping) if site.kind == "attention"]
    if not counters:
        return ""
    # all attentions of a network send integers, or none does
    most = max(max(heads_into(program.network, site.population).most) for site in counters)
    bits = most.bit_length()
    weights = {"first": 1, "second": 1, "third": 4} if most == 1 else {"first": 1, "second": 2**bits, "third": 4**bits}
    ways = {site.serial for site in counters}
    return ATTENTION.format(
        rows="\n".join(_counters(program.network, site) for site in counters),
        exchange=2 ** operand_bits(most),
        tokens=OVER_TOKENS if "tokens" in ways else "None goes over tokens here.",
        channels=OVER_CHANNELS if "channels" in ways else "None goes over channels here.",
        **weights,
    )


def _counters(network: Network, site: Site) -> str:
    """The line of the counters of one attention."""
    heads = heads_into(network, site.population)
    first, second = heads.turns(site.serial, site.copies)
    sources = _operands(network, site)
    over = "tokens" if site.serial == "tokens" else "channels of a head"
    operands = ("k and v", "q") if site.serial == "tokens" else ("k and q", "v")
    counts = heads.rounds(site.serial)
    cells = (
        _cell(site.name),
        _cell(site.population),
        _cell(", ".join(sources)),
        "x".join(map(str, heads.counters(site.serial))),
        f"{operands[0]}, {counts[0]} {over}",
        f"{operands[1]}, {counts[1]} {over}",
        str(site.copies),
        f"{first}, {second}",
        f"{first - 1}, {first}" if site.copies > 1 else "none",
    )
    return f"| {' | '.join(cells)} |"


def _listing(lines: tuple[str, ...], names: list[str]) -> str:
    return f"{', '.join(map(_cell, names))}:\n\n" + "".join(f"    {line}\n" for line in lines)


def _cell(text: str) -> str:
    """A name as a cell of a table: it may hold anything."""
    return printable(text).replace("\n", " ").replace("|", "\\|").replace("`", "'")


# --- mapping.json ------------------------------------------------------------------------------------------------


def _mapping(program: Program) -> str:
    network, mapping = program.network, program.mapping
    about = {
        "target": program.profile.name,
        "chips": mapping.chips,
        "cores_per_chip": mapping.cores_per_chip,
        "words_per_core": int(program.profile.core.memory_words),
        "sites": [
            {**asdict(site), "shape": list(site.shape), "part": list(site.part), "process": _process(network, site)}
            for site in mapping.sites
        ],
        "boxes": list(_boxes(program)),
    }
    return written(about, indent=1) + "\n"


def _boxes(program: Program) -> Iterator[dict[str, Any]]:
    """A record for each box, in the order of the mapping."""
    mapping = program.mapping
    before: dict[int, int] = {}
    for box, core, words in zip(mapping.boxes.tolist(), mapping.cores.tolist(), mapping.words.tolist(), strict=True):
        site, *edges = box
        ranges = {axis: edges[2 * i : 2 * i + 2] for i, axis in enumerate(("channels", "rows", "columns"))}
        neurons = int(np.prod([end - first for first, end in ranges.values()]))
        yield {
            "chip": core // mapping.cores_per_chip,
            "core": core % mapping.cores_per_chip,
            "site": mapping.sites[site].name,
            **ranges,
            "offset": before.get(core, 0),
            "neurons": neurons,
            "words": dict(zip(SECTIONS, words, strict=True)),
        }
        before[core] = before.get(core, 0) + neurons
