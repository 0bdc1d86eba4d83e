"""A model for event data, from training to the program."""

from pathlib import Path

import numpy as np
import pytest

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.inference.run import run
from spikformer_deploy.inference.verify import verify
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.training.recipe import read_recipe
from spikformer_deploy.training.supervised import train

BARS = """
output = "bars.safetensors"
[model]
family = "v1"
form = "dvs"
depth = 1
dim = 32
heads = 4
time_steps = 4
mlp_ratio = 2
pooling = "1100"
[data]
source = "train.npz"
test = "test.npz"
channels = 2
size = 16
[augment]
crop_padding = 1
shift = 1
mixup = 0.2
cutmix = 0.2
erase = 0.1
[start]
norm_gain = 2.0
[optimiser]
epochs = 6
batch = 32
learning_rate = 1e-2
ema = 0.9
"""


def bars(count: int, seed: int) -> dict[str, np.ndarray]:
    """A bar that moves to the right or down over four frames."""
    rng = np.random.default_rng(seed)
    images, labels = np.zeros((count, 4, 2, 16, 16), np.uint8), rng.integers(0, 2, count)
    for image, label in zip(images, labels, strict=True):
        start = int(rng.integers(0, 8))
        for t, frame in enumerate(image):
            frame[0, :, start + 2 * t] = rng.integers(2, 9, 16)
            frame[1, :, start + 2 * t + 1] = rng.integers(2, 9, 16)
            image[t] = frame.transpose(0, 2, 1) if label else frame
    return {"images": images, "labels": labels}


@pytest.mark.long
def test_from_recordings_to_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, compiled and run: it has learnt, and engine and reference have the spikes of the float model."""
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", **bars(320, 0))
    np.savez("test.npz", **bars(64, 1))
    Path("bars.toml").write_text(BARS)
    result = train("bars.toml")
    assert result["test_accuracy"] > 0.9
    compiled = compile_model("bars.safetensors", calibrate_on="train.npz")
    assert compiled.program.frames == 4
    compiled.program.save("bars.spk")
    program = Program.load("bars.spk")
    assert run(program, "test.npz").accuracy > 0.9
    verdict = verify(program, "test.npz", backends=("reference",), limit=8)
    assert all(verdict.backends.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('form = "dvs"', 'form = "cifar"', "the model takes images without time steps"),
        ("time_steps = 4", "time_steps = 3", "takes recordings of 3 frames"),
        ("[augment]", "[augment]\nrandaugment = 1", "operations are those of images"),
        ("size = 16", "size = 16\nresize = 20", "frames of event data are not resized"),
    ],
)
def test_a_recipe_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", **bars(64, 0))
    np.savez("test.npz", **bars(8, 1))
    Path("bars.toml").write_text(BARS.replace(old, new))
    with pytest.raises(InputError, match=message):
        train(read_recipe("bars.toml"))
