"""lava-dl's .net files: golden spikes of a trained PilotNet, random chains, and files that are refused."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.deep import some
from support.networks import Builder

from spikformer_deploy.base.errors import InputError, ModelError, OverflowDetected
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.netx.read import read_network
from spikformer_deploy.converters.netx.write import write_network
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Accumulator, Lif, Or, Sum
from spikformer_deploy.network.synapses import Conv, Readout, Window
from spikformer_deploy.pipeline.stages import compile_model

h5py = pytest.importorskip("h5py")
LAVA_DL = Path(__file__).resolve().parents[1] / "support" / "lava_dl.py"
PILOTNET = Path(__file__).resolve().parents[3] / "shared" / "data" / "pilotnet_lif"
GOLDEN = {
    "layer.0.lif": "input",
    **{f"layer.{i + 1}": f"conv-{i}" for i in range(5)},
    **{f"layer.{i + 7}": f"fc-{i}" for i in range(3)},
    "layer.10": "fc-3-s",
}


@pytest.fixture(scope="module")
def pilotnet() -> tuple[Network, np.ndarray]:
    if not PILOTNET.exists():
        warnings.warn(f"PilotNet's golden spikes are not tested: {PILOTNET} is missing", stacklevel=1)
        pytest.skip(f"{PILOTNET} is missing")
    image = np.load(PILOTNET / "image.npy").transpose(2, 1, 0)[None]
    return read_network(PILOTNET / "network.net"), image.astype(np.uint8)


def golden(name: str, late: int, steps: int) -> np.ndarray:
    """(T, C, Y, X); Lava's synapses deliver a step later, so that layer k begins after k steps."""
    values = np.load(PILOTNET / f"{name}.npy")
    maps = values.transpose(3, 2, 1, 0) if values.ndim == 4 else values.T[:, :, None, None]
    return maps[late : late + steps]


@pytest.mark.parametrize("executor", some(["engine"], long=["lava"]))
def test_pilotnet_fires_as_in_lava(executor: str, pilotnet: tuple[Network, np.ndarray]) -> None:
    """Every spike of all ten layers, and every potential of neurons that do not fire (the file has no other)."""
    network, image = pilotnet
    assert network.time_steps == 16
    if executor == "lava":
        pytest.importorskip("lava")
        from spikformer_deploy.executors.lava import execute as run
    else:
        run = engine
    ours = run.execute(network, image, record=list(GOLDEN))
    for late, (name, file) in enumerate(GOLDEN.items()):
        right = golden(file, late, network.time_steps)
        spikes = ours.spikes[name][0, : len(right)]
        np.testing.assert_array_equal(spikes, right, err_msg=name)
        if (PILOTNET / f"{file}-v.npy").exists():
            potentials = golden(f"{file}-v", late, network.time_steps)
            silent = right == 0
            np.testing.assert_array_equal(ours.membranes[name][0, : len(right)][silent], potentials[silent])
    assert ours.spikes["layer.7"].any()


def write(path: Path, layers: list[dict[str, Any]], steps: int | None = 3) -> Path:
    def put(group: Any, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                put(group.create_group(key), value)
            else:
                group[key] = np.bytes_(value) if isinstance(value, str) else value

    with h5py.File(path, "w") as file:
        put(file, {"layer": {str(i): layer for i, layer in enumerate(layers)}})
        if steps:
            put(file, {"simulation": {"tSample": steps}})
    return path


NEURON = {"type": "CUBA", "iDecay": 4096, "vDecay": 1024, "vThMant": 30}


def chain(seed: int) -> list[dict[str, Any]]:
    """Every other one with a current that decays over several steps."""
    rng = np.random.default_rng(seed)
    carried = {**NEURON, "iDecay": 4096 if seed % 2 else 1000}
    conv = {"type": "conv", "weight": rng.integers(-20, 30, (4, 2, 3, 3)).astype(np.float32), "neuron": carried}
    dense = {"type": "dense", "weight": 2 * rng.integers(-127, 127, (3, 4 * 2 * 3)), "outFeatures": 3, "neuron": NEURON}
    return [
        {"type": "input", "shape": [2, 4, 5], "neuron": NEURON},
        {**conv, "stride": [2, 2], "padding": [1, 1], "bias": rng.integers(-5, 5, 4).astype(np.float32)},
        {"type": "flatten", "shape": [1, 1, 24]},
        dense,
    ]


@pytest.mark.parametrize("seed", range(5))
def test_random_chains_are_read_as_written(seed: int, tmp_path: Path) -> None:
    layers = chain(seed)
    network = read_network(write(tmp_path / "a.net", layers))
    pixels = np.random.default_rng(seed).integers(0, 60, (2, 2, 4, 5)).astype(np.uint8)
    ours = engine.execute(network, pixels, record=[p.name for p in network])
    right = reference.execute(network, pixels, record=[p.name for p in network])
    for population in network:
        np.testing.assert_array_equal(ours.spikes[population.name], right.spikes[population.name])
        low, high = population.bounds
        if isinstance(population.neuron, Lif):
            assert low <= right.membranes[population.name].min() <= right.membranes[population.name].max() <= high
    # the dense layer, from its definition: weights in the order (C, Y, X) of the flattened map
    flat = right.spikes["layer.1"].reshape(2, 3, -1)
    v = np.zeros((2, 3), np.int64)
    for t in range(3):
        v = np.sign(v) * (np.abs(v) * 3072 >> 12) + (flat[:, t] @ layers[3]["weight"].T << 6)
        spikes = v > 30 << 6
        v[spikes] = 0
        np.testing.assert_array_equal(right.spikes["layer.3"][:, t, :, 0, 0], spikes)
    np.testing.assert_array_equal(ours.accumulators, right.spikes["layer.3"].sum((1, 3, 4)))


def changed(index: int, **values: Any) -> list[dict[str, Any]]:
    layers = chain(0)
    layers[index] = {**layers[index], **values}
    return layers


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (changed(1, type="average"), "layer.1: layers of type 'average' are not supported"),
        (changed(1, type="attention"), "layer.1: layers of type 'attention' are not supported"),
        (changed(1, type="input", shape=[2, 4, 5]), "layer.1: the input must be the first layer"),
        (changed(1, dilation=2), "layer.1: dilation"),
        (changed(1, weight=np.full((4, 2, 3, 3), 0.5)), "layer.1.weight: values are no integers"),
        (changed(1, weight=np.full((4, 2, 3, 3), np.nan)), "layer.1.weight: values are no integers"),
        (changed(1, weight=np.full((4, 2, 3, 3), 129)), "layer.1: weights up to 129 have more than 8 bits"),
        (changed(1, weight=np.ones((4, 5, 3, 3))), "layer.1: weights for 5 channels, and 2 come in"),
        (changed(1, weight=np.ones((4, 2))), "layer.1: weights of shape"),
        (changed(3, weight=np.ones((3, 7))), "layer.3: weights for 7 inputs, and 4x2x3 come in"),
        (changed(3, delay=np.ones(24)), "layer.3: delays of synapses"),
        (changed(1, neuron={**NEURON, "type": "SDNN"}), "layer.1: neurons of type 'SDNN'"),
        (changed(1, neuron={**NEURON, "iDecay": 5000}), "layer.1: decays of 5000"),
        (changed(1, neuron={**NEURON, "refDelay": 2}), "layer.1: a refractory delay"),
        (changed(1, neuron={**NEURON, "wgtExp": 9}), "layer.1: a weight exponent"),
        (changed(0, shape=[3, 0, 5]), "layer.0: a shape of"),
        (changed(1, delay=3), "layer.1: delays of synapses"),
        (changed(1, dilation=[2, 1]), "layer.1: dilation"),
        (changed(1, stride=[0, 2]), "layer.1: stride (0, 2)"),
        (changed(1, stride=1.5), "layer.1: its numbers make no layer"),
        (changed(1, groups=0), "layer.1: stride (2, 2), padding (1, 1), 0 groups"),
        (changed(1, foo=1, bar=2), "layer.1: it has 'bar', 'foo', of which this reader does not know"),
        (changed(1, neuron={**NEURON, "foo": 1}), "layer.1.neuron: it has 'foo'"),
        (changed(1, neuron={**NEURON, "gradedSpike": True}), "layer.1: graded spikes (gradedSpike 1"),
        (changed(3, neuron={**NEURON, "messageBits": 8}), "layer.3: graded spikes (gradedSpike 0, messageBits 8)"),
        (changed(1, neuron={**NEURON, "vThMant": -5}), "layer.1: a threshold (vThMant) of -5"),
        (changed(1, neuron={**NEURON, "vThMant": 2**17}), "layer.1: a threshold (vThMant) of 131072"),
        (changed(1, neuron={**NEURON, "vThMant": 30.5}), "layer.1: vThMant is 30.5, and must be one whole number"),
        (changed(1, neuron={**NEURON, "vDecay": -1}), "layer.1: decays of 4096 and -1"),
        (changed(1, neuron={**NEURON, "iDecay": 0}), "layer.1: decays of 0"),
    ],
)
def test_what_we_do_not_have_is_refused_by_name(layers: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_network(write(tmp_path / "a.net", layers))
    assert str(caught.value).startswith(message)


FULL = {
    1: {"kernelSize": [3, 3], "inChannels": 2, "outChannels": 4, "shape": [4, 2, 3], "dilation": 1, "groups": 1},
    2: {"shape": [1, 1, 24]},
    3: {"inFeatures": 24, "outFeatures": 3, "shape": [3, 1, 1]},
}
"""What a file says of the chain's layers beside what is needed to run them."""


@pytest.mark.parametrize(("index", "key"), [(i, key) for i, keys in FULL.items() for key in keys])
def test_what_a_file_says_twice_must_agree(index: int, key: str, tmp_path: Path) -> None:
    """Every size beside the weights: right it changes nothing, any other value is refused at its layer."""
    layers = [{**layer, **FULL.get(i, {})} for i, layer in enumerate(chain(0))]
    path = tmp_path / "a.net"
    assert read_network(write(path, layers)).digest() == read_network(write(path, chain(0))).digest()
    for by in (-1, 1, 4):
        layers[index] = {**layers[index], key: np.asarray(FULL[index][key]) + by}
        with pytest.raises(ModelError, match=f"^layer.{index}: "):
            read_network(write(path, layers))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("extra", 1, "it has 'extra'"), ("simulation/foo", 1, "it has 'foo'"), ("simulation/Ts", 2, "steps of 2")],
)
def test_what_a_file_says_outside_its_layers_is_not_passed_over(
    name: str, value: int, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.net", chain(0))
    with h5py.File(path, "a") as file:
        file[name] = value
    with pytest.raises(ModelError, match=message):
        read_network(path)


def dense(rng: np.random.Generator, inputs: int, outputs: int, **values: Any) -> dict[str, Any]:
    weight = rng.integers(-60, 90, (outputs, inputs)).astype(np.float32)
    sizes = {"inFeatures": inputs, "outFeatures": outputs, "shape": [outputs, 1, 1]}
    return {"type": "dense", "weight": weight, **sizes, **values}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("last", ["neurons", "none"])
def test_a_chain_of_dense_layers_without_an_input_layer(last: str, seed: int, tmp_path: Path) -> None:
    """As lava-dl's tutorials write them, by the definition of lava.proc.lif; even weights have an exponent."""
    rng = np.random.default_rng(seed)
    neuron = {**NEURON, "gradedSpike": False, "refDelay": 1}
    layers = [dense(rng, 20, 9, neuron=neuron), dense(rng, 9, 4, bias=4 * rng.integers(-9, 9, 4))]
    layers[1]["weight"] *= 4
    if last == "neurons":
        layers[1]["neuron"] = neuron
    network = read_network(write(tmp_path / "a.net", layers, 6))
    assert network.input.shape == (20, 1, 1)
    frames = (rng.random((3, 6, 20, 1, 1)) < 0.3).astype(np.uint8)
    first = layers[0]["weight"].T.astype(np.int64)
    second = layers[1]["weight"].T.astype(np.int64)
    v = np.zeros((3, 9), np.int64)
    out = np.zeros((3, 4), np.int64)
    total = np.zeros((3, 4), np.int64)
    for t in range(6):
        v = np.sign(v) * (np.abs(v) * 3072 >> 12) + (frames[:, t, :, 0, 0] @ first << 6)
        spikes = v > 30 << 6
        v[spikes] = 0
        a = spikes @ second
        if last == "neurons":
            out = np.sign(out) * (np.abs(out) * 3072 >> 12) + (a + layers[1]["bias"] << 6)
            total += out > 30 << 6
            out[out > 30 << 6] = 0
        else:
            total += a
    right = total if last == "neurons" else total + layers[1]["bias"]
    assert right.any()
    for run in (engine, reference):
        ours = run.execute(network, frames)
        np.testing.assert_array_equal(ours.accumulators * network.output.neuron.scale, right)
        low, high = network.output.bounds
        assert low <= ours.accumulators.min() <= ours.accumulators.max() <= high


@pytest.mark.parametrize("executor", some(["engine", "reference"], long=["lava"]))
def test_a_head_without_neurons_wraps_nowhere(executor: str, tmp_path: Path) -> None:
    """lava.proc.lif would hold its sum times 64 in 24 bits, and wrap beyond 131,071; here it is exact, or refused."""
    run = {"engine": engine, "reference": reference}.get(executor) or pytest.importorskip(
        "spikformer_deploy.executors.lava.execute", reason="lava-nc is not installed"
    )
    if executor == "lava":
        pytest.importorskip("lava", reason="lava-nc is not installed: see the Makefile")
    wide = dense(np.random.default_rng(0), 600, 3, bias=np.array([2, -2, 0]))
    wide["weight"] = np.array([[127], [-127], [1]], np.float32).repeat(600, 1)
    frames = np.ones((2, 20, 600, 1, 1), np.uint8)
    frames[1, 3:] = 0
    network = read_network(write(tmp_path / "a.net", [wide], 20))
    right = frames.sum((1, 2, 3, 4), np.int64)[:, None] * [127, -127, 1] + [2, -2, 0]
    assert right[1, 0] > 2**17
    assert network.bounds == "static"
    np.testing.assert_array_equal(run.execute(network, frames).accumulators, right)
    long = read_network(write(tmp_path / "b.net", [wide], 120))
    assert long.bounds == "observed"
    with pytest.raises(OverflowDetected, match=r"layer\.0"):
        run.execute(long, np.ones((1, 120, 600, 1, 1), np.uint8))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([chain(0)[1]], "layer.0: no input layer says how large its maps are"),
        (chain(0)[2:], "layer.0: no input layer says how large its maps are"),
        ([chain(0)[0], chain(0)[1], chain(0)[3]], "layer.2: a map of 4x2x3 comes in, and no flatten layer"),
        ([*chain(0)[:3], chain(0)[2]], "layer.3: a layer of type 'flatten' behind a flatten layer"),
        (chain(0)[:3], "network: it ends in a flatten layer"),
        ([*chain(0)[:3], {k: v for k, v in chain(0)[3].items() if k != "neuron"}], "layer.3: a dense layer without"),
    ],
)
def test_chains_whose_order_or_size_is_not_said(layers: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_network(write(tmp_path / "a.net", layers))
    assert str(caught.value).startswith(message)


def test_only_the_last_layer_may_be_without_neurons(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [dense(rng, 6, 5, neuron=NEURON), dense(rng, 5, 4), dense(rng, 4, 3, neuron=NEURON)]
    with pytest.raises(ModelError, match=r"^layer.1: only the last layer"):
        read_network(write(tmp_path / "a.net", layers))
    layers[1] = {**layers[1], "weight": np.full((4, 5), 400), "bias": np.full(4, 2)}
    path = write(tmp_path / "a.net", layers[:2])
    with pytest.raises(ModelError, match=r"^layer.1: its bias has finer steps"):
        read_network(path)


def test_the_command_line_takes_a_chain_without_an_input_layer(tmp_path: Path) -> None:
    """And inspect needs no number of steps where the file says none; compile does."""
    rng = np.random.default_rng(0)
    runner = CliRunner()
    layers = [dense(rng, 20, 9, neuron=NEURON), dense(rng, 9, 4)]
    path = write(tmp_path / "a.net", layers, None)
    done = runner.invoke(cli, ["inspect", str(path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["time_steps"] is None
    assert runner.invoke(cli, ["inspect", str(path)]).exit_code == 0
    program = tmp_path / "a.spk"
    frames = tmp_path / "x.npy"
    compiling = ["compile", str(path), "-o", str(program), "--json"]
    refused = runner.invoke(cli, compiling).exception
    assert isinstance(refused, ModelError)
    assert refused.way_out == "Give --time-steps."
    done = runner.invoke(cli, [*compiling, "--time-steps", "5"])
    assert done.exit_code == 0, done.output
    assert "counts are those of all 5 steps" in done.stderr
    assert "in each of the 1 layers, and lacks those of the last 1 " in done.stderr
    spikes = (rng.random((3, 5, 20, 1, 1)) < 0.4).astype(np.uint8)
    np.save(frames, spikes)
    done = runner.invoke(cli, ["run", str(program), "--input", str(frames), "--json"])
    assert done.exit_code == 0, done.output
    right = reference.execute(read_network(path, 5), spikes).accumulators.argmax(1)
    assert json.loads(done.stdout)["predictions"] == right.tolist()


def test_the_command_line_refuses_bits_of_its_layers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.net", chain(0))
    (tmp_path / "bits.toml").write_text("output = 4\n")
    output = tmp_path / "a.spk"
    command = ["compile", str(path), "--layer-bits", str(tmp_path / "bits.toml"), "-o", str(output)]
    refused = CliRunner().invoke(cli, command).exception
    assert isinstance(refused, InputError)
    assert refused.place == "--layer-bits"
    assert not output.exists()


def test_files_that_are_no_networks(tmp_path: Path) -> None:
    path = tmp_path / "a.net"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        read_network(path)
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="has no layers"):
        read_network(path)
    with pytest.raises(InputError, match="lacks neuron/vDecay"):
        read_network(write(path, changed(1, neuron={"type": "CUBA", "iDecay": 1, "vThMant": 1})))
    with pytest.raises(ModelError, match="--time-steps"):
        read_network(write(path, chain(0), steps=None))
    assert read_network(path, 5).time_steps == 5


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(64)))
    for name in ("link", "external", "soft"):
        path = write(tmp_path / f"{name}.net", chain(0))
        with h5py.File(path, "a") as file:
            del file["layer/1/bias"]
            if name == "link":
                file["layer/1/bias"] = h5py.ExternalLink(str(secret), "/x")
            elif name == "soft":
                file["layer/1/bias"] = h5py.SoftLink("/layer/3/weight")
            else:
                file.create_dataset("layer/1/bias", (4,), "u1", external=[(str(secret), 0, 4)])
        with pytest.raises(InputError, match=r"is a link|stands in another file"):
            read_network(path)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read_back(seed: int, tmp_path: Path) -> None:
    layers = chain(seed)
    layers[3]["weight"] = layers[3]["weight"] // 2
    first = read_network(write(tmp_path / "a.net", layers))
    write_network(first, tmp_path / "b.net")
    second = read_network(tmp_path / "b.net")
    pixels = np.random.default_rng(seed).integers(0, 60, (2, 2, 4, 5)).astype(np.uint8)
    recorded = ("layer.1", "layer.3")
    before = reference.execute(first, pixels, record=recorded)
    after = reference.execute(second, pixels, record=recorded)
    for name in recorded:
        np.testing.assert_array_equal(before.spikes[name], after.spikes[name])
    write_network(second, tmp_path / "c.net")
    assert first.digest() == second.digest() == read_network(tmp_path / "c.net").digest()


def test_a_dense_layer_on_the_input_is_written_with_its_order(tmp_path: Path) -> None:
    layers = [{"type": "input", "shape": [2, 4, 5]}, {"type": "flatten"}, dense(np.random.default_rng(0), 40, 3)]
    layers[2]["neuron"] = NEURON
    network = read_network(write(tmp_path / "a.net", layers))
    write_network(network, tmp_path / "b.net")
    assert network.projections[0].synapse.weight.shape == (3, 2, 4, 5)
    again = read_network(tmp_path / "b.net").projections[0].synapse
    np.testing.assert_array_equal(again.weight, network.projections[0].synapse.weight)


def plain_neurons(network: Network) -> Network:
    """The same with one threshold, no bias and no fractional bits in each layer."""
    even = {"shift": 0, "bias": np.zeros(4, np.int64), "threshold": np.full(4, 9)}
    plain = [replace(p, neuron=replace(p.neuron, **even)) if isinstance(p.neuron, Lif) else p for p in network]
    return replace(network, populations=tuple(plain))


def chain_with(layer: str) -> Network:
    """A chain with something that netx cannot hold."""
    b = Builder(np.random.default_rng(0), 3, "programmable" if layer == "programmable" else "stock")
    x = b.source((2, 4, 5), 3, True)
    x = b.conv("a", x, 4, 3)
    if layer == "pool":
        x = b.window("pool", Or(), [x], Window((2, 2), (2, 2)))
    if layer == "residual":
        x = b.window("add", Sum(), [x, b.conv("b", x, 4, 3)], Window())
    if layer == "integers":
        x = b.levels("levels", x.shape, 9, (b.weights(4, 4), ("a",)))
    if layer == "attention":
        x = b.attention("att", [b.conv(f"{n}", x, 4, 1) for n in "qkv"], 2)
    network = b.finish(x, 3)
    return network if layer in ("programmable", "thresholds") else plain_neurons(network)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("programmable", "a: netx has only CUBA neurons"),
        ("thresholds", "a: netx has one threshold a layer"),
        ("head", "output: netx has no accumulators with weights"),
        ("pool", "pool: netx holds chains of conv and dense layers, and this one has inputs by window"),
        ("residual", "add: netx holds chains of conv and dense layers"),
        ("integers", "levels: netx has no layer for levels neurons\n  Export to onnx or lava"),
        ("attention", "k: netx holds chains of conv and dense layers"),
    ],
)
def test_what_netx_cannot_hold_is_refused(layer: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        write_network(chain_with(layer), tmp_path / "a.net")
    assert not (tmp_path / "a.net").exists()


@pytest.mark.long
@pytest.mark.parametrize("seed", some([1, 2], [4, 5]))
def test_lava_dl_reads_what_is_written(seed: int, tmp_path: Path) -> None:
    """Convolutions and dense layers in lava-dl's own reader: the spikes of the last layer are ours."""
    pytest.importorskip("lava")
    rng = np.random.default_rng(seed)
    b = Builder(rng, 4, "stock")
    b.conv("b", b.conv("a", b.source((2, 7, 9), 1, True), 8, 3, 2), 6, 3)
    b.lif("c", (5, 1, 1), (Conv(rng.integers(-9, 11, (5, 6, 4, 5)).astype(np.int8)), ("b",)))
    b.lif("d", (4, 1, 1), (Conv(rng.integers(-60, 90, (4, 5, 1, 1)).astype(np.int8)), ("c",)))
    for index, population in enumerate(b.populations[1:], 1):
        channels = population.shape[0]
        current = 0 if seed % 2 else 2000
        threshold = np.full(channels, int(rng.integers(18, 50)))
        bias = rng.integers(-3, 9, channels)
        neuron = Lif("stock", 2048, 0, threshold, bias, current=current)
        b.populations[index] = replace(population, neuron=neuron)
    head = Population("counts", (4, 1, 1), Accumulator(np.zeros(4, np.int64), np.ones(4)), 0)
    b.add(head, (Readout(np.eye(4, dtype=np.int8)), ("d",)))
    network = b.network()
    frames = (rng.random((1, 4, 2, 7, 9)) < 0.5).astype(np.uint8)
    right = reference.execute(network, frames, record=["d"]).spikes["d"][0, :, :, 0, 0]
    assert 0.1 < right.mean() < 0.9
    write_network(network, tmp_path / "a.net")
    np.save(tmp_path / "frames.npy", frames[0])
    files = [str(tmp_path / "a.net"), str(tmp_path / "frames.npy"), "4", str(tmp_path / "out.npy")]
    child = subprocess.run([sys.executable, "-B", str(LAVA_DL), *files], capture_output=True, text=True, timeout=120)
    if child.returncode == 77:
        warnings.warn("files for lava-dl are not tested with lava-dl: it is not installed", stacklevel=1)
        pytest.skip("lava-dl is not installed")
    assert child.returncode == 0, child.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy").T, right)


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    runner = CliRunner()
    path = write(tmp_path / "a.net", chain(1))
    done = runner.invoke(cli, ["compile", str(path), "-o", str(tmp_path / "a.spk"), "--json"])
    assert done.exit_code == 0, done.output
    pixels = np.random.default_rng(0).integers(0, 60, (3, 2, 4, 5)).astype(np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    run = ["run", str(tmp_path / "a.spk"), "--input", str(tmp_path / "x.npy"), "--json"]
    done = runner.invoke(cli, run)
    assert done.exit_code == 0, done.output
    right = reference.execute(read_network(path), pixels).accumulators.argmax(1)
    assert json.loads(done.stdout)["predictions"] == right.tolist()


def test_a_chain_has_no_tokens_to_put_in_series(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--schedule: the network has no attention"):
        compile_model(write(tmp_path / "a.net", chain(0)), schedule="token-serial")


def test_the_margin_is_that_of_the_largest_bound(tmp_path: Path) -> None:
    network = read_network(write(tmp_path / "a.net", chain(0)))
    largest = max(abs(edge) for population in network for edge in population.bounds)
    assert network.margin == (2**23 - 1) / largest > 1


def test_a_target_with_narrower_states_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "narrow.toml"
    target.write_text(
        'name = "narrow"\nbase = "loihi2"\ndescription = "less"\n[core.state_bits]\n'
        'value = 20\nunit = "bits"\nkind = "guess"\nsource = "a test"\n'
    )
    with pytest.raises(InputError, match=r"20 bits of state, and a \.net has 24"):
        compile_model(write(tmp_path / "a.net", chain(0)), str(target))


@pytest.mark.parametrize(
    "option",
    [
        {"weight_bits": 4},
        {"layer_bits": {}},
        {"granularity": "tensor"},
        {"rounding": "calibrated"},
        {"neuron": "stock"},
    ],
)
def test_options_that_would_change_its_integers_are_refused(option: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--[a-z-]+: the integers and the neurons of a \.net are taken as they are"):
        compile_model(write(tmp_path / "a.net", chain(0)), **option)
