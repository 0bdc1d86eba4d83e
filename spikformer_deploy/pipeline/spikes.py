"""Do the spikes stay the same from the model to its graph, and from pass to pass?"""

from __future__ import annotations

import numpy as np
import torch

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model
from spikformer_deploy.graph.channels import part_of
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph, Levels, Lif, Neuron
from spikformer_deploy.nn.lif import SPIKING

CHECK_IMAGES = 4
CHECK_PIXELS = 2**18
"""Spikes are compared on that many images, or fewer large ones, but one at least: 224x224 pixels make 10^8 spikes."""
FLIPPED_SHARE = 1e-5
"""A pass that flips more spikes than this, each layer on equal inputs, is wrong; float rounding flips one in 10^8."""
TIE = 2.0**-18
"""A potential this near to the threshold, relative to the largest current of its layer, may fall on either side."""
LOGITS_SHARE = 1e-3
"""Of the largest logit: a difference above it is no rounding."""
SCALES = (2, 4, 8, 16, 64, 256)
"""Images on which a layer stays silent are scaled by these until it fires: silence would prove nothing of it."""


class Checks:
    """Spikes of a few images after every pass: the traced graph against the model, each pass against the last."""

    def __init__(self, loaded: Model, images: np.ndarray) -> None:
        few = images[: max(1, min(CHECK_IMAGES, CHECK_PIXELS // images[0].size))]
        self.loaded = loaded
        self.images = torch.from_numpy(loaded.preprocess.normalised(few))
        self.last: dict[str, torch.Tensor] = {}

    def against_model(self, name: str, graph: Graph) -> str:
        """Every spike of every LIF module, each layer on the spikes of the model, and the logits.

        A file's graph is the model itself.
        """
        silent = self._rouse(graph)
        of_graph = execute(graph, self.images)
        if isinstance(self.loaded, Imported):
            self.last = of_graph
            return ""
        spikes, logits = self._eager()
        self.last = {n: _laid_out(spikes[n], of_graph[n]) for n in spikes if n in of_graph}
        remark, now = self._compare(name, graph)
        worst = float((now[graph.nodes[-1].name] - logits).abs().max())
        # float sums in another order differ by far less
        if worst > LOGITS_SHARE * max(1.0, float(logits.abs().max())):
            raise ModelError(name, f"the logits of the graph differ from the model's by {worst:.3g}")
        self.last = of_graph
        return remark + (f"; never fired: {', '.join(silent)}" if silent else "")

    def against_last(self, name: str, graph: Graph) -> str:
        """Every spike of every LIF, each layer on the spikes of the traced graph."""
        self.last |= {n.name: self._part(n.name) for n in graph.of(Neuron)}
        return self._compare(name, graph)[0]

    def _compare(self, name: str, graph: Graph) -> tuple[str, dict[str, torch.Tensor]]:
        """A remark on the flips from `last`, ties and errors apart; and the values of the graph on those spikes."""
        lifs = [n.name for n in graph.of(Neuron) if n.name in self.last]
        # each layer reads the spikes of `last`: one flip does not make others downstream
        now = execute(graph, self.images, forced={n: self.last[n] for n in lifs})
        differ = {n: int((now[n] != self.last[n]).sum()) for n in lifs}
        ties = self._ties(graph, now, [n for n in lifs if differ[n]])
        errors = {n: differ[n] - ties.get(n, 0) for n in lifs}
        spikes = sum(now[n].numel() for n in lifs)
        remark = self._verdict(name, errors, spikes)
        if any(ties.values()):
            remark += f", and {sum(ties.values())} at ties"
        return remark, now

    def _part(self, name: str) -> torch.Tensor:
        """Spikes of a layer, or of some channels of a layer that a pass has cut where branches were joined."""
        layer, channels = part_of(name, self.last)
        return self.last[layer][:, :, channels]

    def _eager(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Spikes (T, B, ...) of each call of a LIF module, named as the tracer does, and the logits."""
        assert not isinstance(self.loaded, Imported)
        spikes: dict[str, torch.Tensor] = {}

        def keep(path: str, out: torch.Tensor) -> None:
            calls = sum(name == path or name.rpartition("#")[0] == path for name in spikes)
            spikes[f"{path}#{calls}" if calls else path] = out.to(torch.uint8)

        hooks = [
            module.register_forward_hook(lambda _m, _i, out, path=path: keep(path, out))
            for path, module in self.loaded.module.named_modules()
            if isinstance(module, SPIKING)
        ]
        with torch.inference_mode():
            logits = self.loaded.module(self.images)
        for hook in hooks:
            hook.remove()
        return {name.replace("#", "."): of_call for name, of_call in spikes.items()}, logits

    def _rouse(self, graph: Graph) -> list[str]:
        """Add a scaled image for layers that never fire; the layers that stay silent all the same."""
        silent = _silent(execute(graph, self.images), [n.name for n in graph.of(Neuron)])
        for scale in SCALES:
            if not silent:
                break
            louder = self.images[:1].abs() * scale
            left = _silent(execute(graph, louder), silent)
            if left != silent:
                self.images, silent = torch.cat([self.images, louder]), left
        return silent

    def _ties(self, graph: Graph, now: dict[str, torch.Tensor], flipped: list[str]) -> dict[str, int]:
        """Flipped spikes of neurons whose first flip is a tie: from then on the two potentials differ for good."""
        if not flipped:
            return {}
        source = {n: graph[n].inputs[0] for n in flipped}
        forced = {n.name: self.last[n.name] for n in graph.of(Neuron) if n.name in self.last}
        currents = execute(graph, self.images, dtype=torch.float64, record=set(source.values()), forced=forced)
        out = {}
        for name in flipped:
            op = graph[name].op
            current = currents[source[name]].double()
            if isinstance(op, Levels):
                threshold, distances = op.threshold, _distances_of_levels(op, current, self.last[name])
            else:
                assert isinstance(op, Lif)
                threshold, distances = op.v_threshold, _distances(op, current, self.last[name])
            near = distances <= TIE * max(threshold, float(current.abs().max()))
            flips = now[name] != self.last[name]
            # only the first flip of a neuron is judged: the steps after it start from other potentials
            first = flips & (flips.cumsum(1) == 1)
            out[name] = int((flips & (first & near).any(1, keepdim=True)).sum())
        return out

    def _verdict(self, name: str, differ: dict[str, int], total: int) -> str:
        flipped = sum(differ.values())
        if flipped > FLIPPED_SHARE * total:
            worst = max(differ, key=lambda n: differ[n])
            raise ModelError(
                worst,
                f"the pass '{name}' flips {flipped} of {total} spikes, {differ[worst]} of them here",
                "This is an error of the compiler; --no-check compiles all the same. Please report it.",
            )
        return f"{flipped} of {total:,} spikes flipped"


def _silent(spikes: dict[str, torch.Tensor], names: list[str]) -> list[str]:
    return [name for name in names if not bool(spikes[name].any())]


def _distances(op: Lif, current: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
    """How far the potentials (B, T, ...) are from the threshold, where the neurons fired as in `spikes`."""
    v = torch.zeros_like(current[:, 0])
    out = torch.empty_like(current)
    for t in range(current.shape[1]):
        h = v + (current[:, t] - v) / op.tau if op.decay_input else v * (1 - 1 / op.tau) + current[:, t]
        out[:, t] = (h - op.v_threshold).abs()
        fired = spikes[:, t].to(h)
        v = h - fired * op.v_threshold if op.soft_reset else h * (1 - fired)
    return out


def _distances_of_levels(op: Levels, current: torch.Tensor, sent: torch.Tensor) -> torch.Tensor:
    """How far the potentials (B, T, ...) are from the nearest tie of two integers, of neurons that sent `sent`."""
    v = torch.zeros_like(current[:, 0])
    out = torch.empty_like(current)
    for t in range(current.shape[1]):
        u = op.keep * v + current[:, t]
        tie = (u / op.threshold).floor().clamp(0, op.count - 1) + 0.5
        out[:, t] = (u - tie * op.threshold).abs()
        v = u - sent[:, t].to(u) * op.threshold
    return out


def _laid_out(spikes: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Spikes (T, B, ...) of a module as (B, T, C, Y, X): tokens stand behind the channels, or before them."""
    by_image = spikes.transpose(0, 1)
    orders = [by_image, by_image.transpose(2, 3)] if by_image.ndim == 4 else [by_image]
    return min((order.reshape(like.shape) for order in orders), key=lambda order: int((order != like).sum()))
