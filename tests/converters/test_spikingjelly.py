"""Models of spikingjelly's layers: neurons swapped by class name and attributes, with the same spikes.

The stand-ins have the names and attributes of spikingjelly's classes and compute its rules in plain torch; where
spikingjelly itself is installed, its own layers and models are tested too.
"""

from typing import Any

import numpy as np
import pytest
import torch
from support.deep import some, thinned
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError, ModelError, QuantizeError
from spikformer_deploy.converters.checkpoints.spikingjelly import from_spikingjelly
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.network.neurons import Lif

STEPS = 4
SMALL = Preprocess(3, 8, (0.5,) * 3, (0.25,) * 3)


class _Node(nn.Module):
    """What spikingjelly's neurons have in common."""

    def __init__(self, step_mode: str, v_threshold: float = 1.0, v_reset: float | None = 0.0, **more: Any) -> None:
        super().__init__()
        self.step_mode = step_mode
        self.v_threshold = v_threshold
        self.v_reset = v_reset
        self.v: Any = 0.0 if v_reset is None else v_reset
        for name, value in more.items():
            setattr(self, name, value)

    def charge(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def step(self, x: Tensor) -> Tensor:
        h = self.charge(x)
        spikes = (h >= self.v_threshold).to(x)
        self.v = h - spikes * self.v_threshold if self.v_reset is None else torch.where(spikes > 0, self.v_reset, h)
        return spikes

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.step(part) for part in x]) if self.step_mode == "m" else self.step(x)


class LIFNode(_Node):
    tau = 2.0
    decay_input = True

    def charge(self, x: Tensor) -> Tensor:
        rest = self.v_reset or 0.0
        if self.decay_input:
            return self.v + (x - (self.v - rest)) / self.tau
        return self.v - (self.v - rest) / self.tau + x


class IFNode(_Node):
    def charge(self, x: Tensor) -> Tensor:
        return self.v + x


class ParametricLIFNode(_Node):
    decay_input = True

    def charge(self, x: Tensor) -> Tensor:
        rest = self.v_reset or 0.0
        share = self.w.sigmoid()  # type: ignore[operator]
        return (
            self.v
            + ((x - (self.v - rest)) if self.decay_input else -(self.v - rest)) * share
            + (0 if self.decay_input else x)
        )


class KLIFNode(LIFNode):
    pass


class SeqToANNContainer(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Flatten(nn.Flatten):
    step_mode = "m"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def chain(first: nn.Module, second: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)),
        first,
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1)),
        second,
        nn.AdaptiveAvgPool2d(1),
        Flatten() if getattr(first, "step_mode", "m") == "m" else nn.Flatten(),
        nn.Linear(8, 5),
    ]
    if getattr(first, "step_mode", "m") == "m":
        layers = [SeqToANNContainer(x) if isinstance(x, (nn.Sequential, nn.AdaptiveAvgPool2d)) else x for x in layers]
    model = nn.Sequential(*layers).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.constant_(layer.bias, 0.4)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.bias, 0.6)
            nn.init.constant_(layer.running_var, 0.3)
    return model


def images(seed: int = 1) -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 4 - 2


def logits(model: nn.Module, x: Tensor, mode: str) -> Tensor:
    """As spikingjelly's users run a model: all steps at once, or one after the other."""
    for layer in model.modules():
        if isinstance(layer, _Node):
            layer.v = layer.v_reset or 0.0
    with torch.no_grad():
        out = model(torch.stack([x] * STEPS)) if mode == "m" else torch.stack([model(x) for _ in range(STEPS)])
    for layer in model.modules():
        if isinstance(layer, _Node):
            layer.v = layer.v_reset or 0.0
    return out.mean(0)


W = nn.Parameter(torch.tensor(0.3))
NEURONS: dict[str, Any] = {
    "lif": lambda mode: LIFNode(mode),
    "lif-soft": lambda mode: LIFNode(mode, v_reset=None),
    "lif-tau4-reset": lambda mode: LIFNode(mode, v_reset=0.2, tau=4.0, v_threshold=0.7),
    "lif-no-decay": lambda mode: LIFNode(mode, decay_input=False, v_reset=None),
    "if": lambda mode: IFNode(mode),
    "if-soft": lambda mode: IFNode(mode, v_reset=None),
    "plif": lambda mode: ParametricLIFNode(mode, w=W),
}


@pytest.mark.parametrize(
    ("name", "mode"), thinned([*((name, "m") for name in NEURONS), ("lif", "s"), ("lif-soft", "s"), ("plif", "s")], 3)
)
def test_swapped_neurons_give_the_logits_of_the_model(name: str, mode: str) -> None:
    model = chain(NEURONS[name](mode), NEURONS[name](mode))
    imported = from_spikingjelly(model, SMALL, STEPS)
    assert imported.time_steps == STEPS
    theirs = logits(model, images(), mode)
    assert theirs.std() > 0.01
    torch.testing.assert_close(execute(imported.graph, images())["output"], theirs, rtol=0, atol=1e-5)
    network = sd.compile(imported, check=False).network
    soft = "soft" in name or name == "lif-no-decay"
    exact = name not in ("plif", "lif-tau4-reset")
    lifs = [p.neuron for p in network if isinstance(p.neuron, Lif)]
    assert [lif.soft for lif in lifs] == [soft, soft]
    assert network.exact or not exact
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    record = [p.name for p in network]
    ours = engine.execute(network, pixels, record=record)
    plain = reference.execute(network, pixels, record=record)
    np.testing.assert_array_equal(ours.accumulators, plain.accumulators)
    for population in record:
        np.testing.assert_array_equal(ours.spikes[population], plain.spikes[population])


def test_stock_neurons_have_no_soft_reset() -> None:
    imported = from_spikingjelly(chain(LIFNode("m", v_reset=None), LIFNode("m")), SMALL, STEPS)
    with pytest.raises(QuantizeError, match=r"1: a soft reset takes the threshold off"):
        sd.compile(imported, neuron="stock")


def test_what_cannot_be_swapped_is_refused() -> None:
    def attempt(first: nn.Module, second: nn.Module, match: str) -> None:
        with pytest.raises((ModelError, InputError), match=match):
            from_spikingjelly(chain(first, second), SMALL, STEPS)

    attempt(LIFNode("m"), KLIFNode("m"), r"3: neurons of class KLIFNode are not supported")
    attempt(LIFNode("m"), LIFNode("s"), "some neurons work step by step")
    attempt(nn.ReLU(), nn.ReLU(), "no neurons of spikingjelly's")
    held = LIFNode("m")
    held.v = torch.full((8, 8, 8), 0.3)
    attempt(held, LIFNode("m"), r"1: it holds the potential of an earlier run")
    other = LIFNode("m")
    other.charge = lambda x: other.v + x  # type: ignore[method-assign]
    attempt(LIFNode("m"), other, "with its neurons swapped its logits differ")
    with pytest.raises(InputError, match="0 time steps"):
        from_spikingjelly(chain(LIFNode("m"), LIFNode("m")), SMALL, 0)


# --- spikingjelly itself -----------------------------------------------------------------------------------------


def installed() -> Any:
    reason = "spikingjelly is not installed: pip install --no-deps spikingjelly==2.0.0 loguru tqdm"
    return pytest.importorskip("spikingjelly.activation_based", reason=reason)


def zoo(name: str) -> tuple[nn.Module, int]:
    """A small model of spikingjelly 2's own, normalised so that neurons fire, and the size of its images."""
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.model import maxformer, qkformer, spike_driven_transformer, spikformer

    torch.manual_seed(0)
    small: dict[str, Any] = {"T": STEPS, "num_classes": 7, "embed_dims": 32}
    hierarchy: dict[str, Any] = {"num_heads": (2, 2, 2), "depths": (1, 1, 1), **small}
    model, size = {
        "spikformer": lambda: (
            spikformer.Spikformer(img_size_h=16, img_size_w=16, patch_size=4, num_heads=4, depths=1, **small), 16
        ),
        "qkformer": lambda: (qkformer.QKFormer(qka_type="channel", **hierarchy), 32),
        "max-former": lambda: (maxformer.MaxFormer(depths=(1, 1, 1), **small), 32),
        "sdt": lambda: (
            spike_driven_transformer.SpikeDrivenTransformer(num_heads=2, depths=1, pooling_stat="0011", **small), 16
        ),
    }[name]()  # fmt: skip
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = 1.0
            nn.init.constant_(layer.bias, 0.6)
    model.train()
    with torch.no_grad():
        model(torch.randn(2, 3, size, size))
    functional.reset_net(model)
    return model.eval(), size


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", some(["spikformer"], ["qkformer", "max-former"], long=["sdt"]))
def test_models_of_its_own(name: str) -> None:
    """Swapped before export, and as exported with its own nodes: the logits of the model, both ways."""
    installed()
    from spikingjelly.activation_based import functional

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            out = self.model(x)
            return out.mean(0) if out.ndim == 3 else out

    model, size = zoo(name)
    preprocess = Preprocess(3, size, (0.5,) * 3, (0.25,) * 3)
    swapped = from_spikingjelly(model, preprocess, STEPS)
    rewritten = trace(Mean(), (3, size, size), time_steps=STEPS)
    x = torch.randn(2, 3, size, size)
    functional.reset_net(model)
    with torch.no_grad():
        theirs = Mean()(x)
    assert theirs.std() > 0.005
    for graph in (swapped.graph, rewritten):
        torch.testing.assert_close(execute(graph, x)["output"], theirs, rtol=0, atol=1e-5)
        assert len(list(graph.of(ir.Lif))) == len(list(swapped.graph.of(ir.Lif)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["m", "s"])
def test_layers_of_its_own(mode: str) -> None:
    installed()
    from spikingjelly.activation_based import functional, layer, neuron

    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), neuron.LIFNode(v_reset=None),
        layer.MaxPool2d(2), layer.Conv2d(8, 8, 3, padding=1), neuron.ParametricLIFNode(), layer.AvgPool2d(2),
        layer.Conv2d(8, 8, 1), neuron.IFNode(), layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Dropout(0.5),
        layer.Linear(8, 5),
    ).eval()  # fmt: skip
    functional.set_step_mode(model, mode)
    imported = from_spikingjelly(model, SMALL, STEPS)
    lifs = [node.op for node in imported.graph.of(ir.Lif) if isinstance(node.op, ir.Lif)]
    assert [lif.soft_reset for lif in lifs] == [True, False, False]


def test_neurons_that_are_called_twice_are_named() -> None:
    shared = LIFNode("m")
    with pytest.raises(ModelError, match="called 2 times in one forward pass, and share their potentials"):
        from_spikingjelly(chain(shared, shared), SMALL, STEPS)


STEP_BY_STEP: dict[str, Any] = {
    "flatten-linear-lif": lambda: (nn.Flatten(), nn.Linear(192, 7), LIFNode("s")),
    "conv-lif-flatten-linear-lif": lambda: (
        nn.Conv2d(3, 4, 3, padding=1), LIFNode("s"), nn.Flatten(), nn.Linear(256, 7), LIFNode("s")
    ),
    "flatten-linear-norm-lif-linear-lif": lambda: (
        nn.Flatten(), nn.Linear(192, 9), nn.BatchNorm1d(9), LIFNode("s"),
        nn.Linear(9, 3), LIFNode("s", tau=3.0, v_threshold=0.1),
    ),
    "conv-lif-flatten-linear-lif-linear": lambda: (
        nn.Conv2d(3, 4, 3, stride=2), LIFNode("s"), nn.Flatten(), nn.Linear(36, 7), LIFNode("s"), nn.Linear(7, 5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", thinned(STEP_BY_STEP, 2))
def test_nets_that_work_step_by_step_may_end_in_any_layer(name: str) -> None:
    """Logits of T calls, whatever stands between the last convolution and the result."""
    torch.manual_seed(0)
    model = nn.Sequential(*STEP_BY_STEP[name]()).eval()
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.weight.data *= 4
            nn.init.constant_(layer.bias, 0.6)
    imported = from_spikingjelly(model, SMALL, STEPS)
    assert imported.notes == ()
    theirs = logits(model, images(), "s")
    assert theirs.std() > 0.01
    torch.testing.assert_close(execute(imported.graph, images())["output"], theirs, rtol=0, atol=1e-5)


class Steps(nn.Module):
    """A net that works step by step, and what its forward pass does with it."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.run = forward
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.lif = LIFNode("s")
        self.other = LIFNode("s")
        self.head = nn.Linear(8, 5)
        nn.init.constant_(self.first.bias, 0.6)
        self.calls = 0

    def step(self, x: Tensor) -> Tensor:
        return self.head(self.other(self.second(self.lif(self.first(x)))).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def four_places(m: Steps, x: Tensor) -> Tensor:
    x = m.lif(m.first(x))
    for _ in range(STEPS - 1):
        x = m.lif(x)
    return m.head(x.mean((2, 3)))


def ever_larger(m: Steps, x: Tensor) -> Tensor:
    m.calls += 1
    return m.step(x) * m.calls


LOOP = "called 4 times in one forward pass: a loop over time steps"
SHARED = "called 4 times in one forward pass, and share their potentials"
AGAIN = "other logits when it is called again"
IN_FORWARD: dict[str, tuple[Any, str]] = {
    "sum": (lambda m, x: sum(m.step(x) for _ in range(STEPS)) / STEPS, LOOP),
    "stack": (lambda m, x: torch.stack([m.step(x) for _ in range(STEPS)]).mean(0), LOOP),
    "static stem": (lambda m, x: sum(m.head(m.lif(y).mean((2, 3))) for y in [m.first(x)] * STEPS), LOOP),
    "four places": (four_places, SHARED),
    "two of five": (lambda m, x: sum(m.step(x) for _ in range(STEPS + 1)), "called 5 times .* share their potentials"),
    "dropout": (lambda m, x: m.step(nn.functional.dropout(x, 0.5)), "dropout that is active in evaluation"),
    "noise": (lambda m, x: m.step(x + torch.rand_like(x)), "no random numbers"),
    "counter": (ever_larger, AGAIN),
}


@pytest.mark.parametrize("name", IN_FORWARD)
def test_loops_shared_neurons_and_what_is_kept_between_calls(name: str) -> None:
    forward, message = IN_FORWARD[name]
    with pytest.raises(ModelError, match=message) as caught:
        from_spikingjelly(Steps(forward), SMALL, STEPS)
    assert caught.value.way_out
    assert AGAIN in message or "test_spikingjelly.py:" in caught.value.problem


def test_dropout_modules_are_off() -> None:
    """A model in training mode is compiled as it is evaluated."""
    model = chain(LIFNode("m"), LIFNode("m"))
    assert isinstance(model, nn.Sequential)
    dropped = nn.Sequential(*model[:-1], nn.Dropout(0.5), model[-1]).train()
    assert from_spikingjelly(dropped, SMALL, STEPS).notes == ()
    assert dropped.training


def test_neurons_that_never_fire_are_named() -> None:
    model = chain(LIFNode("m"), LIFNode("m", v_threshold=1e9))
    (note,) = from_spikingjelly(model, SMALL, STEPS).notes
    assert note.startswith("neurons that never fired when the logits were compared")
    assert note.endswith("model.3")
