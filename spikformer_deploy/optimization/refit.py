"""A layer without some of its input channels, whose other weights make up for them as well as they can.

What a channel tells a layer is often told by others too: its neighbours see the same edge.  So channels go one after
another, always the one without which the currents of the layer differ the least once all other weights were chosen
anew for that, by least squares over what the layer sees on some images (Hassibi & Stork 1993, optimal brain surgeon;
of whole channels as in Kurtic, Frantar & Alistarh 2023, ZipLM).

All that must be known of the inputs is how often each two of them fire together: their second moments, with a constant
beside them, which stands for the layer's bias.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from spikformer_deploy.base.arrays import Float

POSITIONS = 65_536
"""Of a layer that its moments are taken from, over all images; of more of them so many are drawn."""
DAMPING = 1e-4
"""Added to the diagonal, in units of its mean, so that the inverse exists where inputs never fire, or always both."""
LEAST_DAMPING = 1e-12
"""Added where nothing fires at all."""


def as_maps(layer: nn.Module, x: Tensor) -> Tensor:
    """(B, C, Y, X) what a layer is given; of tokens (B, C, 1, N)."""
    # tokens stand before the channels of a Linear; Conv1d has no rows
    x = x.transpose(1, 2) if isinstance(layer, nn.Linear) else x
    return x.unsqueeze(2) if x.ndim == 3 else x


def moments(layer: nn.Module, maps: Tensor, positions: int, generator: torch.Generator) -> Float:
    """(C K + 1, C K + 1) second moments of what a layer sees, K taps of its kernel, summed; the last one is a constant.

    maps       (B, C, Y, X) of `as_maps`
    positions  at most so many are looked at: all of them, or as many as that drawn
    """
    if isinstance(layer, nn.Conv2d):
        kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
        assert not isinstance(padding, str)
        maps = F.pad(maps, (padding[1], padding[1], padding[0], padding[0]))
    else:
        kernel, stride = (1, 1), (1, 1)
    height, width = ((maps.shape[axis + 2] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1))
    count = len(maps) * height * width
    chosen = torch.arange(count) if count <= positions else torch.randint(0, count, (positions,), generator=generator)
    image, place = chosen // (height * width), chosen % (height * width)
    top, left = place // width * stride[0], place % width * stride[1]
    taps = [maps[image, :, top + y, left + x] for y in range(kernel[0]) for x in range(kernel[1])]
    seen = torch.cat([torch.stack(taps, 2).flatten(1), torch.ones(len(chosen), 1)], 1)
    # sums of zeros and ones: exact in floats up to 2^24 rows
    together: Float = (seen.T @ seen).double().numpy()
    return together


def without(
    weight: Float, together: Float, gone: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.bool_], Float, Float]:
    """Which channels go until `count` of them have, the weights of the others, and a constant (D,) for each output.

    weight    (D, C, K) of D outputs, C channels and K taps
    together  the layer's `moments`
    gone      (C,) channels that go first, whatever that does
    Weights of channels that went are 0; the currents without them are weight . x + constant.
    """
    outputs, channels, taps = weight.shape
    inverse = _inverse(together)
    chosen = np.concatenate([weight.reshape(outputs, -1), np.zeros((outputs, 1))], 1)
    left = np.ones(channels, bool)

    def take(channel: int) -> None:
        """The channel goes, and what is left makes up for it."""
        own = slice(channel * taps, (channel + 1) * taps)
        step = np.linalg.solve(inverse[own, own], inverse[own])
        chosen[...] -= chosen[:, own] @ step
        inverse[...] -= inverse[:, own] @ step
        left[channel] = False
        # what is 0 up to rounding; the block stays one that can be inverted
        chosen[:, own], inverse[own], inverse[:, own] = 0.0, 0.0, 0.0
        inverse[own, own] = np.eye(taps)

    for channel in np.flatnonzero(gone):
        take(int(channel))
    while channels - left.sum() < count:
        take(int(np.argmin(np.where(left, _missed(chosen, inverse, channels, taps), np.inf))))
    return ~left, chosen[:, :-1].reshape(weight.shape), chosen[:, -1]


def _inverse(together: Float) -> Float:
    """The inverse of the moments of one position, damped but for the constant."""
    mean = together / max(1.0, float(together[-1, -1]))
    power = np.diag(mean)[:-1]
    damped = mean + np.diag(np.append(np.full(len(power), DAMPING * power.mean() + LEAST_DAMPING), 0.0))
    return np.asarray(np.linalg.inv(damped), np.float64)


def _missed(weight: Float, inverse: Float, channels: int, taps: int) -> Float:
    """(C,) by how much the currents would differ without a channel, squared, sum over outputs, mean over positions."""
    own = np.arange(channels * taps).reshape(channels, taps)
    blocks = inverse[own[:, :, None], own[:, None]]
    of_channels = weight[:, :-1].reshape(len(weight), channels, taps).transpose(1, 0, 2)
    differ: Float = np.einsum("cdk,ckl,cdl->c", of_channels, np.linalg.inv(blocks), of_channels, optimize=True)
    return differ
