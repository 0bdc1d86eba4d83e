"""Families of integer neurons: the official forward passes a second time, in plain functions on a state_dict."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.models import INTEGERS, model_and_images
from torch import Tensor

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.zoo import build, named

FORMS: dict[str, ModelConfig] = {
    **INTEGERS,
    "sdt3-large of eight levels": replace(INTEGERS["sdt3-large"], rep_width=0, distilled=False, levels=8),
    "sdt3-gesture": replace(INTEGERS["sdt3-hardvs"], form="gesture", depth=1),
}


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_those_of_the_official_forward_pass(name: str) -> None:
    config = FORMS[name]
    module, images = model_and_images(config)
    # in double, where no rounding decides an integer
    module, images = module.double(), images.double()
    with torch.no_grad():
        ours = module(images)
        theirs = FORWARD[config.family](_Layers(module.state_dict()), config, images)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * float(ours.abs().max()))


@pytest.mark.parametrize(
    ("name", "parameters", "steps"),
    [("qsd-8-256", 8336504, 32544), ("qsd-8-512", 55358952, 83624), ("qsd-12-512", 74663016, 120616)],
)
def test_layers_of_learnt_steps_have_one_for_each_output(name: str, parameters: int, steps: int) -> None:
    """Beside them and the unread steps of activations there is what the paper counts."""
    with torch.device("meta"):
        sizes = {key: value.numel() for key, value in build(named(name)).named_parameters()}
    unread = {key for key in sizes if ".act." in key}
    learnt = {key for key in sizes if key.endswith(".alpha")} - unread
    assert sum(sizes[key] for key in learnt) == steps
    assert sum(sizes[key] for key in sizes.keys() - unread - learnt) == parameters


def test_what_the_official_code_holds_constant_is_no_choice() -> None:
    with pytest.raises(InputError, match="count to 4, and not to 8"):
        build(replace(INTEGERS["qsd"], levels=8))
    for name in ("qsd", "sdt3-hardvs"):
        # five heads go into the last stage, and not into the one before
        config = INTEGERS[name]
        with pytest.raises(InputError, match="channels do not divide into 5 heads"):
            build(replace(config, widths=(*config.widths[:-1], 30), dim=30, heads=5))


# --- the official forward passes, on maps (B, C, Y, X) of one step ---------------------------------------------------


class _Layers:
    """Layers by the names of a state_dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def layer(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """Every kernel is padded to keep the size; weights with steps are rounded to their integers."""
        weight = self.state[f"{name}.weight"]
        if f"{name}.alpha" in self.state:
            alpha = self.state[f"{name}.alpha"].reshape(-1, *(1,) * (weight.ndim - 1))
            weight = torch.round(torch.clamp(weight / alpha, -8, 7)) * alpha
        bias = self.state.get(f"{name}.bias")
        if x.ndim == 2:
            return F.linear(x, weight, bias)
        weight = weight if weight.ndim == 4 else weight[..., None]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, 1, groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.batch_norm(x, *(self.state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

    def pair(self, name: str, x: Tensor) -> Tensor:
        """A layer and its normalisation in a row."""
        return self.norm(f"{name}.1", self.layer(f"{name}.0", x))

    def unit(self, at: str, x: Tensor, stride: int = 1) -> Tensor:
        return self.norm(at.format("bn"), self.layer(at.format("conv"), x, stride))

    def scale(self, name: str) -> Tensor:
        return self.state[name].reshape(1, -1, 1, 1)

    def count(self, prefix: str) -> int:
        return len({key.split(".")[1] for key in self.state if key.startswith(prefix + ".")})


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (x.flatten(2).unflatten(1, (heads, -1)) for x in (q, k, v))
    return torch.einsum("bhcn,bhcm,bhdm->bhdn", q, k, v).flatten(1, 2)


def large(p: _Layers, config: ModelConfig, x: Tensor) -> Tensor:
    def whole(x: Tensor) -> Tensor:
        return torch.floor(torch.clamp(x, 0, config.levels) + 0.5)

    def sent(x: Tensor) -> Tensor:
        return whole(x) / config.levels

    def conv_block(at: str, x: Tensor) -> Tensor:
        return x + p.pair(f"{at}.conv2.0", sent(p.pair(f"{at}.conv1.0", sent(x))))

    def rep_conv(at: str, x: Tensor) -> Tensor:
        return p.pair(f"{at}.conv2", p.pair(f"{at}.conv1", x))

    def block(at: str, x: Tensor) -> Tensor:
        if config.rep_width:
            x = x + rep_conv(f"{at}.rep_conv", sent(x))
        s = sent(x)
        q, k, v = (sent(p.norm(f"{at}.attn.{n}_conv.1", rep_conv(f"{at}.attn.{n}_conv.0", s))) for n in "qkv")
        sums = attended(q, k, v, config.heads).reshape(x.shape) * 0.125
        out = p.norm(f"{at}.attn.proj_conv.1", rep_conv(f"{at}.attn.proj_conv.0", sent(sums)))
        x = x + out * p.scale(f"{at}.layer_scale1")
        return x + mlp(p, f"{at}.mlp", x, sent) * p.scale(f"{at}.layer_scale2")

    for i, stage in enumerate(("1_1", "1_2", "2", "3")):
        x = p.unit(f"downsample{stage}.encode_{{}}", sent(x) if i else x, 2)
        for name in [f"ConvBlock{stage}"] if i < 2 else ["ConvBlock2_1", "ConvBlock2_2"] if i == 2 else []:
            x = conv_block(f"{name}.0", x)
    for i in range(p.count("block3")):
        x = block(f"block3.{i}", x)
    mean = x.mean((2, 3))
    return (p.layer("head", mean) + p.layer("head_kd", whole(mean))) / 2 if config.distilled else p.layer("head", mean)


def mlp(p: _Layers, at: str, x: Tensor, sent: Callable[[Tensor], Tensor]) -> Tensor:
    return p.unit(f"{at}.fc2_{{}}", sent(p.unit(f"{at}.fc1_{{}}", sent(x))))


def qsd(p: _Layers, config: ModelConfig, x: Tensor) -> Tensor:
    def sent(x: Tensor, share: float = 4) -> Tensor:
        return torch.floor(torch.clamp(4 * x, 0, 4) + 0.5) / share

    def rep_conv(at: str, x: Tensor) -> Tensor:
        """The border is what the first normalisation makes of zero."""
        inner = p.norm(f"{at}.0.body.1.bn", p.layer(f"{at}.0.body.0", x))
        border = p.norm(f"{at}.0.body.1.bn", torch.zeros_like(x[:1, :, :1, :1]))
        padded = F.pad(inner - border, (1, 1, 1, 1)) + border
        # the layer pads with zeros once more, which is cut off again
        deep = p.layer(f"{at}.0.body.2.0", padded)[:, :, 1:-1, 1:-1]
        return p.norm(f"{at}.1", p.norm(f"{at}.0.body.2.2", p.layer(f"{at}.0.body.2.1", deep)))

    def conv_block(at: str, x: Tensor) -> Tensor:
        wide = p.norm(f"{at}.Conv.bn1", p.layer(f"{at}.Conv.pwconv1", sent(x)))
        x = x + p.norm(f"{at}.Conv.bn2", p.layer(f"{at}.Conv.pwconv2", p.layer(f"{at}.Conv.dwconv", sent(wide))))
        hidden = p.norm(f"{at}.bn1", p.layer(f"{at}.conv1", sent(x)))
        return x + p.norm(f"{at}.bn2", p.layer(f"{at}.conv2", sent(hidden)))

    def block(at: str, x: Tensor) -> Tensor:
        s = sent(x)
        q, k, v = (sent(rep_conv(f"{at}.attn.{n}_conv", s)) for n in "qkv")
        sums = attended(q, k, v, config.heads).reshape(x.shape) * 0.25
        x = x + rep_conv(f"{at}.attn.proj_conv", sent(sums, 2)) * p.scale(f"{at}.layer_scale1")
        return x + mlp(p, f"{at}.mlp", x, sent) * p.scale(f"{at}.layer_scale2")

    x = staged(p, x, sent, conv_block, block)
    return p.layer("head", sent(x.mean((2, 3))))


def staged(
    p: _Layers,
    x: Tensor,
    sent: Callable[[Tensor], Tensor],
    conv_block: Callable[[str, Tensor], Tensor],
    block: Callable[[str, Tensor], Tensor],
) -> Tensor:
    """The five stages of the second and third Spike-driven Transformer."""
    for i, stage in enumerate(("1_1", "1_2", "2", "3", "4")):
        x = p.unit(f"downsample{stage}.encode_{{}}", sent(x) if i else x, 1 if stage == "4" else 2)
        for name in (f"ConvBlock{stage}", f"ConvBlock{stage}_1", f"ConvBlock{stage}_2"):
            if p.count(name):
                x = conv_block(f"{name}.0", x)
        for j in range(p.count(f"block{stage}")):
            x = block(f"block{stage}.{j}", x)
    return x


def events(p: _Layers, config: ModelConfig, frames: Tensor) -> Tensor:
    """Frames (B, T, C, Y, X) one after the other: `kept` are potentials, in the order in which neurons are called."""
    kept: list[Tensor] = []
    calls = 0

    def whole(x: Tensor) -> Tensor:
        nonlocal calls
        u = x + kept[calls] if calls < len(kept) else x
        s = torch.round(torch.clamp(u, 0, 4))
        kept[calls : calls + 1] = [u - s]
        calls += 1
        return s

    def sent(x: Tensor) -> Tensor:
        return whole(x) / {"gesture": 8, "dvs": 1}[config.form]

    def separable(at: str, x: Tensor) -> Tensor:
        for part in ("pwconv1", "dwconv", "pwconv2"):
            x = p.pair(f"{at}.{part}", sent(x))
        return x

    def conv_block(at: str, x: Tensor) -> Tensor:
        x = x + separable(f"{at}.Conv", x)
        hidden = p.norm(f"{at}.bn1", p.layer(f"{at}.conv1", sent(x)))
        return x + p.norm(f"{at}.bn2", p.layer(f"{at}.conv2", sent(hidden)))

    def block(at: str, x: Tensor) -> Tensor:
        x = x + separable(f"{at}.conv", x) * p.scale(f"{at}.layer_scale1")
        s = sent(x)
        q, k, v = (sent(p.pair(f"{at}.attn.{n}_conv", s)) for n in "qkv")
        sums = attended(q, k, v, config.heads) * 2 * (q.shape[1] // config.heads) ** -0.5
        out = p.pair(f"{at}.attn.proj_conv", sent(sums.reshape(len(x), -1, *x.shape[2:])))
        x = x + out * p.scale(f"{at}.layer_scale2")
        return x + mlp(p, f"{at}.mlp", x, sent) * p.scale(f"{at}.layer_scale3")

    logits = []
    for frame in frames.unbind(1):
        calls = 0
        x = staged(p, frame, sent, conv_block, block)
        logits.append(p.layer("head", whole(x.mean((2, 3)))))
    return torch.stack(logits).mean(0)


FORWARD: dict[str, Callable[[_Layers, ModelConfig, Tensor], Tensor]] = {"sdt3-large": large, "qsd": qsd, "sdt3": events}
