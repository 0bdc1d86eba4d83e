"""Runs of small networks on random images, with labels, for reports."""

from __future__ import annotations

import numpy as np

from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.run import run
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.pipeline.program import Program
from support.networks import random_images

HOSTILE = '<script>alert("x")</script>&'
"""A name that no page may hold as it is."""


def run_of(network: Network, target: str = "loihi2", labels: tuple[str, ...] = (), timing: str = "estimate") -> Run:
    """Three images, of the classes 0, 1 and 0."""
    profile = load_profile(target)
    channels, height, _ = network.input.shape
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels)
    mapping = map_network(network, profile, {})
    program = Program(network, mapping, profile, preprocess, labels, {"model_sha256": HOSTILE})
    images = random_images(network, 0, 3)
    data = ImageSet(3, np.array([0, 1, 0]), (), "", lambda part: images[part])
    return run(program, data, timing=timing)
