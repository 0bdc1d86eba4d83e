"""docs/program-file.md: a program is read by it with numpy and a JSON parser alone, and it names all there is."""

import hashlib
import json
import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.networks import graded_network, preprocess_of, random_network

from spikformer_deploy.base.flat import LATER
from spikformer_deploy.chips.profile import from_dict, load_profile
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network import neurons, synapses
from spikformer_deploy.network.mapping import Mapping, Site
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.pipeline.program import FORMAT, LARGEST_FILE, Program

PAGE = (Path(__file__).parents[2] / "docs" / "program-file.md").read_text()
DTYPES = dict(re.findall(r"\| `([IF]\d+)` \| `(<\w+)` \|", PAGE))
SECTIONS = (Network, Population, Projection, Mapping, Site, Preprocess)
NEURONS = (neurons.Source, neurons.Lif, neurons.Levels, neurons.And, neurons.Stream, neurons.Accumulator)
KINDS = (synapses.Conv, synapses.Window, synapses.Readout, synapses.Attention, synapses.DualSpike)


def read_by_the_page(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(structure without its checksum, tensors), as the page says."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    structure = json.loads(header.pop("__metadata__")["spikformer_deploy"])
    data = content[8 + length :]
    tensors = {}
    for name, said in header.items():
        first, end = said["data_offsets"]
        tensors[name] = np.frombuffer(data[first:end], DTYPES[said["dtype"]]).reshape(said["shape"])
    assert sum(tensor.nbytes for tensor in tensors.values()) == len(data)
    stated = structure.pop("sha256")
    state = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for name in sorted(tensors):
        state.update(f"{name}{tensors[name].dtype.str}{tensors[name].shape}".encode())
        state.update(tensors[name].tobytes())
    assert state.hexdigest() == stated
    return structure, tensors


def compare(raw: Any, value: Any, tensors: dict[str, np.ndarray], place: str) -> None:
    """What was read by the page is `value`, field by field."""
    if is_dataclass(value):
        assert raw["type"] == type(value).__name__
        for field in (f for f in fields(value) if f.init):
            member = getattr(value, field.name)
            if field.name not in raw:
                assert field.metadata[LATER]
                assert member == field.default
            else:
                compare(raw[field.name], member, tensors, f"{place}.{field.name}")
    elif isinstance(value, np.ndarray):
        assert raw == {"tensor": place}
        assert (tensors[place].dtype, tensors[place].shape) == (value.dtype, value.shape)
        assert np.array_equal(tensors.pop(place), value)
    elif isinstance(value, (tuple, list)):
        assert len(raw) == len(value)
        for number, item in enumerate(value):
            compare(raw[number], item, tensors, f"{place}.{number}")
    else:
        assert raw == (value.value if isinstance(value, Enum) else value)


@pytest.mark.parametrize(
    "network",
    [random_network(1, state_bits=24), random_network(2, kind="stock", state_bits=24), graded_network(1, 2, 24)],
    ids=["spikes", "stock", "integers"],
)
def test_a_program_is_read_by_the_page(network: Network, tmp_path: Path) -> None:
    profile = load_profile("loihi2")
    labels = tuple("abcdefghij"[: network.output.size])
    path = tmp_path / "a.spk"
    mapping = map_network(network, profile, {})
    Program(network, mapping, profile, preprocess_of(network), labels, {"settings": {"word": "ü"}}).save(path)
    structure, tensors = read_by_the_page(path.read_bytes())
    program = Program.load(path)
    keys = re.findall(r"^\| `(\w+)` \|", PAGE.split("## Structure")[1].split("**Checksum.**")[0], re.MULTILINE)
    assert {*structure, "sha256"} == set(keys)
    assert structure["format"] == FORMAT
    assert f"version of the format: {FORMAT} " in PAGE
    for name in ("network", "mapping", "preprocess"):
        compare(structure[name], getattr(program, name), tensors, name)
    assert tensors == {}
    assert from_dict(structure["profile"]) == program.profile
    assert (tuple(structure["labels"]), structure["provenance"]) == (program.labels, program.provenance)


def rows(table: str) -> dict[str, str]:
    """Name and type of each row of a table."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))


def table_of(kind: type) -> dict[str, str]:
    if kind in SECTIONS:
        return rows(PAGE.split(f"### {kind.__name__}\n")[1].split("\n### ")[0].split("\n## ")[0])
    return rows(PAGE.split(f"| `{kind.__name__}` | type | what |\n")[1].split("\n\n")[0])


@pytest.mark.parametrize("kind", [*SECTIONS, *NEURONS, *KINDS], ids=lambda kind: kind.__name__)
def test_every_field_is_on_the_page(kind: type) -> None:
    said = table_of(kind)
    assert list(said) == [field.name for field in fields(kind) if field.init]
    for field in fields(kind):
        if field.init:
            default = field.default if not isinstance(field.default, tuple) else list(field.default)
            later = f"later ({json.dumps(default)})".replace(".0)", ")") if field.metadata.get(LATER) else ""
            assert said[field.name].endswith(later), field.name
            assert ("later" in said[field.name]) == bool(later)


def test_every_neuron_and_synapse_is_on_the_page() -> None:
    bare = {kind.__name__ for kind in (neurons.Or, neurons.Sum, neurons.Max)}
    assert {kind.__name__ for kind in NEURONS} | bare == {kind.__name__ for kind in neurons.Neuron.__args__}
    assert set(KINDS) == set(synapses.Synapse.__args__)
    assert "| `Or`, `Sum`, `Max` | type |" in PAGE
    assert not any(fields(getattr(neurons, name)) for name in bare)


def test_the_limits_are_those_of_the_reader() -> None:
    assert DTYPES == {"I8": "<i1", "I64": "<i8", "F64": "<f8"}
    assert LARGEST_FILE == 4 * 2**30
    assert "at most 4 GiB" in PAGE
