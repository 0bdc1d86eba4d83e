"""Random mappings of small networks: any boxes on any cores, nothing that a chip's limits would have to say about."""

from __future__ import annotations

import numpy as np

from spikformer_deploy.network.heads import factors_of, product_into
from spikformer_deploy.network.mapping import OPERANDS, SECTIONS, Mapping, Site
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Attention


def random_mapping(network: Network, seed: int, copies: int = 0) -> Mapping:
    """Every population and attention cut into a grid of boxes; some cores hold several slices.

    copies  of attention counters, where there are turns for as many; 0: any few, often one
    """
    rng = np.random.default_rng(seed)
    # of its own, so that what it decides changes nothing else of a seed's mapping
    rest = rng.spawn(1)[0]
    sites = [Site(p.name, "population", p.name, p.shape, *_series(network, p.name)) for p in network]
    for projection in network.projections:
        if isinstance(projection.synapse, Attention):
            channels, height, width = network[projection.target].shape
            rows = network[projection.sources[0]].shape[0]
            heads, tokens = projection.synapse.heads, height * width
            serial = str(rng.choice(["tokens", "channels"]))
            shape = (rows, 1, channels // heads) if serial == "tokens" else (heads, tokens, tokens)
            rounds = (tokens, tokens) if serial == "tokens" else (rows // heads, channels // heads)
            number = min(*rounds, copies or int(rest.choice([1, 1, 2, 3, 4])))
            steps = sum(-(-turns // number) for turns in rounds) + (number > 1)
            for copy in range(number):
                name = f"counters{copy}"
                sites.append(Site(name, "attention", projection.target, shape, serial, steps, (0, 0), copy, number))
    boxes = []
    for index, site in enumerate(sites):
        edges = [sorted({0, n, *rng.integers(0, n + 1, 2).tolist()}) for n in site.shape]
        if site.serial == OPERANDS:
            edges[0] = _of_heads(network, site, rng)
        for c, y, x in np.ndindex(*(len(e) - 1 for e in edges)):
            c, y, x = int(c), int(y), int(x)
            boxes.append([index, *edges[0][c : c + 2], *edges[1][y : y + 2], *edges[2][x : x + 2]])
    table = np.array(boxes, np.int64)
    cores = rng.permutation(len(table)) if rng.random() < 0.5 else rng.integers(0, max(2, len(table) // 2), len(table))
    return Mapping(
        tuple(sites), table, cores.astype(np.int64), np.zeros((len(table), len(SECTIONS)), np.int64), 1, 4096, {}
    )


def _series(network: Network, name: str) -> tuple[str, int]:
    """Factors of a product come in series."""
    product = product_into(network, name)
    return ("", 0) if product is None else (OPERANDS, factors_of(network, product).addends)


def _of_heads(network: Network, site: Site, rng: np.random.Generator) -> list[int]:
    """Edges of boxes of channels: equal parts of heads, or several whole ones."""
    product = product_into(network, site.population)
    assert product is not None
    each = factors_of(network, product).reached
    steps = [n for n in range(1, site.shape[0] + 1) if n % each == 0 or each % n == 0]
    return [*range(0, site.shape[0], int(rng.choice(steps))), site.shape[0]]
