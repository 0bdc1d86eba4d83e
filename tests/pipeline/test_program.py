"""The program file: everything comes back, the same bytes for the same program, and no damage goes unseen."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hostile.forging import opened
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import examples
from support.networks import graded_network, preprocess_of, random_images, random_network

from spikformer_deploy.base.errors import InputError, ProgramError
from spikformer_deploy.base.values import digest
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.cli.inspect import inspect_file
from spikformer_deploy.converters.kinds import Kind, kind_of
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.neurons import Accumulator, Levels
from spikformer_deploy.pipeline.program import Program, from_bytes, to_bytes


def program_of(seed: int, blocks: int = 1) -> Program:
    network = random_network(seed, blocks=blocks, state_bits=24)
    profile = load_profile("kapoho_point")
    mapping = map_network(network, profile, {})
    labels = tuple("abcd"[: network.output.size])
    return Program(network, mapping, profile, preprocess_of(network), labels, {"settings": {"weight_bits": 8}})


SMALL = to_bytes(program_of(1, blocks=0))


@examples(8, 60)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_everything_comes_back(seed: int, blocks: int) -> None:
    program = program_of(seed, blocks)
    content = to_bytes(program)
    again = from_bytes(content, "file")
    assert to_bytes(again) == content
    assert again.network.digest() == program.network.digest()
    assert digest(again.mapping) == digest(program.mapping)
    assert again.profile == program.profile
    images = random_images(program.network, seed)
    np.testing.assert_array_equal(
        engine.execute(again.network, images).accumulators, engine.execute(program.network, images).accumulators
    )


def test_integer_neurons_come_back_and_are_shown(tmp_path: Path) -> None:
    """Levels and an attention whose v is wider than q and k: the same bytes, and what they are, for a person."""
    network, profile = graded_network(1, 2, 24), load_profile("loihi2")
    mapping = map_network(network, profile, {})
    program = Program(network, mapping, profile, preprocess_of(network), tuple("abc"), {})
    program.save(tmp_path / "a.spk")
    again = Program.load(tmp_path / "a.spk")
    assert to_bytes(again) == to_bytes(program)
    assert again.network.digest() == network.digest()
    wide = {name: again.network[f"graded.{name}"].shape[0] for name in "qkv"}
    assert wide["q"] == wide["k"] < wide["v"]
    attended = again.network["graded.attn"].neuron
    assert isinstance(attended, Levels)
    shown = f"graded.attn: {wide['v']}x3x4 Levels[{attended.count} {attended.rounding} decay={attended.decay} "
    assert shown in again.network.dump()
    names = {site["name"] for site in inspect_file(str(tmp_path / "a.spk"), {})[1]["sites"]}
    assert {"graded.head", "graded.attn.counters0", "graded.attn"} <= names


def test_save_and_load(tmp_path: Path) -> None:
    program = program_of(2)
    for name in ("a.spk", "b.spk"):
        program.save(tmp_path / name)
    assert (tmp_path / "a.spk").read_bytes() == (tmp_path / "b.spk").read_bytes()
    assert Program.load(tmp_path / "a.spk").digest() == program.digest()
    assert kind_of(tmp_path / "a.spk") is Kind.PROGRAM
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.spk", "b.spk"]
    with pytest.raises(InputError, match="cannot be written"):
        program.save(tmp_path / "missing" / "a.spk")
    with pytest.raises(InputError, match="there is no such file"):
        Program.load(tmp_path / "c.spk")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(SMALL) * 8 - 1))
def test_every_flipped_bit_is_found(bit: int) -> None:
    damaged = bytearray(SMALL)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProgramError):
        from_bytes(bytes(damaged), "file")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(SMALL) - 1))
def test_every_truncation_is_found(length: int) -> None:
    with pytest.raises(ProgramError):
        from_bytes(SMALL[:length], "file")


def test_added_bytes_are_found() -> None:
    with pytest.raises(ProgramError):
        from_bytes(SMALL + b"\0", "file")


def test_foreign_files(tmp_path: Path) -> None:
    from safetensors.numpy import save

    with pytest.raises(ProgramError, match="something else"):
        from_bytes(save({"x": np.zeros(3)}), "file")
    with pytest.raises(ProgramError, match="no readable program"):
        from_bytes(b"PK\x03\x04" + bytes(100), "file")
    with pytest.raises(ProgramError, match="a model, not a program"):
        from_bytes(save({"x": np.zeros(3)}, {"spikformer_deploy": '{"kind": "checkpoint"}'}), "file")
    with pytest.raises(ProgramError, match="format 99"):
        from_bytes(save({"x": np.zeros(3)}, {"spikformer_deploy": '{"format": 99}'}), "file")


def test_a_program_that_contradicts_itself_is_refused() -> None:
    """A well-formed file with a valid checksum, whose network reads a population that does not exist."""
    program = program_of(1, blocks=0)
    network = program.network
    first = replace(network.projections[0], sources=("nobody",))
    fields = {n: getattr(network, n) for n in network.__dataclass_fields__ if not n.startswith("_")}
    broken = type(network)(**(fields | {"projections": (first, *network.projections[1:])}))
    with pytest.raises(ProgramError, match="contradicts itself"):
        from_bytes(to_bytes(replace(program, network=broken)), "file")


def test_fields_that_came_later_are_left_out_at_their_defaults() -> None:
    """Files that were written before a field came are read, and keep their bytes."""
    program = program_of(1, blocks=0)
    *others, head = program.network.populations
    assert isinstance(head.neuron, Accumulator)
    summing = replace(head, neuron=replace(head.neuron, last=False))
    network = replace(program.network, populations=(*others, summing), bounds="observed")
    content = to_bytes(replace(program, network=network))
    structure = json.dumps(opened(content)[0]["network"])
    assert '"bias"' in structure
    for field in ("strict", "rounding", "last"):
        assert f'"{field}"' not in structure
    assert to_bytes(from_bytes(content, "file")) == content
