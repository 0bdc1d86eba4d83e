"""The families beside Spikformer: keys and shapes of the official state_dicts, and the official forward passes.

The forward passes are written down a second time here, in plain functions on a state_dict.
"""

import hashlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.deep import thinned
from support.models import HIERARCHIES, SIBLINGS, model_and_images
from support.official import OFFICIAL
from torch import Tensor

from spikformer_deploy.nn.zoo import build, named, published


@pytest.mark.parametrize("name", thinned(OFFICIAL, 3))
def test_state_dicts_are_the_official_ones(name: str) -> None:
    with torch.device("meta"):
        module = build(named(name))
    state = module.state_dict()
    lines = "\n".join(f"{key} {tuple(value.shape)}" for key, value in sorted(state.items()))
    digest = hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert (sum(p.numel() for p in module.parameters()), len(state), digest) == OFFICIAL[name]


def test_every_published_size_is_tested() -> None:
    """Those on time series in test_seqsnn.py."""
    elsewhere = ("v1", "v2", "seqsnn")
    assert OFFICIAL.keys() == {name for name, config in published().items() if config.family not in elsewhere}


@pytest.mark.parametrize("name", SIBLINGS | HIERARCHIES)
def test_logits_are_those_of_the_official_forward_pass(name: str) -> None:
    config = (SIBLINGS | HIERARCHIES)[name]
    module, images = model_and_images(config)
    frames = images.transpose(0, 1) if config.per_step else images.expand(config.time_steps, *images.shape)
    with torch.no_grad():
        ours = module(images)
        theirs = FORWARD[config.family](_Layers(module.state_dict()), config.form, frames, config.heads)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * float(ours.abs().max()))


# --- the official forward passes, on (T, B, C, Y, X) -----------------------------------------------------------------


class _Layers:
    """Layers by the names of a state_dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv_bn(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """name: with {} for "conv" and "bn"; every kernel is padded to keep the size."""
        return self.layer_bn(name.format("conv"), name.format("bn"), x, stride)

    def layer_bn(self, layer: str, norm_name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{layer}.weight"]
        bias = self.state.get(f"{layer}.bias")
        weight = weight if weight.ndim == 4 else weight[..., None]
        groups = x.shape[2] // weight.shape[1]
        y = F.conv2d(x.flatten(0, 1), weight, bias, stride, weight.shape[2] // 2, 1, groups)
        norm = [self.state[f"{norm_name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(y, *norm).unflatten(0, x.shape[:2])

    def head(self, x: Tensor) -> Tensor:
        return F.linear(x, self.state["head.weight"], self.state["head.bias"])

    def count(self, prefix: str) -> int:
        return len({key.split(".")[1] for key in self.state if key.startswith(prefix + ".")})


def spikes(x: Tensor, threshold: float = 1.0, tau: float = 2.0) -> Tensor:
    v = torch.zeros_like(x[0])
    out = []
    for current in x:
        v = v + (current - v) / tau
        out.append((v >= threshold).to(x.dtype))
        v = torch.where(v >= threshold, 0.0, v)
    return torch.stack(out)


def pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2])


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    # (T, B, heads, channels, tokens)
    q = q.flatten(3).unflatten(2, (heads, -1))
    k = k.flatten(3).unflatten(2, (heads, -1))
    v = v.flatten(3).unflatten(2, (heads, -1))
    return torch.einsum("tbhcm,tbhdm,tbhcn->tbhdn", k, v, q).flatten(2, 3) * 0.125


def spikingformer(p: _Layers, form: str, x: Tensor, heads: int) -> Tensor:
    def fire(x: Tensor, threshold: float = 1.0) -> Tensor:
        return spikes(x, threshold, 1.5 if form == "dvs" else 2.0)

    names = [f"block{i}" for i in range(5)] if form == "cifar" else ["proj", "proj1", "proj2", "proj3", "proj4"]
    for i, name in enumerate(names):
        x = fire(x) if i else x
        x = pooled(x) if i > (2 if form == "cifar" else 0) else x
        x = p.conv_bn(f"patch_embed.{name}_{{}}", x)
    for i in range(p.count("block")):
        s = fire(x)
        q = fire(p.conv_bn(f"block.{i}.attn.q_{{}}", s))
        k = fire(p.conv_bn(f"block.{i}.attn.k_{{}}", s))
        v = fire(p.conv_bn(f"block.{i}.attn.v_{{}}", s))
        attended = fire(attention(q, k, v, heads), 0.5).view_as(q)
        x = x + p.conv_bn(f"block.{i}.attn.proj_{{}}", attended)
        hidden = p.conv_bn(f"block.{i}.mlp.mlp1_{{}}", fire(x))
        x = x + p.conv_bn(f"block.{i}.mlp.mlp2_{{}}", fire(hidden))
    return p.head(x.mean((3, 4)).mean(0))


def spike_driven(p: _Layers, form: str, x: Tensor, heads: int) -> Tensor:
    for i, suffix in enumerate(("", "1", "2", "3")):
        x = p.conv_bn(f"patch_embed.proj_{{}}{suffix}", x)
        x = x if i == 3 else spikes(x)
        x = pooled(x) if form == "imagenet" or i >= 2 else x
    x = x + p.conv_bn("patch_embed.rpe_{}", spikes(x))
    for i in range(p.count("block")):
        s = spikes(x)
        q = spikes(p.conv_bn(f"block.{i}.attn.q_{{}}", s))
        k = spikes(p.conv_bn(f"block.{i}.attn.k_{{}}", s))
        v = spikes(p.conv_bn(f"block.{i}.attn.v_{{}}", s))
        attended = pooled_masks(q, k, v, heads) if form == "dvs" else masks(q, k, v)
        x = x + p.conv_bn(f"block.{i}.attn.proj_{{}}", attended)
        hidden = p.conv_bn(f"block.{i}.mlp.fc1_{{}}", spikes(x))
        x = x + p.conv_bn(f"block.{i}.mlp.fc2_{{}}", spikes(hidden))
    return p.head(spikes(x.mean((3, 4)))).mean(0)


def masks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    met = spikes((k * v).sum((3, 4), keepdim=True), 0.5)
    return torch.where(met > 0, q, 0.0)


def pooled_masks(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """With neighbours: of k and v in the map, of products in (tokens, channels of a head)."""
    tokens = [x.flatten(3).unflatten(2, (heads, -1)).mT for x in (q, near(k), near(v))]
    met = spikes(near(tokens[1] * tokens[2]).sum(3, keepdim=True), 0.5)
    return near(tokens[0] * met).mT.reshape(q.shape)


def near(x: Tensor) -> Tensor:
    """The largest of each value and its eight neighbours along the last two dimensions."""
    for dim in (-2, -1):
        none = torch.zeros_like(x.narrow(dim, 0, 1))
        before = torch.cat([none, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
        behind = torch.cat([x.narrow(dim, 1, x.shape[dim] - 1), none], dim)
        x = torch.maximum(torch.maximum(before, behind), x)
    return x


def qkformer(p: _Layers, form: str, x: Tensor, heads: int) -> Tensor:
    def embed(stage: int, x: Tensor, chain: list[tuple[str, bool]], branch: int, stride: int) -> Tensor:
        left = x
        for i, (name, pool) in enumerate(chain):
            left = x if i == branch else left
            x = p.conv_bn(f"patch_embed{stage}.{name}_{{}}", x)
            x = spikes(pooled(x) if pool else x)
        return x + spikes(p.conv_bn(f"patch_embed{stage}.proj_res_{{}}", left, stride))

    first = {
        "cifar": ([("proj", False), ("proj1", False)], 1, 1),
        "imagenet": ([("proj", True), ("proj1", True), ("proj2", False)], 1, 2),
        "dvs": ([("proj", False), ("proj1", True), ("proj2", True), ("proj3", True)], 2, 4),
    }[form]
    later = {
        "cifar": [("proj3", False), ("proj4", True)],
        "imagenet": [("proj3", True), ("proj4", False)],
        "dvs": [("proj", False), ("proj4", True)],
    }[form]
    stages = 2 if form == "dvs" else 3
    for stage in range(1, stages + 1):
        x = embed(stage, x, *first) if stage == 1 else embed(stage, x, later, 0, 2)
        for i in range(p.count(f"stage{stage}")):
            name = "tssa" if stage < stages else "attn" if form == "imagenet" else "ssa"
            at = f"stage{stage}.{i}.{name}"
            q = spikes(p.conv_bn(f"{at}.q_{{}}", x))
            k = spikes(p.conv_bn(f"{at}.k_{{}}", x))
            if name == "tssa":
                counts = q.unflatten(2, (heads, -1)).sum(3)
                masked = k.unflatten(2, (heads, -1)) * spikes(counts, 0.5).unsqueeze(3)
                attended = masked.flatten(2, 3)
            else:
                v = spikes(p.conv_bn(f"{at}.v_{{}}", x))
                attended = spikes(attention(q, k, v, heads), 0.5).view_as(q)
            x = x + spikes(p.conv_bn(f"{at}.proj_{{}}", attended))
            hidden = x
            for layer in ("fc1", "fc2") if form == "imagenet" else ("mlp1", "mlp2"):
                hidden = spikes(p.conv_bn(f"stage{stage}.{i}.mlp.{layer}_{{}}", hidden))
            x = x + hidden
    return p.head(x.mean((3, 4)).mean(0))


def meta_spikeformer(p: _Layers, form: str, x: Tensor, heads: int) -> Tensor:
    def layer(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = p.state[f"{name}.weight"]
        weight = weight if weight.ndim == 4 else weight[..., None]
        bias = p.state.get(f"{name}.bias")
        groups = x.shape[2] // weight.shape[1]
        y = F.conv2d(x.flatten(0, 1), weight, bias, stride, weight.shape[2] // 2, 1, groups)
        return y.unflatten(0, x.shape[:2])

    def norm(name: str, x: Tensor) -> Tensor:
        values = [p.state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x.flatten(0, 1), *values).unflatten(0, x.shape[:2])

    def rep_conv(name: str, x: Tensor) -> Tensor:
        """The border is what the first normalisation makes of zero, as the official BNAndPadLayer has it."""
        inner = norm(f"{name}.0.body.1.bn", layer(f"{name}.0.body.0", x))
        border = norm(f"{name}.0.body.1.bn", torch.zeros_like(x[:1, :1, :, :1, :1]))
        padded = F.pad(inner - border, (1, 1, 1, 1)) + border
        weight = p.state[f"{name}.0.body.2.0.weight"]
        deep = F.conv2d(padded.flatten(0, 1), weight, groups=len(weight)).unflatten(0, x.shape[:2])
        return norm(f"{name}.1", norm(f"{name}.0.body.2.2", layer(f"{name}.0.body.2.1", deep)))

    def conv_block(name: str, x: Tensor) -> Tensor:
        wide = norm(f"{name}.Conv.bn1", layer(f"{name}.Conv.pwconv1", spikes(x)))
        deep = layer(f"{name}.Conv.dwconv", spikes(wide))
        x = x + norm(f"{name}.Conv.bn2", layer(f"{name}.Conv.pwconv2", deep))
        hidden = norm(f"{name}.bn1", layer(f"{name}.conv1", spikes(x)))
        return x + norm(f"{name}.bn2", layer(f"{name}.conv2", spikes(hidden)))

    def block(name: str, x: Tensor) -> Tensor:
        s = spikes(x)
        q = spikes(rep_conv(f"{name}.attn.q_conv", s))
        k = spikes(rep_conv(f"{name}.attn.k_conv", s))
        v = spikes(rep_conv(f"{name}.attn.v_conv", s))
        x = x + rep_conv(f"{name}.attn.proj_conv", spikes(attention(q, k, v, heads), 0.5).view_as(q))
        hidden = norm(f"{name}.mlp.fc1_bn", layer(f"{name}.mlp.fc1_conv", spikes(x)))
        return x + norm(f"{name}.mlp.fc2_bn", layer(f"{name}.mlp.fc2_conv", spikes(hidden)))

    blocks = {"1_1": ["ConvBlock1_1"], "1_2": ["ConvBlock1_2"], "2": ["ConvBlock2_1", "ConvBlock2_2"]}
    for stage in ("1_1", "1_2", "2", "3", "4"):
        at = f"downsample{stage}"
        x = x if stage == "1_1" else spikes(x)
        x = norm(f"{at}.encode_bn", layer(f"{at}.encode_conv", x, 1 if stage == "4" else 2))
        for name in blocks.get(stage, []):
            x = conv_block(f"{name}.0", x)
        for i in range(p.count(f"block{stage}")):
            x = block(f"block{stage}.{i}", x)
    s = spikes(x.mean((3, 4)))
    second = F.linear(s, p.state["head_kd.weight"], p.state["head_kd.bias"])
    return (p.head(s).mean(0) + second.mean(0)) / 2


def spike_driven_v3(p: _Layers, form: str, x: Tensor, heads: int) -> Tensor:
    def whole(x: Tensor) -> Tensor:
        return torch.round(torch.clamp(x, 0, 4))

    def sent(x: Tensor) -> Tensor:
        return whole(x) / 4

    def layer(conv: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = p.state[f"{conv}.weight"]
        weight = weight if weight.ndim == 4 else weight[..., None]
        y = F.conv2d(
            x, weight, p.state.get(f"{conv}.bias"), stride, weight.shape[2] // 2, 1, x.shape[1] // weight.shape[1]
        )
        return F.batch_norm(y, *(p.state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

    def sequential(name: str, x: Tensor) -> Tensor:
        return layer(f"{name}.0", f"{name}.1", x)

    def separable(name: str, x: Tensor) -> Tensor:
        for part in ("pwconv1", "dwconv", "pwconv2"):
            x = sequential(f"{name}.{part}", sent(x))
        return x

    def block(name: str, x: Tensor) -> Tensor:
        x = x + separable(f"{name}.conv", x)
        s = sent(x)
        q, k, v = (sent(sequential(f"{name}.attn.{n}_conv", s)).flatten(2).unflatten(1, (heads, -1)) for n in "qkv")
        scores = torch.einsum("bhcn,bhcm->bhnm", q, k)
        attended = torch.einsum("bhnm,bhdm->bhdn", scores, v) * (q.shape[2] ** -0.5 * 2)
        x = x + sequential(f"{name}.attn.proj_conv", sent(attended.flatten(1, 2).unflatten(2, x.shape[2:])))
        hidden = layer(f"{name}.mlp.fc1_conv", f"{name}.mlp.fc1_bn", sent(x))
        return x + layer(f"{name}.mlp.fc2_conv", f"{name}.mlp.fc2_bn", sent(hidden))

    assert len(x) == 1
    x = x[0]
    for i, stage in enumerate(("1_1", "1_2", "2", "3", "4")):
        at = f"downsample{stage}"
        x = layer(f"{at}.encode_conv", f"{at}.encode_bn", sent(x) if i else x, 1 if stage == "4" else 2)
        for name in (f"ConvBlock{stage}", f"ConvBlock{stage}_1", f"ConvBlock{stage}_2"):
            if p.count(name):
                x = x + separable(f"{name}.0.Conv", x)
                hidden = layer(f"{name}.0.conv1", f"{name}.0.bn1", sent(x))
                x = x + layer(f"{name}.0.conv2", f"{name}.0.bn2", sent(hidden))
        for j in range(p.count(f"block{stage}")):
            x = block(f"block{stage}.{j}", x)
    return p.head(whole(x.mean((2, 3))))


def membrane_mlp(p: _Layers, at: str, x: Tensor) -> Tensor:
    hidden = p.conv_bn(f"{at}.fc1_{{}}", spikes(x))
    if hidden.shape == x.shape:
        x = hidden = x + hidden
    return x + p.conv_bn(f"{at}.fc2_{{}}", spikes(hidden))


def membrane_attention(p: _Layers, at: str, x: Tensor, heads: int) -> Tensor:
    s = spikes(x)
    q, k, v = (spikes(p.conv_bn(f"{at}.{name}_{{}}", s)) for name in "qkv")
    return x + p.conv_bn(f"{at}.proj_{{}}", spikes(attention(q, k, v, heads), 0.5).view_as(q))


def event_embedding(p: _Layers, x: Tensor) -> Tensor:
    shortcut = x = p.conv_bn("patch_embed1.proj_{}", x)
    for i in (1, 2, 3):
        s = spikes(x)
        shortcut = p.conv_bn("patch_embed1.embed1.embed_{}", s, 4) if i == 2 else shortcut
        x = pooled(p.conv_bn(f"patch_embed1.max_embed{i}.embed_{{}}", s))
    return x + shortcut


def small_embedding(p: _Layers, x: Tensor) -> Tensor:
    x = p.conv_bn("patch_embed1.proj_{}", x)
    one, two = (p.conv_bn(f"patch_embed1.embed{i}.embed_{{}}", spikes(x)) for i in (1, 2))
    return one + two


def max_former(p: _Layers, form: str, x: Tensor, heads: int) -> Tensor:
    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return p.conv_bn(f"{name}.embed_{{}}", x, stride)

    def first(x: Tensor) -> Tensor:
        s = spikes(conv("patch_embed1.embed1", x, 2))
        x = conv("patch_embed1.embed3", spikes(conv("patch_embed1.embed2", s, 2)))
        return x + conv("patch_embed1.embed4", s, 2)

    def later(at: str, x: Tensor) -> Tensor:
        s = spikes(x)
        x = conv(f"{at}.embed1", spikes(pooled(conv(f"{at}.max_embed1", s))))
        return x + pooled(conv(f"{at}.max_embed2", s))

    mixers = {"cifar": ["", "conv"], "imagenet": ["conv5", "conv"], "dvs": ["conv"]}[form]
    for stage, mixer in enumerate([*mixers, None], 1):
        if stage == 1:
            x = {"cifar": small_embedding, "imagenet": lambda _, x: first(x), "dvs": event_embedding}[form](p, x)
        else:
            x = later(f"patch_embed{stage}", x)
        for i in range(p.count(f"stage{stage}")):
            at = f"stage{stage}.{i}"
            if mixer is None:
                x = membrane_attention(p, f"{at}.attn", x, heads)
            elif mixer:
                x = x + p.layer_bn(f"{at}.mixer.{mixer}", f"{at}.mixer.{mixer}_bn", spikes(x))
            x = membrane_mlp(p, f"{at}.mlp", x)
    return p.head(spikes(x.mean((3, 4))).mean(0))


def ms_qkformer(p: _Layers, form: str, x: Tensor, heads: int) -> Tensor:
    def first(x: Tensor) -> Tensor:
        s = spikes(pooled(p.conv_bn("patch_embed1.proj_{}", x)))
        x = p.conv_bn("patch_embed1.proj_{}2", spikes(pooled(p.conv_bn("patch_embed1.proj_{}1", s))))
        return x + p.conv_bn("patch_embed1.rpe_{}", s, 2)

    def later(at: str, x: Tensor) -> Tensor:
        s = spikes(x)
        if form == "imagenet":
            x = p.conv_bn(f"{at}.proj4_{{}}", spikes(pooled(p.conv_bn(f"{at}.proj3_{{}}", s))))
            return x + p.conv_bn(f"{at}.proj_res_{{}}", s, 2)
        x = pooled(p.conv_bn(f"{at}.max_embed1.embed_{{}}", spikes(p.conv_bn(f"{at}.embed1.embed_{{}}", s))))
        return x + p.conv_bn(f"{at}.embed2.embed_{{}}", s, 2)

    def token_attention(at: str, x: Tensor) -> Tensor:
        s = spikes(x)
        q = spikes(p.conv_bn(f"{at}.q_{{}}", s)).unflatten(2, (heads, -1))
        k = spikes(p.conv_bn(f"{at}.k_{{}}", s)).unflatten(2, (heads, -1))
        masked = torch.where(spikes(q.sum(3), 0.5).unsqueeze(3) > 0, k, 0.0)
        return x + p.conv_bn(f"{at}.proj_{{}}", masked.flatten(2, 3))

    stages = 2 if form == "dvs" else 3
    for stage in range(1, stages + 1):
        if stage == 1:
            x = {"cifar": small_embedding, "imagenet": lambda _, x: first(x), "dvs": event_embedding}[form](p, x)
        else:
            x = later(f"patch_embed{stage}", x)
        for i in range(p.count(f"stage{stage}")):
            at = f"stage{stage}.{i}"
            last = stage == stages
            x = membrane_attention(p, f"{at}.attn", x, heads) if last else token_attention(f"{at}.attn", x)
            x = membrane_mlp(p, f"{at}.mlp", x)
    return p.head(spikes(x.mean((3, 4))).mean(0))


FORWARD: dict[str, Callable[[_Layers, str, Tensor, int], Tensor]] = {
    "spikingformer": spikingformer,
    "sdt1": spike_driven,
    "sdt2": meta_spikeformer,
    "sdt3": spike_driven_v3,
    "qkformer": qkformer,
    "max-former": max_former,
    "ms-qkformer": ms_qkformer,
}
