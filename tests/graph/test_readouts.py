"""What stands behind the time axis: means, sums and the last step, linear layers too; all else is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.deep import thinned
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.pt2 import read_model
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.lif import LIF

STEPS = 4
SHAPE = (2, 6, 6)


class Net(nn.Module):
    """Two layers of neurons over STEPS, and a readout: what is done with the spikes (T, B, 8, 6, 6)."""

    def __init__(self, readout: Callable[["Net", Tensor], Tensor], steps: int = STEPS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.readout = readout
        self.steps = steps
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.lif = LIF(v_threshold=0.2)
        self.other = nn.Conv2d(2, 8, 3, padding=1)
        self.second = LIF(v_threshold=0.1)
        self.fc = nn.Linear(8, 5)
        self.last = LIF(v_threshold=0.1)
        self.flat = nn.Linear(288, 5)
        self.norm = nn.BatchNorm1d(5)
        nn.init.normal_(self.norm.running_mean, 0, 0.3)

    def spikes(self, x: Tensor, conv: nn.Module, lif: nn.Module) -> Tensor:
        x = x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)
        return lif(conv(x.flatten(0, 1)).unflatten(0, (self.steps, -1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self, self.spikes(x, self.conv, self.lif))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(3).mean(3)


GOOD: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "mean": lambda m, x: m.fc(tokens(x)).mean(0),
    "mean-negative": lambda m, x: m.fc(tokens(x)).mean(-3),
    "mean-dtype": lambda m, x: m.fc(tokens(x)).mean(0, dtype=torch.float32),
    "mean-joint": lambda m, x: m.fc(x.mean((0, 3, 4))),
    "mean-before": lambda m, x: m.fc(tokens(x).mean(0)),
    "mean-first": lambda m, x: m.fc(tokens(x.mean(0, keepdim=True)).squeeze(0)),
    "mean-norm": lambda m, x: m.norm(m.fc(tokens(x).mean(0))) * 2,
    "sum": lambda m, x: m.fc(tokens(x)).sum(0),
    "sum-over-steps": lambda m, x: m.fc(tokens(x)).sum(0) / STEPS,
    "sum-before": lambda m, x: m.fc(tokens(x).sum(0)),
    "sum-joint": lambda m, x: m.fc(x.sum((0, 3, 4)) * 0.01),
    "sum-of-spikes": lambda m, x: m.last(m.fc(tokens(x))).sum(0),
    "sum-of-map": lambda m, x: m.flat(x.flatten(2)).sum(dim=0),
    "sum-of-one": lambda m, x: m.fc(tokens(x).mean(0, keepdim=True)).sum(0),
    "sum-added": lambda m, x: m.fc(tokens(x)).sum(0) + m.last(m.fc(tokens(x))).mean(0),
}


@pytest.mark.parametrize("name", thinned(GOOD, 4))
def test_means_and_sums_over_time(name: str) -> None:
    model = Net(GOOD[name]).eval()
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2
    graph = check(trace(model, SHAPE, time_steps=STEPS))
    with torch.no_grad():
        theirs = model(images)
    assert theirs.std() > 0.01
    torch.testing.assert_close(execute(graph, images)["output"], theirs, rtol=1e-5, atol=1e-5)


LAST: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "index": lambda m, x: m.fc(tokens(x))[-1],
    "number": lambda m, x: m.fc(tokens(x))[STEPS - 1],
    "ellipsis": lambda m, x: m.fc(tokens(x))[-1, ...],
    "select": lambda m, x: m.fc(tokens(x)).select(0, -1),
    "slice": lambda m, x: m.fc(tokens(x))[-1:].squeeze(0),
    "slice-mean": lambda m, x: m.fc(tokens(x))[-1:].mean(0),
    "slice-sum": lambda m, x: m.fc(tokens(x))[STEPS - 1 :].sum(0),
    "narrow": lambda m, x: m.fc(tokens(x)).narrow(0, STEPS - 1, 1).squeeze(0),
    "narrow-negative": lambda m, x: m.fc(tokens(x)).narrow(0, -1, 1).squeeze(0),
    "unbind": lambda m, x: m.fc(tokens(x)).unbind(0)[-1],
    "chunk": lambda m, x: m.fc(tokens(x)).chunk(STEPS)[-1].squeeze(0),
    "split": lambda m, x: m.fc(tokens(x)).split(1)[-1].squeeze(0),
    "split-sizes": lambda m, x: m.fc(tokens(x)).split([STEPS - 1, 1])[1].squeeze(0),
    "batch-first": lambda m, x: m.fc(tokens(x)).transpose(0, 1)[:, -1],
    "time-at-the-end": lambda m, x: m.fc(tokens(x)).permute(1, 2, 0)[..., -1],
    "flattened": lambda m, x: m.fc(tokens(x).flatten(0, 1)).unflatten(0, (STEPS, -1))[-1],
    "of-tokens": lambda m, x: m.fc(tokens(x)[-1]),
    "of-maps": lambda m, x: m.fc(x[-1].mean((2, 3))),
    "of-tokens-kept": lambda m, x: m.fc(x[-1:].mean((0, 3, 4))),
    "of-spikes": lambda m, x: m.last(m.fc(tokens(x)))[-1],
    "of-map": lambda m, x: m.flat(x.flatten(2))[-1],
    "of-map-after": lambda m, x: m.flat(x[-1].flatten(1)),
    "norm": lambda m, x: m.norm(m.fc(tokens(x)[-1])) * 2 + 1,
    "channels": lambda m, x: torch.cat(m.fc(tokens(x))[-1].split([2, 3], 1), 1),
    "pooled": lambda m, x: m.fc(torch.max_pool2d(x[-1], 2).mean((2, 3))),
    "added": lambda m, x: m.fc(tokens(x))[-1] + m.last(m.fc(tokens(x)))[-1],
}


@pytest.mark.parametrize("name", thinned(LAST, 4))
def test_the_last_time_step(name: str) -> None:
    """In every spelling it is one readout; the mean would be something else."""
    model = Net(LAST[name]).eval()
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2
    graph = check(trace(model, SHAPE, time_steps=STEPS))
    assert graph.nodes[-1].op.last  # type: ignore[union-attr]
    with torch.no_grad():
        theirs = model(images)
    mean = execute(ir.Graph((*graph.nodes[:-1], replace(graph.nodes[-1], op=ir.Output())), STEPS), images)["output"]
    assert theirs.std() > 0.01
    assert (mean - theirs).abs().max() > 0.01
    torch.testing.assert_close(execute(graph, images)["output"], theirs, rtol=1e-5, atol=1e-5)


MEANS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "sum": GOOD["mean"],
    "sum-before": GOOD["mean-before"],
    "sum-of-spikes": lambda m, x: m.last(m.fc(tokens(x))).mean(0),
    "sum-of-map": lambda m, x: m.flat(x.flatten(2)).mean(0),
}


@pytest.mark.parametrize("name", thinned(MEANS, 4))
def test_the_logits_of_a_sum_are_the_time_steps_times_those_of_the_mean(name: str) -> None:
    """A linear layer behind the sum adds its bias once, one before it in every step."""
    preprocess = Preprocess(2, 6, (0.0, 0.0), (1.0, 1.0), 15)
    pixels = np.random.default_rng(0).integers(0, 16, (6, *SHAPE)).astype(np.uint8)

    def compiled(readout: Callable[[Net, Tensor], Tensor]) -> np.ndarray:
        model = Net(readout).eval()
        if name == "sum-before":
            nn.init.zeros_(model.fc.bias)
        made = Imported("test", check(trace(model, SHAPE, time_steps=STEPS)), preprocess, (), "", {}, ())
        return np.asarray(sd.run(sd.compile(made, target="loihi2", check=False), pixels).logits)

    of_sum = compiled(GOOD[name])
    of_mean = compiled(MEANS[name])
    assert np.abs(of_mean).max() > 0.1
    np.testing.assert_allclose(of_sum, STEPS * of_mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(of_sum.argmax(1), of_mean.argmax(1))


BAD: dict[str, tuple[Callable[[Net, Tensor], Any], str]] = {
    "late step": (lambda m, x: m.fc(tokens(x))[-2], "time step -2 alone is used"),
    "middle step": (lambda m, x: m.fc(tokens(x)).select(0, 2), "time step 2 alone is used"),
    "first slice": (lambda m, x: m.fc(tokens(x))[:1].mean(0), "a part of the time steps is used"),
    "first chunk": (lambda m, x: m.fc(tokens(x)).chunk(STEPS)[0].squeeze(0), "a part of the time steps is used"),
    "last half": (lambda m, x: m.fc(tokens(x)).chunk(2)[1].mean(0), "a part of the time steps is used"),
    "first unbound": (lambda m, x: m.fc(tokens(x)).unbind(0)[0], "the time steps are taken apart"),
    "last and mean": (lambda m, x: m.fc(tokens(x))[-1] + m.fc(tokens(x)).mean(0), "joins the last time step"),
    "last of one, sum of another": (lambda m, x: m.fc(tokens(x[-1:]).squeeze(0) + tokens(x).sum(0)), "joins the last"),
    "last masks mean": (lambda m, x: m.fc((x[-1] * m.same(x).mean(0)).mean((2, 3))), "joins the last time step with"),
    "last step again and again": (lambda m, x: m.fc(tokens(x[-1].repeat(STEPS, 1, 1, 1, 1))).mean(0), "stands behind"),
    "stack of the last": (lambda m, x: torch.stack([m.fc(tokens(x))[-1]] * STEPS).mean(0), "stands behind the last"),
    "neurons of the last": (lambda m, x: tokens(m.last(x[-1:])).squeeze(0), "first dimension must be the time axis"),
    "parts of the steps": (lambda m, x: m.fc(tokens(x.unflatten(0, (2, 2))[-1, -1][None])[0]), "a part of the time"),
    "first step": (lambda m, x: m.fc(tokens(x))[0] * 2, "time step 0 alone is used"),
    "every step": (lambda m, x: sum(m.fc(tokens(x)).unbind(0)), "the time steps are taken apart"),
    "steps one by one": (lambda m, x: sum(m.fc(tokens(x))[t] for t in range(STEPS)), "time step 0 alone is used"),
    "stacked": (lambda m, x: torch.stack([m.fc(tokens(x))[t] for t in range(STEPS)]).mean(0), "time step 0 alone"),
    "late steps": (lambda m, x: m.fc(tokens(x))[2:].mean(0), "a part of the time steps is used"),
    "largest step": (lambda m, x: m.fc(tokens(x)).max(0).values, "max of .* is not supported"),
    "no step": (lambda m, x: m.fc(tokens(x)), "must return the mean over the time steps"),
    "mean over all": (lambda m, x: x.mean(), "a mean over dimensions"),
    "sum over all": (lambda m, x: x.sum(), "a sum over dimensions"),
    "pooled mean": (lambda m, x: m.fc(tokens(torch.max_pool2d(x.mean(0), 2).unsqueeze(0)).squeeze(0)), "stands behind"),
    "masked mean": (lambda m, x: m.fc((x.mean(0) * m.same(x).mean(0)).mean((2, 3))), "stands behind"),
    "masked sum": (lambda m, x: m.fc(tokens(x.sum(0) * m.same(x))).mean(0), "is no mask"),
    "mean over time to time": (lambda m, x: m.fc(tokens(x.mean(0).repeat(STEPS, 1, 1, 1, 1))).mean(0), "stands behind"),
    "neurons": (lambda m, x: tokens(m.last(x.mean(0, keepdim=True))).mean(0), "first dimension must be the time axis"),
    "median": (lambda m, x: m.fc(tokens(x)).median(0).values, "median of .* is not supported"),
    "top": (lambda m, x: m.fc(tokens(x)).mean(0).topk(2).values, "topk of .* is not supported"),
}  # fmt: skip


class WithTwo(Net):
    """A second value of the same shape beside the first."""

    def forward(self, x: Tensor) -> Tensor:
        self.same = lambda _: self.spikes(x, self.other, self.second)
        return super().forward(x)


@pytest.mark.parametrize("name", thinned(BAD, 5))
def test_what_is_no_mean_of_linear_layers_is_refused(name: str) -> None:
    readout, message = BAD[name]
    with pytest.raises(ModelError, match=message) as caught:
        trace(WithTwo(readout), SHAPE, time_steps=STEPS)
    assert caught.value.way_out


def test_one_time_step_may_be_taken_by_its_number() -> None:
    model = Net(lambda m, x: m.fc(tokens(x))[-1], steps=1).eval()
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        theirs = model(images)
    found = execute(check(trace(model, SHAPE, time_steps=1)), images)["output"]
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)


CHANGED: dict[str, tuple[Callable[[Net, Tensor], Any], str]] = {
    "weighted sum": (lambda m, x: torch.add(x, m.same(x), alpha=2), "add with alpha=2 is not supported"),
    "floor": (lambda m, x: x.div(2, rounding_mode="floor"), "div with rounding_mode='floor' is not supported"),
    "half": (lambda m, x: x.half().float(), "activations of type float16"),
    "bfloat16": (lambda m, x: x.to(torch.bfloat16).to(torch.float32), "activations of type bfloat16"),
    "bits": (lambda m, x: x.view(torch.int32), "activations of type int32"),
    "whole numbers": (lambda m, x: x.int(), "activations of type int32"),
}


@pytest.mark.parametrize("name", thinned(CHANGED, 3))
def test_arguments_and_types_that_are_not_understood(name: str, tmp_path: Any) -> None:
    """In the module and in a file of it: nothing that torch is told is left out."""
    change, message = CHANGED[name]
    model = WithTwo(lambda m, x: m.fc(tokens(change(m, x).float())).mean(0)).eval()
    with pytest.raises(ModelError, match=message):
        trace(model, SHAPE, time_steps=STEPS)
    with torch.no_grad():
        batch = ({0: torch.export.Dim("batch")},)
        torch.export.save(
            torch.export.export(model, (torch.zeros(2, *SHAPE),), dynamic_shapes=batch), tmp_path / "a.pt2"
        )
    with pytest.raises(ModelError, match=message):
        read_model(tmp_path / "a.pt2", time_steps=STEPS)
