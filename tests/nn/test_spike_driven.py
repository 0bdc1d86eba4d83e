"""Forms of the Spike-driven Transformer V1 beside those for images, and STAtten: another build of the official code.

Written from its semantics, step by step and head by head, on the state_dict.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.models import model_and_images
from torch import Tensor

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.plif import PLIF
from spikformer_deploy.nn.zoo import build, named

SMALL = {"dim": 32, "depth": 1, "heads": 4, "image_size": 16, "time_steps": 4}
FORMS: dict[str, ModelConfig] = {
    "gesture": named("sdt1-2-256-gesture", **SMALL | {"image_size": 32}),
    "gesture-plif": named("sdt1-2-256-gesture", plif=True, **SMALL),
    "dvs-plif": named("sdt1-2-256-dvs", plif=True, **SMALL),
    "another-pooling": named("sdt1-2-256", pooling="0110", **SMALL),
    "statten-1": named("statten-2-512", **SMALL | {"chunk": 1}),
    "statten-2": named("statten-2-512", **SMALL),
    "statten-dvs-1": named("statten-2-256-dvs", **SMALL | {"chunk": 1}),
    "statten-dvs-2": named("statten-2-256-dvs", **SMALL | {"chunk": 2}),
}
POOLING = {"cifar": "0011", "dvs": "0011", "gesture": "0111"}


@pytest.mark.parametrize("name", ["sdt1-2-256-dvs", "sdt1-2-256-gesture"])
def test_learnt_time_constants_are_scalars_of_the_state_dict(name: str) -> None:
    """Golden numbers of the official modules: 22 scalars in 134 keys, some that nothing reads among them."""
    with torch.device("meta"):
        state = build(named(name, plif=True)).state_dict()
        without = build(named(name)).state_dict()
    scalars = [key for key, value in state.items() if value.ndim == 0 and key.endswith(".w")]
    assert (len(state), len(scalars), len(without)) == (134, 22, 112)
    assert set(state) - set(scalars) == set(without)
    assert {"patch_embed.rpe_lif.w", "block.0.attn.attn_lif.w", "block.1.attn.attn_lif.w", "head_lif.w"} < set(scalars)


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_those_of_the_official_forward_pass(name: str) -> None:
    config = FORMS[name]
    module, images = model_and_images(config)
    if config.plif:
        state = module.state_dict()
        values = torch.linspace(-0.7, 0.9, 22)
        state |= {k: values[i] for i, k in enumerate(k for k in state if k.endswith(".w"))}
        module.load_state_dict(state)
    frames = images.transpose(0, 1) if config.per_step else images.expand(config.time_steps, *images.shape)
    with torch.no_grad():
        ours = module(images)
        theirs = Official(module.state_dict(), config).logits(frames)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * float(ours.abs().max()))


def test_time_constants_follow_what_is_loaded() -> None:
    neurons = PLIF()
    assert neurons.tau == 2
    neurons.load_state_dict({"w": torch.tensor(-1.0986123)})  # -ln 3
    assert neurons.tau == pytest.approx(4)
    for w in (-14.0, -1e4, float("nan")):
        with pytest.raises(ModelError, match="w: a learnt time constant of 1 / sigmoid"):
            neurons.load_state_dict({"w": torch.tensor(w)})


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="chunk: 5 time steps do not divide into chunks of 2"):
        build(named("statten-2-512", time_steps=5))
    with pytest.raises(InputError, match="attention: there is no 'softmax'"):
        build(named("sdt1-2-512", attention="softmax"))
    with pytest.raises(InputError, match="STAtten has no neurons with learnt time constants"):
        build(replace(FORMS["statten-1"], plif=True))


class Official:
    """The official forward pass, on (T, B, C, Y, X)."""

    def __init__(self, state: dict[str, Tensor], config: ModelConfig) -> None:
        self.state = state
        self.config = config

    def logits(self, x: Tensor) -> Tensor:
        config = self.config
        pooling = config.pooling or POOLING[config.form]
        for i, suffix in enumerate(("", "1", "2", "3")):
            x = self.layer(f"patch_embed.proj_{{}}{suffix}", x)
            x = x if i == 3 else self.fire(f"patch_embed.proj_lif{suffix}", x)
            x = pool(x, 2) if pooling[i] == "1" else x
        x = x + self.layer("patch_embed.rpe_{}", self.fire("patch_embed.proj_lif3", x))
        for i in range(config.depth):
            x = x + self.attention(f"block.{i}.attn", x)
            hidden = self.layer(f"block.{i}.mlp.fc1_{{}}", self.fire(f"block.{i}.mlp.fc1_lif", x))
            x = x + self.layer(f"block.{i}.mlp.fc2_{{}}", self.fire(f"block.{i}.mlp.fc2_lif", hidden))
        spikes = self.fire("head_lif", x.mean((3, 4)))
        return F.linear(spikes, self.state["head.weight"], self.state["head.bias"]).mean(0)

    def attention(self, at: str, x: Tensor) -> Tensor:
        config = self.config
        s = self.fire(f"{at}.shortcut_lif", x)
        q, k, v = (self.fire(f"{at}.{n}_lif", self.layer(f"{at}.{n}_{{}}", s)) for n in "qkv")
        if config.attention:
            out = self.chunks(at, s, q, k, v)
        elif config.form == "dvs":
            met = neighbours((pool(k) * pool(v)), config.heads).sum((3, 4), keepdim=True)
            out = neighbours(q * self.fire(f"{at}.talking_heads_lif", met, 0.5), config.heads)
        else:
            out = q * self.fire(f"{at}.talking_heads_lif", (k * v).sum((3, 4), keepdim=True), 0.5)
        return self.layer(f"{at}.proj_{{}}", out)

    def chunks(self, at: str, s: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        config = self.config
        events = config.form == "dvs"
        if events:
            q, k, v, s = (pool(x) for x in (q, k, v, s))
        side = q.shape[3]
        scale = 1 / (side * side * config.chunk) if events else 1 / side
        heads = [x.unflatten(2, (config.heads, -1)).flatten(4) for x in (q, k, v)]
        sums = torch.empty_like(heads[0])
        for first in range(0, len(q), config.chunk):
            steps = slice(first, first + config.chunk)
            memory = torch.einsum("tbhcn,tbhdn->bhcd", heads[1][steps], heads[2][steps])
            sums[steps] = torch.einsum("tbhcn,bhcd->tbhdn", heads[0][steps], memory) * scale
        out = self.fire(f"{at}.attn_lif", sums, 0.5).reshape(q.shape)
        return out * s + s if events else out

    def layer(self, name: str, x: Tensor) -> Tensor:
        weight = self.state[f"{name.format('conv')}.weight"]
        bias = self.state.get(f"{name.format('conv')}.bias")
        y = F.conv2d(x.flatten(0, 1), weight, bias, padding=weight.shape[2] // 2)
        norm = [self.state[f"{name.format('bn')}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(y, *norm).unflatten(0, x.shape[:2])

    def fire(self, name: str, x: Tensor, threshold: float = 1.0) -> Tensor:
        w = self.state.get(f"{name}.w")
        share = 0.5 if w is None else float(w.double().sigmoid())
        v = torch.zeros_like(x[0])
        out = []
        for current in x:
            v = v + (current - v) * share
            out.append((v >= threshold).to(x.dtype))
            v = torch.where(v >= threshold, 0.0, v)
        return torch.stack(out)


def pool(x: Tensor, stride: int = 1) -> Tensor:
    """3x3 over rows and columns."""
    return F.max_pool2d(x.flatten(0, 1), 3, stride, 1).unflatten(0, x.shape[:2])


def neighbours(x: Tensor, heads: int) -> Tensor:
    """Whether any token from the one before to the one behind fires in a channel beside, of the same head."""
    flat = x.flatten(3)
    depth = flat.shape[2] // heads
    out = torch.zeros_like(flat)
    for c in range(flat.shape[2]):
        head = c // depth * depth
        for n in range(flat.shape[3]):
            channels = slice(max(head, c - 1), min(head + depth, c + 2))
            out[:, :, c, n] = flat[:, :, channels, max(0, n - 1) : n + 2].amax((2, 3))
    return out.reshape(x.shape)
