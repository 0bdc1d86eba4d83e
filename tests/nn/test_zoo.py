"""Parameter counts and keys of the published models (facts of the papers and of the official code)."""

from dataclasses import replace

import pytest
import torch
from support.models import SMALL
from support.official import V1_COUNTS, V2_MILLIONS

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn.zoo import build, named, published

UNUSED = ("norm1.", "norm2.", "pos_embed", "norm.weight", "norm.bias")


def on_meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build(named(name))


@pytest.mark.parametrize("name", V1_COUNTS)
def test_v1_parameters(name: str) -> None:
    counts = {key: p.numel() for key, p in on_meta(name).named_parameters()}
    used = sum(n for key, n in counts.items() if not any(part in key for part in UNUSED))
    assert (sum(counts.values()), used) == V1_COUNTS[name]


@pytest.mark.parametrize("name", V2_MILLIONS)
def test_v2_parameters(name: str) -> None:
    count = sum(p.numel() for p in on_meta(name).parameters())
    assert abs(count / 1e6 - V2_MILLIONS[name]) < 0.02


def test_every_published_size_is_tested() -> None:
    """Those of the other families are in test_siblings.py."""
    assert {*V1_COUNTS, *V2_MILLIONS} == {name for name, c in published().items() if c.family in ("v1", "v2")}


def test_official_keys() -> None:
    state = on_meta("v1-4-384").state_dict()
    assert len(state) == 216
    shapes = {
        "patch_embed.proj_conv.weight": (48, 3, 3, 3),
        "patch_embed.proj_bn3.running_var": (384,),
        "patch_embed.rpe_conv.weight": (384, 384, 3, 3),
        "block.3.norm2.bias": (384,),
        "block.0.attn.q_linear.bias": (384,),
        "block.0.mlp.fc1_linear.weight": (1536, 384),
        "head.weight": (10, 384),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    imagenet = on_meta("v1-8-512").state_dict()
    assert len(imagenet) == 376
    assert tuple(imagenet["block.0.attn.q_conv.weight"].shape) == (512, 512, 1)
    assert tuple(imagenet["block.0.mlp.fc1_conv.weight"].shape) == (2048, 512, 1, 1)
    assert "block.0.attn.q_conv.bias" not in imagenet
    assert "block.0.attn.proj_conv.bias" in imagenet
    dvs = on_meta("v1-2-256-dvs").state_dict()
    assert tuple(dvs["pos_embed"].shape) == (1, 64, 256)
    assert tuple(dvs["block.0.mlp.fc1_conv.weight"].shape) == (1024, 256, 1)


BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def official_keys(name: str) -> set[str]:
    """The keys of the official state_dict, written down from the official code."""
    config = named(name)
    layer = "linear" if config.form == "cifar" else "conv"
    keys = {"head.weight", "head.bias"}
    for part in ("proj_conv", "proj_conv1", "proj_conv2", "proj_conv3", "rpe_conv"):
        keys.add(f"patch_embed.{part}.weight")
        keys |= {f"patch_embed.{part.replace('conv', 'bn')}.{statistic}" for statistic in BATCH_NORM}
    for block in (f"block.{i}" for i in range(config.depth)):
        keys |= {f"{block}.norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
        for part in ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"):
            keys.add(f"{block}.{part}_{layer}.weight")
            if config.form == "cifar" or part in ("attn.proj", "mlp.fc1", "mlp.fc2"):
                keys.add(f"{block}.{part}_{layer}.bias")
            keys |= {f"{block}.{part}_bn.{statistic}" for statistic in BATCH_NORM}
    return keys | ({"pos_embed", "norm.weight", "norm.bias"} if config.form == "dvs" else set())


@pytest.mark.parametrize("name", V1_COUNTS)
def test_official_keys_load_strictly(name: str) -> None:
    assert set(on_meta(name).state_dict()) == official_keys(name)


@pytest.mark.parametrize("pooling", ["0000", "1100", "0011", "0110", "1111"])
@pytest.mark.parametrize("form", ["cifar", "imagenet", "dvs"])
def test_pooling_says_how_many_tokens_there_are(form: str, pooling: str) -> None:
    """And nothing else: the keys and the shapes of the weights remain."""
    module = build(replace(SMALL[form], pooling=pooling))
    usual = build(SMALL[form])
    frames = torch.zeros(2, 1, module.patch_embed.proj_conv.in_channels, 16, 16)
    assert module.patch_embed(frames).shape == (2, 1, 32, 16 >> pooling.count("1"), 16 >> pooling.count("1"))
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items() if k != "pos_embed"} for m in (module, usual)]
    assert shapes[0] == shapes[1]


def test_pooling_that_is_none_is_refused() -> None:
    for pooling in ("11", "0012", "00111"):
        with pytest.raises(InputError, match=f"pooling: '{pooling}' does not say"):
            build(named("v1-4-384", pooling=pooling))
    with pytest.raises(InputError, match="pooling: the stem of v2 has no choice of it"):
        build(named("v2-8-512", pooling="0011"))


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="no published size is called 'v3-1-1'"):
        named("v3-1-1")
    with pytest.raises(InputError, match="384 channels do not divide into 7 heads"):
        build(named("v1-4-384", heads=7))
