"""Calibrated rounding: which integers stand for a layer's weights, given what reaches it on a few images.

Nearest rounding makes the error of each weight small.  What a neuron sees is the error of its current: a sum over
inputs, some of which fire together.  Here weights are rounded one after another, and what each rounding adds to the
current is taken off the weights that are still to come (Frantar et al. 2023, GPTQ; Hassibi & Stork 1993).

All that must be known of the inputs is how often each two of them fire together: their second moments, a matrix with
the sum of x_i x_j over all that was seen in row i and column j.  The squared error of a current, summed in the same
way, is e^T moments e for the errors e of the weights.

The threshold stays an integer without any rounding error.  With few bits it is chosen larger than the largest weight
asks for, and the few weights that no longer fit are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.values import digest
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Add, Conv2d, Graph, Input, Linear, Mean, Offset, Scale

ROWS = 8192
"""Positions of a layer that its second moments are taken from, over all images."""
ROWS_PER_INPUT = 4
"""Fewer positions than inputs say nothing of most of their combinations: 64 images of 2x2 tokens were too few."""
MOST_IMAGES = 1024
"""Layers with small maps are shown no more images than this for the sake of ROWS_PER_INPUT."""
LARGEST_BLOCK = 2048
"""Inputs whose errors are balanced together; a larger fan-in is cut into blocks of whole channels."""
DAMPING = 0.01
"""Added to the diagonal, in units of its mean (GPTQ's), so that the inverse exists where inputs never fire."""
LEAST_DAMPING = 1e-12
"""Added to the diagonal where nothing fires at all."""
STRETCHES = np.linspace(1.0, 3.0, 41)
"""How much larger than necessary a threshold may be chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Second moments of what reaches each layer: (layer, source) -> blocks (k, k) over inputs (channel, ky, kx).

    known  what was rounded with them before, for whoever tries many settings of one graph; None: nothing is kept
    """

    blocks: dict[tuple[str, str], tuple[Float, ...]]
    known: dict[tuple[str | int, ...], Int] | None = None

    def taken_apart(self, source: str, parts: Sequence[str]) -> Moments:
        """The same where several populations send together what `source` does: layers read all with one weight."""
        of_parts = {(layer, part): b for (layer, name), b in self.blocks.items() if name == source for part in parts}
        return Moments(self.blocks | of_parts, self.known)

    def round(self, layer: str, source: str, real: Float, largest: int) -> Int:
        """Integers of at most `largest` for `real` weights (C_out, C_in, KY, KX) in units of one.

        Row by row, never worse than nearest rounding on the images of the calibration: else nearest is kept.
        """
        if self.known is None:
            return self._rounded(layer, source, real, largest)
        key = ("round", layer, source, digest(real), largest)
        if key not in self.known:
            # weights have at most 8 bits: kept in as many
            self.known[key] = self._rounded(layer, source, real, largest).astype(np.int8)
        return self.known[key].astype(np.int64)

    def _rounded(self, layer: str, source: str, real: Float, largest: int) -> Int:
        flat = real.reshape(len(real), -1)
        rounded = np.clip(np.rint(flat), -largest, largest)
        blocks = self.blocks.get((layer, source), ())
        # A grouped convolution, or a term that was rewritten, has no moments of its inputs: nearest it is.
        if sum(map(len, blocks)) == flat.shape[1]:
            start = 0
            for moment in blocks:
                part = slice(start, start + len(moment))
                rounded[:, part] = _better_rows(flat[:, part], rounded[:, part], moment, largest)
                start += len(moment)
        return rounded.astype(np.int64).reshape(real.shape)

    def stretched(self, layer: str, source: str, weight: Float, thresholds: Int, gain: float, largest: int) -> Int:
        """Thresholds, each at least as large as before, for which rounding and cutting add the least to the currents.

        weight      (C_out, C_in, KY, KX), in units of the threshold once multiplied with `gain`
        thresholds  (C_out,) the largest ones that cut no weight; channels of one value stay together
        """
        if self.known is None:
            return self._stretched(layer, source, weight, thresholds, gain, largest)
        key = ("stretch", layer, source, digest((weight, thresholds, gain)), largest)
        if key not in self.known:
            self.known[key] = self._stretched(layer, source, weight, thresholds, gain, largest)
        return self.known[key].copy()

    def _stretched(self, layer: str, source: str, weight: Float, thresholds: Int, gain: float, largest: int) -> Int:
        blocks = self.blocks.get((layer, source), ())
        flat = weight.reshape(len(weight), -1) * gain
        # Only how often each input fires: balancing the weights anew for each candidate would cost 41 times as much.
        power = np.concatenate([np.diag(block) for block in blocks]) if blocks else np.ones(0)
        if len(power) != flat.shape[1]:
            return thresholds
        stretched = thresholds.copy()
        for value in np.unique(thresholds):
            rows = flat[thresholds == value]
            candidates = np.unique(np.rint(value * STRETCHES).astype(np.int64))
            errors = [float(_cut_error(rows, candidate, largest) @ power) for candidate in candidates]
            stretched[thresholds == value] = candidates[int(np.argmin(errors))]
        return stretched


def _cut_error(rows: Float, threshold: int, largest: int) -> Float:
    """Squared error of each input's weights, over all rows, in units of the threshold."""
    kept = np.clip(np.rint(rows * threshold), -largest, largest)
    errors: Float = np.square(kept / threshold - rows).sum(0)
    return errors


def _error(difference: Float, moment: Float) -> Float:
    """Squared error of each row's current, summed over all inputs that were seen."""
    return np.einsum("ok,ok->o", difference @ moment, difference)


def _better_rows(real: Float, nearest: Float, moment: Float, largest: int) -> Float:
    """Each row balanced, or `nearest` where that is no worse: a weight that is cut passes a large error on."""
    balanced = _balanced(real, moment, largest)
    better = _error(real - balanced, moment) < _error(real - nearest, moment)
    return np.where(better[:, None], balanced, nearest)


def _balanced(real: Float, moment: Float, largest: int) -> Float:
    """Rounded column by column, the strongest inputs first; each error is taken off the columns to come."""
    # An error of a strong input matters most: it is made first, while all other columns can still make up for it.
    order = np.argsort(-np.diag(moment), kind="stable")
    damping = DAMPING * np.diag(moment).mean() + LEAST_DAMPING
    damped = moment[np.ix_(order, order)] + np.eye(len(moment)) * damping
    # upper factor of the inverse: row k says how the columns after k make up for an error in k
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    remaining = real[:, order].copy()
    rounded = np.empty_like(real)
    for k in range(remaining.shape[1]):
        rounded[:, k] = np.clip(np.rint(remaining[:, k]), -largest, largest)
        error = (remaining[:, k] - rounded[:, k]) / factor[k, k]
        remaining[:, k + 1 :] -= np.outer(error, factor[k, k + 1 :])
    in_order_of_inputs = np.empty_like(rounded)
    in_order_of_inputs[:, order] = rounded
    return in_order_of_inputs


# --- what reaches a layer ---------------------------------------------------------------------------------------


def images_for_rounding(graph: Graph) -> int:
    """As many images as show each layer several times as many positions as it has inputs, within reason."""
    needed = 1.0
    for node in graph.of(Conv2d, Linear):
        assert isinstance(node.op, Conv2d | Linear)
        inputs = node.op.weight[0].size
        positions = node.shape[1] * node.shape[2] * graph.time_steps
        needed = max(needed, ROWS_PER_INPUT * inputs / positions)
    return min(MOST_IMAGES, int(needed))


def second_moments(graph: Graph, images: torch.Tensor, scale: Float, offset: Float, batch: int = 4) -> Moments:
    """Moments of the inputs of every convolution and linear layer of the float graph, grouped convolutions left out.

    images         normalised, as for Calibration
    scale, offset  (C,) pixel = image * scale + offset: the integers that reach the first layer
    """
    layers = [n for n in graph.of(Conv2d, Linear) if not (isinstance(n.op, Conv2d) and n.op.groups > 1)]
    sources = {n.name: _sources(graph, n.inputs[0]) for n in layers}
    record = {source for names in sources.values() for source in names}
    sums: dict[tuple[str, str], list[torch.Tensor]] = {}
    # a seed of its own: the same model and images give the same program
    generator = torch.Generator().manual_seed(0)
    rows = max(1, ROWS * batch // max(1, len(images)))
    for start in range(0, len(images), batch):
        values = execute(graph, images[start : start + batch], record=record)
        for node in layers:
            assert isinstance(node.op, Conv2d | Linear)
            for source in sources[node.name]:
                value = values[source].flatten(0, 1).double()
                if isinstance(graph[source].op, Input):
                    # The weights of the first layer are for pixels: its offset is in the bias.
                    value = value * torch.from_numpy(scale[:, None, None]) + torch.from_numpy(offset[:, None, None])
                blocks = _moment_blocks(_inputs(value.float(), node.op, rows, generator))
                key = (node.name, source)
                sums[key] = blocks if key not in sums else [a + b for a, b in zip(sums[key], blocks, strict=True)]
    return Moments({key: tuple(block.double().numpy() for block in blocks) for key, blocks in sums.items()})


def _sources(graph: Graph, name: str) -> tuple[str, ...]:
    """The nodes whose population may feed a layer that reads `name`: sums may be shared out to their parts."""
    node = graph[name]
    match node.op:
        case Scale() | Mean() | Offset():
            return _sources(graph, node.inputs[0])
        case Add():
            parts = [source for i in node.inputs for source in _sources(graph, i)]
            return (name, *parts)
        case _:
            return (name,)


def _inputs(value: torch.Tensor, op: Conv2d | Linear, rows: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, C_in * KY * KX): what the layer sees at random images, steps and positions; value (T * B, C, Y, X)."""
    conv = op if isinstance(op, Conv2d) else Conv2d(op.weight[:, :, None, None], op.bias)
    kernel_height, kernel_width = conv.weight.shape[2:]
    above, before = conv.padding
    padded = F.pad(value, (before, before, above, above))
    height = (padded.shape[2] - kernel_height) // conv.stride[0] + 1
    width = (padded.shape[3] - kernel_width) // conv.stride[1] + 1
    # the order of the three draws is part of the result
    image = torch.randint(0, len(value), (rows,), generator=generator)
    top = torch.randint(0, height, (rows,), generator=generator) * conv.stride[0]
    left = torch.randint(0, width, (rows,), generator=generator) * conv.stride[1]
    taps = [padded[image, :, top + ky, left + kx] for ky in range(kernel_height) for kx in range(kernel_width)]
    return torch.stack(taps, 2).flatten(1)


def _moment_blocks(inputs: torch.Tensor) -> list[torch.Tensor]:
    """Second moments of rows of inputs, in blocks: the time to invert one grows with the cube of its size."""
    parts = -(-inputs.shape[1] // LARGEST_BLOCK)
    return [part.T @ part for part in inputs.chunk(parts, 1)]
