"""The closed form of a step as plain loops over slices and cores: the twin of timing/estimate.py."""

from collections import defaultdict

from spikformer_deploy.chips.loihi.microcode import RELAY, counter_program, program_of
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.events import Events
from spikformer_deploy.network.mapping import Mapping, Site
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Window


def synapse_ns(network: Network, site: Site, profile: Profile) -> float:
    """Of one synaptic operation at a site."""
    time = profile.time
    incoming = [projection.synapse for projection in network.into(site.population)]
    if site.kind == "attention":
        return time.synapse_dense.value
    if not incoming or any(isinstance(synapse, Conv) for synapse in incoming):
        return time.synapse_conv.value
    dense = all(isinstance(synapse, Readout) for synapse in incoming)
    return time.synapse_dense.value if dense else time.synapse_sparse.value


def visit_ns(network: Network, site: Site, profile: Profile) -> float:
    """Of a visit to a neuron of a site that has something to do."""
    time = profile.time
    if not profile.core.programmable.value:
        return time.neuron_update.value
    neuron = network[site.population].neuron
    windows = [p.synapse for p in network.into(site.population) if isinstance(p.synapse, Window)]
    positions = max((w.kernel[0] * w.kernel[1] for w in windows), default=0)
    most = max((network[s].max_out for p in network.into(site.population) for s in p.sources), default=1)
    programs = {"attention": counter_program(most, site.copies), "partial": RELAY}
    program = programs[site.kind] if site.kind in programs else program_of(neuron, positions)
    if program is None:
        return time.neuron_update.value
    return max(program.share * time.neuron_programmable.value, time.neuron_idle.value)


def _all_tokens_first(mapping: Mapping, projection: Projection, source: str) -> bool:
    """Whether tokens come in series to a population whose channels then go to counters in series."""
    if not isinstance(projection.synapse, Attention):
        return False
    counters = [s.serial for s in mapping.sites if (s.kind, s.population) == ("attention", projection.target)]
    return counters == ["channels"] and any(s.token_serial for s in mapping.sites if s.population == source)


def plain_step(
    events: Events, network: Network, mapping: Mapping, profile: Profile, barrier: float, n: int, step: int
) -> tuple[float, float]:
    """(pipelined, fall-through) nominal ns of chip-wide step `step` of image n, without links; barrier in ns."""
    slices = events.slices
    assert slices is not None
    time = profile.time
    steps = network.time_steps
    level = {}
    for population in network:
        name = population.name
        into = [(p, s) for p in network.into(name) for s in p.sources]
        level[name] = max((level[s] + 1 + _all_tokens_first(mapping, p, s) for p, s in into), default=0)
    waits = {s.population: s.sub_steps + 1 for s in mapping.sites if s.kind == "attention"}
    end = barrier + time.step_runtime.value

    def work(s: int, t_own: int, t_arriving: int) -> tuple[float, float, float]:
        """Sweep, sending and service of a slice."""
        site = mapping.sites[slices.sites[s]]
        idle = slices.idle[n, t_own, s]
        sweep = (slices.neurons[s] - idle) * visit_ns(network, site, profile) + idle * time.neuron_idle.value
        sweep += slices.spikes[n, t_own, s] * time.spike_out.value
        service = slices.synops[n, t_arriving, s] * synapse_ns(network, site, profile)
        service += slices.messages_in[n, t_arriving, s] * time.axon_in.value
        return sweep, slices.messages_out[n, t_own, s] * time.axon_out.value, service

    swept = defaultdict(int)
    busy = defaultdict(lambda: defaultdict(float))
    for s, core in enumerate(slices.cores.tolist()):
        site = mapping.sites[slices.sites[s]]
        depth = level[site.population]
        sweep, sending, service = work(s, (step - depth) % steps, (step - depth + 1) % steps)
        in_turn = site.sub_steps > 0
        hears_in_turn = in_turn or site.population in waits
        busy["sweep", in_turn][core] += sweep
        busy["sending", in_turn][core] += sending
        busy["service", hears_in_turn][core] += service
        c0, c1, y0, y1, x0, x1 = mapping.boxes[s, 1:].tolist()
        swept[core] += (c1 - c0) * (1 if site.token_serial else (y1 - y0) * (x1 - x0))
        # falling through, the layer above is served in the step in which this one sends
        sweep, sending, service = work(s, step, step)
        busy["falling sweep", depth][core] += sweep
        busy["falling sending", depth][core] += sending
        busy["falling service", depth - 1][core] += service

    def in_step(site: Site, depth: int) -> bool:
        """Whether the sub-steps of a site follow the step in which the layer at a depth alone works."""
        if not site.token_serial:
            return level[site.population] == depth + 1
        ordinary = [p for p in network.into(site.population) if not isinstance(p.synapse, Attention)]
        return depth in {level[site.population], *(level[s] for p in ordinary for s in p.sources)}

    def most(*key: object) -> float:
        return max(busy[key].values(), default=0.0)

    pause = max(swept.values()) * time.neuron_idle.value + end
    sub_steps = [s.sub_steps + (s.kind == "attention") for s in mapping.sites]
    at_once, later = (max(most(name, turn) for name in ("sweep", "sending", "service")) for turn in (False, True))
    pipelined = at_once + end + max(sub_steps, default=0) * pause + later
    passing = 0.0
    for depth in range(max(level.values()) + 1):
        own = max(most(f"falling {name}", depth) for name in ("sweep", "sending", "service"))
        more = max((n for site, n in zip(mapping.sites, sub_steps, strict=True) if in_step(site, depth)), default=0)
        passing += max(own + end, pause) + more * pause
    return pipelined, passing
