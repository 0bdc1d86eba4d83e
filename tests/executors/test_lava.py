"""Lava's CPU models against the reference: spikes, potentials and logits of every layer equal; nothing left behind."""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import thermometers
from support.deep import some
from support.executions import with_state_bits
from support.in_lava import assert_equal
from support.mappings import random_mapping
from support.networks import (
    Builder,
    dual_network,
    graded_networks_in_one,
    random_images,
    random_network,
    random_networks_in_one,
)
from support.programs import program_of

from spikformer_deploy.base.errors import BackendError, InputError, OverflowDetected
from spikformer_deploy.data.read import read
from spikformer_deploy.executors import onnx, reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.executors.lava import execute as lava
from spikformer_deploy.executors.lava.export import export, write
from spikformer_deploy.executors.lava.standalone import shim
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels, Lif, Sum
from spikformer_deploy.network.synapses import Attention, Conv, Window
from spikformer_deploy.nn.zoo import named
from spikformer_deploy.pipeline.stages import compile_model

pytest.importorskip("lava", reason="lava-nc is not installed: see the Makefile")
NETWORKS, IN_ONE = 200, 5
FEW = 3


@pytest.mark.parametrize("seed", some([0], range(FEW, NETWORKS // IN_ONE), long=range(1, FEW)))
def test_random_networks_are_equal(seed: int) -> None:
    """Small networks of both kinds of LIF, many side by side, as Lava takes a second to start."""
    network = random_networks_in_one(seed, IN_ONE)
    assert_equal(network, random_images(network, seed, 1 + seed % 3), ways=random_mapping(network, seed).ways)


@pytest.mark.long
def test_integer_neurons_and_wide_attention_are_equal() -> None:
    network = graded_networks_in_one(0, 2)
    assert len({p.neuron.decay for p in network if isinstance(p.neuron, Levels)}) > 2
    assert_equal(network, random_images(network, 0, 3), onnx, ways=random_mapping(network, 0).ways)


@pytest.mark.long
def test_products_of_currents_and_spikes_are_equal() -> None:
    network = dual_network(3)
    assert_equal(network, random_images(network, 3, 3))


@pytest.mark.long
def test_more_images_than_go_at_once() -> None:
    """Neurons and attention of both kinds begin each batch at rest."""
    network = random_networks_in_one(50, 3, 4)
    assert {p.neuron.kind for p in network if isinstance(p.neuron, Lif)} == {"programmable", "stock"}
    attentions = [p.target for p in network.projections if isinstance(p.synapse, Attention)]
    assert {network[name].neuron.kind for name in attentions} == {"programmable", "stock"}
    assert_equal(network, random_images(network, 50, lava.AT_ONCE + 1))


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "neuron"),
    some(
        [("digits-v1", "programmable"), ("digits-v2", "stock"), ("digits-levels", "programmable")],
        [("digits-v1", "stock"), ("digits-v2", "programmable")],
    ),
)
def test_bundled_models_are_equal(model: str, neuron: str) -> None:
    program = program_of(model, neuron)
    pixels = next(read("digits", program.preprocess, limit=2).batches(2))[0]
    assert_equal(program.network, pixels, engine, ways=program.mapping.ways)


@pytest.mark.long
def test_v1_at_32x32_is_equal() -> None:
    from support.models import model_and_images

    from spikformer_deploy.converters.checkpoints.read import CIFAR10, Loaded

    config = named("v1-4-384", dim=64, depth=2, heads=4)
    loaded = Loaded(model_and_images(config)[0], config, CIFAR10, (), "", {}, ())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32)).astype(np.uint8)
    program = compile_model(loaded, "loihi2", calibrate_on=pixels, check=False).program
    assert program.network.time_steps == 4
    assert_equal(program.network, pixels, engine, ways=program.mapping.ways)


@pytest.mark.long
def test_stock_neurons_that_stand_for_integers_are_equal() -> None:
    """A population for each level of integer neurons, whose layers read all of them."""
    frames = thermometers.images(1)
    network = thermometers.made(thermometers.chain(1, 3, True), frames, thermometers.LOIHI1.limits, "stock")
    assert {type(p.neuron) for p in network if p.neuron.fires} == {Lif}
    assert_equal(network, frames)


def chain_with_shortcut(seed: int) -> Network:
    """Single positions, stock neurons: lava.proc.dense on one branch, nothing on the other."""
    b = Builder(np.random.default_rng(seed), 3, "stock")
    x = b.conv("first", b.source((5, 1, 1), 3, True), 7, 1)
    y = b.conv("third", b.conv("second", x, 6, 1), 7, 1)
    return b.finish(b.conv("last", b.window("add", Sum(), [x, y], Window()), 4, 1), 3)


@pytest.mark.long
@pytest.mark.parametrize("seed", some([0], [1, 2]))
def test_branches_of_unequal_delay_meet(seed: int) -> None:
    network = chain_with_shortcut(seed)
    assert_equal(network, random_images(network, seed, 3))


@pytest.mark.long
def test_integers_go_through_a_dense_of_lava_s_own() -> None:
    """Single positions: stock neurons read integers a step later, and a branch of integers waits for them."""
    b = Builder(np.random.default_rng(1), 3, "stock")
    x = b.source((5, 1, 1), 15, True)
    first = b.levels("first", (6, 1, 1), 30, (b.weights(6, 5), (x.name,)))
    lif = b.conv("lif", first, 6, 1)
    both = (b.weights(6, 6), (lif.name,)), (b.weights(6, 6), (first.name,))
    network = b.finish(b.levels("last", (6, 1, 1), 20, *both), 3)
    sent = reference.execute(network, random_images(network, 0, 1), record=["first", "lif"]).spikes
    assert sent["first"].max() > 1
    assert sent["lif"].any()
    assert_equal(network, random_images(network, 0, 1))


@pytest.mark.long
@pytest.mark.parametrize("steps", some([1, 8], range(2, 8)))
def test_stock_neurons_are_the_real_valued_ones(steps: int) -> None:
    """V = V / 2 + a, fire at V >= theta, in doubles that hold every V; lava.proc.lif with E = T - 1 more bits."""
    rng = np.random.default_rng(steps)
    b = Builder(rng, steps, "stock")
    source = b.source((4, 6, 6), 15, True)
    weight = rng.integers(-20, 30, (32, 4, 1, 1)).astype(np.int8)
    theta, extra = rng.integers(20, 400, 32), steps - 1
    neuron = Lif("stock", 2048, extra, (theta << extra) - 1, np.zeros(32, np.int64))
    lif = b.lif("lif", (32, 6, 6), (Conv(weight), (source.name,)))
    b.populations[-1] = type(lif)("lif", lif.shape, neuron, 1)
    network = b.finish(b.populations[-1], 2)
    images = random_images(network, steps, 2)
    sums = np.einsum("oc,ntcyx->ntoyx", weight[:, :, 0, 0].astype(float), images)
    v, right = np.zeros((2, 32, 6, 6)), []
    for t in range(steps):
        v = v / 2 + sums[:, t]
        right.append(v >= theta[:, None, None])
        v[right[-1]] = 0
    found = lava.execute(network, images, record=["lif"]).spikes["lif"]
    assert 0 < found.mean() < 1
    np.testing.assert_array_equal(found, np.stack(right, 1))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["programmable", "stock"])
def test_overflow_is_an_error_that_names_the_population(kind: str) -> None:
    network = with_state_bits(random_network(0, 3, kind), 6)
    with pytest.raises(OverflowDetected, match=r"stem\.0\.lif: a potential of .* leaves the state") as caught:
        lava.execute(network, random_images(network, 0))
    assert "fewer weight bits" in caught.value.way_out


@pytest.mark.long
def test_overflow_of_integer_neurons_names_the_population() -> None:
    b = Builder(np.random.default_rng(0), 2, "")
    source = b.source((2, 3, 3), 255, False)
    network = b.finish(b.levels("integers", (4, 3, 3), 900, (b.weights(4, 2), (source.name,))), 2)
    images = random_images(network, 0)
    bits = reference.execute(network, images).peak_state["integers"].bit_length()
    with pytest.raises(OverflowDetected, match=r"integers: a potential of .* leaves the state"):
        lava.execute(with_state_bits(network, bits), images)


def test_an_export_says_what_kinds_of_neurons_it_has(tmp_path: Path) -> None:
    write(graded_networks_in_one(0, 1), tmp_path / "net")
    assert "spiking neurons (levels, programmable LIF), 2 time steps" in (tmp_path / "net" / "README.md").read_text()


@pytest.mark.long
def test_a_stream_that_sends_more_than_it_says_is_an_error() -> None:
    b = Builder(np.random.default_rng(0), 2, "programmable")
    source = b.source((2, 3, 3), 255, False)
    stream = b.stream("stream", (4, 3, 3), (b.weights(4, 2), (source.name,)))
    network = b.finish(b.lif("lif", stream.shape, (Window(), ("stream",))), 2)
    images = random_images(network, 0)
    most = reference.execute(network, images).peak_state["stream"]
    narrow = replace(
        network, populations=tuple(replace(p, max_out=most - 1) if p.name == stream.name else p for p in network)
    )
    for executor in (lava, reference):
        with pytest.raises(OverflowDetected, match=f"stream: a current of {most} in a stream"):
            executor.execute(narrow, images)


@pytest.mark.long
def test_stock_neurons_are_guarded_where_ranges_are_only_observed() -> None:
    """Lava's LIF would wrap a current and clip a potential; the guard lets what fits pass as it is."""
    network = random_network(3, 4, "stock")
    peak = max(reference.execute(network, random_images(network, 3)).peak_state.values())
    assert peak < 2**23
    assert_equal(with_state_bits(network, 24), random_images(network, 3))
    with pytest.raises(OverflowDetected, match="leaves the state"):
        lava.execute(with_state_bits(network, peak.bit_length()), random_images(network, 3))


def test_a_bias_that_lava_cannot_hold_is_refused() -> None:
    b = Builder(np.random.default_rng(0), 2, "stock")
    lif = b.conv("a", b.source((2, 4, 4), 1, True), 3, 3)
    wide = replace(lif.neuron, bias=np.array([0, 40000, 0]))
    b.populations[-1] = lif = replace(lif, neuron=wide)
    network = b.finish(lif, 2)
    with pytest.raises(InputError, match="a: a bias of 40000"):
        lava.execute(network, random_images(network, 0))


@pytest.mark.long
def test_a_failing_process_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(0, 2, blocks=0)
    monkeypatch.setattr(lava, "write", lambda network, folder, ways: (write(network, folder, ways), spoil(folder)))
    write = __import__("spikformer_deploy.executors.lava.export", fromlist=["write"]).write

    def spoil(folder: Path) -> None:
        file = folder / "processes" / "relay.py"
        file.write_text(file.read_text().replace("!= 0", "!= 1 // 0"))

    with pytest.raises(BackendError, match="a Process failed: ZeroDivisionError") as caught:
        lava.execute(network, random_images(network, 0))
    assert "relay.py" in caught.value.way_out


def test_images_are_checked() -> None:
    network = random_network(0, 2)
    with pytest.raises(InputError, match="images are"):
        lava.execute(network, np.zeros((1, 9, 9, 9), np.uint8))


def test_without_lava_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lava", None)
    monkeypatch.setattr(lava.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--no-deps --ignore-requires-python lava-nc"):
        lava.check_installed()


def test_the_shim_puts_dataclasses_back() -> None:
    code = "import dataclasses as d; before = d.dataclass; import shim; shim.make_importable(); "
    code += "import lava.proc.lif.process; print(before is d.dataclass)"
    folder = Path(shim.__file__).parent
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True", done.stderr


def test_an_export_runs_by_itself(tmp_path: Path) -> None:
    """Without this package, and without torch; a second export does not overwrite the first."""
    network = random_network(3, 3)
    images = random_images(network, 3, 3)
    folder = tmp_path / "out" / "net"
    export(network, folder)
    np.save(tmp_path / "images.npy", images)
    ban = "import sys; sys.modules['torch'] = sys.modules['spikformer_deploy'] = None; "
    code = ban + "sys.argv = ['run.py', '../../images.npy', '-o', '../results']; import run; run.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    right = reference.execute(network, images).accumulators
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "results" / "accumulators.npy"), right)
    head = network.output.neuron
    assert done.stdout.splitlines()[-1].split()[1:] == [str(x) for x in (right * head.scale).argmax(1)]
    with pytest.raises(InputError, match="exists"):
        export(network, folder)


def leftovers() -> set[str]:
    """Shared memory, sockets and folders that a run could leave."""
    places = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    names = ("psm_", "sem.", "pymp-", "spk-lava-", "wnsm_")
    return {str(f) for place in places if place.exists() for f in place.iterdir() if f.name.startswith(names)}


def processes_in(session: int) -> list[str]:
    """Processes of a session, other than zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes in")
@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_is_left_behind(interrupted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(1, 4)
    before, sessions = leftovers(), []
    popen = subprocess.Popen

    def started(*arguments: object, **options: object) -> subprocess.Popen:
        child = popen(*arguments, **options)
        sessions.append(child.pid)
        return child

    def interrupt(done: int, total: int, note: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lava.subprocess, "Popen", started)
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            lava.execute(network, random_images(network, 1, 40), progress=interrupt)
    else:
        lava.execute(network, random_images(network, 1, 2))
    # what other tests have there at the same time goes away with them; what this run left would stay
    new, deadline = leftovers() - before, time.monotonic() + 60
    while time.monotonic() < deadline and (processes_in(sessions[0]) or new & leftovers()):
        time.sleep(0.1)
    assert processes_in(sessions[0]) == []
    assert new & leftovers() == set()
