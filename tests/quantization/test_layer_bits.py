"""Weight bits by layer: integers within them, the same in all executors, counted as they are, kept and refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chains import chain, graded_graph
from support.deep import some
from support.executions import assert_equal_executions
from support.models import SIBLINGS, SMALL, model_and_images
from support.networks import random_images, random_network

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError, QuantizeError
from spikformer_deploy.base.flat import built, flat
from spikformer_deploy.chips.loihi.memory import box_words, list_words
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.checkpoints.read import load, save
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph.ir import Graph
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.mapping import sizes_of
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Attention, Conv, Readout
from spikformer_deploy.pipeline.layer_bits import read_layer_bits
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model, float_graph
from spikformer_deploy.quantization.build import layers_with_bits

LOIHI2 = load_profile("loihi2")


def imported(graph: Graph) -> Imported:
    channels, height, width = graph.nodes[0].shape
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    return Imported("test", graph, Preprocess(channels, height, zeros, ones, 1, width), (), "0" * 64, {}, ())


def drawn(names: tuple[str, ...], seed: int, fewest: int = 2) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    return {name: int(rng.integers(fewest, 9)) for name in names if rng.random() < 0.8}


def within_own_bits(network: Network) -> bool:
    weighted = [p for p in network.projections if isinstance(p.synapse, Conv | Readout)]
    return all(np.abs(p.synapse.weight.astype(int)).max() < 2 ** (network.bits_of(p) - 1) for p in weighted)


def assert_the_same_everywhere(program: Program, images: np.ndarray) -> None:
    network = program.network
    check_network(network)
    assert within_own_bits(network)
    right = reference.execute(network, images)
    assert_equal_executions(engine.execute(network, images), right)
    np.testing.assert_array_equal(onnx_backend.execute(network, images).accumulators, right.accumulators)


@settings(deadline=None, max_examples=3)
@given(st.integers(0, 10**6), st.sampled_from([chain, graded_graph]), st.sampled_from(["nearest", "calibrated"]))
def test_random_graphs_of_mixed_bits(seed: int, make: Any, rounding: str) -> None:
    graph = make(seed, dyadic=False) if make is chain else make(seed)
    bits = drawn(layers_with_bits(graph), seed, 5)
    images = np.random.default_rng(seed).integers(0, 2, (3, 3, *graph.nodes[0].shape)).astype(np.uint8)
    program = sd.compile(imported(graph), layer_bits=bits, calibrate_on=images, rounding=rounding, check=False)
    assert_the_same_everywhere(program, images)
    assert program.provenance["settings"].get("layer_bits", {}) == bits
    if chosen := {b for name, b in bits.items() if b != 8 and name in {"conv1", "fc2", "head.conv"}}:
        assert chosen <= {program.network.bits_of(p) for p in program.network.projections}


@pytest.mark.long
@pytest.mark.parametrize("name", some(["spikingformer"], ["v2", "cifar", "sdt1"]))
def test_families_of_mixed_bits(name: str, tmp_path: Path) -> None:
    """Streams, pools, attention and heads; the file says the bits of each, and comes back as it was."""
    module, _ = model_and_images((SMALL | SIBLINGS)[name])
    config = (SMALL | SIBLINGS)[name]
    preprocess = Preprocess(3, config.image_size, (0.5,) * 3, (0.25,) * 3)
    save(tmp_path / "m.safetensors", module, config, preprocess, (), {})
    loaded = load(tmp_path / "m.safetensors")
    bits = drawn(layers_with_bits(float_graph(loaded)), 1, 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 3, config.image_size, config.image_size)).astype(np.uint8)
    program = sd.compile(loaded, layer_bits=bits, calibrate_on=images, rounding="calibrated", check=False)
    assert_the_same_everywhere(program, images)
    program.save(tmp_path / "m.spk")
    back = Program.load(tmp_path / "m.spk")
    assert back.digest() == program.digest()
    assert [p.weight_bits for p in back.network.projections] == [p.weight_bits for p in program.network.projections]
    # a checkpoint that says its bits makes the same program without being told
    save(tmp_path / "own.safetensors", module, config, preprocess, (), {}, bits)
    compiled = compile_model(tmp_path / "own.safetensors", calibrate_on=images, rounding="calibrated", check=False)
    assert any("the checkpoint says the bits of" in note for note in compiled.notes)
    assert compiled.program.network.digest() == program.network.digest()
    assert np.array_equal(compiled.program.mapping.words, program.mapping.words)
    # of another number of bits for all, the checkpoint's give way
    fewer = compile_model(tmp_path / "own.safetensors", weight_bits=6, calibrate_on=images, check=False)
    assert any("they give way to 6 bits" in note for note in fewer.notes)
    assert not any(p.weight_bits for p in fewer.program.network.projections)


@pytest.mark.long
def test_lava_has_the_same_integers() -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed: see the Makefile")
    from spikformer_deploy.executors.lava import execute as lava

    graph = chain(2, dyadic=False)
    bits = {name: 3 + number % 4 for number, name in enumerate(layers_with_bits(graph))}
    images = np.random.default_rng(2).integers(0, 2, (2, 3, *graph.nodes[0].shape)).astype(np.uint8)
    network = sd.compile(imported(graph), layer_bits=bits, calibrate_on=images, check=False).network
    assert within_own_bits(network)
    assert len({network.bits_of(p) for p in network.projections}) > 1
    names = [population.name for population in network]
    ours, right = (e.execute(network, images, record=names) for e in (lava, reference))
    np.testing.assert_array_equal(ours.accumulators, right.accumulators)
    for name in names:
        np.testing.assert_array_equal(ours.spikes[name], right.spikes[name])
        np.testing.assert_array_equal(ours.membranes[name], right.membranes[name])


@pytest.mark.long
def test_the_bits_of_all_layers_are_those_of_weight_bits() -> None:
    """Five bits for each layer by its name, or for all at once: the same integers and words."""
    names = layers_with_bits(float_graph(load("digits-v2")))
    by_name = sd.compile("digits-v2", layer_bits=dict.fromkeys(names, 5), check=False)
    at_once = sd.compile("digits-v2", weight_bits=5, check=False)
    assert by_name.network.digest() == at_once.network.digest()
    assert np.array_equal(by_name.mapping.words, at_once.mapping.words)


def test_words_count_the_bits_of_each_projection() -> None:
    """Box by box as a plain twin has it: words of a list follow from the bits of its own projection."""
    network = random_network(3, blocks=1)
    mapping = map_network(network, LOIHI2, {})
    before = box_words(network, mapping.sites, mapping.boxes, LOIHI2.core).sum(1)
    header, index = int(LOIHI2.core.list_header_bits), int(LOIHI2.core.index_bits)
    seen = 0
    for number, projection in enumerate(network.projections):
        if not isinstance(projection.synapse, Readout | Conv) or getattr(projection.synapse, "groups", 1) > 1:
            continue
        lowered = replace(projection, weight_bits=3)
        changed = tuple(lowered if i == number else p for i, p in enumerate(network.projections))
        after = box_words(replace(network, projections=changed), mapping.sites, mapping.boxes, LOIHI2.core).sum(1)
        weight = projection.synapse.weight
        lists = int(np.prod(weight.shape[1:]))
        for box, (one, other) in enumerate(zip(before, after, strict=True)):
            site = mapping.sites[mapping.boxes[box, 0]]
            if site.population != projection.target or site.kind != "population":
                assert one == other
                continue
            channels = int(sizes_of(mapping.boxes[box : box + 1])[0, 0])
            wide, narrow = (-(-(channels * (bits + index) + header) // 64) for bits in (8, 3))
            assert one - other == lists * (wide - narrow)
            assert narrow == list_words(np.array(channels), 3 + index, LOIHI2.core)
            seen += 1
    assert seen > 3


def test_files_of_before_stay_as_they_are_and_digests_too() -> None:
    network = random_network(1)
    tensors: dict[str, np.ndarray] = {}
    plain = flat(network.projections[0], "p", tensors)
    assert "weight_bits" not in plain
    assert built(Projection, plain, tensors, "p").weight_bits == 0
    own = replace(network, projections=tuple(replace(p, weight_bits=8) for p in network.projections))
    assert own.digest() == network.digest()
    images = random_images(network, 0)
    assert_equal_executions(engine.execute(own, images), reference.execute(network, images))


@pytest.mark.parametrize("bits", [1, 9, -3])
def test_bits_of_a_damaged_file_are_refused(bits: int) -> None:
    network = random_network(1)
    wrong = tuple(replace(p, weight_bits=bits) for p in network.projections)
    with pytest.raises(ValueError, match=f"{bits} weight bits"):
        check_network(replace(network, projections=wrong))
    few = tuple(replace(p, weight_bits=2) if isinstance(p.synapse, Readout) else p for p in network.projections)
    with pytest.raises(ValueError, match=r"output: weights from .* in 2 bits"):
        check_network(replace(network, projections=few))


@pytest.mark.long
def test_attention_has_bits_and_no_weights() -> None:
    """Its synapses are ones: fewer bits take fewer words, and change no integer."""
    few = sd.compile("digits-v2", layer_bits={"block.0.attn.matmul": 2}, check=False).network
    all_bits = sd.compile("digits-v2", check=False).network
    assert few.digest() == all_bits.digest()
    assert [few.bits_of(p) for p in few.projections if isinstance(p.synapse, Attention)] == [2, 8]


@pytest.mark.parametrize(
    ("bits", "problem"),
    [
        (
            {"block.0.mlp.fc1_con": 4},
            r"'block\.0\.mlp\.fc1_con' is no layer .*; did you mean block\.0\.mlp\.fc1_conv\?",
        ),
        ({"input": 4}, r"'input' is no layer with weights or attention"),
        ({"head": 1}, r"1 bits for 'head', and the target has 2 to 8"),
        ({"head": 9}, r"9 bits for 'head', and the target has 2 to 8"),
        ({"head": 4.0}, r"4\.0 bits for 'head', and the target has 2 to 8"),
        ({"head": True}, r"True bits for 'head', and the target has 2 to 8"),
    ],
)
def test_layers_and_bits_that_there_are_not(bits: dict, problem: str) -> None:
    with pytest.raises(QuantizeError, match=f"^layer_bits: {problem}"):
        sd.compile("digits-v2", layer_bits=bits, check=False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("head = ", "it is no readable TOML"),
        ("", "it names no layer"),
        ('head = "4"', "head = '4', and bits are a whole number"),
        ("head = true", "head = True, and bits are a whole number"),
        ('a.b = 3\n"a.b" = 4', r"'a\.b' stands twice"),
    ],
)
def test_files_of_bits_that_make_no_sense(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "bits.toml").write_text(text)
    with pytest.raises(InputError, match=rf"bits\.toml: {problem}"):
        read_layer_bits(tmp_path / "bits.toml")


def test_names_with_and_without_quotes(tmp_path: Path) -> None:
    (tmp_path / "bits.toml").write_text('"block.0.fc1" = 4\nblock.0.fc2 = 5\nhead = 6\n')
    assert read_layer_bits(tmp_path / "bits.toml") == {"block.0.fc1": 4, "block.0.fc2": 5, "head": 6}


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    module, _ = model_and_images(SMALL["v2"])
    preprocess = Preprocess(3, 16, (0.5,) * 3, (0.25,) * 3)
    save(tmp_path / "m.safetensors", module, SMALL["v2"], preprocess, (), {}, {"head": 12})
    with pytest.raises(InputError, match=r"its header is damaged: layer_bits of head = 12"):
        load(tmp_path / "m.safetensors")
