"""Forged programs with a valid checksum: each is refused with one message, or means what it says in every executor.

Every kind of field is forged in turn.  What is accepted must run without an error that is none of ours, with the same
integers in the engine as in the reference, and without an overflow where it says `bounds: static`.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hostile.forging import forged_arrays, forged_structures, opened, sealed
from support.deep import some
from support.networks import dual_network, preprocess_of, random_images, random_network

from spikformer_deploy.base.errors import ModelError, OverflowDetected, ProgramError
from spikformer_deploy.base.values import digest
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.cli.inspect import inspect_file
from spikformer_deploy.cli.main import cli
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.inference.run import run
from spikformer_deploy.mapping.map import map_explained
from spikformer_deploy.network.network import Network
from spikformer_deploy.pipeline.program import Program, from_bytes, to_bytes

CHANGES = 3
"""Of each kind of field; tests with other seeds take others."""
NETWORKS = {
    "attention": lambda: random_network(3, 2, "programmable", 1, state_bits=24),
    "shortcuts": lambda: random_network(7, 2, "programmable", 1, True, state_bits=24),
    "stock": lambda: random_network(6, 2, "stock", 0, state_bits=24),
    "products": lambda: dual_network(6, 2, state_bits=24),
}
SECTIONS = ("network", "mapping", "profile", "preprocess", "labels", "provenance", "arrays")
CASES = [*product(NETWORKS, SECTIONS)]
FEW = [("attention", section) for section in ("network", "mapping", "preprocess", "labels")]
ALIKE = [("attention", "profile"), ("stock", "profile"), ("attention", "provenance"), ("shortcuts", "provenance")]
ALIKE += [("products", section) for section in SECTIONS if section not in ("network", "mapping")]
"""What does not depend on the network, which "shortcuts" or "stock" have too."""


@cache
def content_of(name: str) -> bytes:
    """A program as compile writes it, with all that it says of its origin."""
    network, profile = NETWORKS[name](), load_profile("kapoho_point" if name == "stock" else "loihi2")
    mapping, explained = map_explained(network, profile, {})
    origin = {
        "model_sha256": "0" * 64,
        "training": {"recipe": {"model": {"family": "v1", "depth": 2}}, "test_accuracy": 0.5},
        "settings": {"target": profile.name, "weight_bits": 8},
        "calibration": {"images": 4, "data": "random pixels"},
        "mapping": explained,
        "versions": {"numpy": "2.0"},
    }
    names = tuple("abcd"[: network.output.size])
    return to_bytes(Program(network, mapping, profile, preprocess_of(network), names, origin))


def accepted(content: bytes, what: str) -> Program | None:
    """The program; None where it is refused with one message."""
    try:
        return from_bytes(content, "forged.spk")
    except ProgramError as refused:
        message = str(refused)
    assert message.startswith("forged.spk: it"), what
    return None


def answer(executor: object, network: Network, images: np.ndarray) -> object:
    try:
        return executor.execute(network, images).accumulators.tolist()  # type: ignore[attr-defined]
    except OverflowDetected:
        return "overflow"


def assert_all_agree(network: Network, what: str) -> None:
    """On random images and on the brightest one."""
    images = random_images(network, 1, 2)
    for shown in (images, np.full_like(images, network.input.max_out)):
        right = answer(reference, network, shown)
        assert answer(engine, network, shown) == right, what
        assert network.bounds == "observed" or right != "overflow", what


def assert_reports(program: Program, what: str) -> None:
    """Times, energies and counts are numbers."""
    images = random_images(program.network, 1, 2)
    try:
        values = run(program, ImageSet(2, None, (), "", lambda part: images[part])).to_dict()
    except OverflowDetected:
        return
    assert json.dumps(values, allow_nan=False), what


@pytest.mark.parametrize(
    ("name", "section"), some(FEW, ALIKE, long=[c for c in CASES if c not in ALIKE and c not in FEW])
)
def test_every_field_has_a_law(name: str, section: str) -> None:
    content, rng = content_of(name), np.random.default_rng(len(name) + len(section))
    original = from_bytes(content, "file")
    if section == "arrays":
        forged = forged_arrays(content, rng, 2 * CHANGES)
    else:
        forged = forged_structures(content, section, rng, CHANGES)
    refused = 0
    for what, file in forged:
        program = accepted(file, what)
        if program is None:
            refused += 1
        elif section in ("network", "arrays"):
            assert_all_agree(program.network, what)
        else:
            assert digest(program.network) == digest(original.network), what
            if section in ("mapping", "profile"):
                assert_reports(program, what)
    assert refused >= (2 if section == "labels" else 5)


def test_the_unforged_files_are_accepted() -> None:
    for name in NETWORKS:
        structure, tensors = opened(content_of(name))
        assert sealed(structure, tensors) == content_of(name)
        assert from_bytes(content_of(name), "file")


def test_a_network_of_nothing_is_refused() -> None:
    structure, tensors = opened(content_of("stock"))
    structure["network"]["populations"] = []
    with pytest.raises(ProgramError, match=r"network\.populations: there are none"):
        from_bytes(sealed(structure, tensors), "file")


# --- what a released version accepted -----------------------------------------------------------------------------


def changed(name: str, place: str, field: str, value: object) -> bytes:
    """A program whose population or projection of index `place` has another number or array in its neuron."""
    structure, tensors = opened(content_of(name))
    index = next(i for i, p in enumerate(structure["network"]["populations"]) if p["neuron"]["type"] == place)
    neuron = structure["network"]["populations"][index]["neuron"]
    if isinstance(neuron[field], dict):
        array = tensors[neuron[field]["tensor"]]
        tensors[neuron[field]["tensor"]] = np.full_like(array, value)
    else:
        neuron[field] = value
    return sealed(structure, tensors)


@pytest.mark.parametrize("threshold", [-(2**62), -(2**63), -1, 2**23, 2**62])
@pytest.mark.parametrize("name", NETWORKS)
def test_thresholds_that_no_state_reaches(name: str, threshold: int) -> None:
    with pytest.raises(ProgramError, match=r"contradicts itself: .*threshold of -?\d+"):
        from_bytes(changed(name, "Lif", "threshold", threshold), "file")


@pytest.mark.parametrize("bias", [2**23, -(2**23), 2**62, -(2**63)])
@pytest.mark.parametrize(("name", "kind"), [("attention", "Lif"), ("shortcuts", "Stream"), ("stock", "Accumulator")])
def test_biases_beyond_the_state(name: str, kind: str, bias: int) -> None:
    with pytest.raises(ProgramError, match=r"contradicts itself: .*a bias of -?\d+ does not fit"):
        from_bytes(changed(name, kind, "bias", bias), "file")


@pytest.mark.long
def test_a_bias_that_just_fits_is_the_same_for_all() -> None:
    """Of a network whose ranges are observed: at the limit, either all report an overflow or all agree."""
    pytest.importorskip("onnxruntime")
    structure, tensors = opened(content_of("attention"))
    structure["network"]["bounds"] = "observed"
    for name in [n for n in tensors if n.endswith("neuron.bias")]:
        for value in (2**23 - 1, -(2**23) + 1):
            full = {**tensors, name: np.full_like(tensors[name], value)}
            network = from_bytes(sealed(structure, full), "file").network
            images = random_images(network, 0, 2)
            answers = [answer(e, network, images) for e in (reference, engine)]
            try:
                answers.append(answer(onnx_backend, network, images))
            except ModelError:
                answers.append(answers[0])
            assert answers[0] == answers[1] == answers[2], (name, value)


@pytest.mark.parametrize("odd", ["[/x]", "[bold]x", "a\x1b[31m", "a\nb", "名", "x" * 300])
def test_names_of_layers_mean_nothing_to_a_terminal(odd: str, tmp_path: Path) -> None:
    text = json.dumps(opened(content_of("stock"))[0])
    tensors = opened(content_of("stock"))[1]
    old = json.dumps("stem.0.lif")
    assert old in text
    path = tmp_path / "n.spk"
    path.write_bytes(sealed(json.loads(text.replace(old, json.dumps(odd))), tensors))
    program = Program.load(path)
    plain = from_bytes(content_of("stock"), "file").network
    images = random_images(plain, 0, 2)
    assert answer(engine, program.network, images) == answer(engine, plain, images)
    done = CliRunner().invoke(cli, ["inspect", str(path)])
    assert done.exit_code == 0, done.exception
    assert inspect_file(str(path), {})[1]["kind"] == "program"


# --- proven ranges --------------------------------------------------------------------------------------------------


def populations(structure: dict, *kinds: str) -> list[dict]:
    return [p for p in structure["network"]["populations"] if p["neuron"]["type"] in kinds]


@pytest.mark.parametrize("name", ["attention", "stock"])
def test_a_narrower_claim_than_the_proof_is_refused(name: str) -> None:
    structure, tensors = opened(content_of(name))
    assert structure["network"]["bounds"] == "static"
    for population in populations(structure, "Lif", "Accumulator"):
        for side, step in ((0, 1), (1, -1)):
            if population["bounds"][side]:
                population["bounds"][side] += step
                with pytest.raises(ProgramError, match=f"{population['name']}: its state is said to stay in"):
                    from_bytes(sealed(structure, tensors), "file")
                population["bounds"][side] -= step


def test_an_observed_range_is_not_called_proven() -> None:
    """A network whose worst case does not fit says `static`, each range as it is."""
    structure, tensors = opened(content_of("attention"))
    for population in populations(structure, "Lif"):
        population["neuron"]["shift"] = 17
        population["neuron"]["exact"] = False
    structure["network"]["bounds"] = "observed"
    assert from_bytes(sealed(structure, tensors), "file").network.bounds == "observed"
    structure["network"]["bounds"] = "static"
    with pytest.raises(ProgramError, match="is said to stay in"):
        from_bytes(sealed(structure, tensors), "file")


def test_an_exact_claim_of_a_decay_that_rounds_is_refused() -> None:
    structure, tensors = opened(content_of("attention"))
    lif = next(p for p in populations(structure, "Lif") if not p["neuron"]["exact"])
    lif["neuron"]["exact"] = True
    with pytest.raises(ProgramError, match="said to be exact"):
        from_bytes(sealed(structure, tensors), "file")
