"""Do the spikes stay the same from the model to its graph, and from pass to pass?"""

from __future__ import annotations

import numpy as np
import torch

from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model
from spikformer_deploy.errors import ModelError
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph, Lif
from spikformer_deploy.nn.lif import LIF

CHECK_IMAGES, CHECK_PIXELS = 4, 2**18
"""Spikes are compared on so many images, or fewer large ones, but one at least: 224x224 pixels make 10^8 spikes."""
FLIPPED_SHARE = 1e-5
"""A pass that flips more spikes than this, each layer on equal inputs, is wrong; float rounding flips one in 10^8."""


class Checks:
    """Spikes of a few images after every pass: the traced graph against the model, each pass against the last."""

    def __init__(self, loaded: Model, images: np.ndarray) -> None:
        few = images[: max(1, min(CHECK_IMAGES, CHECK_PIXELS // images[0].size))]
        self.loaded, self.images = loaded, torch.from_numpy(loaded.preprocess.normalised(few))
        self.last: dict[str, torch.Tensor] = {}

    def against_model(self, name: str, graph: Graph) -> str:
        """Spikes of each LIF module in every step and image, and the logits; a file's graph is the model itself."""
        if isinstance(self.loaded, Imported):
            self.last = execute(graph, self.images)
            return ""
        counts: dict[str, torch.Tensor] = {}
        hooks = [
            module.register_forward_hook(lambda _m, _i, out, path=path: counts.__setitem__(path, _per_step(out)))
            for path, module in self.loaded.module.named_modules()
            if isinstance(module, LIF)
        ]
        with torch.inference_mode():
            logits = self.loaded.module(self.images)
        for hook in hooks:
            hook.remove()
        self.last = execute(graph, self.images)
        differ = {
            n: int((counts[n] - _per_step(self.last[n].transpose(0, 1))).abs().sum()) for n in counts if n in self.last
        }
        total = sum(self.last[n].numel() for n in differ)
        remark = self._verdict(name, differ, total)
        worst = float((self.last[graph.nodes[-1].name] - logits).abs().max())
        if worst > 1e-3 * max(1.0, float(logits.abs().max())) and not any(differ.values()):
            raise ModelError(name, f"the logits of the graph differ from the model's by {worst:.3g}")
        return remark

    def against_last(self, name: str, graph: Graph) -> str:
        """Every spike of every LIF, each layer on the spikes of the traced graph."""
        lifs = [n.name for n in graph.of(Lif)]
        now = execute(graph, self.images, forced={n: self.last[n] for n in lifs})
        differ = {n: int((now[n] != self.last[n]).sum()) for n in lifs}
        return self._verdict(name, differ, sum(now[n].numel() for n in lifs))

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


def _per_step(spikes: torch.Tensor) -> torch.Tensor:
    """(T, B) number of spikes."""
    return spikes.flatten(2).sum(2, dtype=torch.float64)
