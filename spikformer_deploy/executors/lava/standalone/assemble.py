"""From the description of a network (network.json and weights.npz) to connected Lava Processes.

All Processes work within a time step, only lava.proc.dense sends what came a step ago; a branch that is shorter than
another one waits in a Delay, and a population that is `delay` steps late starts its images that much later.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from lava.proc.dense.process import Dense
from lava.proc.lif.process import LIFReset
from lava.utils.weightutils import SignMode
from processes.attention import Answers, Counters
from processes.convolution import Convolution
from processes.dual_spike import DualSpike
from processes.frames import Frames
from processes.guarded_lif import GuardedLif
from processes.head import Accumulator, Readout
from processes.levels import Levels
from processes.programmable_lif import ProgrammableLif
from processes.recorder import PotentialRecorder, SpikeRecorder
from processes.relay import And, Delay, Or, Stream, Sum
from processes.window import Largest, Window

Description = dict[str, Any]
Arrays = dict[str, np.ndarray]

LIF_SHIFT = 6
"""lava.proc.lif holds v, input and threshold shifted left by this many bits."""
LIF_BITS = 24
"""Of its states: u wraps and v is clipped beyond."""
LARGEST_VTH = 2**17
"""vth of lava.proc.lif has 17 bits: this one, beyond them, is never reached."""


def assemble(network: Description, arrays: Arrays, pixels: np.ndarray, out: str, record: str) -> tuple[Any, int]:
    """(one Process of the network, time steps to run) for `pixels`; results appear in the folder `out`.

    pixels  (batches, images, T or 1, C, Y, X)
    record  "none" (accumulators only), "spikes" (what every population sends) or "all" (potentials too)
    """
    batches, images = pixels.shape[:2]
    populations = {p["name"]: p for p in network["populations"]}
    delays = delays_of(network, images)
    run = {"network": network, "arrays": arrays, "images": images, "delays": delays}
    steps = batches * network["time_steps"]
    processes: dict[str, Any] = {}
    for index, population in enumerate(network["populations"]):
        name = population["name"]
        processes[name] = _source(population, network, pixels) if not index else _neuron(population, **run)
        for projection in (p for p in network["projections"] if p["target"] == name):
            _connect(projection, processes, populations, **run)
        shape, delay = port_shape(population, images), delays[name]
        kept = {"shape": shape, "delay": delay, "steps": steps}
        if record != "none" or population["kind"] == "accumulator":
            recorder = SpikeRecorder(file=os.path.join(out, f"{index}.sent.npy"), **kept)
            processes[name].s_out.connect(recorder.s_in)
        if record == "all" and population["kind"] in ("programmable", "stock", "levels"):
            watch = PotentialRecorder(file=os.path.join(out, f"{index}.potentials.npy"), **kept)
            watch.v.connect_var(processes[name].v)
    return processes[network["populations"][0]["name"]], steps + max(delays.values())


def images_at_once(network: Description, most: int) -> int:
    """Images that go through side by side: one where a lava.proc.dense, which knows no batches, takes part."""
    populations = {p["name"]: p for p in network["populations"]}
    return 1 if any(is_dense(p, populations, 1) for p in network["projections"]) else most


def is_dense(projection: Description, populations: dict[str, Description], images: int) -> bool:
    """Whether lava.proc.dense serves: between single positions, to neurons of Lava's own."""
    source, target = populations[projection["sources"][0]], populations[projection["target"]]
    single = all(p["shape"][1:] == [1, 1] for p in (source, target))
    return bool(images == 1 and single and projection["kind"] == "conv" and projection["dense"])


def delays_of(network: Description, images: int) -> dict[str, int]:
    """Time steps by which each population is behind the input."""
    populations = {p["name"]: p for p in network["populations"]}
    delays = {name: 0 for name in populations}
    for projection in network["projections"]:
        late = max(delays[s] for s in projection["sources"]) + is_dense(projection, populations, images)
        delays[projection["target"]] = max(delays[projection["target"]], late)
    return delays


def port_shape(population: Description, images: int) -> tuple[int, ...]:
    """(images, Y, X, C); (C,) for one position of one image."""
    channels, height, width = population["shape"]
    return (channels,) if (images, height, width) == (1, 1, 1) else (images, height, width, channels)


def _map_shape(population: Description, images: int) -> tuple[int, ...]:
    channels, height, width = population["shape"]
    return images, height, width, channels


def _source(population: Description, network: Description, pixels: np.ndarray) -> Any:
    # (batches, T or 1, images, Y, X, C)
    data = np.ascontiguousarray(pixels.transpose(0, 2, 1, 4, 5, 3))
    shape = port_shape(population, pixels.shape[1])
    return Frames(shape=shape, data=data.reshape(*data.shape[:2], *shape), time_steps=network["time_steps"])


def _neuron(population: Description, network: Description, arrays: Arrays, images: int, delays: dict[str, int]) -> Any:
    shape, steps, delay = port_shape(population, images), network["time_steps"], delays[population["name"]]
    match population["kind"]:
        case "or":
            return Or(shape=shape)
        case "sum" | "max":  # of its one window, the largest has been found before
            return Sum(shape=shape)
        case "and":
            return And(shape=shape, inputs=population["inputs"])
        case "stream":
            bias = _over_ports(arrays[population["bias"]], shape)
            return Stream(
                shape=shape, bias=bias, drop=population["drop"], largest=population["largest"], layer=population["name"]
            )
        case "accumulator":
            bias = _over_ports(arrays[population["bias"]], shape)
            # one that forgets starts anew in every step
            return Accumulator(shape=shape, bias=bias, time_steps=1 if population["last"] else steps, delay=delay)
        case "programmable":
            return ProgrammableLif(
                shape=shape,
                decay=population["decay"],
                bias=_over_ports(arrays[population["bias"]], shape),
                threshold=arrays[population["threshold"]],
                time_steps=steps,
                delay=delay,
                state_bits=network["state_bits"],
                soft=population["soft"],
                strict=population["strict"],
                layer=population["name"],
            )
        case "levels":
            return Levels(
                shape=shape,
                decay=population["decay"],
                bias=_over_ports(arrays[population["bias"]], shape),
                levels=arrays[population["levels"]],
                reset=arrays[population["reset"]],
                time_steps=steps,
                delay=delay,
                state_bits=network["state_bits"],
                layer=population["name"],
            )
        case "stock":
            return _stock(population, network, arrays, shape, (delay + 1) % steps)
        case kind:
            raise ValueError(f"{population['name']}: there is no Process for neurons of kind '{kind}'")


def _stock(
    population: Description, network: Description, arrays: Arrays, shape: tuple[int, ...], reset_offset: int
) -> Any:
    """Lava's own LIF; guarded where the program's ranges are not proven to fit its 24 bits."""
    parameters = {
        "shape": shape,
        "du": 4095 - population["current"],
        "dv": 4096 - population["decay"],
        "bias_mant": _over_ports(arrays[population["bias"]], shape),
        "bias_exp": LIF_SHIFT,
        "vth": np.minimum(arrays[population["threshold"]], LARGEST_VTH),
        "reset_interval": network["time_steps"],
        "reset_offset": reset_offset,
    }
    if network["bounds"] == "static" and network["state_bits"] <= LIF_BITS:
        return LIFReset(**parameters)
    limit = 2 ** (min(network["state_bits"], LIF_BITS) - 1) - 1
    return GuardedLif(limit=limit, layer=population["name"], **parameters)


def _over_ports(bias: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A bias (C,) or (C, Y, X) as an array of the shape of the ports."""
    last = bias if bias.ndim == 1 else bias.transpose(1, 2, 0)
    return np.broadcast_to(last.reshape(-1) if len(shape) == 1 else last, shape).astype(np.int32)


def _connect(
    projection: Description,
    processes: dict[str, Any],
    populations: dict[str, Description],
    network: Description,
    arrays: Arrays,
    images: int,
    delays: dict[str, int],
) -> None:
    """Put the synapses of one projection between its source and its target."""
    target = processes[projection["target"]]
    due = delays[projection["target"]] - is_dense(projection, populations, images)
    ports = []
    for name in projection["sources"]:
        port = processes[name].s_out
        if delays[name] < due:
            waiting = Delay(shape=port.shape, steps=due - delays[name])
            port.connect(waiting.a_in)
            port = waiting.s_out
        ports.append(port)
    entries: tuple[Any, ...]
    if projection["kind"] == "attention":
        entries, out = _attention(projection, populations, images)
    else:
        synapse = _synapse(projection, populations, arrays, images)
        if synapse is None:
            ports[0].connect(target.a_in)
            return
        entries = (synapse.y_in, synapse.s_in) if projection["kind"] == "dual_spike" else (synapse.s_in,)
        out = synapse.a_out
    for port, entry in zip(ports, entries, strict=True):
        port.connect(entry)
    out.connect(target.a_in)


def _attention(
    projection: Description, populations: dict[str, Description], images: int
) -> tuple[tuple[Any, Any, Any], Any]:
    """The ports of an attention for q, k and v, and that of what goes out: its counters, and the sums of their answers.

    The first source is q: k has its shape, and v the target's.
    """
    source, target = populations[projection["sources"][0]], populations[projection["target"]]
    shapes = port_shape(source, images), port_shape(target, images)
    way = {key: projection[key] for key in ("heads", "serial", "copies")}
    way["maps"] = _map_shape(source, images), _map_shape(target, images)
    counters = Counters(shapes=shapes, **way)
    answers = Answers(shape=shapes[1], weight=projection["factor"], shift=target["shift"], **way)
    counters.answers_out.connect(answers.answers_in)
    return (counters.q_in, counters.k_in, counters.v_in), answers.a_out


def _synapse(projection: Description, populations: dict[str, Description], arrays: Arrays, images: int) -> Any:
    """The Process of a projection; None where the source's messages are the target's input as they are."""
    source, target = populations[projection["sources"][0]], populations[projection["target"]]
    shapes = port_shape(source, images), port_shape(target, images)
    maps = _map_shape(source, images), _map_shape(target, images)
    match projection["kind"]:
        case "conv" if is_dense(projection, populations, images):
            return _dense(projection, source, target, arrays)
        case "conv":
            return Convolution(
                shapes=shapes,
                maps=maps,
                weight=arrays[projection["weight"]].astype(projection["float"]),
                stride=tuple(projection["stride"]),
                padding=tuple(projection["padding"]),
                groups=projection["groups"],
                shift=target["shift"] + projection["shift"],
            )
        case "window" | "largest":
            geometry = {key: tuple(projection[key]) for key in ("kernel", "stride", "padding", "offset")}
            if tuple(geometry.values()) == ((1, 1), (1, 1), (0, 0), (0, 0)) and not target["shift"]:
                return None
            kind = Window if projection["kind"] == "window" else Largest
            return kind(shapes=shapes, maps=maps, shift=target["shift"], **geometry)
        case "dual_spike":
            spikes = populations[projection["sources"][1]]
            return DualSpike(
                shapes=(shapes[0], port_shape(spikes, images), shapes[1]),
                maps=(maps[0], _map_shape(spikes, images), maps[1]),
                heads=projection["heads"],
                over_tokens=projection["over_tokens"],
                shift=target["shift"],
                kind=projection["float"],
            )
        case "readout":
            return Readout(shapes=shapes, maps=maps[0], weight=arrays[projection["weight"]].astype(np.float64))
        case kind:
            raise ValueError(f"{projection['target']}: there is no Process for synapses of kind '{kind}'")


def _dense(projection: Description, source: Description, target: Description, arrays: Arrays) -> Any:
    """lava.proc.dense drops the lowest bit of weights of both signs: they are doubled, and the sum is halved again."""
    weight = arrays[projection["weight"]]
    return Dense(
        weights=2 * weight.reshape(weight.shape[:2]).astype(np.int32),
        weight_exp=target["shift"] + projection["shift"] - 1,
        num_message_bits=0 if source["largest"] == 1 else 24,
        sign_mode=SignMode.MIXED,
    )
