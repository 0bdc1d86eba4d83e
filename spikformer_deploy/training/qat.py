"""Fine-tuning with rounded weights: each layer multiplies with what its integers will mean on the chip.

The rounding is that of quantization/: batch normalisation folded, scale groups, and of each the integer threshold with
the least error.  The chip multiplies whole pixels with rounded weights; the mean that normalisation takes off them is
in the bias, multiplied by the weights as they were before.
Gradients pass through it unchanged (Bengio et al. 2013, straight-through), and normalisation is frozen: so the integers
of the compiled program (`--rounding nearest`, the same bits) are the very ones that were trained.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.quantization.scales import largest_thresholds, least_error_thresholds, scale_groups

LARGEST_THRESHOLD = 2**20
"""More than weights of 8 bits ask for, and less than a state of 24 bits holds."""


@cache
def _parameter_sets() -> int:
    """Thresholds that a core of Loihi 2 holds: the scale groups of the granularity `group`."""
    return load_profile("loihi2").limits.parameter_sets


class RoundedSynapses(nn.Module):
    """The weight of a layer in front of a LIF, rounded as the compiler does.

    norm         its batch normalisation, frozen; unit: (C_in,) what an integer of each input channel stands for
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, lif: LIF, bits: int, unit: Tensor) -> None:
        super().__init__()
        # a tuple hides the layer from torch: its weights would be saved twice
        self.norm = (norm,)
        self.bits = bits
        self.gain = (1 / lif.tau if lif.decay_input else 1.0) / lif.v_threshold
        self.unit = unit

    def forward(self, weight: Tensor) -> Tensor:
        folded = weight.detach().double() * self._fold(weight)
        steps = self._thresholds(folded) * self.gain
        rounded = (folded * steps).round() / steps / self._fold(weight)
        return weight + (rounded.to(weight.dtype) - weight).detach()

    def _fold(self, weight: Tensor) -> Tensor:
        """(C_out, C_in, ...) factors from a weight to its current for an integer input, normalisation folded."""
        (norm,) = self.norm
        assert norm.running_var is not None
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        tail = (1,) * (weight.ndim - 2)
        return scale.reshape(-1, 1, *tail) * self.unit.to(weight.device).reshape(1, -1, *tail)

    def _thresholds(self, folded: Tensor) -> Tensor:
        """(C_out, 1, ...) integer thresholds, as the compiler chooses them."""
        peaks = folded.abs().flatten(1).amax(1).cpu().numpy()
        groups = scale_groups(peaks, "group", _parameter_sets())
        largest = 2 ** (self.bits - 1) - 1
        most = largest_thresholds(peaks, groups, self.gain, largest, LARGEST_THRESHOLD)
        flat = folded.flatten(1).cpu().numpy()
        thresholds = np.maximum(1, least_error_thresholds(flat, most, groups, self.gain))
        return torch.from_numpy(thresholds).to(folded).reshape(-1, *(1,) * (folded.ndim - 1))


class RoundedHead(nn.Module):
    """The weight of the head: one scale for all classes."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.largest = 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> Tensor:
        step = weight.detach().double().abs().max() / self.largest
        rounded = (weight.detach().double() / step).round() * step
        return weight + (rounded.to(weight.dtype) - weight).detach()


class _MeanOfPixels:
    """Exchanges, in what the first layer puts out, the rounded weights on the mean of the pixels for the plain ones."""

    def __init__(self, preprocess: Preprocess) -> None:
        mean = torch.tensor(preprocess.mean)
        std = torch.tensor(preprocess.std)
        self.blank = (-mean / std).reshape(1, -1, 1, 1)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        if not isinstance(layer, nn.Conv2d) or not parametrize.is_parametrized(layer, "weight"):
            return out
        blank = self.blank.to(out.device).expand(1, -1, *inputs[0].shape[-2:])
        parametrized: Any = layer.parametrizations
        with torch.no_grad(), torch.autocast(out.device.type, enabled=False):
            difference = F.conv2d(blank, parametrized.weight.original - layer.weight, None, layer.stride, layer.padding)
        return out + difference.to(out.dtype)


def round_weights(module: nn.Module, preprocess: Preprocess, bits: int) -> None:
    """Let every synaptic layer of a Spikformer multiply with rounded weights from now on."""
    pixel = 1 / (preprocess.max_value * torch.tensor(preprocess.std, dtype=torch.float64))
    first = True
    for owner in list(module.modules()):
        for name, layer in list(owner.named_children()):
            if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                continue
            if name == "head":
                parametrize.register_parametrization(layer, "weight", RoundedHead(bits))
                continue
            norm = getattr(owner, name.replace("conv", "bn").replace("linear", "bn"))
            lif = getattr(owner, name.replace("conv", "lif").replace("linear", "lif"))
            # the first layer reads pixels, all others spikes
            unit = pixel if first else torch.ones(layer.weight.shape[1], dtype=torch.float64)
            parametrize.register_parametrization(layer, "weight", RoundedSynapses(norm, lif, bits, unit))
            if first:
                layer.register_forward_hook(_MeanOfPixels(preprocess))
            first = False


def plain_weights(module: nn.Module) -> None:
    """The weights as they were learnt, in full precision: the compiler rounds them to the same integers."""
    for layer in module.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def freeze_norms(module: nn.Module) -> None:
    """Normalise with the running statistics, and leave those as they are."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.eval()
