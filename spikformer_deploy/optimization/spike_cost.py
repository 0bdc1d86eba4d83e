"""What a module's spikes cost at the prices of a program, differentiable: a regulariser of training.

Only LIFs are watched while the module runs.  What stands between them in the program (pools, residual sums) sends what
follows from their spikes, and is made again from them by the program's own windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import And
from spikformer_deploy.network.synapses import Window
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.optimization.price import Prices


@contextmanager
def watched(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The spikes (T, B, ...) of each LIF of `module` when it runs, by the name of its population, with their gradients.

    A LIF that is called again counts as "name.1", "name.2", ...
    """
    sent: dict[str, Tensor] = {}

    def keep(path: str, spikes: Tensor) -> None:
        name, calls = path, 0
        while name in sent:
            calls += 1
            name = f"{path}.{calls}"
        sent[name] = spikes

    hooks = [
        lif.register_forward_hook(lambda _module, _inputs, out, path=path: keep(path, out))
        for path, lif in module.named_modules()
        if isinstance(lif, LIF)
    ]
    try:
        yield sent
    finally:
        for hook in hooks:
            hook.remove()


def laid_out(spikes: Tensor, shape: Shape, tokens_first: bool) -> Tensor:
    """Spikes (T, B, ...) of a module as (T, B, C, Y, X); tokens_first: tokens stand before the channels."""
    spikes = spikes.transpose(2, 3) if tokens_first and spikes.ndim == 4 else spikes
    return spikes.reshape(*spikes.shape[:2], *shape)


def tokens_stand_first(spikes: Tensor, like: Tensor) -> bool:
    """Whether spikes (T, B, N, C) of a module are those of `like` (B, T, C, Y, X) with tokens before the channels."""
    if spikes.ndim != 4 or spikes.shape[2] * spikes.shape[3] != like[0, 0].numel():
        return False
    as_values = like.transpose(0, 1).to(spikes)
    shape = like.shape[2:]
    differ = [
        int((laid_out(spikes, (shape[0], shape[1], shape[2]), order) != as_values).sum()) for order in (False, True)
    ]
    return differ[1] < differ[0]


class SpikeCost:
    """Energy of what a module's LIFs send, at the prices of `network`.

    prices        by population (C, Y, X) pJ of a spike (price.spike_prices)
    tokens_first  names of populations whose module has tokens before the channels
    """

    def __init__(self, network: Network, prices: Prices, tokens_first: frozenset[str] = frozenset()) -> None:
        self.network = network
        self.tokens_first = tokens_first
        self.prices = {name: torch.from_numpy(price.astype(np.float32)) for name, price in prices.items()}

    def __call__(self, sent: Mapping[str, Tensor]) -> Tensor:
        """Scalar: pJ an image, mean over the batch, of the spikes of `watched`; what happens anyway is not in it."""
        energy = torch.zeros(())
        for name, messages in self.messages(sent).items():
            price = self.prices[name] = self.prices[name].to(messages.device)
            # time steps add up, images do not
            energy = energy.to(messages.device) + (messages.sum((0, 1)) * price).sum() / messages.shape[1]
        return energy

    def messages(self, sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By population: (T, B, C, Y, X) 1 where a neuron sends something, else 0; those that follow from `sent`.

        A residual sum sends one message, however many of its addends fire: where two do, neither alone makes it.
        """
        out: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        for population in self.network:
            value = self._value(population, sent, values)
            if value is not None:
                values[population.name] = value
                # the gradient of the clamp is 1 up to 1, and 0 beyond: just what one spike less would change
                out[population.name] = value.clamp(max=1)
        return out

    def unpriced(self, sent: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Populations whose spikes cost something and are not in the energy, pixels aside."""
        known = self.messages(sent)
        others = [p.name for p in self.network if p is not self.network.input and p.name in self.prices]
        return tuple(name for name in others if name not in known and bool(self.prices[name].any()))

    def _value(self, population: Population, sent: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Tensor | None:
        """(T, B, C, Y, X) what a population sends; None where that does not follow from spikes and windows."""
        name = population.name
        if name in sent:
            return laid_out(sent[name], population.shape, name in self.tokens_first)
        neuron = population.neuron
        if neuron.keeps_state or neuron.fires or neuron.sends_negative or isinstance(neuron, And):
            return None
        # what is left passes on what arrives: as one spike, or as their number
        as_spike = bool(neuron.sends_spikes)
        total: Tensor | None = None
        for projection in self.network.into(name):
            part = _through(projection, as_spike, values)
            if part is None or part.shape[2:] != population.shape:
                return None
            total = part if total is None else total + part
        return total.clamp(max=1) if total is not None and as_spike else total


def _through(projection: Projection, largest: bool, values: Mapping[str, Tensor]) -> Tensor | None:
    """(T, B, C, Y, X) what a window sees of its source: the largest, or the sum; None where it is not known."""
    window = projection.synapse
    value = values.get(projection.sources[0])
    if value is None or not isinstance(window, Window) or window.offset != (0, 0):
        return None
    if window.kernel == (1, 1) and window.stride == (1, 1):
        return value
    maps = value.flatten(0, 1)
    if largest:
        seen = F.max_pool2d(maps, window.kernel, window.stride, window.padding)
    else:
        seen = F.avg_pool2d(maps, window.kernel, window.stride, window.padding, divisor_override=1)
    return seen.unflatten(0, value.shape[:2])
