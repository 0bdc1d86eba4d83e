"""Spikformer and iSpikformer of SeqSNN: the official semantics, sizes, files, and the integers of all executors.

The official forward passes are written down a second time here, on windows (B, L, V) and a state_dict.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from campaign.agreement import Inputs, assert_executors_agree
from hostile.forging import opened, sealed
from support.deep import some
from support.executions import assert_equal_executions
from support.series import CASES, HORIZON, POINTS, VARIABLES, state_of, windows
from torch import Tensor

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError, ModelError, ProgramError
from spikformer_deploy.base.series import LARGEST, Series, fitting_scale, table_of
from spikformer_deploy.converters.checkpoints.read import Loaded, load, save
from spikformer_deploy.converters.models import load as load_any
from spikformer_deploy.data.series import read_series
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.lava import execute as lava
from spikformer_deploy.nn.zoo import build, published
from spikformer_deploy.pipeline.program import from_bytes, to_bytes
from spikformer_deploy.pipeline.sample import fitted_to


def loaded(tmp_path: Path, case: str) -> Loaded:
    torch.save(state_of(case), tmp_path / "model_best.pkl")
    form = CASES[case][0]
    told = {"window": POINTS} if form == "spikformer" else {"variables": VARIABLES}
    return load(tmp_path / "model_best.pkl", heads=2, **told)


# --- the official semantics ------------------------------------------------------------------------------------------


def spikes(x: Tensor, threshold: float = 1.0) -> Tensor:
    v = torch.zeros_like(x[0])
    out = []
    for current in x:
        v = v + (current - v) / 2
        out.append((v >= threshold).to(x.dtype))
        v = torch.where(v >= threshold, 0.0, v)
    return torch.stack(out)


class Official:
    """The forward pass of a state_dict, in doubles."""

    def __init__(self, case: str, state: dict[str, Tensor]) -> None:
        self.form, self.encoder, self.positions, _ = CASES[case]
        self.state = {key: value.double() for key, value in state.items()}

    def norm(self, name: str, x: Tensor) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{kind}"] for kind in kinds))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def unit(self, linear: str, norm: str, x: Tensor) -> Tensor:
        y = self.linear(linear, x).flatten(0, 1).transpose(1, 2)
        return spikes(self.norm(norm, y).transpose(1, 2).unflatten(0, x.shape[:2]))

    def encoded(self, name: str, x: Tensor) -> Tensor:
        """Spikes (T, B, V, L) of windows (B, L, V)."""
        if self.encoder == "repeat":
            return spikes(x.transpose(1, 2).expand(4, -1, -1, -1))
        if self.encoder == "conv":
            weight, bias = self.state[f"{name}.encoder.0.weight"], self.state[f"{name}.encoder.0.bias"]
            y = F.conv2d(x.transpose(1, 2)[:, None], weight, bias, padding=(0, 1))
            return spikes(self.norm(f"{name}.encoder.1", y).transpose(0, 1))
        delta = torch.zeros_like(x)
        delta[:, 1:] = x[:, 1:] - x[:, :-1]
        y = self.norm(f"{name}.norm", delta.transpose(1, 2)[:, None]).squeeze(1)
        return spikes(self.linear(f"{name}.enc", y[..., None]).movedim(-1, 0))

    def attention(self, name: str, x: Tensor) -> Tensor:
        q, k, v = [self.unit(f"{name}.{n}_m", f"{name}.{n}_bn", x).unflatten(3, (2, -1)) for n in "qkv"]
        scores = torch.einsum("tblhd,tbmhd->tbhlm", q, k) * 0.125
        out = torch.einsum("tbhlm,tbmhd->tblhd", scores, v).flatten(3)
        return self.unit(f"{name}.last_m", f"{name}.last_bn", spikes(out, 0.5))

    def blocks(self, x: Tensor) -> Tensor:
        for i in range(len({key.split(".")[2] for key in self.state if key.startswith("network.blocks.")})):
            name = f"network.blocks.{i}"
            x = x + self.attention(f"{name}.attn", x)
            hidden = self.unit(f"{name}.mlp.fc1", f"{name}.mlp.bn1", x)
            x = x + self.unit(f"{name}.mlp.fc2", f"{name}.mlp.bn2", hidden)
        return x

    def marked(self, x: Tensor) -> Tensor:
        """Tokens (T, B, L, V), with what marks row t L + l."""
        if not self.positions:
            return x
        steps, count, points, _ = x.shape
        table = self.state["network.pe.emb.pe"][: steps * points, 0].reshape(steps, 1, points, -1)
        table = table.expand(-1, count, -1, -1)
        return x + table if self.positions == "add" else torch.cat([x, table], 3)

    def __call__(self, x: Tensor) -> Tensor:
        if self.form == "spikformer":
            tokens = self.marked(self.encoded("network.temporal_encoder", x).transpose(2, 3))
            tokens = self.blocks(spikes(self.linear("network.encoder", tokens)))
            return self.linear("fc_out", tokens.mean(0).mean(1))
        tokens = self.encoded("network.encoder", x)
        tokens = self.blocks(self.unit("network.emb.value_embedding", "network.emb.bn", tokens))
        return self.linear("fc_out", tokens[-1]).permute(0, 2, 1).flatten(1)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_official_forward_pass(case: str, tmp_path: Path) -> None:
    """On the values that integers stand for; of windows that are standardised after that."""
    model = loaded(tmp_path, case)
    series = model.preprocess.series
    assert series is not None
    integers, beyond = series.integers(windows())
    assert not beyond
    real = torch.from_numpy(model.preprocess.normalised(series.frames(integers)))
    module = build(model.config).double().eval()
    module.load_state_dict(model.module.state_dict())
    with torch.no_grad():
        ours = module(real.double())
        theirs = Official(case, model.module.state_dict())(torch.from_numpy(integers / series.scale))
    assert ours.std(0).max() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_parameters_are_those_of_the_official_code() -> None:
    """Without fc_out, and without the embedding that is never read: figures of the official modules."""
    wanted = {"spikformer-electricity": 1669144, "spikformer-metr-la": 1639960, "spikformer-pems-bay": 1670168}
    wanted |= {"spikformer-solar": 1622040, "ispikformer-electricity": 1630488, "ispikformer-solar": 1630488}
    # of 12 points with "conv" 1,590,552: "delta" has 10 parameters where that has 24
    wanted |= {"ispikformer-metr-la": 1590552 - 14, "ispikformer-pems-bay": 1590552 - 14}
    for name, config in published().items():
        if config.family != "seqsnn":
            continue
        with torch.device("meta"):
            module = build(config)
        counted = {key: value.numel() for key, value in module.named_parameters()}
        of_head = 257 * config.num_classes
        assert sum(n for key, n in counted.items() if key.startswith("fc_out")) == of_head
        rest = sum(n for key, n in counted.items() if not key.startswith(("fc_out", "network.pe.")))
        assert rest == wanted.pop(name.removeprefix("seqsnn-"))
    assert not wanted


# --- integers --------------------------------------------------------------------------------------------------------


FEW, LONG = ["variables, conv"], ["points, marks beside", "variables, delta"]


@pytest.mark.parametrize("case", some(FEW, [case for case in CASES if case not in [*FEW, *LONG]], long=LONG))
def test_integers_are_the_same_everywhere(case: str, tmp_path: Path) -> None:
    """Engine and its kernels, reference, ONNX, files, counts; spikes nearly all those of the float model."""
    model = loaded(tmp_path, case)
    np.savez(tmp_path / "data.npz", x=windows(), y=np.zeros((6, HORIZON, VARIABLES)))
    program = sd.compile(model, calibrate_on=tmp_path / "data.npz")
    network = program.network
    assert network.exact
    assert program.preprocess.series is not None
    frames = read_series(windows(2), program.preprocess).pixels
    run = assert_executors_agree(Inputs(network, frames, 0))
    assert run is not None
    verdict = sd.verify(program, tmp_path / "data.npz", model=model, backends=())
    assert min(verdict.equal_spikes.values()) > 0.9
    assert sum(verdict.equal_spikes.values()) > 0.97 * len(verdict.equal_spikes)
    again = from_bytes(to_bytes(program), "file")
    assert again.preprocess == program.preprocess


@pytest.mark.long
def test_lava_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed: see the Makefile")
    program = sd.compile(loaded(tmp_path, "variables, delta"), check=False)
    network = program.network
    frames = read_series(windows(2), program.preprocess).pixels
    names = [p.name for p in network]
    right = reference.execute(network, frames, record=names)
    found = lava.execute(network, frames, record=names)
    assert_equal_executions(replace(found, peak_state=right.peak_state, kernels=""), replace(right, kernels=""))


# --- windows as frames -----------------------------------------------------------------------------------------------


def test_frames_hold_the_integers_of_one_step_each() -> None:
    """Of both signs, in channels of that step; constants and marks beside them, and nothing else."""
    series = Series(POINTS, VARIABLES, steps=2, positions="concat", marks=3)
    marks = np.random.default_rng(1).random((2, POINTS, 3)) > 0.5
    series = replace(series, table=table_of(marks))
    integers, _ = series.integers(windows(2))
    frames = series.frames(integers)
    assert (frames.shape, frames.dtype) == ((2, 2, *series.frame), np.uint16)
    by_block = frames.astype(np.int64).reshape(2, 2, VARIABLES + 3, 7, POINTS)
    for t in range(2):
        values = by_block[:, t, :VARIABLES, t] - by_block[:, t, :VARIABLES, 2 + t]
        np.testing.assert_array_equal(values.transpose(0, 2, 1), integers)
        assert (by_block[:, t, :VARIABLES, 4 + t] == series.scale).all()
        assert not by_block[:, t, :, [1 - t, 3 - t, 5 - t]].any()
        np.testing.assert_array_equal(by_block[0, t, VARIABLES:, 6], series.scale * marks[t].T)
        assert not by_block[:, t, VARIABLES:, :6].any()
        assert not by_block[:, t, :VARIABLES, 6].any()


@pytest.mark.long
def test_scale_follows_the_data(tmp_path: Path) -> None:
    """The finest power of two that holds the calibration windows; what is beyond it is noted, and not wrapped."""
    assert [fitting_scale(x) for x in (15.9, 16.0, 1.0, 1e9, 1e-9, 0.0)] == [32, 16, 256, 1, 256, 32]
    model = loaded(tmp_path, "points")
    program = sd.compile(model, calibrate_on=windows() / 10, check=False)
    assert program.preprocess.series is not None
    scale = program.preprocess.series.scale
    assert scale > 32
    found = sd.run(program, np.full((2, POINTS, VARIABLES), -1e6))
    assert f"60 of 60 values are beyond {LARGEST / scale:g} and taken as that" in found.notes[0]
    beyond = read_series(np.full((1, POINTS, VARIABLES), -1e6), program.preprocess)
    assert all(pixels.max() == LARGEST for pixels, _ in beyond.batches(1))


@pytest.mark.long
def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path, "points")
    program = sd.compile(model, check=False)
    bad = windows()
    bad[0, 0, 0] = np.nan
    for data, message in (
        (bad, "NaN or infinite"),
        (windows()[:, :5], r"\(6, 5, 5\) values"),
        ("digits", "time series"),
    ):
        with pytest.raises(InputError, match=message):
            sd.run(program, data)
    np.savez(tmp_path / "short.npz", x=windows(), y=np.zeros((6, 4)))
    with pytest.raises(InputError, match="4 numbers an input, and the model makes 15"):
        sd.run(program, tmp_path / "short.npz")
    with pytest.raises(InputError, match="forecasts time series"):
        sd.run(program, windows(), task="classification")
    with pytest.raises(InputError, match="labels: the model takes time series"):
        sd.run(program, windows(), labels="labels.csv")


@pytest.mark.long
def test_forged_series_are_refused(tmp_path: Path) -> None:
    content = to_bytes(sd.compile(loaded(tmp_path, "points, marks beside"), check=False))
    forged = {"scale": 10**9, "points": 0, "tokens": "x", "steps": 3, "marks": 4, "table": "00", "before": 7}
    for name, value in forged.items():
        structure, tensors = opened(content)
        structure["preprocess"]["series"][name] = value
        with pytest.raises(ProgramError, match=r"it contradicts itself: .*(series|scale|tokens|steps|marks|frames)"):
            from_bytes(sealed(structure, tensors), "file")


# --- files -----------------------------------------------------------------------------------------------------------


def test_what_no_key_tells_is_noted_and_asked_for(tmp_path: Path) -> None:
    torch.save(state_of("points"), tmp_path / "s.pkl")
    torch.save(state_of("variables, repeat"), tmp_path / "i.pkl")
    notes = " ".join(load_any(tmp_path / "s.pkl").notes)
    assert "window = 168 is assumed: the file does not tell (--window)" in notes
    assert "pe_type 'none' is taken" in notes
    inverted = load_any(tmp_path / "i.pkl", heads=2)
    assert "variables = 321 is assumed" in " ".join(inverted.notes)
    assert "time_steps = 4 is the paper's default" in " ".join(inverted.notes)
    assert "denormalize" in " ".join(inverted.notes)
    told = load_any(tmp_path / "s.pkl", heads=2, window=7)
    assert told.input_shape == (VARIABLES * 12, 1, 7)
    assert not any("window =" in note or "heads =" in note for note in told.notes)
    with pytest.raises(InputError, match="--variables: 6, and the file says 5"):
        load_any(tmp_path / "s.pkl", variables=6)
    with pytest.raises(InputError, match="--window: 7, and the file says 6"):
        load_any(tmp_path / "i.pkl", window=7)
    with pytest.raises(InputError, match=r"--image-size: the model takes time series.*\n  Give --window"):
        load_any(tmp_path / "s.pkl", image_size=7)
    with pytest.raises(InputError, match="--window: the model takes no time series"):
        load("digits-v1", window=7)


def test_relatives_are_refused_by_name(tmp_path: Path) -> None:
    state = state_of("points, marks beside")
    path = tmp_path / "other.pkl"

    def refused(changed: dict[str, Tensor], message: str) -> None:
        torch.save(changed, path)
        with pytest.raises(ModelError, match=message):
            load_any(path, window=POINTS)

    inside = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    refused(inside, "without fc_out")
    refused({"network.network.0.conv1.weight_g": torch.ones(1)}, "Spike-TCN")
    refused({**state, "network.encoder.cpg": torch.ones(1)}, "CPG")
    for rows, value, kind in ((5000, 1.0, "random"), (5000, 0.3, "static"), (50000, 0.3, "neither 0 nor 1")):
        refused({**state, "network.pe.emb.pe": torch.full((rows, 1, 3), value)}, kind)
    del state["network.pe.emb.pe"]
    refused({**state, "network.pe.emb.rpe_conv.weight": torch.ones(1)}, "'conv'")
    refused({**state_of("points"), "network.more": torch.ones(1)}, "unknown keys: network.more")


@pytest.mark.long
def test_our_checkpoint_and_exports_keep_it(tmp_path: Path) -> None:
    """The layout of windows goes along: with marks, and as fine as it was."""
    model = fitted_to(loaded(tmp_path, "points, marks added"), windows() / 10)
    assert isinstance(model, Loaded)
    assert model.preprocess.series is not None
    assert model.preprocess.series.scale == 256
    save(tmp_path / "ours.safetensors", model.module, model.config, model.preprocess, (), {})
    again = load(tmp_path / "ours.safetensors")
    assert (again.config, again.preprocess) == (model.config, model.preprocess)
    ours = sd.compile(model, check=False).network.digest()
    for kind in ("onnx", "pt2"):
        sd.export(model, kind, tmp_path / f"model.{kind}")
        back = load_any(tmp_path / f"model.{kind}")
        assert back.preprocess == model.preprocess
        assert sd.compile(back, check=False).network.digest() == ours
    with pytest.raises(ModelError, match="5 groups"):
        sd.export(model, "nir", tmp_path / "model.nir")
