"""Our float export comes back as the same graph; other ONNX is refused by operator and node."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.chains import chain, frames, graded_graph
from support.deep import some
from support.models import RESFORMERS, SIBLINGS, SMALL, graph_of
from support.networks import random_network

from spikformer_deploy.base.errors import InputError, ModelError, SpikdeployError
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.converters.kinds import Kind, kind_of
from spikformer_deploy.converters.onnx.program import write_program
from spikformer_deploy.converters.onnx.read import read_model
from spikformer_deploy.converters.onnx.write import to_model, write_model
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph, Levels, Lif
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.pipeline.export import export
from spikformer_deploy.pipeline.program import to_bytes
from spikformer_deploy.pipeline.stages import compile_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def written(graph: Graph, path: Path) -> Path:
    channels, height, width = graph.nodes[0].shape
    write_model(graph, path, Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels, 1, width), (), {})
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model"
    export("digits-v2", "onnx", path)
    return path


def test_it_compiles_to_equal_integers(good: Path) -> None:
    """Batch normalisation is folded in double, and double is what the file keeps: the program is the same."""
    model = read_model(good)
    original = load("digits-v2")
    assert kind_of(good) is Kind.ONNX
    assert (model.preprocess, model.labels, model.notes) == (original.preprocess, original.labels, ())
    programs = [compile_model(m, check=False).program for m in (model, original)]
    for program in programs:
        program.provenance.clear()
    assert to_bytes(programs[0]) == to_bytes(programs[1])


@pytest.mark.parametrize(
    "form",
    some(["v2", "spikingformer-dvs"], ["imagenet", "sdt1-dvs", "sdt3"], long=["dvs", "sdt2", "qkformer", "resformer"]),
)
def test_every_form_comes_back(form: str, tmp_path: Path) -> None:
    graph = graph_of({**SMALL, **SIBLINGS, **RESFORMERS}[form])
    again = read_model(written(graph, tmp_path / "a.onnx")).graph
    assert simplify(again).digest() == simplify(graph).digest()


@pytest.mark.parametrize("seed", range(3))
def test_chains_come_back_and_run(seed: int, tmp_path: Path) -> None:
    """Weights that fp32 does not hold, taus that are no fp32 numbers, neurons without a leak; frames as input."""
    graph = chain(seed, dyadic=False)
    path = written(graph, tmp_path / "a.onnx")
    assert read_model(path).graph.digest() == graph.digest()
    images = frames(graph, seed)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(logits, execute(graph, images)["output"].numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_integer_neurons_and_wide_attention_come_back_and_run(seed: int, tmp_path: Path) -> None:
    """Both roundings, with and without a potential that is kept; what they send is torch's, ties included."""
    graph = graded_graph(seed)
    path = written(graph, tmp_path / "a.onnx")
    assert kind_of(path) is Kind.ONNX
    assert simplify(read_model(path).graph).digest() == simplify(graph).digest()
    names = [node.name for node in graph.of(Levels)]
    images = frames(graph, seed, 4)
    session = onnxruntime.InferenceSession(
        to_model(graph, names).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    sent = dict(zip(names, session.run(names, {"images": images.numpy()}), strict=True))
    right = execute(graph, images)
    for name in names:
        np.testing.assert_array_equal(sent[name], right[name].numpy(), err_msg=name)
    assert max(values.max() for values in sent.values()) > 1


@pytest.mark.parametrize(("name", "value"), [("count", 0.0), ("count", 2.5), ("threshold", -1.0), ("keep", 1.5)])
def test_integer_neurons_that_are_none(name: str, value: float, tmp_path: Path) -> None:
    model = onnx.load(written(graded_graph(0), tmp_path / "a.onnx"))
    node = next(node for node in model.graph.node if node.op_type.startswith("Levels"))
    next(attribute for attribute in node.attribute if attribute.name == name).f = value
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(ModelError, match=f"^{node.name}: an integer neuron of .*{value:g}"):
        read_model(tmp_path / "b.onnx")


def test_numbers_that_are_changed_in_the_file_are_believed(tmp_path: Path) -> None:
    """And not the notes beside them."""
    graph = chain(1, dyadic=False)
    model = onnx.load(written(graph, tmp_path / "a.onnx"))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "v_threshold":
                attribute.f = 0.75
    onnx.save(model, tmp_path / "b.onnx")
    assert {n.op.v_threshold for n in read_model(tmp_path / "b.onnx").graph.of(Lif)} == {0.75}


def test_a_program_is_recognised(tmp_path: Path) -> None:
    integers = tmp_path / "a.onnx"
    write_program(random_network(1), integers)
    with pytest.raises(InputError, match=r"integers of a program, which is compiled already\n.*ONNX Runtime"):
        read_model(integers)
    done = CliRunner().invoke(cli, ["export", "digits-v1", "--to", "netx", "-o", str(tmp_path / "a.net")])
    assert "Compile it first" in str(done.exception)


# --- files that are refused ---


def edited(good: Path, path: Path, edit: Callable[[Any], None]) -> Path:
    model = onnx.load(good)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def node_of(model: Any, kind: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == kind)


def cyclic(model: Any) -> None:
    first = node_of(model, "Conv")
    first.input[0] = model.graph.node[-1].output[0]


def elsewhere(model: Any) -> None:
    tensor = model.graph.initializer[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"


def huge(model: Any) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.dims[0] = 2**40


def other_function(model: Any) -> None:
    model.functions[0].node[-1].op_type = "Loop"


def huge_input(model: Any) -> None:
    for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]:
        dim.dim_value = 2**20


def nan(model: Any) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.raw_data = tensor.raw_data[:-8] + np.array(np.nan).tobytes()


def tanh(model: Any) -> None:
    node_of(model, "Conv").op_type = "Tanh"


def dilated(model: Any) -> None:
    node_of(model, "Conv").attribute.append(onnx.helper.make_attribute("dilations", [2, 2]))


def lopsided(model: Any) -> None:
    conv = node_of(model, "Conv")
    kept = [a for a in conv.attribute if a.name != "pads"]
    del conv.attribute[:]
    conv.attribute.extend([*kept, onnx.helper.make_attribute("pads", [1, 0, 0, 0])])


def fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def mixing(model: Any) -> None:
    shape = next(t for t in model.graph.initializer if t.name == node_of(model, "Reshape").input[1])
    shape.raw_data = np.array([-1, 2, 2, 1, 4], np.int64).tobytes()
    shape.dims[0] = 5


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (cyclic, "which nothing before it makes: a cycle"),
        (elsewhere, r"its values stand in another file \('\.\./\.\./\.\./\.\./etc/passwd'\)"),
        (huge, r"its shape is \[1099511627776, .*\], and its values are not there"),
        (huge_input, "absurdly large"),
        (nan, "holds NaN"),
        (other_function, "this local function is not a neuron that is known here"),
        (tanh, "operator Tanh is not supported"),
        (dilated, r"Conv with dilations = \[2, 2\] is not supported"),
        (lopsided, "pads .* is not supported"),
        (fixed_batch, "N of any size"),
        (mixing, r"an expansion of \(B\*Y, X/8, X/4, 1, X\)"),
    ],
)
def test_what_is_refused(good: Path, tmp_path: Path, edit: Callable[[Any], None], message: str) -> None:
    with pytest.raises((InputError, ModelError), match=message):
        read_model(edited(good, tmp_path / "a.onnx", edit))


def test_models_without_spiking_neurons_are_refused_by_operator(tmp_path: Path) -> None:
    """What other exporters write."""
    images = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 10])
    node = onnx.helper.make_node("Softmax", ["x"], ["y"], name="head.softmax")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [images], [out]))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="--time-steps"):
        read_model(tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"head\.softmax: operator Softmax is not supported"):
        read_model(tmp_path / "a.onnx", time_steps=4)


def test_cut_files(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    for length in (1, 9, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(SpikdeployError):
            kind_of(tmp_path / "cut")
        with pytest.raises(SpikdeployError):
            read_model(tmp_path / "cut", time_steps=2)


def test_spikes_of_what_comes_back(good: Path) -> None:
    """The graph that is read fires as the module that was written."""
    loaded = load("digits-v2")
    graph = read_model(good).graph
    images = torch.rand(2, *loaded.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(execute(graph, images)["output"], loaded.module(images))
