"""SpikingResformer: the official forward pass in plain functions on a state_dict; its rates and sizes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.models import RESFORMERS, model_and_images
from torch import Tensor

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn.spiking_resformer import DualSpikeAttention
from spikformer_deploy.nn.zoo import build


@pytest.mark.parametrize("name", RESFORMERS)
def test_logits_are_those_of_the_official_forward_pass(name: str) -> None:
    config = RESFORMERS[name]
    module, images = model_and_images(config)
    # time constants follow their weights where a state_dict is loaded
    learnt = {
        key: torch.tensor(0.3 * i - 1) for i, key in enumerate(k for k in module.state_dict() if k.endswith(".w"))
    }
    module.load_state_dict(module.state_dict() | {key: torch.tensor(0.1 * i - 1) for i, key in enumerate(learnt)})
    frames = images.transpose(0, 1) if config.per_step else images.expand(config.time_steps, *images.shape)
    with torch.no_grad():
        ours = module(images)
        theirs = forward(module.state_dict(), frames)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * float(ours.abs().max()))


def test_rates_follow_those_of_training() -> None:
    """The first batch sets them, later ones move them by a thousandth; evaluation leaves them alone."""
    torch.manual_seed(0)
    attention = DualSpikeAttention(8, 2, 2, 4)
    images = torch.randn(3, 2, 8, 4, 4) + 1
    attention(images)
    first = attention.firing_rate_x.clone()
    seen = attention.activation_in(images).unflatten(2, (2, 4)).mean((0, 1, 3, 4, 5))
    torch.testing.assert_close(first.flatten(), seen)
    assert (attention.firing_rate_attn > 0).all()
    attention(images - 0.5)
    later = attention.activation_in(images - 0.5).unflatten(2, (2, 4)).mean((0, 1, 3, 4, 5))
    torch.testing.assert_close(attention.firing_rate_x.flatten(), seen * 0.999 + later * 0.001)
    attention.eval()(images)
    torch.testing.assert_close(attention.firing_rate_x.flatten(), seen * 0.999 + later * 0.001)


def test_sizes_that_do_not_go_together_are_refused() -> None:
    config = RESFORMERS["resformer"]
    with pytest.raises(InputError, match="are no multiples of the 8 channels of a head"):
        build(replace(config, widths=(12, 16)))
    with pytest.raises(InputError, match="4 blocks, and 2 stages have 3"):
        build(replace(config, depth=4))


# --- the official forward pass, on (T, B, C, Y, X) --------------------------------------------------------------------


def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
    large = p["prologue.0.weight"].shape[-1] == 7
    x = conv_bn(p, "prologue.0", "prologue.1", x, 2 if large else 1)
    side = x.shape[3] // 2 if large else x.shape[3]
    if large:
        x = F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2])
    for stage in range(1 + max(int(key.split(".")[1]) for key in p if key.startswith("layers."))):
        at = f"layers.{stage}"
        layer = 0
        if stage:
            x = conv_bn(p, f"{at}.0.conv", f"{at}.0.norm", fire(p, f"{at}.0.activation", x), 2)
            layer = 1
        while f"{at}.{layer}.W.weight" in p:
            patch = p[f"{at}.{layer}.W.weight"].shape[-1]
            x = attention(p, f"{at}.{layer}", x, ((side >> stage) // patch) ** 2)
            x = feed_forward(p, f"{at}.{layer + 1}", x)
            layer += 2
    return F.linear(x.mean((3, 4)), p["classifier.weight"]).mean(0)


def attention(p: dict[str, Tensor], at: str, x: Tensor, patches: int) -> Tensor:
    heads = p[f"{at}.firing_rate_x"].shape[2]
    depth = x.shape[2] // heads
    s = fire(p, f"{at}.activation_in", x)
    y = conv_bn(p, f"{at}.W", f"{at}.norm", s, p[f"{at}.W.weight"].shape[-1])
    sums = torch.empty_like(x)
    for h in range(heads):
        y1, y2 = y[:, :, 2 * depth * h : 2 * depth * (h + 1)].flatten(3).split(depth, 2)
        of_head = s[:, :, depth * h : depth * (h + 1)].flatten(3)
        rates = [p[f"{at}.{name}"][0, 0, h, 0, 0] for name in ("firing_rate_x", "firing_rate_attn")]
        scores = torch.einsum("tbcm,tbcn->tbmn", y1, of_head) / math.sqrt(float(rates[0]) * depth)
        scores = fire(p, f"{at}.activation_attn", scores)
        out = torch.einsum("tbcm,tbmn->tbcn", y2, scores) / math.sqrt(float(rates[1]) * patches)
        sums[:, :, depth * h : depth * (h + 1)] = out.unflatten(3, x.shape[3:])
    return x + conv_bn(p, f"{at}.Wproj", f"{at}.norm_proj", fire(p, f"{at}.activation_out", sums))


def feed_forward(p: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    hidden = conv_bn(p, f"{at}.up.1", f"{at}.up.2", fire(p, f"{at}.up.0", x))
    hidden = hidden + conv_bn(p, f"{at}.conv.0.1", f"{at}.conv.0.2", fire(p, f"{at}.conv.0.0", hidden))
    return x + conv_bn(p, f"{at}.down.1", f"{at}.down.2", fire(p, f"{at}.down.0", hidden))


def conv_bn(p: dict[str, Tensor], conv: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
    """Odd kernels are padded to keep the size; those of patches are even, or single positions."""
    weight = p[f"{conv}.weight"]
    padding = weight.shape[2] // 2 if weight.shape[2] % 2 else 0
    y = F.conv2d(x.flatten(0, 1), weight, None, stride, padding, 1, x.shape[2] // weight.shape[1])
    statistics = [p[f"{norm}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(y, *statistics).unflatten(0, x.shape[:2])


def fire(p: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    """LIF neurons, or those of a learnt time constant."""
    share = float(torch.sigmoid(p[f"{at}.w"].double())) if f"{at}.w" in p else 0.5
    v = torch.zeros_like(x[0])
    out = []
    for current in x:
        v = v + (current - v) / (1 / share)
        out.append((v >= 1).to(x.dtype))
        v = torch.where(v >= 1, 0.0, v)
    return torch.stack(out)
