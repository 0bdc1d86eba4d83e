"""The documents say what is there: files that they name exist, and the lists of docs/architecture.md are true."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from spikformer_deploy.executors.choose import EXECUTORS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = ("spikformer_deploy", "converters", "hw_profiles")
PRODUCT = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]


def stands(name: str) -> bool:
    """Whether a path of a document is a file: as it is, or inside the package."""
    return any((base / name).exists() for base in (ROOT, ROOT / "spikformer_deploy"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_documents_name_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|toml|md))`", page.read_text()))
    missing = sorted(name for name in named if "NAME" not in name and not stands(name))
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_documents_name_without_a_folder_exist(page: Path) -> None:
    known = {
        file.name for folder in (*ROOMS, "tests", "benchmarks", "examples") for file in (ROOT / folder).rglob("*.py")
    }
    written = {"run.py", "network.py"}  # by an export to Lava, by users
    missing = sorted(set(re.findall(r"`(\w+\.py)`", page.read_text())) - known - written)
    assert not missing


def listed(title: str) -> list[str]:
    """The files of the list below the heading `title`."""
    section = ARCHITECTURE.split(f"### {title}\n")[1].split("\n### ")[0]
    bullets = re.findall(r"^- (.*?):", section, re.MULTILINE)
    return [name for bullet in bullets for name in re.findall(r"`([^`]+\.(?:py|toml))`", bullet)]


@cache
def imports() -> set[tuple[str, str, str]]:
    """(file, module, name) of all `from module import name` of the product."""
    return {
        (file.relative_to(ROOT).as_posix().removeprefix("spikformer_deploy/"), node.module, alias.name)
        for file in PRODUCT
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def importers(name: str, module: str) -> set[str]:
    """The files of the product that import `name` from `module`."""
    return {file for file, source, imported in imports() if (source, imported) == (module, name)}


@pytest.mark.parametrize(
    ("title", "most"),
    [("a neuron", 16), ("an executor", 3), ("a family of models", 2), ("a constant of a chip", 5)],
)
def test_lists_are_short(title: str, most: int) -> None:
    assert 1 < len(listed(title)) <= most


def test_a_neuron_stands_where_the_list_says() -> None:
    """Stream, Or and Sum came like any other: no file beside those listed knows them."""
    files = set(listed("a neuron"))
    own = {name for name in files if "NAME" in name}
    quantization = {"quantization/stream_neurons.py", "quantization/pools.py", "quantization/joins.py"}
    assert own == {"quantization/NAME.py", "executors/lava/standalone/processes/NAME.py"}
    for kind in ("Stream", "Or", "Sum"):
        beside = importers(kind, "spikformer_deploy.network.neurons") - files - quantization
        assert not beside, kind


def naming(name: str) -> set[str]:
    """The files of the product whose code, not counting what they say of it, has the name of a class in it."""

    def has(node: ast.AST) -> bool:
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word) | ast.ClassDef(name=word):
                return word == name
        return False

    return {
        file.relative_to(ROOT).as_posix().removeprefix("spikformer_deploy/")
        for file in PRODUCT
        if name in (text := file.read_text()) and any(map(has, ast.walk(ast.parse(text))))
    }


def test_levels_touched_the_files_that_the_walk_says() -> None:
    """Those of the list, and those of the table below it: all of them, and no other."""
    section = ARCHITECTURE.split("### a neuron\n")[1].split("\n### ")[0]
    table = set(re.findall(r"`([^`]+\.py)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))))
    walk = {file.replace("NAME", "levels") for file in listed("a neuron")}
    assert len(table) == 18
    touched = naming("Levels")
    assert touched - walk - {"nn/levels.py"} == table - {"quantization/thermometer.py"}
    # the loops know its arrays, and not its class
    assert walk - touched == {"executors/fast/kernels.py"}
    for file in ("executors/fast/levels.py", "quantization/thermometer.py", *table):
        assert stands(file), file


def test_an_executor_stands_where_the_list_says() -> None:
    package = ROOT / "spikformer_deploy"
    naming = [file for file in package.rglob("*.py") if re.search(r"\bonnx\.prepare\b", file.read_text())]
    assert [file.name for file in naming] == ["choose.py"]
    assert set(EXECUTORS) == {"engine", "reference", "lava", "onnx"}


def test_a_family_stands_where_the_list_says() -> None:
    for family in (
        "qkformer",
        "spikingformer",
        "qsd_transformer",
        "max_former",
        "ms_qkformer",
        "seqsnn",
    ):
        parts = [file.name for file in PRODUCT if re.search(rf"\bnn\.{family}\b", file.read_text())]
        assert (importers(family, "spikformer_deploy.nn"), parts) == ({"nn/zoo.py"}, []), family


def test_the_glossary_has_thirty_four_words_of_one_sentence() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(rows) == 34
    for word, meaning in rows:
        text = re.sub(r"\(`[^)]*\)|`[^`]*`", "", meaning)
        assert text.rstrip().endswith("."), word
        assert text.count(". ") == 0, word


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    code = "".join(re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in PRODUCT)
    messages = re.findall(r"^\| `(.+?)`", page, re.MULTILINE)
    parts = {part.strip(" ,()") for message in messages for part in message.split("...")}
    missing = sorted(part for part in parts if part and part.lower() not in code.lower())
    assert len(messages) > 25
    assert missing == []


def test_what_silicon_confirms_is_what_its_table_says() -> None:
    """How many of the times and of the energies that set no constant are held, in all places that say so."""
    page, readme = ((ROOT / name).read_text() for name in ("docs/silicon.md", "README.md"))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if "| validates" in line
    ]
    energies = [row for row in rows if re.search(r"\b[un]J\b", row[2])]
    times = [row for row in rows if row not in energies]
    held = {name: (sum(row[-1] == "yes" for row in kind), len(kind)) for name, kind in (("t", times), ("e", energies))}
    (of_times, all_times), (of_energies, all_energies) = held["t"], held["e"]
    assert (
        f"{of_times} of {all_times} are times and orders of times, and {of_energies} of {all_energies} are energies"
        in page
    )
    assert (
        f"{of_times} of {all_times} validating times inside it, and {of_energies} of {all_energies} energies" in readme
    )
    assert f"{of_times + of_energies} of {len(rows)} that validate" in page
    # "No energy of Loihi 2 is validated": the cases with one are told to be of Loihi 1
    for case in {row[0] for row in energies}:
        assert re.search(rf"\*\*{case}\*\* \(Loihi 1,", page), case
    # a note of every run says "times better than energies"
    assert of_times / all_times > of_energies / all_energies
