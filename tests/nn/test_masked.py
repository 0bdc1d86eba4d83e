"""Masked pre-training: nothing of a masked pixel reaches the encoder's output."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.nn.masked import MaskedAutoencoder, encoded, normalised_patches, sine_positions
from spikformer_deploy.nn.spikformer_v2 import SpikformerV2
from spikformer_deploy.nn.zoo import named


def encoder(seed: int, time_steps: int) -> SpikformerV2:
    torch.manual_seed(seed)
    config = named(
        "v2-8-512", dim=16, depth=1, heads=2, time_steps=time_steps, in_channels=1, image_size=16, num_classes=3,
        mlp_ratio=2, stem_stages=2,
    )  # fmt: skip
    model = SpikformerV2(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 2.0, 0.5)
            torch.nn.init.normal_(module.bias, 0.5, 0.5)
    return model


def shown(visible: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, 1, Y, X): whether a pixel is seen."""
    side = int(visible.shape[1] ** 0.5)
    grid = visible.unflatten(1, (side, side))[:, None]
    return grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 15), st.sampled_from([1, 2]), st.booleans())
def test_masked_pixels_change_nothing(seed: int, seen: int, time_steps: int, training: bool) -> None:
    """Whatever stands in the masked patches, even in training, where statistics are those of the batch."""
    model = encoder(seed, time_steps).train(training)
    visible = torch.rand(3, 16).argsort(1) < seen
    first = torch.randn(3, 1, 16, 16) * 3
    second = torch.randn(3, 1, 16, 16) * 3
    second = torch.where(shown(visible, 4), first, second)
    assert not torch.equal(first, second)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    out = encoded(model, first, visible)
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert out.shape == (time_steps, 3, 16, seen)
    assert torch.equal(encoded(model, second, visible), out)
    assert all(torch.equal(value, statistics[key]) for key, value in model.state_dict().items())


def test_visible_pixels_do_change_something() -> None:
    model = encoder(0, 1)
    visible = torch.rand(8, 16).argsort(1) < 8
    first = torch.randn(8, 1, 16, 16) * 3
    second = torch.randn(8, 1, 16, 16) * 3
    assert not torch.equal(encoded(model, first, visible), encoded(model, second, visible))


def test_with_every_patch_visible_it_is_the_model() -> None:
    """The masked encoder and head on whole images give the logits of the model itself."""
    model = encoder(3, 2).eval()
    images = torch.randn(4, 1, 16, 16) * 2
    visible = torch.ones(4, 16, dtype=torch.bool)
    with torch.inference_mode():
        logits = model.head(encoded(model, images, visible).mean(3).mean(0))
        torch.testing.assert_close(logits, model(images))


def test_the_loss_is_that_of_masked_patches_only() -> None:
    model = MaskedAutoencoder(encoder(0, 1), 16, 1, 8, 1, 2).eval()
    images = torch.randn(2, 1, 16, 16)
    visible = torch.rand(2, 16).argsort(1) < 6
    target, mean, deviation = normalised_patches(images, 4)
    torch.testing.assert_close(target[1, 5].reshape(4, 4) * deviation[1, 5] + mean[1, 5], images[1, 0, 4:8, 4:8])
    painted = model.painted(images, visible)
    masked = (~visible).nonzero().tolist()
    errors = [(painted[image, patch] - target[image, patch]).square().mean() for image, patch in masked]
    torch.testing.assert_close(model(images, visible), torch.stack(errors).mean())


def test_positions_tell_tokens_apart() -> None:
    positions = sine_positions(14, 32)
    assert positions.shape == (196, 32)
    assert float(torch.cdist(positions, positions).fill_diagonal_(9.0).min()) > 0.1


@pytest.mark.parametrize("time_steps", [1, 2])
def test_all_that_learns_gets_a_gradient(time_steps: int) -> None:
    model = MaskedAutoencoder(encoder(1, time_steps), 16, 1, 8, 1, 2)
    model(torch.randn(4, 1, 16, 16) * 2, torch.rand(4, 16).argsort(1) < 8).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == ["encoder.head.weight", "encoder.head.bias"]


@pytest.mark.parametrize("seen", [1, 2, 4, 8])
def test_attention_of_a_part_stands_for_that_of_all(seen: int) -> None:
    """Where every token is the same, a part of them has the sums, and so the spikes, of all of them."""
    model = encoder(5, 2).eval()
    for conv in model.patch_embed.modules():
        if isinstance(conv, torch.nn.Conv2d) and conv.kernel_size == (3, 3):
            # only the centre of a kernel: no position sees another, or the border
            outer = torch.ones(3, 3, dtype=torch.bool)
            outer[1, 1] = False
            conv.weight.data[..., outer] = 0
    for norm in (model.block[0].attn.q_bn, model.block[0].attn.k_bn, model.block[0].attn.v_bn):
        norm.bias.data += 2  # spikes of most queries, keys and values
    scales = [block.attn.scale for block in model.block]
    images = torch.randn(6, 1, 1, 1).expand(6, 1, 16, 16) * 3
    with torch.inference_mode():
        whole = encoded(model, images, torch.ones(6, 16, dtype=torch.bool))
        part = encoded(model, images, torch.rand(6, 16).argsort(1) < seen)
    assert whole.std() > 0
    assert torch.equal(part, whole[..., :seen])
    assert [block.attn.scale for block in model.block] == scales
