"""Profiles as files: written and read back, refused with every error at once, and the schema that editors check by."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.profile import OPERATIONS, load_profile, profile_names
from spikformer_deploy.chips.written import as_toml, schema

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FILES = [path for path in (ROOT / "hw_profiles").glob("*.toml") if path.stem != OPERATIONS]
FILES.append(ROOT / "examples" / "own_target.toml")


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_is_written_and_read_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(as_toml(load_profile(name)))
    assert load_profile(path) == load_profile(name)


def test_names_and_words_of_any_kind_are_written(tmp_path: Path) -> None:
    profile = load_profile("loihi2")
    corner = 'a "b".c\\\x7f\t\n'
    odd = attrs.evolve(profile, name='µ "x" #\u2028', corner=corner, corners={corner: profile.energy})
    path = tmp_path / "odd.toml"
    path.write_text(as_toml(odd), encoding="utf-8")
    assert load_profile(path) == odd


def test_every_error_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'name = "x"\nbase = "loihi2"\ncorner = "best"\n[core.memory_word]\nvalue = 3\n'
        '[core.neurons]\nvalue = -3\nunit = "neuron"\nkind = "dreamt"\nsorce = "s"\n'
        '[time.synapse_conv]\nvalue = "3"\nunit = "us"\nkind = "guess"\nsource = "s"\n[powr]\n'
    )
    with pytest.raises(InputError) as raised:
        load_profile(path)
    lines = [line.strip() for line in str(raised.value).splitlines()[1:-1]]
    assert sorted(re.findall(r"@ (\S+) \(line (\d+)\)$", line)[0] for line in lines) == [
        ("$.core.memory_word", "4"),
        ("$.core.neurons.kind", "9"),
        ("$.core.neurons.sorce", "10"),
        ("$.core.neurons.source", "6"),
        ("$.core.neurons.unit", "8"),
        ("$.core.neurons.value", "7"),
        ("$.corner", "3"),
        ("$.powr", "16"),
        ("$.time.synapse_conv.unit", "13"),
        ("$.time.synapse_conv.value", "12"),
    ]
    assert [line for line in lines if "nearest" in line] == [
        "unknown key, the nearest is 'power' @ $.powr (line 16)",
        "unknown key, the nearest is 'memory_words' @ $.core.memory_word (line 4)",
        "unknown key, the nearest is 'source' @ $.core.neurons.sorce (line 10)",
    ]


def test_a_text_of_several_lines_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\nbase = "loihi2"\ndescription = """\n[powr]\n"""\n[powr]\n')
    with pytest.raises(InputError, match=r"'power' @ \$\.powr\n"):
        load_profile(path)


def test_corners_are_tables_of_energy(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\nbase = "loihi2"\n[corners.mine.synapse]\nvalue = 3\n')
    with pytest.raises(InputError, match=r"'corners', and corners are tables of 'energy'\n.*\[energy\.NAME"):
        load_profile(path)
    path.write_text('name = "x"\nbase = "loihi2"\nqqq = 3\n')
    with pytest.raises(InputError, match=r"unknown key; known: .*board, energy @ \$\.qqq"):
        load_profile(path)


HEX, DEEP = f"0x{'f' * 5000}", ".a" * 3000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"base = {HEX}", "its base, a whole number of 20,000 bits, is no known target"),
        (f"base{DEEP} = 1", "its base, a table, is no known target"),
        (f'base = "loihi2"\nname{DEEP} = 1', r"a table is no text @ \$\.name"),
        (f'base = "loihi2"\ntime.hop_tile.value = {HEX}', "20,000 bits is no finite number"),
        (f'base = "loihi2"\ntime.hop_tile.value = {HEX}\ntime.hop_tile.range = [0, 1]', "20,000 bits is no finite"),
        (f'base = "loihi2"\nchip.tiles_x.range = [0, {HEX}]', "20,000 bits is no finite number"),
        ('base = "loihi2"\n' + "\n".join(f"k{i} = 1" for i in range(100_000)), r"\n  and 99,95[01] more\n"),
        (f'base = "loihi2"\n{"k" * 10**6} = 1', r"unknown key; .*kkk\.\.\."),
        (f'base = "loihi2"\ntime.hop_tile.kind = "{"k" * 10**6}"', r"there is no kind 'kk.*"),
        (
            'base = "loihi2"\ncorner = "best"\n' + "".join(f"energy.c{i}.synapse.range = [1, 2]\n" for i in range(300)),
            r"\n  and [\d,]+ more\n",
        ),
    ],
    ids=range(10),
)
def test_hostile_files_are_refused_in_few_words(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=problem) as raised:
        load_profile(path)
    assert len(str(raised.value)) < 20_000


# --- the schema --------------------------------------------------------------------------------------------------


def against(value: Any, law: dict[str, Any], path: str = "$") -> list[str]:
    """Where `value` breaks a JSON schema of the words that ours has."""
    known = {"$schema", "title", "description", "type", "properties", "additionalProperties", "required", "if", "else"}
    known |= {"dependentRequired", "minProperties", "enum", "const", "minimum", "maximum", "exclusiveMinimum"}
    assert law.keys() <= known | {"multipleOf", "pattern", "items", "minItems", "maxItems"}
    types = {"object": dict, "string": str, "array": list, "number": (int, float)}
    if "type" in law and (not isinstance(value, types[law["type"]]) or isinstance(value, bool)):
        return [path]
    wrong = []
    if isinstance(value, dict):
        properties, more = law.get("properties", {}), law.get("additionalProperties", {})
        wrong += [f"{path}.{key}" for key in law.get("required", ()) if key not in value]
        for key, needed in law.get("dependentRequired", {}).items():
            wrong += [f"{path}.{name}" for name in needed if key in value and name not in value]
        for key, inner in value.items():
            if key not in properties and more is False:
                wrong.append(f"{path}.{key}")
            else:
                wrong += against(inner, properties.get(key, more), f"{path}.{key}")
        wrong += [path] * (len(value) < law.get("minProperties", 0))
    elif isinstance(value, list):
        wrong += [path] * (not law.get("minItems", 0) <= len(value) <= law.get("maxItems", math.inf))
        wrong += [
            place for i, item in enumerate(value) for place in against(item, law.get("items", {}), f"{path}[{i}]")
        ]
    elif isinstance(value, str):
        wrong += [path] * (re.search(law.get("pattern", ""), value) is None)
    else:
        inside = law.get("minimum", -math.inf) <= value <= law.get("maximum", math.inf)
        inside = inside and law.get("exclusiveMinimum", -math.inf) < value
        whole = "multipleOf" not in law or value % law["multipleOf"] == 0
        wrong += [path] * (not (inside and whole))
    wrong += [path] * ((value not in law.get("enum", [value])) or value != law.get("const", value))
    if "if" in law and against(value, law["if"], path):
        wrong += against(value, law["else"], path)
    return wrong


def judged(value: Any) -> list[str]:
    """Where a file breaks our schema; by jsonschema, too, where it is installed."""
    law = schema()
    wrong = against(value, law)
    try:
        import jsonschema
    except ImportError:
        return wrong
    jsonschema.Draft202012Validator.check_schema(law)
    assert bool(wrong) != jsonschema.Draft202012Validator(law).is_valid(value)
    return wrong


@pytest.mark.long
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_profile_keeps_the_schema(path: Path) -> None:
    assert judged(tomllib.loads(path.read_text())) == []
    json.dumps(schema(), allow_nan=False)


def test_a_file_with_a_base_needs_a_name() -> None:
    assert judged({"base": "loihi2"}) == ["$.name"]
    assert judged({"base": "loihi2", "name": "mine"}) == []


WRONG = {
    "core.memory_words.value": 0.5,
    "core.section_words.value": 0,
    "core.neurons.value": 2**31 + 1,
    "core.parameter_sets.value": "8",
    "core.message_bits.value": 65,
    "core.programmable.value": 2,
    "time.link_rate.value": 0,
    "time.chip_link_rate.unit": "ns",
    "time.synapse_conv.value": 2e12,
    "time.synapse_dense.value": -1,
    "time.synapse_sparse.range": [0.1],
    "time.neuron_update.kind": "dreamt",
    "time.spike_out.source": " ",
    "time.axon_in.secret": 1,
    "time.secret": {},
    "power.static_chip": None,
    "power.static_board.unit": None,
    "energy.pilotnet-fit.synapse.unit": "nJ",
    "name": " ",
    "corner": None,
    "secret": 1,
    "board": None,
    "chip": 3,
}
"""What is wrong, by its place; None: it is missing."""


def test_the_schema_and_the_check_refuse_the_same(tmp_path: Path) -> None:
    whole = tomllib.loads(as_toml(load_profile("loihi2")))
    for path, value in WRONG.items():
        *way, last = path.split(".")
        section: Any = whole
        for key in way:
            section = section[key]
        if value is None:
            del section[last]
        else:
            section[last] = value
    assert {place.removeprefix("$.").removesuffix("[0]") for place in judged(whole)} == set(WRONG)
    (tmp_path / "bad.toml").write_text(as_file(whole))
    with pytest.raises(InputError) as raised:
        load_profile(tmp_path / "bad.toml")
    found = re.findall(r"@ \$\.(\S+)", str(raised.value))
    # a value that its field cannot have is a problem of the number, and one outside its range is one of the range
    assert {re.sub(r"\.(value|unit|range)$", "", path) for path in found} == {
        re.sub(r"\.(value|unit|range)$", "", path) for path in WRONG
    }


def test_a_profile_without_energies(tmp_path: Path) -> None:
    whole = {**tomllib.loads(as_toml(load_profile("loihi2"))), "energy": {}}
    assert judged(whole) == ["$.energy"]
    (tmp_path / "bad.toml").write_text(as_file(whole))
    with pytest.raises(InputError, match="nominal corner 'pilotnet-fit' is none of its energies"):
        load_profile(tmp_path / "bad.toml")


def as_file(value: dict[str, Any]) -> str:
    """Plain values as TOML: every table in one line."""

    def inline(inner: Any) -> str:
        if isinstance(inner, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in inner.items()) + "}"
        return json.dumps(inner)

    return "".join(f"{key} = {inline(item)}\n" for key, item in value.items())
