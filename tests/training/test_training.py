"""Training: what a recipe says, a killed run that goes on, and the models in the box."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from attrs import evolve
from PIL import Image
from support.deep import some

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.converters.checkpoints.read import BUNDLED, bundled, load
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.inference.run import run
from spikformer_deploy.network.synapses import Conv, Readout
from spikformer_deploy.nn.spikformer_v2 import SpikformerV2
from spikformer_deploy.nn.zoo import build, named
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.training import fit
from spikformer_deploy.training import recipe as recipes
from spikformer_deploy.training.augment import augmented, moved
from spikformer_deploy.training.data import Feed, Labelled, epoch, normalised, read_test, read_training
from spikformer_deploy.training.distributed import World
from spikformer_deploy.training.mix import mixed, soft_labels
from spikformer_deploy.training.pretrain import pretrain, visible_patches
from spikformer_deploy.training.qat import plain_weights, round_weights
from spikformer_deploy.training.randaugment import OPERATIONS, randaugment
from spikformer_deploy.training.recipe import Augment, Data, Mask, Optimiser, Recipe, read_recipe
from spikformer_deploy.training.schedule import parameter_groups
from spikformer_deploy.training.supervised import accuracy, model_config, train

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = """
output = "tiny.safetensors"
[model]
family = "v1"
form = "cifar"
depth = 1
dim = 16
heads = 2
time_steps = 2
[data]
source = "digits"
channels = 1
size = 8
validation = 37
[augment]
shift = 1
crop_padding = 1
flip = 0.5
erase = 0.5
randaugment = 1
mixup = 0.5
cutmix = 1.0
mix_epochs = 2
[optimiser]
epochs = 3
batch = 256
learning_rate = 1e-2
ema = 0.9
"""


def smaller(recipe: str) -> str:
    """As many batches, of a quarter of the images."""
    return recipe.replace("validation = 37", "validation = 37\nfraction = 0.25").replace("batch = 256", "batch = 64")


class KilledError(Exception):
    """Stands for a kill after a batch."""


def kill_after(batches: int) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, remark: str) -> None:
        if done == batches:
            raise KilledError

    return report


def read_log(path: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


@pytest.mark.parametrize("keep_seconds", some([0.0], long=[1e9]))
def test_a_killed_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_seconds: float
) -> None:
    """Killed in the second epoch: it goes on from the first one's end, or from the very batch."""
    monkeypatch.setattr(fit, "KEEP_SECONDS", keep_seconds)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(smaller(TINY))
    whole = train(recipe, tmp_path / "whole.safetensors")
    with pytest.raises(KilledError):
        train(recipe, tmp_path / "killed.safetensors", progress=kill_after(8))
    assert not (tmp_path / "killed.safetensors").exists()
    batches: list[int] = []
    resumed = train(recipe, tmp_path / "killed.safetensors", progress=lambda done, total, remark: batches.append(done))
    assert batches == list(range(6 if keep_seconds else 9, 16))
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert resumed["test_accuracy"] == whole["test_accuracy"]
    files = {"tiny.toml", *(f"{name}.safetensors{kind}" for name in ("killed", "whole") for kind in ("", ".log"))}
    assert {p.name for p in tmp_path.iterdir()} == files
    killed, log = (read_log(tmp_path / f"{name}.safetensors.log") for name in ("killed", "whole"))
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert killed == log


def test_a_resume_file_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(smaller(TINY))
    with pytest.raises(KilledError):
        train(recipe, tmp_path / "a", progress=kill_after(6))
    recipe.write_text(smaller(TINY).replace("epochs = 3", "epochs = 4"))
    with pytest.raises(InputError, match="belongs to another recipe"):
        train(recipe, tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\2.", b"x" * 100])
def test_a_damaged_resume_file_is_refused(tmp_path: Path, content: bytes) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    (tmp_path / "a.resume").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.resume: it is no readable resume file(.|\n)*Delete it"):
        train(recipe, tmp_path / "a")
    assert (tmp_path / "a.resume").read_bytes() == content


@pytest.mark.parametrize("suffix", ["", ".log", ".resume"])
def test_every_file_of_a_training_is_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def worked(*_: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("spikformer_deploy.training.supervised.read_training", worked)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    (tmp_path / f"a{suffix}").mkdir()
    with pytest.raises(InputError, match=rf"a{suffix}: it cannot be written: it is a folder"):
        train(recipe, tmp_path / "a")


def test_more_time_steps_start_from_a_trained_checkpoint(tmp_path: Path) -> None:
    recipe, once = tmp_path / "tiny.toml", smaller(TINY).replace("epochs = 3", "epochs = 1")
    recipe.write_text(once)
    train(recipe, tmp_path / "first.safetensors")
    start = f'[start]\ncheckpoint = "{tmp_path}/first.safetensors"\n'
    recipe.write_text(once.replace("time_steps = 2", "time_steps = 4").replace("1e-2", "1e-12") + start)
    train(recipe, tmp_path / "second.safetensors")
    first, second = (load(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    assert (first.config.time_steps, second.config.time_steps) == (2, 4)
    for before, after in zip(first.module.parameters(), second.module.parameters(), strict=True):
        torch.testing.assert_close(after, before)
    recipe.write_text(once.replace("dim = 16", "dim = 32") + start)
    with pytest.raises(InputError, match=r"start\.checkpoint"):
        train(recipe, tmp_path / "third.safetensors")


@pytest.mark.long
def test_an_encoder_is_pretrained_and_fine_tuned(tmp_path: Path) -> None:
    """Without its decoder and with a new head; a killed pre-training ends as an uninterrupted one."""
    recipe = tmp_path / "tiny.toml"
    text = TINY.replace('"v1"', '"v2"').replace('"cifar"', '"imagenet"')
    text = text.replace("time_steps = 2", "time_steps = 1\nstem_stages = 1").replace("epochs = 3", "epochs = 2")
    recipe.write_text(text + "[mask]\nratio = 0.5\ndecoder_dim = 16\ndecoder_depth = 1\ndecoder_heads = 2\n")
    whole = pretrain(recipe, tmp_path / "whole")
    with pytest.raises(KilledError):
        pretrain(recipe, tmp_path / "killed", progress=kill_after(7))
    assert pretrain(recipe, tmp_path / "killed")["loss"] == whole["loss"] < 1.2
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert Image.open(whole["picture"]).size == (8 * 8 * 4, 3 * 8 * 4)
    assert not (tmp_path / "whole.resume").exists()
    start = f'[start]\nencoder = "{tmp_path}/whole"\n'
    text = smaller(text).replace("1e-2", "1e-12\nseed = 5").replace("time_steps = 1", "time_steps = 2")
    recipe.write_text(text + start)
    train(recipe, tmp_path / "tuned")
    encoder, tuned = (load(tmp_path / name).module for name in ("whole", "tuned"))
    torch.testing.assert_close(tuned.block[0].mlp.fc1_conv.weight, encoder.block[0].mlp.fc1_conv.weight)
    assert not torch.allclose(tuned.head.weight, encoder.head.weight)


@pytest.mark.long
def test_the_compiled_integers_are_those_that_were_trained(tmp_path: Path) -> None:
    """Fine-tuning to 3 bits: the program's weights equal the rounded ones of the training, and the frozen statistics
    those of the start."""
    recipe, once = tmp_path / "tiny.toml", smaller(TINY).replace("epochs = 3", "epochs = 2")
    recipe.write_text(once)
    train(recipe, tmp_path / "float.safetensors")
    recipe.write_text(f'{once}weight_bits = 3\n[start]\ncheckpoint = "{tmp_path}/float.safetensors"\n')
    result = train(recipe, tmp_path / "rounded.safetensors")
    before, after = (load(tmp_path / f"{name}.safetensors") for name in ("float", "rounded"))
    for name, value in before.module.named_buffers():
        assert torch.equal(value, after.module.get_buffer(name))
    program = compile_model(after, weight_bits=3, check=False).program
    round_weights(after.module, after.preprocess, 3)
    compared = 0
    for projection in program.network.projections:
        if not isinstance(projection.synapse, Conv | Readout):
            continue
        path = "head" if isinstance(projection.synapse, Readout) else projection.target.replace("lif", "linear")
        path = path if path in dict(after.module.named_modules()) else projection.target.replace("lif", "conv")
        weight = after.module.get_submodule(path).weight.detach().double().flatten(1)
        integers = torch.from_numpy(projection.synapse.weight.astype(np.int64)).flatten(1)
        assert torch.equal(weight.sign() * (integers != 0), integers.sign())
        # in a row, real weights are integers times one positive number for each input channel
        compared += 1
        if path != "patch_embed.proj_conv":
            rows = [(w[i != 0] / i[i != 0]).abs() for w, i in zip(weight, integers, strict=True) if (i != 0).any()]
            assert all(torch.allclose(row, row[:1].expand_as(row), rtol=1e-4) for row in rows)
    assert compared == 5 + 4 + 2 + 1
    rounded = accuracy(after.module, *read_labelled("digits", after.preprocess))
    assert rounded == pytest.approx(result["test_accuracy"], abs=0.01)


@pytest.mark.parametrize("bits", some([3], [2, 4]))
def test_the_compiled_program_computes_what_was_trained(bits: int) -> None:
    """A model with rounded weights, however little it is worth then, and the program for it: equal predictions.

    A current of one image in 360 may lie so near a threshold that float32 is on the other side.
    """
    model = load("digits-v1")
    program = compile_model(model, weight_bits=bits, check=False).program
    round_weights(model.module.eval(), model.preprocess, bits)
    digits, preprocess = read_labelled("digits", model.preprocess)
    with torch.inference_mode():
        predicted = model.module(normalised(digits.pixels, preprocess)).argmax(1).numpy()
    assert np.count_nonzero(predicted != run(program, "digits").predictions) <= 1
    plain_weights(model.module)
    assert accuracy(model.module, digits, preprocess) == pytest.approx(model.training["test_accuracy"], abs=1e-9)


def read_labelled(source: str, preprocess: Preprocess) -> tuple[Labelled, Preprocess]:
    images = read(source, preprocess, split="test")
    assert images.labels is not None
    return Labelled(images.pixels, images.labels), preprocess


def test_as_many_patches_are_seen_as_the_ratio_leaves() -> None:
    seen = visible_patches(50, 16, 0.6, np.random.default_rng(0))
    assert seen.shape == (50, 16)
    assert set(seen.sum(1)) == {6}
    assert seen.any(0).all()


def test_pretraining_is_for_v2(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    with pytest.raises(InputError, match="that of V2"):
        pretrain(tmp_path / "tiny.toml", tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depth = 1", "depth = 0", r"depth"),
        ("depth = 1", 'depth = "one"', r"\$\.model\.depth"),
        ("heads = 2\n", "", r"required field missing @ \$\.model\.heads"),
        ("heads = 2", "heads = 2\nhands = 2", "extra fields found"),
        ('family = "v1"', 'family = "v9"', "family"),
        ("depth = 1", 'depth = 1\npooling = "11"', "pooling"),
        ("[model]", "[model", "no readable TOML"),
    ],
)
def test_a_bad_recipe_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(TINY.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_recipe(tmp_path / "bad.toml")


def test_the_document_has_every_field_of_a_recipe_and_its_default() -> None:
    page = (EXAMPLES.parent / "docs" / "training.md").read_text().split("## Fields of a recipe")[1].split("\n## ")[0]
    written = dict(re.findall(r"^\| `([\w.]+)` \| `?(.+?)`? \|", page, re.M))
    known = {}
    for part in attrs.fields(Recipe):
        inner = getattr(recipes, part.name.capitalize(), None)
        for field in attrs.fields(inner) if inner else (part,):
            value = {"": '""', (): "[]", attrs.NOTHING: "needed"}.get(field.default, str(field.default).lower())
            known[f"{part.name}.{field.name}" if inner else part.name] = value
    assert written == known


def test_the_recipes_of_the_examples_are_in_order() -> None:
    found = [path for path in EXAMPLES.glob("*.toml") if "[optimiser]" in path.read_text()]
    assert len(found) >= 11
    for path in found:
        recipe = read_recipe(path)
        with torch.device("meta"):
            module = build(model_config(recipe, 10))
        assert recipe.mask == Mask() or isinstance(module, SpikformerV2)


def test_augmentation_moves_and_keeps_the_size() -> None:
    images = torch.zeros(8, 1, 9, 9)
    images[:, :, 4, 4] = 1.0
    blank = torch.zeros(1)
    same = moved(images, torch.Generator().manual_seed(0), 0, 0.0, blank)
    torch.testing.assert_close(same, images)
    shifted = moved(images, torch.Generator().manual_seed(0), 2, 0.0, blank)
    assert shifted.shape == images.shape
    assert not torch.equal(shifted, images)
    torch.testing.assert_close(shifted.sum((1, 2, 3)), torch.ones(8), rtol=1e-4, atol=1e-4)


def test_an_image_is_cropped_mirrored_and_erased_within_its_borders() -> None:
    pixels, mean = np.arange(2 * 6 * 5, dtype=np.uint8).reshape(2, 6, 5) + 100, np.array([7, 9], np.uint8)
    rng = np.random.default_rng(0)
    assert np.array_equal(augmented(pixels, Augment(flip=1.0), mean, rng), pixels[:, :, ::-1])
    crops = [augmented(pixels, Augment(crop_padding=2), mean, rng) for _ in range(50)]
    assert all(crop.shape == pixels.shape for crop in crops)
    assert {int((crop == 0).sum() // 2) for crop in crops} > {0, 6, 10, 12}
    for _ in range(50):
        erased = augmented(pixels, Augment(erase=1.0), mean, rng)
        changed = erased != pixels
        assert np.array_equal(changed[0], changed[1])
        assert np.array_equal(erased[:, changed[0]], np.broadcast_to(mean[:, None], (2, changed[0].sum())))
        assert 1 <= changed[0].sum() <= 0.5 * 30


@pytest.mark.long
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """torchrun on the CPU: gradients are shared, so both processes end with the weights that the first one writes."""
    (tmp_path / "tiny.toml").write_text(smaller(TINY).replace("epochs = 3", "epochs = 2"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [*launch, "-m", "spikformer_deploy.cli.main", "train", "tiny.toml", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test_accuracy"] == load(tmp_path / "tiny.safetensors").training["test_accuracy"]
    assert [line["epoch"] for line in read_log(tmp_path / "tiny.safetensors.log")] == [1, 2]
    assert not (tmp_path / "tiny.safetensors.resume").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_processes_share_a_batch_out(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace("shift = 1\n", ""))
    recipe = read_recipe(tmp_path / "tiny.toml")
    images, _, preprocess, _ = read_training(recipe.data)
    x, y = next(epoch(Feed(images, preprocess, recipe.augment, 100, 3), 1))
    for rank in range(2):
        part = World(rank, 2, torch.device("cpu")).part
        own_x, own_y = next(epoch(Feed(images, preprocess, recipe.augment, 100, 3, part), 1))
        assert torch.equal(own_x, x[rank::2])
        assert torch.equal(own_y, y[rank::2])


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    once = smaller(TINY).replace("epochs = 3", "epochs = 1")
    for name, text in (("kept", once), ("recomputed", once + "checkpointing = true\n")):
        (tmp_path / "tiny.toml").write_text(text)
        train(tmp_path / "tiny.toml", tmp_path / name)
    kept, recomputed = (load(tmp_path / name).module.state_dict() for name in ("kept", "recomputed"))
    assert all(torch.equal(kept[key], recomputed[key]) for key in kept)


def pretraining(settings: str) -> str:
    text = TINY.replace('"v1"', '"v2"').replace('"cifar"', '"imagenet"').replace("epochs = 3", "epochs = 1")
    text = text.replace("time_steps = 2", "time_steps = 1\nstem_stages = 1")
    return text + settings + "[mask]\nratio = 0.5\ndecoder_dim = 16\ndecoder_depth = 1\ndecoder_heads = 2\n"


@pytest.mark.long
def test_recomputed_activations_change_nothing_in_pretraining(tmp_path: Path) -> None:
    """Where attention is scaled by the tokens that are seen, on the way back too."""
    for name, settings in (("kept", ""), ("recomputed", "checkpointing = true\n")):
        (tmp_path / "tiny.toml").write_text(pretraining(settings))
        pretrain(tmp_path / "tiny.toml", tmp_path / name)
    kept, recomputed = (load(tmp_path / name).module.state_dict() for name in ("kept", "recomputed"))
    assert all(torch.equal(kept[key], recomputed[key]) for key in kept)


def test_weights_are_not_rounded_in_pretraining(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(pretraining("weight_bits = 4\n"))
    with pytest.raises(InputError, match="rounded in fine-tuning"):
        pretrain(tmp_path / "tiny.toml", tmp_path / "out")


def test_layers_near_the_image_learn_slower() -> None:
    module = build(named("v1-2-384", dim=32, heads=2))
    settings = Optimiser(epochs=1, batch=1, learning_rate=1.0, weight_decay=0.05, layer_decay=0.5)
    groups = parameter_groups(module, settings)
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))
    factor = {id(p): (group["factor"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert factor[id(module.head.weight)] == (1.0, 0.05)
    assert factor[id(module.head.bias)] == (1.0, 0.0)
    assert factor[id(module.block[1].mlp.fc1_linear.weight)] == (0.5, 0.05)
    assert factor[id(module.block[0].attn.q_bn.weight)] == (0.25, 0.0)
    assert factor[id(module.patch_embed.rpe_conv.weight)] == (0.125, 0.05)


def test_biases_and_normalisation_may_learn_faster() -> None:
    module = build(named("v1-2-384", dim=32, heads=2))
    settings = Optimiser(epochs=1, batch=1, learning_rate=1.0, layer_decay=0.5, vector_factor=10.0)
    factor = {id(p): group["factor"] for group in parameter_groups(module, settings) for p in group["params"]}
    assert factor[id(module.head.weight)] == 1.0
    assert factor[id(module.head.bias)] == 10.0
    assert factor[id(module.block[1].mlp.fc1_linear.weight)] == 0.5
    assert factor[id(module.block[1].mlp.fc1_bn.bias)] == 5.0


def test_mixed_labels_say_what_is_in_the_image() -> None:
    """Images of one value each: after cutmix the share of a value is the weight of its label; after mixup, the mean."""
    values, targets = torch.arange(4.0).reshape(4, 1, 1, 1), soft_labels(torch.arange(4), 4, 0.0)
    images = values.expand(4, 1, 8, 8)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cut, labels = mixed(images, targets, Augment(cutmix=1.0), rng)
        shares = torch.stack([(cut == value).float().mean((1, 2, 3)) for value in range(4)], 1)
        torch.testing.assert_close(shares, labels)
        blended, labels = mixed(images, targets, Augment(mixup=0.8), rng)
        torch.testing.assert_close(blended.mean((1, 2, 3)), labels @ torch.arange(4.0))
    smooth = soft_labels(torch.tensor([2]), 4, 0.1)
    torch.testing.assert_close(smooth, torch.tensor([[0.025, 0.025, 0.925, 0.025]]))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_of_randaugment(name: str, channels: int) -> None:
    """Each keeps size and mode; those with a strength do next to nothing at 0 and something at 1."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 190, (40, 30, channels)).astype(np.uint8)
    image = Image.fromarray(pixels.squeeze())
    before = np.asarray(image).astype(int)
    out = [np.asarray(OPERATIONS[name](image, strength, 1.0, (0,) * channels)).astype(int) for strength in (0.0, 1.0)]
    assert all(x.shape == before.shape for x in out)
    assert not np.array_equal(out[1], before) or (name == "color" and channels == 1)
    if name not in ("auto_contrast", "equalize", "invert", "posterize"):
        assert np.abs(out[0] - before).max() <= 1


def test_randaugment_is_reproducible_and_keeps_the_shape() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16)).astype(np.uint8)
    outs = [randaugment(pixels, 2, 9.0, 0.4, (1, 2, 3), np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert all(out.shape == pixels.shape and out.dtype == np.uint8 for out in outs)
    assert np.array_equal(outs[0], outs[1])
    assert len({out.tobytes() for out in outs}) > 1


def test_an_epoch_is_the_same_from_any_batch_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    recipe = read_recipe(tmp_path / "tiny.toml")
    images, validation, preprocess, names = read_training(recipe.data)
    assert (len(images), len(validation), names) == (1400, 37, tuple("0123456789"))
    whole = list(epoch(Feed(images, preprocess, recipe.augment, 100, 3), 1))
    later = list(epoch(Feed(images, preprocess, recipe.augment, 100, 3), 1, first=11))
    assert len(whole) == 14
    assert all(torch.equal(a, b) for x, y in zip(whole[11:], later, strict=True) for a, b in zip(x, y, strict=True))
    other = next(epoch(Feed(images, preprocess, recipe.augment, 100, 3), 2))
    assert not torch.equal(other[0], whole[0][0])


@pytest.mark.parametrize("name", ["digits-v1", "digits-v2", "digits-levels"])
def test_the_models_in_the_box_know_their_digits(name: str) -> None:
    loaded = load(name)
    images = read("digits", loaded.preprocess, split="test")
    assert images.labels is not None
    reached = accuracy(loaded.module, Labelled(images.pixels, images.labels), loaded.preprocess)
    assert reached >= 0.97
    assert reached == pytest.approx(loaded.training["test_accuracy"], abs=1.5 / 360)
    recipe = read_recipe(EXAMPLES / BUNDLED[name].replace(".safetensors", ".toml"))
    assert loaded.training["recipe"]["optimiser"]["seed"] == recipe.optimiser.seed
    assert np.isclose(loaded.training["recipe"]["model"]["dim"], recipe.model.dim)
    assert (loaded.config.levels, loaded.config.time_steps) == (recipe.model.levels, recipe.model.time_steps)


@pytest.mark.long
def test_the_recipe_of_integer_neurons_learns(tmp_path: Path) -> None:
    """In three of its epochs; what is saved is a model of integers, and runs as one."""
    recipe = read_recipe(EXAMPLES / "digits_levels.toml")
    short = evolve(recipe, optimiser=evolve(recipe.optimiser, epochs=3, warmup_epochs=1))
    result = train(short, tmp_path / "short.safetensors")
    assert result["test_accuracy"] > 0.6
    loaded = load(tmp_path / "short.safetensors")
    assert (loaded.config.levels, loaded.config.time_steps) == (4, 1)
    done = run(compile_model(loaded, check=False).program, "digits", limit=100)
    assert done.accuracy > 0.6
    with pytest.raises(InputError, match="--levels: the model learnt to send integers up to 4"):
        load(tmp_path / "short.safetensors", levels=8)


def test_rounding_in_training_knows_no_integer_neurons(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(
        TINY.replace("heads = 2", "heads = 2\nlevels = 4").replace("ema = 0.9", "ema = 0.9\nweight_bits = 4")
    )
    with pytest.raises(InputError, match=r"optimiser\.weight_bits: .* model\.levels replaces them"):
        train(tmp_path / "tiny.toml", tmp_path / "out")


@pytest.mark.long
def test_the_model_in_the_box_knows_cifar10() -> None:
    """On a thousand test images, JPEG-compressed copies: what its file says, give or take three deviations."""
    source = EXAMPLES.parents[1] / "shared" / "data" / "cifar10-jpeg.zip"
    if not source.exists():
        pytest.skip("the images of CIFAR-10 are not here: the bundled model is not tested on them")
    loaded = load("cifar10")
    images = read(source, loaded.preprocess, limit=1000)
    assert images.labels is not None
    assert images.names == loaded.labels
    stated = loaded.training["test_accuracy"]
    reached = accuracy(loaded.module, Labelled(images.pixels, images.labels), loaded.preprocess)
    assert reached == pytest.approx(stated, abs=3 * (stated * (1 - stated) / 1000) ** 0.5)


def test_the_largest_model_in_the_box_is_made_of_the_integers_of_its_program() -> None:
    """Random mantissas compress to nothing: they would be most of the wheel."""
    module = load("cifar10").module
    layers = [layer for layer in module.modules() if isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d))]
    for layer in layers[1:]:
        weight = layer.weight.detach().flatten(1)
        whole = weight == weight.round()
        assert weight.abs().max() < 127.5
        # all but the largest of each channel, and those that would round beyond it
        assert whole.float().mean() > 0.98
        peaks = weight.abs().amax(1, keepdim=True)
        assert bool((whole | (weight.abs() == peaks)).all())


def test_the_box_stays_small() -> None:
    assert sum(bundled(name).stat().st_size for name in BUNDLED) < 12_000_000


def test_what_is_trained_on_is_not_tested_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("all", "others"):
        pixels, labels = rng.integers(0, 256, (8, 1, 8, 8)).astype(np.uint8), np.arange(8) % 2
        np.savez(tmp_path / f"{name}.npz", images=pixels, labels=labels)
    data, preprocess = Data(str(tmp_path / "all.npz"), 1, 8), Preprocess(1, 8, (0.0,), (1.0,))
    with pytest.raises(InputError, match="it has no test split"):
        read_test(data, preprocess, ("0", "1"))
    apart = Data(str(tmp_path / "all.npz"), 1, 8, test=str(tmp_path / "others.npz"))
    assert len(read_test(apart, preprocess, ("0", "1"))) == 8


def test_a_fraction_of_the_labels_is_the_same_share_of_every_class(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    pixels = np.arange(60 * 4, dtype=np.uint8).reshape(60, 1, 2, 2)
    np.savez(tmp_path / "all.npz", images=pixels, labels=labels)
    data = Data(str(tmp_path / "all.npz"), 1, 2, fraction=0.2)
    some, _, _, names = read_training(data)
    assert np.bincount(some.labels).tolist() == [6, 4, 2]
    assert names == ("0", "1", "2")
    of = {tuple(image.ravel().tolist()): label for image, label in zip(pixels, labels, strict=True)}
    seen = [tuple(image.ravel().tolist()) for image in some.for_evaluation(slice(None))]
    assert [of[image] for image in seen] == some.labels.tolist()
    assert len(set(seen)) == len(seen)
    assert np.array_equal(read_training(data)[0].labels, some.labels)
    more = Data(str(tmp_path / "all.npz"), 1, 2, fraction=0.4)
    larger = {tuple(image.ravel().tolist()) for image in read_training(more)[0].for_evaluation(slice(None))}
    assert larger > set(seen)
