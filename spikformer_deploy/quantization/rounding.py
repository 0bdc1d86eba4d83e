"""Calibrated rounding: which integers stand for a layer's weights, given what reaches it on a few images.

Nearest rounding makes the error of each weight small; what a neuron sees is the error of its current, a sum over inputs
that fire together.  Here weights are rounded one after another, and what each rounding adds to the current is taken
off the weights that are still to come (Frantar et al. 2023, GPTQ; Hassibi & Stork 1993).  The threshold stays an
integer without any rounding error; with few bits it is chosen larger than the largest weight asks for, and the few
weights that no longer fit are cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Add, Conv2d, Graph, Input, Linear, Mean, Offset, Scale

ROWS = 8192
"""Positions of a layer that its second moments are taken from, over all images."""
ROWS_PER_INPUT, MOST_IMAGES = 4, 1024
"""Fewer positions than inputs say nothing of most of their combinations: 64 images of 2x2 tokens were too few."""
LARGEST_BLOCK = 2048
"""Inputs whose errors are balanced together; a larger fan-in is cut into blocks of whole channels."""
DAMPING = 0.01
"""Added to the diagonal, in units of its mean (GPTQ's)."""
STRETCHES = np.linspace(1.0, 3.0, 41)
"""How much larger than necessary a threshold may be chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Second moments of what reaches each layer: (layer, source) -> blocks (k, k) over inputs (channel, ky, kx)."""

    blocks: dict[tuple[str, str], tuple[Float, ...]]

    def round(self, layer: str, source: str, real: Float, largest: int) -> Int:
        """Integers of at most `largest` for `real` weights (C_out, C_in, KY, KX) in units of one.

        Row by row, never worse than nearest rounding on the images of the calibration: else nearest is kept.
        """
        flat = real.reshape(len(real), -1)
        nearest = np.clip(np.rint(flat), -largest, largest)
        blocks = self.blocks.get((layer, source), ())
        if sum(map(len, blocks)) == flat.shape[1]:
            start = 0
            for moment in blocks:
                part = slice(start, start + len(moment))
                balanced = _balanced(flat[:, part], moment, largest)
                better = _error(flat[:, part] - balanced, moment) < _error(flat[:, part] - nearest[:, part], moment)
                nearest[:, part] = np.where(better[:, None], balanced, nearest[:, part])
                start += len(moment)
        return nearest.astype(np.int64).reshape(real.shape)

    def stretched(self, layer: str, source: str, weight: Float, thresholds: Int, gain: float, largest: int) -> Int:
        """Thresholds, each at least as large as before, for which rounding and cutting add the least to the currents.

        weight      (C_out, C_in, KY, KX), in units of the threshold once multiplied with `gain`
        thresholds  (C_out,) the largest ones that cut no weight; channels of one value stay together
        """
        blocks = self.blocks.get((layer, source), ())
        flat = weight.reshape(len(weight), -1) * gain
        power = np.concatenate([np.diag(b) for b in blocks]) if blocks else np.ones(0)
        if len(power) != flat.shape[1]:
            return thresholds
        out = thresholds.copy()
        for value in np.unique(thresholds):
            rows = flat[thresholds == value]
            candidates = np.unique(np.rint(value * STRETCHES).astype(np.int64))
            errors = [float(_cut_error(rows, c, largest) @ power) for c in candidates]
            out[thresholds == value] = candidates[int(np.argmin(errors))]
        return out


def _cut_error(rows: Float, threshold: int, largest: int) -> Float:
    """Squared error of each input's weights, over all rows, in units of the threshold."""
    kept = np.clip(np.rint(rows * threshold), -largest, largest)
    out: Float = np.square(kept / threshold - rows).sum(0)
    return out


def _error(difference: Float, moment: Float) -> Float:
    """Mean squared error of each row's current."""
    return np.einsum("ok,ok->o", difference @ moment, difference)


def _balanced(real: Float, moment: Float, largest: int) -> Float:
    """Rounded column by column, the strongest inputs first; each error is taken off the columns to come."""
    order = np.argsort(-np.diag(moment), kind="stable")
    damped = moment[np.ix_(order, order)] + np.eye(len(moment)) * (DAMPING * np.diag(moment).mean() + 1e-12)
    # upper factor of the inverse: row k says how the columns after k make up for an error in k
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, out = real[:, order].copy(), np.empty_like(real)
    for k in range(left.shape[1]):
        out[:, k] = np.clip(np.rint(left[:, k]), -largest, largest)
        error = (left[:, k] - out[:, k]) / factor[k, k]
        left[:, k + 1 :] -= np.outer(error, factor[k, k + 1 :])
    back = np.empty_like(out)
    back[:, order] = out
    return back


# --- what reaches a layer ---------------------------------------------------------------------------------------


def images_for_rounding(graph: Graph) -> int:
    """So many images that each layer sees several times as many positions as it has inputs, within reason."""
    needed = 1.0
    for node in graph.of(Conv2d, Linear):
        assert isinstance(node.op, Conv2d | Linear)
        inputs, positions = node.op.weight[0].size, node.shape[1] * node.shape[2] * graph.time_steps
        needed = max(needed, ROWS_PER_INPUT * inputs / positions)
    return min(MOST_IMAGES, int(needed))


def second_moments(graph: Graph, images: torch.Tensor, scale: Float, offset: Float, batch: int = 4) -> Moments:
    """Moments of the inputs of every convolution and linear layer of the float graph, grouped convolutions left out.

    images         normalised, as for calibrate
    scale, offset  (C,) pixel = image * scale + offset: the integers that reach the first layer
    """
    layers = [n for n in graph.of(Conv2d, Linear) if not (isinstance(n.op, Conv2d) and n.op.groups > 1)]
    sources = {n.name: _sources(graph, n.inputs[0]) for n in layers}
    sums: dict[tuple[str, str], list[torch.Tensor]] = {}
    generator = torch.Generator().manual_seed(0)
    rows = max(1, ROWS * batch // max(1, len(images)))
    for start in range(0, len(images), batch):
        record = {source for names in sources.values() for source in names}
        values = execute(graph, images[start : start + batch], record=record)
        for node in layers:
            assert isinstance(node.op, Conv2d | Linear)
            for source in sources[node.name]:
                value = values[source].flatten(0, 1).double()
                if isinstance(graph[source].op, Input):
                    value = value * torch.from_numpy(scale[:, None, None]) + torch.from_numpy(offset[:, None, None])
                part = _moment_blocks(_inputs(value.float(), node.op, rows, generator))
                key = (node.name, source)
                sums[key] = part if key not in sums else [a + b for a, b in zip(sums[key], part, strict=True)]
    return Moments({key: tuple(b.double().numpy() for b in blocks) for key, blocks in sums.items()})


def _sources(graph: Graph, name: str) -> tuple[str, ...]:
    """The nodes whose population may feed a layer that reads `name`: sums may be shared out to their parts."""
    node = graph[name]
    match node.op:
        case Scale() | Mean() | Offset():
            return _sources(graph, node.inputs[0])
        case Add():
            return (name, *(s for i in node.inputs for s in _sources(graph, i)))
        case _:
            return (name,)


def _inputs(value: torch.Tensor, op: Conv2d | Linear, rows: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, C_in * KY * KX): what the layer sees at random images, steps and positions; value (T * B, C, Y, X)."""
    kernel, stride, padding = op.weight.shape[2:] or (1, 1), (1, 1), (0, 0)
    if isinstance(op, Conv2d):
        stride, padding = op.stride, op.padding
    padded = F.pad(value, (padding[1], padding[1], padding[0], padding[0]))
    height, width = ((padded.shape[2 + i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    image, y, x = (torch.randint(0, n, (rows,), generator=generator) for n in (len(value), height, width))
    taps = [
        padded[image, :, y * stride[0] + ky, x * stride[1] + kx] for ky in range(kernel[0]) for kx in range(kernel[1])
    ]
    return torch.stack(taps, 2).flatten(1)


def _moment_blocks(inputs: torch.Tensor) -> list[torch.Tensor]:
    parts = -(-inputs.shape[1] // LARGEST_BLOCK)
    return [part.T @ part for part in inputs.chunk(parts, 1)]
