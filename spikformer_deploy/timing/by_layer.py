"""Where the time of a step goes, layer by layer: how long the busiest core of each works."""

from __future__ import annotations

from collections.abc import Mapping as Table

import numpy as np

from spikformer_deploy.chips import draws
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.steps import core_ns, loads_ns
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.events import Events, condensed
from spikformer_deploy.network.mapping import SITE, Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.estimate import slice_work

NS_PER_US = 1e3


def busy_us(events: Events, network: Network, mapping: Mapping, profile: Profile) -> Table[str, float]:
    """By layer: nominal us a step, mean over the steps of the mean image, of the core that works longest for it.

    Its sweep, its sending, and its messages with their synapses go on side by side, as in chips/loihi/steps.py; work
    of sub-steps counts as any other.  All layers work at once: these times do not add up to a step, whose barrier,
    runtime and sub-steps come on top.  Raises InputError where the events were counted without a mapping.
    """
    work = slice_work(condensed(events), network, mapping, profile)
    table = latencies(profile, draws.nominal)
    own, arriving = loads_ns(work.own, table), loads_ns(work.arriving, table)
    loads = {**own, "synapses": arriving["synapses"], "messages": arriving["messages"]}
    names = list(dict.fromkeys(site.population for site in mapping.sites))
    number = np.array([names.index(site.population) for site in mapping.sites])[mapping.boxes[:, SITE]]
    # a column for each layer on each core
    pairs, column = np.unique(np.stack([number, mapping.cores]), axis=1, return_inverse=True)
    order = np.argsort(column.ravel(), kind="stable")
    starts = np.flatnonzero(np.diff(column.ravel()[order], prepend=-1))
    shape = (1, *work.slices.synops.shape)
    of_cores = {
        name: np.add.reduceat(np.broadcast_to(ns, shape)[..., order], starts, axis=-1) for name, ns in loads.items()
    }
    mean = core_ns(of_cores).mean((0, 1, 2)) / NS_PER_US
    return {name: float(mean[pairs[0] == i].max()) for i, name in enumerate(names)}
