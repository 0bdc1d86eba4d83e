"""The differentiable energy of spikes is that of the integer program, where both send the same spikes."""

import numpy as np
import pytest
import torch
from support.deep import some
from support.models import SIBLINGS, SMALL, model_and_images

from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.network.neurons import Lif
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.optimization.price import spike_prices
from spikformer_deploy.optimization.spike_cost import SpikeCost, laid_out, tokens_stand_first, watched
from spikformer_deploy.pipeline.stages import Compiled, compile_model

CASES = {**SMALL, "spikingformer": SIBLINGS["spikingformer"]}
STREAMS = {"spikingformer": ("patch_embed.block4_conv", "block.0.add", "block.0.add.1", "mean")}
"""Residual currents: what is sent of them does not follow from spikes."""


def compiled_of(config: ModelConfig) -> tuple[Loaded, Compiled, np.ndarray]:
    """A small model, its program, and images."""
    module, _ = model_and_images(config)
    channels = config.in_channels
    preprocess = Preprocess(channels, config.image_size, (0.5,) * channels, (0.25,) * channels)
    loaded = Loaded(module, config, preprocess, (), "0" * 64, {}, ())
    steps = (config.time_steps,) if config.per_step else ()
    shape = (3, *steps, channels, config.image_size, config.image_size)
    images = np.random.default_rng(0).integers(0, 2 if steps else 256, shape).astype(np.uint8)
    return loaded, compile_model(loaded, calibrate_on=images, check=False), images


@pytest.mark.parametrize("name", some(("cifar",), ("imagenet", "dvs", "v2"), long=("spikingformer",)))
def test_the_energy_is_that_of_the_integer_spikes(name: str) -> None:
    _, compiled, images = compiled_of(CASES[name])
    network, prices = compiled.program.network, spike_prices(compiled.program)
    names = [p.name for p in network if p is not network.output]
    spikes = reference.execute(network, images, record=names).spikes
    sent = {
        n: torch.from_numpy(spikes[n].astype(np.float32)).transpose(0, 1)
        for n in names
        if isinstance(network[n].neuron, Lif)
    }
    cost = SpikeCost(network, prices)
    missing = cost.unpriced(sent)
    assert set(missing) == set(STREAMS.get(name, ()))
    counted = [n for n in names if n != network.input.name and n not in missing]
    expected = sum(float(((spikes[n] != 0).sum((0, 1)) * prices[n]).sum()) for n in counted) / len(images)
    assert float(cost(sent)) == pytest.approx(expected, rel=1e-5)
    assert cost.messages(sent).keys() == set(counted)


@pytest.mark.parametrize("name", some(("cifar",), ("imagenet", "dvs", "v2"), long=("spikingformer",)))
def test_spikes_of_a_module_are_laid_out_as_its_graph(name: str) -> None:
    loaded, compiled, images = compiled_of(CASES[name])
    x = torch.from_numpy(loaded.preprocess.normalised(images))
    with torch.no_grad(), watched(loaded.module) as sent:
        loaded.module(x)
    assert compiled.graph is not None
    of_graph = execute(compiled.graph, x)
    assert sent.keys() <= of_graph.keys()
    for lif, spikes in sent.items():
        like = of_graph[lif].transpose(0, 1)
        first = tokens_stand_first(spikes, of_graph[lif])
        # of a silent layer no order is told, and none matters
        assert first == (name == "cifar" and lif.startswith("block") and bool(spikes.any()))
        ours = laid_out(spikes, tuple(like.shape[2:]), first)
        # float sums in another order may fall on the other side of a threshold
        assert float((ours != like).float().mean()) < 1e-3


@pytest.mark.long
def test_the_gradient_is_what_one_spike_less_saves() -> None:
    """Of a residual sum, too: where two spikes meet, one less saves its own price only."""
    _, compiled, images = compiled_of(SMALL["v2"])
    network, prices = compiled.program.network, spike_prices(compiled.program)
    names = [p.name for p in network if isinstance(p.neuron, Lif)]
    spikes = reference.execute(network, images[:1], record=names).spikes
    sent = {n: torch.from_numpy(s.astype(np.float32)).transpose(0, 1).requires_grad_() for n, s in spikes.items()}
    cost = SpikeCost(network, prices)
    cost(sent).backward()
    rng = np.random.default_rng(1)
    for name in names:
        fired = np.argwhere(spikes[name].transpose(1, 0, 2, 3, 4) > 0)
        for place in rng.permutation(fired)[:4]:
            fewer = {n: s.detach().clone() for n, s in sent.items()}
            fewer[name][tuple(place)] = 0
            saved = float(cost({n: s.detach() for n, s in sent.items()}).double() - cost(fewer).double())
            assert saved == pytest.approx(float(sent[name].grad[tuple(place)]), rel=1e-2, abs=50)
