"""Energy of an image under named conventions; no figure is without its name, its boundary and its constants."""

from __future__ import annotations

from spikformer_deploy.accounting import conventions
from spikformer_deploy.accounting.target import Duration, on_target
from spikformer_deploy.accounting.uncertainty import Energy, Part, Range
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.events import Events
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network

__all__ = ["Duration", "Energy", "Part", "Range", "account"]


def account(
    network: Network,
    events: Events,
    mapping: Mapping | None = None,
    profile: Profile | None = None,
    duration: Duration | None = None,
) -> tuple[Energy, ...]:
    """The energy of an image under every convention, in this order:

    spikformer-paper         the paper's constants on exact synaptic operations, a number of spikes as that many
    spikformer-paper-messages  the same, each message once
    spikformer-paper-approx  the same on the paper's approximation, firing rate * T * FLOPs
    syops                    layers that read graded values count as dense MACs
    ann-equivalent-fp32, ann-equivalent-int8   the same layers as an ANN in one pass
    memory-aware, memory-aware-ann-int8        integer arithmetic and memory, of the network and of that ANN
    profile, profile:<corner>                  the target's, by boundary; with mapping, profile and duration
    """
    macs = conventions.first_macs(network)
    dense = conventions.ann_macs(network)
    approximate = conventions.approximate_sops(network, events)
    messages = conventions.message_sops(network, events)
    out = (
        conventions.paper(macs, conventions.exact_sops(network, events)),
        conventions.paper(macs, messages, "spikformer-paper-messages"),
        conventions.paper(macs, approximate, "spikformer-paper-approx"),
        conventions.syops(events),
        conventions.ann(dense, "fp32"),
        conventions.ann(dense, "int8"),
        conventions.memory_aware(network, events),
        conventions.memory_aware_ann(network),
    )
    if mapping is None or profile is None or duration is None:
        return out
    return (*out, *on_target(events, mapping, profile, duration))
