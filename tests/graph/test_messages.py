"""Habits of users that are not supported: the message names their module or line, and a way out, in their words."""

import re
from collections.abc import Callable

import pytest
import torch
from support.deep import thinned
from torch import Tensor, library, nn
from torch.nn import functional as F

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.levels import Levels
from spikformer_deploy.nn.lif import LIF

STEPS = 2
SHAPE = (2, 8, 8)
JARGON = re.compile(
    r"aten|torch\.ops|FakeTensor|SymInt|\bs\d+\b|\bu\d+\b|Traceback|%|_default\b|p_model|TORCH_LOGS|dynamo|guard|meta\b"
)
"""Words of torch's developers."""


class Net(nn.Module):
    """Convolution, neurons, `habit` on their spikes (T, B, 8, 8, 8), and a head."""

    def __init__(self, habit: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.habit = habit
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.lif = LIF(v_threshold=0.2)
        self.fc = nn.Linear(8, 5)
        self.embedding = nn.Embedding(3, 8)
        self.rnn = nn.LSTM(8, 8)
        self.gru = nn.GRUCell(8, 8)
        self.layer_norm = nn.LayerNorm(8)
        self.group_norm = nn.GroupNorm(2, 8)
        self.instance_norm = nn.InstanceNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.up = nn.Upsample(scale_factor=2)
        self.transposed = nn.ConvTranspose2d(8, 8, 2, 2)
        self.prelu = nn.PReLU()
        self.other = nn.Conv2d(8, 8, 3, padding=1)
        self.volume = nn.Conv3d(8, 8, 1)
        self.bilinear = nn.Bilinear(8, 8, 8)
        self.norm = nn.BatchNorm2d(8)
        self.fresh = nn.BatchNorm2d(8, track_running_stats=False)
        self.weight = nn.Parameter(torch.ones(8))
        self.calls = 0
        self.kept = torch.zeros(1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif(self.images(self.conv, x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)))
        x = self.habit(self, x)
        return self.fc(x.flatten(3).mean(3)).mean(0)

    def images(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A layer of images for every time step."""
        return layer(x.flatten(0, 1)).unflatten(0, (STEPS, -1))

    def tokens(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A layer of tokens (T, B, 64, 8)."""
        return layer(x.flatten(3).transpose(2, 3)).transpose(2, 3).unflatten(3, (8, 8))


@library.custom_op("habits::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def counted(m: Net, x: Tensor) -> Tensor:
    m.seen += x.sum()
    return x


def in_autocast(m: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m.images(m.other, x)


def in_place(m: Net, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 0] = 0
    return x


def kept(m: Net, x: Tensor) -> Tensor:
    m.kept = x.mean()
    return x + m.kept


HABITS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "relu": lambda m, x: torch.relu(x),
    "gelu": lambda m, x: F.gelu(x),
    "silu": lambda m, x: F.silu(x),
    "prelu": lambda m, x: m.images(m.prelu, x),
    "leaky relu": lambda m, x: F.leaky_relu(x),
    "sigmoid": lambda m, x: x.sigmoid(),
    "tanh": lambda m, x: x.tanh(),
    "softmax": lambda m, x: x.softmax(2),
    "log softmax": lambda m, x: F.log_softmax(x, 2),
    "exp": lambda m, x: x.exp(),
    "sqrt": lambda m, x: x.sqrt(),
    "square": lambda m, x: x**2,
    "absolute": lambda m, x: x.abs(),
    "negative": lambda m, x: -x,
    "sign": lambda m, x: torch.sign(x),
    "clamp": lambda m, x: x.clamp(0, 1),
    "round": lambda m, x: x.round(),
    "difference": lambda m, x: x - m.lif(x),
    "one minus": lambda m, x: 1 - x,
    "times a parameter": lambda m, x: x * m.weight[:, None, None],
    "quotient of activations": lambda m, x: x / (m.lif(x) + x),
    "division by a parameter": lambda m, x: x / m.weight[:, None, None],
    "comparison": lambda m, x: (x > 0.5).float(),
    "where": lambda m, x: torch.where(x > 0.5, x, 0.0),
    "masked fill": lambda m, x: x.masked_fill(x > 0.5, 0.0),
    "maximum": lambda m, x: torch.maximum(x, m.lif(x)),
    "einsum": lambda m, x: torch.einsum("tbcyx,tbdyx->tbcd", x, x).unsqueeze(4),
    "einsum of a parameter": lambda m, x: torch.einsum("tbcyx,c->tbcyx", x, m.weight),
    "product with a parameter": lambda m, x: (x.flatten(3).transpose(2, 3) @ torch.eye(8)).transpose(2, 3),
    "cumulative sum": lambda m, x: x.cumsum(0),
    "top": lambda m, x: x.topk(4, 2).values,
    "sort": lambda m, x: x.sort(2).values,
    "largest": lambda m, x: x.amax(2, keepdim=True),
    "largest class": lambda m, x: x.argmax(2, keepdim=True).float(),
    "gather": lambda m, x: x.gather(2, torch.zeros_like(x, dtype=torch.int64)),
    "chosen channels": lambda m, x: x[:, :, [0, 2, 4, 6, 1, 3, 5, 7]],
    "every second channel": lambda m, x: x[:, :, ::2].repeat(1, 1, 2, 1, 1),
    "cropped": lambda m, x: x[..., 1:-1],
    "shifted": lambda m, x: x.roll(1, 4),
    "flipped": lambda m, x: x.flip(4),
    "padded": lambda m, x: F.pad(x, (1, 1, 1, 1)),
    "embedding": lambda m, x: m.embedding(x.sum((2, 3, 4)).long() % 3)[..., None, None],
    "one hot": lambda m, x: F.one_hot(x.long(), 2)[..., 0].float(),
    "layer norm": lambda m, x: m.tokens(m.layer_norm, x),
    "group norm": lambda m, x: m.images(m.group_norm, x),
    "instance norm": lambda m, x: m.images(m.instance_norm, x),
    "normalised": lambda m, x: F.normalize(x, dim=2),
    "standardised": lambda m, x: (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True),
    "batch norm of a batch": lambda m, x: m.images(m.fresh, x),
    "batch norm of spikes": lambda m, x: m.images(m.norm, x),
    "lstm": lambda m, x: m.rnn(x.flatten(3).mean(3))[0][..., None, None],
    "gru cell": lambda m, x: m.gru(x.flatten(3).mean(3).flatten(0, 1)).unflatten(0, (STEPS, -1))[..., None, None],
    "attention with softmax": lambda m, x: m.attention(*[x.flatten(3).mean(3)] * 3)[0][..., None, None],
    "scaled attention": lambda m, x: F.scaled_dot_product_attention(*[x.flatten(3)] * 3).unflatten(3, (8, 8)),
    "upsampling": lambda m, x: m.images(m.up, x),
    "interpolation": lambda m, x: m.images(lambda y: F.interpolate(y, size=(4, 4), mode="bilinear"), x),
    "transposed convolution": lambda m, x: m.images(m.transposed, x),
    "convolution in three dimensions": lambda m, x: m.volume(x.permute(1, 2, 0, 3, 4)).permute(2, 0, 1, 3, 4),
    "computed kernel": lambda m, x: m.images(lambda y: F.conv2d(y, m.other.weight.tanh()), x),
    "bilinear": lambda m, x: m.tokens(lambda y: m.bilinear(y, y), x),
    "unfold": lambda m, x: m.images(lambda y: F.unfold(y, 2, stride=2).unsqueeze(3), x),
    "pixel shuffle": lambda m, x: m.images(lambda y: F.pixel_shuffle(y, 2), x),
    "dropout that stays active": lambda m, x: F.dropout(x, 0.5),
    "noise": lambda m, x: x + torch.rand_like(x),
    "random mask": lambda m, x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "branch on a value": lambda m, x: x if x.sum() > 0 else x * 2,
    "branch on the batch": lambda m, x: x if x.shape[1] <= 3 else x * 2,
    "loop over the batch": lambda m, x: torch.stack([image for image in x.unbind(1)], 1),
    "number of a tensor": lambda m, x: x * float(x.mean()),
    "list of a tensor": lambda m, x: x * sum(x.mean((1, 2, 3, 4)).tolist()),
    "numpy": lambda m, x: torch.from_numpy(x.numpy() * 2),
    "items that are not zero": lambda m, x: x.nonzero().float().mean() * x,
    "boolean choice": lambda m, x: x[x > 0.5].mean() * x,
    "complex": lambda m, x: torch.fft.fft2(x).real,
    "complex numbers": lambda m, x: torch.view_as_real(torch.complex(x, x))[..., 0],
    "sparse": lambda m, x: x.to_sparse().to_dense(),
    "whole numbers": lambda m, x: x.int().float(),
    "half": lambda m, x: x.half().float(),
    "autocast": in_autocast,
    "custom operator": lambda m, x: torch.ops.habits.twice(x),
    "counter in a buffer": counted,
    "activation that is kept": kept,
    "written in place": in_place,
    "wrong shape": lambda m, x: m.fc(x),
    "missing attribute": lambda m, x: m.missing(x),
    "own exception": lambda m, x: [][1],
    "mixed axes": lambda m, x: x.reshape(STEPS, -1, 16, 4, 8),
    "batch before time": lambda m, x: m.lif(x.transpose(0, 1)).transpose(0, 1),
    "a single time step": lambda m, x: x[-1:].repeat(STEPS, 1, 1, 1, 1),
    "position embedding over tokens": lambda m, x: m.tokens(lambda y: y + torch.ones(64, 8), x),
    "trilinear product": lambda m, x: x * m.lif(x) @ x,
    "mean over channels": lambda m, x: x.mean(2, keepdim=True).expand(-1, -1, 8, -1, -1),
    "standard deviation": lambda m, x: x * x.std(),
    "outer product": lambda m, x: (x.flatten(3).unsqueeze(4) * x.flatten(3).unsqueeze(3)).sum(4).unflatten(3, (8, 8)),
    "checkpointing": lambda m, x: torch.utils.checkpoint.checkpoint(m.lif, x.sigmoid(), use_reentrant=False),
    "two results": lambda m, x: torch.var_mean(x, 2, keepdim=True)[0].expand(-1, -1, 8, -1, -1),
    "meshgrid": lambda m, x: x * torch.arange(8.0),
}


def refusal(module: nn.Module) -> ModelError | None:
    try:
        fold_batch_norm(check(trace(module, SHAPE, time_steps=STEPS)))
    except ModelError as error:
        return error
    return None


@pytest.mark.parametrize("name", thinned(HABITS, 8))
def test_messages_are_in_the_words_of_the_user(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    error = refusal(Net(HABITS[name]))
    assert error is not None, "it compiles"
    found = JARGON.search(str(error))
    assert found is None, f"{found[0]!r} in {error}"
    modules = {path for path, _ in Net(HABITS[name]).named_modules() if path}
    assert "test_messages.py:" in error.problem or error.place in modules, str(error)
    assert error.way_out, str(error)
    assert capfd.readouterr().err == ""


def own_neuron(net: "Net", spikes: Tensor) -> Tensor:
    """A LIF as people write it."""
    potential = torch.zeros_like(spikes[0])
    sent = []
    for current in spikes:
        potential = potential + (current - potential) / 2
        sent.append((potential >= 1).float())
        potential = potential * (1 - sent[-1])
    return torch.stack(sent)


def test_neurons_of_ones_own_are_told_which_there_are() -> None:
    error = refusal(Net(own_neuron))
    assert error is not None
    assert "spikformer_deploy.nn.lif.LIF" in error.way_out
    LIF()  # takes the place of one without arguments


@pytest.mark.parametrize(("neurons", "kind"), [(Levels(), "integer neuron"), (LIF(), "LIF")])
@pytest.mark.parametrize(("steps", "made"), [(1, "x.unsqueeze(0)"), (4, "x.unsqueeze(0).repeat(4, 1, ...)")])
def test_neurons_without_a_time_axis_are_told_how_to_get_one(
    neurons: nn.Module, kind: str, steps: int, made: str
) -> None:
    """And what the message says is taken."""
    module = nn.Sequential(nn.Conv2d(2, 8, 3), neurons, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    words = (
        rf"1: the {kind} sees \(B, C, Y, X\): .*\n  Give images a time axis of T = {steps} by {re.escape(made)}, and"
    )
    with pytest.raises(ModelError, match=words):
        trace(module, SHAPE, time_steps=steps)

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = module

        def forward(self, x: Tensor) -> Tensor:
            x = self.layers[0](x).unsqueeze(0)
            x = self.layers[1](x if steps == 1 else x.repeat(steps, 1, 1, 1, 1)).mean(0)
            return self.layers[2:](x)

    check(trace(Given().eval(), SHAPE, time_steps=steps))
