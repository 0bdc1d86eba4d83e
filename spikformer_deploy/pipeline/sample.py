"""What a compile learns from images: firing rates, ranges that no worst case bounds, moments for rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from spikformer_deploy.base.series import SCALE
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.converters.models import Model
from spikformer_deploy.data.read import read
from spikformer_deploy.data.series import fitted, read_series, windows_of
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph.ir import Graph
from spikformer_deploy.network.network import Network
from spikformer_deploy.quantization.build import Pixels, quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.rounding import Moments, images_for_rounding, second_moments
from spikformer_deploy.quantization.settings import Settings

CALIBRATION_IMAGES = 64
RANDOM_IMAGES = 4
"""Most images of the user's, and how many of random pixels stand in where there are none."""
RANDOM = "random pixels"
"""What calibration images are called that nobody gave."""
RANDOM_NOTE = "calibrated on random pixels: firing rates, and bounds that are only observed, are not those of your data"


class Sample:
    """The calibration images of a model, and the integer network on them.

    A network runs once, for the range of its head and for the rates: a head does not change what reaches it, so the
    rates of a run with a wider one are those of the network.  One network is made after the other.

    images    integers, as calibration_images gives them; remark: a word on what they are
    remember  keep what calibrated rounding gave, an integer a weight for each number of bits: many settings are to come
    """

    def __init__(self, loaded: Model, data: str | Path | np.ndarray | None, remember: bool = False) -> None:
        self.loaded = loaded
        self._data = data
        self._remember = remember
        self.images, self.remark = calibration_images(loaded, data)
        self._run: Execution | None = None
        self._moments_of: tuple[Graph, Moments] | None = None

    def quantized(self, graph: Graph, limits: CoreLimits, settings: Settings, rounding: str) -> Network:
        """The integers of a graph; the float graph runs only for ranges that no worst case bounds, and for moments."""
        self._run = None
        preprocess = self.loaded.preprocess
        batch = _float_batch(graph)
        if rounding == "calibrated":
            settings = replace(settings, moments=self._moments(graph, min(batch, 64)))
        real = torch.from_numpy(preprocess.normalised(self.images))
        pixels = Pixels(preprocess.mean, preprocess.std, preprocess.max_value)
        calibration = Calibration(graph, real, min(batch, 16))
        return quantize(graph, pixels, calibration, limits, settings, self._largest_accumulator)

    def rates(self, network: Network) -> dict[str, float]:
        """As firing_rates."""
        return _rates(network, self._run or engine.execute(network, self.images))

    def _largest_accumulator(self, network: Network) -> int:
        self._run = engine.execute(network, self.images)
        return self._run.peak_state[network.output.name]

    def _moments(self, graph: Graph, batch: int) -> Moments:
        """What reaches each layer, on more images where its maps are small; the same for all settings of a graph."""
        if self._moments_of is not None and self._moments_of[0] is graph:
            return self._moments_of[1]
        preprocess = self.loaded.preprocess
        most = max(CALIBRATION_IMAGES, images_for_rounding(graph))
        real = torch.from_numpy(preprocess.normalised(calibration_images(self.loaded, self._data, most)[0]))
        std = np.array(preprocess.std) * preprocess.max_value
        mean = np.array(preprocess.mean) * preprocess.max_value
        moments = second_moments(graph, real, std, mean, batch)
        if self._remember:
            moments = replace(moments, known={})
        self._moments_of = (graph, moments)
        return moments


def _float_batch(graph: Graph) -> int:
    """Images that the float graph takes at once, so that no value of it has more than 2^24 elements."""
    return max(1, 2**24 // max(n.shape[0] * n.shape[1] * n.shape[2] * graph.time_steps for n in graph))


def fitted_to(loaded: Model, data: str | Path | np.ndarray | None) -> Model:
    """The model with integers as fine as values of the user's time series allow; as it is where there are none."""
    series = loaded.preprocess.series
    if series is None or data is None:
        return loaded
    windows, _ = windows_of(data, series, CALIBRATION_IMAGES)
    return replace(loaded, preprocess=fitted(loaded.preprocess, windows))


def firing_rates(network: Network, images: np.ndarray) -> dict[str, float]:
    """Share of non-zero outputs per neuron and step, by population, of an integer network on some images."""
    return _rates(network, engine.execute(network, images))


def _rates(network: Network, done: Execution) -> dict[str, float]:
    counts = {name: a.messages for name, a in done.activity.items()}
    return {name: float(n.sum()) / (network[name].size * n.shape[0] * n.shape[1]) for name, n in counts.items()}


def calibration_images(
    loaded: Model, data: str | Path | np.ndarray | None, most: int = CALIBRATION_IMAGES
) -> tuple[np.ndarray, str]:
    """Images to calibrate on, integers, at most `most` of them, and a word on what they are."""
    frames = loaded.time_steps if loaded.per_step else 0
    if data is not None:
        remark = "an array" if isinstance(data, np.ndarray) else Path(data).name[:80]
        return read(data, loaded.preprocess, limit=most, split="train", frames=frames).pixels, remark
    if loaded.preprocess.series is not None:
        series = loaded.preprocess.series
        windows = np.random.default_rng(0).standard_normal((RANDOM_IMAGES, series.points, series.variables))
        windows *= SCALE / series.scale
        return read_series((windows, None), loaded.preprocess).pixels, RANDOM
    source = loaded.training.get("recipe", {}).get("data", {}).get("source")
    if source == "digits":
        return read("digits", loaded.preprocess, limit=most, split="train").pixels, "digits, training split"
    steps = (frames,) if frames else ()
    rng = np.random.default_rng(0)
    largest = 2 if loaded.per_step else loaded.preprocess.max_value + 1
    return rng.integers(0, largest, (RANDOM_IMAGES, *steps, *loaded.input_shape)).astype(np.uint8), RANDOM
