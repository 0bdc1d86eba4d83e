"""A forecast of generated time series: data, and an iSpikformer whose last layer is fitted, in the official layout.

    python examples/time_series.py FOLDER

writes train.npz, test.npz and model_best.pkl; docs/time-series.md has the commands that compile and run it.  The blocks
keep the weights that they were drawn with: this shows the way, and not what a trained model forecasts.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spikformer_deploy.base.series import Series
from spikformer_deploy.data.series import preprocess_of_series, read_series
from spikformer_deploy.nn.zoo import build, named

VARIABLES = 7
WINDOW = 24
HORIZON = 6
TRAIN, TEST = 400, 60
"""Windows."""


def generated(rng: np.random.Generator, points: int) -> np.ndarray:
    """(points, VARIABLES): a wave of a period of 12 points and a slow one, and noise, in units of their own."""
    time = np.arange(points)[:, None]
    phases = rng.uniform(0, 2 * np.pi, (2, VARIABLES))
    waves = np.sin(2 * np.pi * time / 12 + phases[0]) + 0.3 * np.sin(2 * np.pi * time / 100 + phases[1])
    noise = 0.1 * rng.normal(size=(points, VARIABLES))
    return (waves + noise) * rng.uniform(1, 10, VARIABLES) + rng.uniform(-10, 10, VARIABLES)


def windows_of(series: np.ndarray, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """x (count, WINDOW, VARIABLES), and y (count, HORIZON, VARIABLES), the points that follow each window."""
    starts = range(first, first + count)
    x = np.stack([series[start : start + WINDOW] for start in starts])
    y = np.stack([series[start + WINDOW : start + WINDOW + HORIZON] for start in starts])
    return x, y


def drawn_model() -> nn.Module:
    """An iSpikformer with random weights, under which its encoder fires."""
    torch.manual_seed(0)
    config = replace(
        named("seqsnn-ispikformer-electricity"),
        depth=1, dim=128, heads=4, mlp_ratio=2, image_size=WINDOW, in_channels=VARIABLES, num_classes=HORIZON,
    )  # fmt: skip
    model = build(config)
    state = model.state_dict()
    state["network.encoder.encoder.0.weight"].normal_(0, 1.5)
    state["network.encoder.encoder.1.bias"].fill_(0.6)
    for name, value in state.items():
        if name.endswith("bias") and ("bn." in name or ".mlp.bn" in name):
            value.fill_(0.5)
    model.load_state_dict(state)
    return model


def fit(model: nn.Module, x: np.ndarray, y: np.ndarray) -> None:
    """Normalise by these windows, and fit the last layer to what follows them (ridge regression)."""
    series = Series(WINDOW, VARIABLES, "variables", steps=model.time_steps, standardised=True)
    preprocess = preprocess_of_series(series)
    frames = torch.from_numpy(preprocess.normalised(read_series(x, preprocess).pixels))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(frames)
        tokens = model.eval().network(frames.transpose(0, 1))[-1].flatten(0, 1).numpy()
    # forecasts are in standard deviations from the mean of their window
    mean, std = series.moments(x)
    targets = ((y - mean[:, None]) / std[:, None]).transpose(0, 2, 1).reshape(-1, HORIZON)
    features = np.concatenate([tokens, np.ones((len(tokens), 1))], 1)
    gram = features.T @ features + np.eye(features.shape[1])
    solution = torch.from_numpy(np.linalg.solve(gram, features.T @ targets)).float()
    model.fc_out.weight.data = solution[:-1].T.contiguous()
    model.fc_out.bias.data = solution[-1].contiguous()


def main(folder: Path) -> None:
    """Write the windows and the model."""
    folder.mkdir(parents=True, exist_ok=True)
    after = TRAIN + WINDOW + HORIZON
    series = generated(np.random.default_rng(0), after + TEST + WINDOW + HORIZON)
    x, y = windows_of(series, 0, TRAIN)
    np.savez(folder / "train.npz", x=x, y=y)
    x_test, y_test = windows_of(series, after, TEST)
    np.savez(folder / "test.npz", x=x_test, y=y_test)
    model = drawn_model()
    fit(model, x, y)
    torch.save(model.state_dict(), folder / "model_best.pkl")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
