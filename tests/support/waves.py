"""What the messages of waves add up to."""

import numpy as np

from spikformer_deploy.timing.traffic import Traffic
from spikformer_deploy.timing.wave import Wave


def totals(traffic: Traffic, waves: list[Wave]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cores,) messages sent, messages received and synaptic operations, of all the waves."""
    sent = np.zeros(traffic.cores, np.int64)
    received = np.zeros(traffic.cores, np.int64)
    synops = np.zeros(traffic.cores, np.int64)
    for wave in waves:
        source = np.repeat(np.arange(traffic.cores), np.diff(wave.first))
        for core, (first, end) in zip(source.tolist(), wave.routes.tolist(), strict=True):
            sent[core] += end - first
            np.add.at(received, traffic.routes.target[first:end], 1)
            np.add.at(synops, traffic.routes.target[first:end], traffic.routes.synops[first:end])
    return sent, received, synops
