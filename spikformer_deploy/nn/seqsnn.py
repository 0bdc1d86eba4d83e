"""Spikformer and iSpikformer on time series, of SeqSNN, with the keys of its runners' state_dicts.

    s = LIF(encoder of each variable along time);  x = LIF(W s);  x = x + SSA(x), x = x + MLP(x) in each block

Spikformer: tokens are points of time, channels variables;   forecast = fc_out(mean over T and tokens of x)
iSpikformer: tokens are variables, channels points;          forecast of a variable = fc_out(its token in the last step)

Residuals are sums of spikes.  Frames are laid out as base/series.py says: where weights depend on the time step, each
step has channels of its own, so that what runs has the same weights in every step.
Source: Lv et al. 2024 (ICML), "Efficient and Effective Time-Series Forecasting with Spiking Neural Networks",
arXiv 2402.01533, and its code (microsoft/SeqSNN).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import ATTENTION_THRESHOLD, SCALE
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import Block, over_steps, sequence
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.seqsnn_encoders import ConvOfPoints, ConvOfVariables, Delta, Repeat

UNUSED_POSITIONS = 5000
"""Rows of the embedding that a Spikformer without position spikes holds and never reads."""
MARKED_POSITIONS = 50000
"""Rows of the table of position spikes, of which the first T L are read."""
RANDOM_POSITIONS = 5000
"""Rows of a table of random signs."""


class _Unit(nn.Module):
    """Tokens (T, B, N, D) through units of Linear, BN and LIF, whose names in the state_dict are given a unit."""

    def add(self, linear: str, norm: str, lif: str, sizes: tuple[int, int]) -> None:
        """Put a unit into this module; sizes: channels in and out."""
        self.add_module(linear, nn.Linear(*sizes))
        self.add_module(norm, nn.BatchNorm1d(sizes[1]))
        self.add_module(lif, LIF())

    def run(self, linear: str, norm: str, lif: str, x: Tensor) -> Tensor:
        """Spikes (T, B, N, D') of x (T, B, N, D)."""
        current = self.get_submodule(linear)(x.flatten(0, 1)).transpose(-1, -2)
        # BatchNorm1d takes channels before tokens
        normal = self.get_submodule(norm)(current).transpose(-1, -2)
        return cast(Tensor, self.get_submodule(lif)(normal.unflatten(0, x.shape[:2])))


class Attention(_Unit):
    """SSA of nn.Linear with bias, (q k^T) v * 0.125, then neurons of threshold 0.5; tokens (T, B, N, D) in and out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q", "k", "v", "last"):
            self.add(f"{name}_m", f"{name}_bn", f"{name}_lif", (dim, dim))
        self.attn_lif = LIF(v_threshold=ATTENTION_THRESHOLD)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, N, D)."""
        q, k, v = [self._heads(self.run(f"{n}_m", f"{n}_bn", f"{n}_lif", x)) for n in ("q", "k", "v")]
        out = (q @ k.transpose(-2, -1)) @ v * SCALE
        spikes = self.attn_lif(out.transpose(2, 3).flatten(3))
        return self.run("last_m", "last_bn", "last_lif", spikes)

    def _heads(self, x: Tensor) -> Tensor:
        """(T, B, N, D) -> (T, B, heads, N, D / heads)."""
        return x.unflatten(3, (self.heads, -1)).transpose(2, 3)


class MLP(_Unit):
    """LIF(BN(W2 LIF(BN(W1 x)))), D -> ratio D -> D channels; tokens (T, B, N, D) in and out."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.add("fc1", "bn1", "lif1", (dim, ratio * dim))
        self.add("fc2", "bn2", "lif2", (ratio * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, N, D)."""
        return self.run("fc2", "bn2", "lif2", self.run("fc1", "bn1", "lif1", x))


class _Table(nn.Module):
    """The spikes that mark positions, (50000, 1, marks): row t L + l of time step t and point l.

    They come with the frames: no forward pass reads them.
    """

    def __init__(self, rows: int, marks: int) -> None:
        super().__init__()
        self.register_buffer("pe", torch.zeros(rows, 1, marks))


class _Positions(nn.Module):
    """The holder of what marks positions; without marks the official code keeps an embedding that it never reads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        marks = config.position_neurons
        self.emb: nn.Module = nn.Embedding(UNUSED_POSITIONS, config.in_channels)
        if config.positions:
            self.emb = _Table(MARKED_POSITIONS, marks)


def _blocks(config: ModelConfig) -> nn.ModuleList:
    """The blocks of both models."""
    dim = config.dim
    return nn.ModuleList(Block(Attention(dim, config.heads), MLP(dim, config.mlp_ratio)) for _ in range(config.depth))


class _Spikformer(nn.Module):
    """The network of Spikformer: frames (T, B, C, 1, L) -> sums of spikes (T, B, L, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inputs = config.in_channels + (config.position_neurons if config.positions == "concat" else 0)
        self.temporal_encoder = ConvOfPoints(config.time_steps, config.in_channels, config.positions, inputs)
        self.pe = _Positions(config)
        self.encoder = nn.Linear(inputs, config.dim)
        self.init_lif = LIF()
        self.blocks = _blocks(config)

    def forward(self, x: Tensor) -> Tensor:
        """Sums of spikes (T, B, L, D)."""
        spikes = self.temporal_encoder(x).flatten(3).transpose(-1, -2)
        x = self.init_lif(over_steps(self.encoder, spikes))
        for block in self.blocks:
            x = block(x)
        return x


class _Embedding(_Unit):
    """LIF(BN(W x)) of the points of each variable: tokens (T, B, V, L) -> (T, B, V, D)."""

    def __init__(self, points: int, dim: int) -> None:
        super().__init__()
        self.add("value_embedding", "bn", "lif", (points, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, V, D)."""
        return self.run("value_embedding", "bn", "lif", x)


class _ISpikformer(nn.Module):
    """The network of iSpikformer: frames (T, B, C, 1, V) -> sums of spikes (T, B, V, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        points = config.image_size
        encoders: dict[str, type[ConvOfVariables] | type[Delta]] = {"conv": ConvOfVariables, "delta": Delta}
        if config.encoder in encoders:
            self.encoder: nn.Module = encoders[config.encoder](config.time_steps, points)
        else:
            self.encoder = Repeat(points)
        self.emb = _Embedding(points, config.dim)
        self.blocks = _blocks(config)

    def forward(self, x: Tensor) -> Tensor:
        """Sums of spikes (T, B, V, D)."""
        x = self.emb(self.encoder(x).flatten(3).transpose(-1, -2))
        for block in self.blocks:
            x = block(x)
        return x


class SeqSNN(nn.Module):
    """A network on time series and the linear layer of its runner.

    in   frames (B, T, C, 1, X), or one for all steps (B, C, 1, X) of the encoder "repeat"
    out  forecasts (B, H V): of Spikformer as its training had them, of iSpikformer points of time outside, variables
         inside
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.time_steps = config.time_steps
        self.per_step = config.per_step
        self.network = _ISpikformer(config) if config.form == "ispikformer" else _Spikformer(config)
        self.fc_out = nn.Linear(config.dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Forecasts (B, H V)."""
        x = self.network(sequence(x, self.time_steps, self.per_step))
        if self.config.form == "spikformer":
            return self.fc_out(x.mean(0).mean(1))
        return self.fc_out(x[-1]).transpose(1, 2).flatten(1)


def _build(config: ModelConfig) -> nn.Module:
    """The module; InputError for sizes that do not go together."""
    problem = ""
    if config.encoder not in (("conv",) if config.form == "spikformer" else ("conv", "delta", "repeat")):
        problem = f"there is no {config.form} with the encoder '{config.encoder}'"
    elif config.positions and config.form != "spikformer":
        problem = "only Spikformer marks positions"
    elif config.positions not in ("", "add", "concat"):
        problem = f"positions are not '{config.positions}'"
    elif config.positions == "add" and config.position_neurons != config.in_channels:
        problem = f"{config.position_neurons} marks are added to {config.in_channels} variables"
    elif config.form == "spikformer" and config.num_classes % config.in_channels:
        problem = f"{config.num_classes} outputs are no whole number of points of {config.in_channels} variables"
    elif config.positions and config.time_steps * config.image_size > MARKED_POSITIONS:
        problem = f"{config.time_steps} steps of {config.image_size} points, and positions are marked up to 50,000"
    if problem:
        raise InputError("--arch", problem)
    return SeqSNN(config)


# --- published sizes, and checkpoints --------------------------------------------------------------------------------

_ELECTRICITY = ModelConfig("seqsnn", "spikformer", 2, 256, 8, 4, 321, 168, 321 * 24, encoder="conv")
_OF = {"electricity": (321, 168), "metr-la": (207, 12), "pems-bay": (325, 12), "solar": (137, 168)}
"""Variables and points of the windows of the official configurations, whose horizon is 24."""


def _sizes(name: str) -> ModelConfig:
    variables, points = _OF[name]
    return replace(_ELECTRICITY, in_channels=variables, image_size=points, num_classes=24 * variables)


_SPIKFORMERS = {f"seqsnn-spikformer-{name}": _sizes(name) for name in _OF}
_ISPIKFORMERS = {
    f"seqsnn-ispikformer-{name}": replace(_sizes(name), form="ispikformer", encoder=encoder, num_classes=24)
    for name, encoder in {"electricity": "conv", "metr-la": "delta", "pems-bay": "delta", "solar": "conv"}.items()
}


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict of SeqSNN tells: Spikformer or iSpikformer, sizes, encoder, positions."""
    _refuse_relatives(path, tensors)
    prefix = "network." if "network.blocks.0.attn.last_m.weight" in tensors else ""
    if f"{prefix}blocks.0.attn.last_m.weight" not in tensors:
        return None
    if not prefix or "fc_out.weight" not in tensors:
        way_out = "Give the runner's model_best.pkl, which has both."
        raise ModelError(path, "it holds the network without fc_out, the layer that makes forecasts of it", way_out)
    hidden = keys.required(tensors, "network.blocks.0.mlp.fc1.weight")
    fields: dict[str, Any] = {
        "dim": hidden.shape[1],
        "mlp_ratio": hidden.shape[0] // hidden.shape[1],
        "depth": len({key.split(".")[2] for key in tensors if key.startswith("network.blocks.")}),
    }
    outputs = tensors["fc_out.weight"].shape[0]
    if "network.emb.value_embedding.weight" in tensors:
        return _recognised_inverted(tensors, fields, outputs)
    if "network.temporal_encoder.encoder.0.weight" not in tensors:
        return None
    inputs = keys.required(tensors, "network.encoder.weight").shape[1]
    positions = _positions(path, tensors, inputs)
    marks = positions["position_neurons"]
    variables = inputs - (marks if positions["positions"] == "concat" else 0)
    fields |= {"form": "spikformer", "encoder": "conv", "in_channels": variables, "num_classes": outputs, **positions}
    fields["time_steps"] = tensors["network.temporal_encoder.encoder.0.weight"].shape[0]
    alike = (config for config in _SPIKFORMERS.values() if config.in_channels == variables)
    return Recognised(fields, next(alike, _ELECTRICITY), untold={"image_size": "window"})


def _recognised_inverted(tensors: Tensors, fields: dict[str, Any], horizon: int) -> Recognised:
    """Of iSpikformer: its weights do not depend on the variables, and those of "repeat" not on the steps."""
    points = tensors["network.emb.value_embedding.weight"].shape[1]
    encoder, of_steps = "repeat", None
    if "network.encoder.encoder.0.weight" in tensors:
        encoder, of_steps = "conv", tensors["network.encoder.encoder.0.weight"]
    elif "network.encoder.enc.weight" in tensors:
        encoder, of_steps = "delta", tensors["network.encoder.enc.weight"]
    fields |= {"form": "ispikformer", "encoder": encoder, "image_size": points, "num_classes": horizon}
    if of_steps is not None:
        fields["time_steps"] = of_steps.shape[0]
    alike = (config for config in _ISPIKFORMERS.values() if (config.image_size, config.encoder) == (points, encoder))
    usual = next(alike, _ISPIKFORMERS["seqsnn-ispikformer-electricity"])
    return Recognised(fields, usual, untold={"in_channels": "variables"})


def _positions(path: str, tensors: Tensors, inputs: int) -> dict[str, Any]:
    """How positions are marked; ModelError for ways that are not spikes."""
    if "network.pe.emb.weight" in tensors:
        return {"positions": "", "position_neurons": 1}
    table = tensors.get("network.pe.emb.pe")
    way_out = "Train it with pe_type 'neuron' or 'none'."
    if table is None:
        kind = "conv" if "network.pe.emb.rpe_conv.weight" in tensors else "unknown"
        raise ModelError(path, f"its positions are marked in the way '{kind}', which is not supported", way_out)
    if table.ndim != 3 or len(table) != MARKED_POSITIONS:
        kind = "random" if bool((table.abs() == 1).all()) else "static"
        raise ModelError(path, f"its positions are marked by '{kind}' numbers, which are no spikes", way_out)
    if not bool(((table == 0) | (table == 1)).all()):
        raise ModelError("network.pe.emb.pe", "spikes that are neither 0 nor 1", "The file is damaged.")
    marks = table.shape[2]
    return {"positions": "add" if marks == inputs else "concat", "position_neurons": marks}


def _refuse_relatives(path: str, tensors: Tensors) -> None:
    """ModelError for SeqSNN's other networks, which need what there is not."""
    if any(re.fullmatch(r"(network\.)+\d+\.conv1\.weight_g", key) for key in tensors):
        problem = (
            "it is a Spike-TCN: its neurons count 0 to 4 spikes of a constant current, at levels that lie unevenly, "
            "and those of the integer neurons here lie evenly"
        )
        raise ModelError(path, problem, "Spikformer and iSpikformer of the same code are supported.")
    if any(key.endswith((".cpg", ".cpg_linear.weight")) for key in tensors):
        problem = "it is a Spikformer with CPG, whose pattern generators are no part of what is supported"
        raise ModelError(path, problem, "Spikformer and iSpikformer of the same code are supported.")


FAMILY = Family(
    title="Spikformer and iSpikformer of SeqSNN",
    forms=("spikformer", "ispikformer"),
    published={**_SPIKFORMERS, **_ISPIKFORMERS},
    build=_build,
    recognise=_recognise,
    unread=re.compile(r"network\.pe\.emb\.weight"),
)
"""Sizes of the official configurations (exp/forecast), of horizon 24."""
