"""NIR in and out: nothing is lost on the way, other simulators fire alike, and what does not fit is refused by name."""

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.chains import chain, frames, graded_graph
from support.deep import some
from support.models import SMALL, graph_of

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.nir.read import read_model
from spikformer_deploy.converters.nir.write import write_model
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.ir import Add, AvgPool2d, Conv2d, Graph, Input, Lif, MaxPool2d, Node, Output, Scale
from spikformer_deploy.graph.law import check
from spikformer_deploy.network.network import Network
from spikformer_deploy.pipeline.stages import compile_model, float_graph

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")
FRAMES = Preprocess(2, 8, (0.0, 0.0), (1.0, 1.0), 1, 6)


def written(graph: Graph, path: Path, preprocess: Preprocess = FRAMES) -> Path:
    write_model(graph, path, preprocess, ("a", "b", "c"), {"seed": 3})
    return path


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dyadic", [True, False])
def test_a_chain_comes_back_as_it_was(seed: int, dyadic: bool, tmp_path: Path) -> None:
    """Every weight to the last bit (in double where fp32 does not hold it), every neuron, T, and what pixels mean."""
    graph = chain(seed, dyadic=dyadic)
    for name in ("a.nir", "b.nir"):
        written(graph, tmp_path / name)
    assert (tmp_path / "a.nir").read_bytes() == (tmp_path / "b.nir").read_bytes()
    model = read_model(tmp_path / "a.nir")
    assert model.graph.digest() == graph.digest()
    assert (model.preprocess, model.labels, model.training, model.notes) == (FRAMES, ("a", "b", "c"), {"seed": 3}, ())
    nir.read(tmp_path / "a.nir", type_check=True)


def simulator(name: str, path: Path) -> Any:
    """A function of (state, frame) -> state, whose modules are named as the nodes, in another simulator."""
    try:
        if name == "snntorch":
            from snntorch.import_nir import import_from_nir
        else:
            from spikingjelly.activation_based.nir_exchange import import_from_nir
    except ImportError as error:
        warnings.warn(f"files are not run by {name}, which is not installed: {error}", stacklevel=1)
        pytest.skip(f"{name} is not installed")
    return import_from_nir(nir.read(path))


@pytest.mark.parametrize("name", ["snntorch", "spikingjelly"])
@pytest.mark.parametrize("seed", range(3))
def test_other_simulators_fire_alike(name: str, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Every spike of every population; weights of few bits, so that no order of operations rounds."""
    graph = chain(seed, dyadic=True)
    images = frames(graph, seed)
    module = simulator(name, written(graph, tmp_path / "a.nir"))
    spikes: dict[str, list[torch.Tensor]] = {node.name: [] for node in graph.of(Lif)}
    modules = dict(module.named_modules())
    for node, seen in spikes.items():
        # spikingjelly's modules give (spikes, state)
        take = lambda _m, _i, out, seen=seen: seen.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
        modules[node].register_forward_hook(take)
    right = execute(graph, images)
    for index, image in enumerate(images):
        for seen in spikes.values():
            seen.clear()
        state = None
        if name == "snntorch":
            for layer in modules.values():
                if hasattr(layer, "reset_mem"):
                    layer.reset_mem()
        with torch.no_grad():
            for frame in image:
                _, state = module(frame if name == "snntorch" else frame[None], state)
        for node, seen in spikes.items():
            theirs = torch.stack([step.reshape(graph[node].shape) for step in seen])
            assert torch.equal(theirs.to(torch.uint8), right[node][index]), node
    assert all(values.any() for values in right.values())
    capsys.readouterr()


def compiled(model: Any) -> Network:
    pixels = np.ones((2, model.time_steps, *model.input_shape), np.uint8)
    return compile_model(model, calibrate_on=pixels).program.network


def test_it_compiles_and_runs(tmp_path: Path) -> None:
    """The head counts the spikes of the last population."""
    graph = chain(1, dyadic=True)
    network = compiled(read_model(written(graph, tmp_path / "a.nir")))
    pixels = frames(graph, 7).numpy().astype(np.uint8)
    lifs = [node.name for node in graph.of(Lif)]
    right = reference.execute(network, pixels, record=lifs)
    ours = engine.execute(network, pixels, record=lifs)
    for name in lifs:
        np.testing.assert_array_equal(right.spikes[name], ours.spikes[name])
    (readout,) = (p.synapse for p in network.into(network.output.name))
    counts = right.spikes[lifs[-1]].sum((1, 3, 4))
    assert counts.any()
    np.testing.assert_array_equal(right.accumulators, counts * np.diag(readout.weight))
    np.testing.assert_array_equal(readout.weight, np.diag(np.diag(readout.weight)))


def test_from_python(tmp_path: Path) -> None:
    """Any float model or program, without a file."""
    graph = chain(0, dyadic=True)
    model = Imported("nir", graph, FRAMES, (), "", {}, ())
    sd.export(model, "nir", tmp_path / "a.nir")
    assert sd.load(tmp_path / "a.nir").graph.digest() == graph.digest()
    with pytest.raises(InputError, match="Compile it first"):
        sd.export(model, "netx", tmp_path / "a.net")
    with pytest.raises(InputError, match="no such folder"):
        sd.export(model, "onnx", tmp_path / "nowhere" / "a.onnx")


def test_the_command_line(tmp_path: Path) -> None:
    file = str(tmp_path / "a.nir")
    again = str(tmp_path / "b.nir")
    program = str(tmp_path / "a.spk")
    written(chain(0, dyadic=False), Path(file))
    np.save(tmp_path / "frames.npy", frames(chain(0, dyadic=False), 0).numpy().astype(np.uint8))
    for arguments in (
        ["export", file, "--to", "nir", "-o", again],
        ["compile", file, "-o", program],
        ["verify", program, file, "--input", str(tmp_path / "frames.npy")],
        ["inspect", file],
        ["inspect", file, "--json"],
    ):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
    assert Path(file).read_bytes() == Path(again).read_bytes()
    assert '"format": "nir"' in done.output


def with_nodes(graph: Graph, *nodes: Node) -> Graph:
    """`graph` with nodes before its output, which reads the last of them."""
    output = replace(graph.nodes[-1], inputs=(nodes[-1].name,))
    return check(Graph((*graph.nodes[:-1], *nodes, output), graph.time_steps))


def test_residuals_are_edges_that_meet(tmp_path: Path) -> None:
    graph = chain(2, dyadic=True)
    first, second = [node for node in graph.of(Lif) if node.shape[1:] != (1, 1)]
    assert first.shape != second.shape
    start = graph.nodes[: [n.name for n in graph].index(first.name) + 1]
    weight = np.array(np.random.default_rng(0).integers(-4, 5, (4, 4, 3, 3)) / 4)
    body = (
        Node("conv", Conv2d(weight, np.zeros(4), (1, 1), (1, 1)), (first.name,), first.shape),
        Node("lif", Lif(2.0, 1.0), ("conv",), first.shape),
        Node("sum", Add(), (first.name, "lif"), first.shape),
        Node("conv.1", Conv2d(weight, np.zeros(4), (1, 1), (1, 1)), ("sum",), first.shape),
        Node("lif.1", Lif(2.0, 1.0), ("conv.1",), first.shape),
        Node("output", Output(), ("lif.1",), first.shape),
    )
    residual = check(Graph((*start, *body), 3))
    again = read_model(written(residual, tmp_path / "a.nir")).graph
    images = frames(residual, 0)
    for one, other in zip(execute(residual, images).values(), execute(again, images).values(), strict=True):
        assert torch.equal(one, other)
    assert [type(n.op).__name__ for n in again] == [type(n.op).__name__ for n in residual]
    doubled = [replace(n, inputs=("lif", "lif")) if n.name == "sum" else n for n in residual]
    with pytest.raises(ModelError, match="sum: it adds a value to itself"):
        written(Graph(tuple(doubled), 3), tmp_path / "b.nir")


@pytest.mark.parametrize(("kernel", "groups"), [((1, 3), 1), ((3, 3), 2)])
def test_convolutions_that_nir_would_not_read_are_refused(kernel: tuple[int, int], groups: int, tmp_path: Path) -> None:
    """nir's own check of shapes takes kernels for square, and groups for one."""
    weight = np.ones((4, 2 // groups, *kernel))
    nodes = (
        Node("input", Input(True), (), (2, 8, 6)),
        Node(
            "conv", Conv2d(weight, np.zeros(4), (1, 1), (0, 0), groups), ("input",), (4, 9 - kernel[0], 7 - kernel[1])
        ),
        Node("lif", Lif(2.0, 1.0), ("conv",), (4, 9 - kernel[0], 7 - kernel[1])),
        Node("output", Output(), ("lif",), (4, 9 - kernel[0], 7 - kernel[1])),
    )
    with pytest.raises(
        ModelError, match=rf"conv: the package nir computes wrong shapes .*{groups} groups\)\n  Export to"
    ):
        written(Graph(nodes, 3), tmp_path / "a.nir")
    assert list(tmp_path.iterdir()) == []


def test_pooling_of_one_position_is_no_node(tmp_path: Path) -> None:
    graph = chain(0, dyadic=True)
    last = graph.nodes[-2]
    pooled = with_nodes(graph, Node("last_pool", AvgPool2d((1, 1), (2, 2)), (last.name,), last.shape))
    again = read_model(written(pooled, tmp_path / "a.nir")).graph
    images = frames(graph, 0)
    assert torch.equal(execute(again, images)["output"], execute(graph, images)["output"])


@pytest.mark.parametrize("form", some(["v2"], long=["cifar"]))
def test_what_nir_cannot_hold_is_refused_by_name(form: str, tmp_path: Path) -> None:
    config = SMALL[form]
    graph = fold_batch_norm(graph_of(config))
    refused = next(n for n in graph if type(n.op).__name__ in ("MaxPool2d", "Attention"))
    word = "max-pooling" if isinstance(refused.op, MaxPool2d) else "attention"
    with pytest.raises(ModelError) as caught:
        written(graph, tmp_path / "a.nir")
    assert str(caught.value).startswith(f"{refused.name}: NIR has no {word}")
    assert list(tmp_path.iterdir()) == []


def test_integer_neurons_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^head: NIR has no neurons that send integers\n  Export to onnx"):
        written(graded_graph(0), tmp_path / "a.nir")
    assert list(tmp_path.iterdir()) == []


# --- files of others ---

SHAPE = (3, 4, 5)
DT = 1e-4


def lif(shape: tuple[int, ...] = SHAPE, **changes: Any) -> Any:
    values = {"tau": 2 * DT, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
    return nir.LIF(**{k: np.full(shape, v) if np.ndim(v) == 0 else v for k, v in (values | changes).items()})


def conv(**changes: Any) -> Any:
    weight = np.random.default_rng(0).integers(-4, 9, (3, 2, 3, 3)) / 8
    values = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": np.zeros(3)}
    return nir.Conv2d((4, 5), weight, **(values | changes))


def file_of(path: Path, *nodes: Any, edges: list[tuple[str, str]] | None = None, **named: Any) -> Path:
    """A file with a chain of an input, the nodes 0, 1, ... and an output, or with other edges."""
    inner = {str(i): node for i, node in enumerate(nodes)} | named
    everything = {"in": nir.Input(np.array((2, 4, 5))), **inner, "out": nir.Output(np.array(SHAPE))}
    names = list(everything)
    chained = list(pairwise(names))
    nir.write(path, nir.NIRGraph(everything, chained if edges is None else edges, type_check=False))
    return path


def test_a_foreign_file_needs_t_and_says_what_it_assumes(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.nir", conv(), lif())
    with pytest.raises(ModelError, match="--time-steps"):
        read_model(path)
    model = read_model(path, time_steps=5)
    assert [n.split(" ")[0] for n in model.notes] == ["dt", "the"]
    assert (model.time_steps, model.per_step, model.preprocess.max_value) == (5, True, 1)
    (neuron,) = (n.op for n in model.graph.of(Lif))
    # NIR fires above the threshold: at 1 exactly it does not
    assert (neuron.tau, neuron.v_threshold, neuron.decay_input, neuron.strict) == (2.0, 1.0, True, True)
    assert [n.op.tau for n in read_model(path, time_steps=5, dt=DT / 2).graph.of(Lif)] == [4.0]


def by_definition(graph: Graph, images: torch.Tensor, tau: float, r: Any, leak: Any, threshold: float) -> np.ndarray:
    """Spikes of the one population after the one convolution of a file, by NIR's equations, in double."""
    op = next(n.op for n in graph.of(Conv2d))
    currents = torch.nn.functional.conv2d(images.double().flatten(0, 1), torch.tensor(op.weight), None, 1, 1)
    v = np.zeros((len(images), *SHAPE))
    spikes = []
    for current in currents.unflatten(0, images.shape[:2]).transpose(0, 1).numpy():
        v = v + (leak - v + r * current) / tau
        spikes.append(v > threshold)
        v[spikes[-1]] = 0
    return np.stack(spikes, 1)


@pytest.mark.parametrize(
    ("node", "tau", "r", "leak", "threshold"),
    [
        (lif(), 2, 1, 0, 1),
        (lif(r=2.0), 2, 2, 0, 1),
        (lif(tau=4 * DT, r=0.5, v_threshold=0.25), 4, 0.5, 0, 0.25),
        (lif(r=np.array([0.5, 1, 4])[:, None, None] * np.ones(SHAPE)), 2, np.array([0.5, 1, 4])[:, None, None], 0, 1),
        (lif(v_leak=0.5), 2, 1, 0.5, 1),
        (nir.IF(np.full(SHAPE, 1 / DT), np.full(SHAPE, 2.0)), np.inf, np.inf, 0, 2),
        (nir.Threshold(np.full(SHAPE, 0.5)), 1, 1, 0, 0.5),
        (
            nir.CubaLIF(
                np.full(SHAPE, DT), np.full(SHAPE, 2 * DT), np.full(SHAPE, 2.0), np.zeros(SHAPE), np.ones(SHAPE),
                w_in=np.full(SHAPE, 0.5),
            ),
            2, 1, 0, 1,
        ),
    ],
    ids=["lif", "r", "gain", "gains", "leak", "if", "threshold", "cuba"],
)  # fmt: skip
def test_neurons_by_nirs_equations(node: Any, tau: float, r: Any, leak: Any, threshold: float, tmp_path: Path) -> None:
    model = read_model(file_of(tmp_path / "a.nir", conv(), node), time_steps=4)
    images = frames(model.graph, 3)
    ours = execute(fold_batch_norm(model.graph), images)["1"].numpy()
    if tau == np.inf:
        # r / tau = 1, and a leak that is lost in rounding
        tau = 2.0**40
        r = 2.0**40
    right = by_definition(model.graph, images, tau, r, leak, threshold)
    np.testing.assert_array_equal(ours, right)
    assert 0 < right.mean() < 1


def test_graphs_inside_graphs_and_if_of_other_tools(tmp_path: Path) -> None:
    plain = file_of(tmp_path / "a.nir", conv(), nir.IF(np.ones(SHAPE), np.full(SHAPE, 2.0)))
    ends = {"i": nir.Input(np.array((2, 4, 5))), "o": nir.Output(np.array(SHAPE))}
    inner = nir.NIRGraph({**ends, "c": conv()}, [("i", "c"), ("c", "o")], type_check=False)
    nested = file_of(tmp_path / "b.nir", inner, nir.IF(np.full(SHAPE, 1 / DT), np.full(SHAPE, 2.0)))
    one = read_model(plain, time_steps=3)
    other = read_model(nested, time_steps=3)
    assert any("r = 1 is read as v = v + I" in note for note in one.notes)
    images = frames(one.graph, 0)
    assert torch.equal(execute(one.graph, images)["1"], execute(other.graph, images)["1"])
    assert "0.c" in other.graph


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((conv(), nir.LI(np.full(SHAPE, DT), np.ones(SHAPE), np.zeros(SHAPE))), "1: NIR nodes of kind LI are not"),
        ((conv(), nir.Delay(np.ones(SHAPE))), "1: NIR nodes of kind Delay are not"),
        ((conv(), lif(v_reset=0.5)), "1: a reset to another potential than zero"),
        ((conv(), lif(tau=DT / 2)), "1: tau is 0.5 steps of 0.0001 s"),
        ((conv(), lif(tau=np.linspace(DT, 2 * DT, 60).reshape(SHAPE))), "1: its neurons have 60 values of tau"),
        ((conv(), lif(v_threshold=np.nan)), "1: its v_threshold holds NaN"),
        ((conv(), lif(r=np.linspace(1, 2, 60).reshape(SHAPE))), "1.input: gains that differ between positions"),
        (
            (
                conv(),
                nir.CubaLIF(
                    *(np.full(SHAPE, v) for v in (5 * DT, 2 * DT, 1.0, 0.0, 1.0)), w_in=np.ones(SHAPE)
                ),
            ),
            "1: a synaptic current that decays over several steps (tau_syn is 5 steps)",
        ),
        ((conv(dilation=2), lif()), "0: a dilated convolution"),
        ((conv(padding="same", stride=2), lif()), "0: padding 'same'"),
        ((nir.AvgPool2d(np.array((2, 2)), np.array((2, 2)), np.array((1, 1))),), "0: pooling with padding (1, 1)"),
        ((nir.Affine(np.ones((3, 7)), np.zeros(3)), lif((3,))), "0: a weight of shape (3, 7) on values of (2, 4, 5)"),
    ],
)  # fmt: skip
def test_what_the_graph_cannot_hold_is_refused_by_name(nodes: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_model(file_of(tmp_path / "a.nir", *nodes), time_steps=3)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("in", "0"), ("0", "1"), ("1", "0"), ("1", "out")], "recurrent connections"),
        ([("in", "0"), ("0", "1")], "out: nothing flows into it"),
        ([("in", "0"), ("0", "1"), ("1", "out"), ("0", "lost")], "no such node"),
        ([("in", "0"), ("0", "1"), ("in", "1"), ("1", "out")], r"values of the shapes .* meet in it"),
    ],
)
def test_edges_that_make_no_sense(edges: list[tuple[str, str]], message: str, tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.nir", conv(), lif())
    with h5py.File(path, "a") as file:
        del file["node/edges"]
        file["node/edges"] = np.array(edges, dtype=object)
    with pytest.raises((ModelError, InputError), match=message):
        read_model(path, time_steps=3)


def test_the_notes_of_an_export_are_believed_only_where_they_agree(tmp_path: Path) -> None:
    """Who changes a parameter in the file changes the model."""
    graph = chain(0, dyadic=False)
    path = written(graph, tmp_path / "a.nir")
    name = next(graph.of(Lif)).name
    with h5py.File(path, "a") as file:
        file[f"node/nodes/{name}/v_threshold"][...] = 3.0
    changed = read_model(path).graph
    assert (changed[name].op.v_threshold, changed[name].op.strict) == (3.0, True)
    with h5py.File(path, "a") as file:
        entry = file["node/metadata/spikformer_deploy"][()].decode().replace('"time_steps": 3', '"time_steps": 0')
        del file["node/metadata/spikformer_deploy"]
        file["node/metadata/spikformer_deploy"] = entry
    with pytest.raises(InputError, match="notes of its export are damaged"):
        read_model(path)


def test_scales_are_written(tmp_path: Path) -> None:
    graph = chain(0, dyadic=True)
    last = graph.nodes[-2]
    scaled = with_nodes(graph, Node("scale", Scale(0.1), (last.name,), last.shape))
    assert read_model(written(scaled, tmp_path / "a.nir")).graph.digest() == scaled.digest()
    assert float_graph(read_model(tmp_path / "a.nir")).digest() == scaled.digest()
