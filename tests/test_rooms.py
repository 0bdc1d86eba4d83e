"""The house: which room may import which (.importlinter), and names that stay what they are."""

import ast
import itertools
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.deep import some

import spikformer_deploy as sd
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.quantization.build import Pixels
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings

ROOT = Path(__file__).parents[1]
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]


def linted(root: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    return subprocess.run([*LINT, "--no-cache"], cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product with the folders that are links in it as folders: the paths that are imported."""
    pytest.importorskip("importlinter")
    root = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "spikformer_deploy", root / "spikformer_deploy", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / ".importlinter", root)
    return root


WRONG = [
    ("network/network.py", "executors.reference"),
    ("converters/kinds.py", "pipeline.stages"),
    ("converters/nir/read.py", "executors.execution"),
    ("hw_profiles/__init__.py", "chips.profile"),
    ("training/recipe.py", "accounting.energy"),
    ("operators/rules.py", "report.operations"),
    ("report/data.py", "executors.choose"),
    ("executors/fast/engine.py", "executors.reference"),
    ("data/read.py", "torch"),
    ("inference/run.py", "distributed"),
]
"""Files, and what they must not import: of the product, or another package."""


def test_no_import_runs_back_up(house: Path) -> None:
    done = linted(house)
    assert done.returncode == 0, done.stdout


def test_every_wrong_import_is_found(house: Path) -> None:
    """Each by its own file, in one look at all of them."""
    before = {house / "spikformer_deploy" / file: "" for file, _ in WRONG}
    for (_, wanted), path in zip(WRONG, before, strict=True):
        before[path] = path.read_text()
        room, _, name = wanted.rpartition(".")
        line = f"from spikformer_deploy.{room} import {name}" if room else f"import {name}"
        path.write_text(f"{before[path]}\n{line}\n")
    try:
        done = linted(house)
    finally:
        for path, text in before.items():
            path.write_text(text)
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    for file, wanted in WRONG:
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        whole = f"spikformer_deploy.{wanted}" if "." in wanted else wanted
        assert f"spikformer_deploy.{module} -> {whole} (l." in said, file


def test_a_room_that_no_layer_names_is_found(house: Path) -> None:
    attic = house / "spikformer_deploy" / "attic"
    attic.mkdir()
    (attic / "__init__.py").write_text("")
    try:
        done = linted(house)
    finally:
        shutil.rmtree(attic)
    assert done.returncode == 1
    assert "attic" in done.stdout


def test_no_public_name_is_a_module() -> None:
    modules = {path.stem for path in (ROOT / "spikformer_deploy").iterdir()}
    assert not modules & set(sd.__all__)


@pytest.mark.long
@pytest.mark.parametrize("seed", some([0], [1, 2]))
def test_public_names_stay_what_they_are(seed: int) -> None:
    """In any order, with every module of the package imported in between."""
    names = sorted(sd.__all__)
    random.Random(seed).shuffle(names)
    code = """
import importlib, pkgutil, sys
import spikformer_deploy as sd
names = sys.argv[1:]
first = {name: getattr(sd, name) for name in names}
assert all(map(callable, first.values())), first
for module in pkgutil.walk_packages(sd.__path__, "spikformer_deploy."):
    if "standalone" not in module.name:
        importlib.import_module(module.name)
assert {name: getattr(sd, name) for name in reversed(names)} == first
"""
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_every_step_works_twice(tmp_path: Path) -> None:
    """What the names do, called twice in one process."""

    def story() -> tuple[list[int], bool, list[int]]:
        model = sd.load("digits-v2")
        graph = sd.trace(model.module, model.input_shape, time_steps=model.time_steps)
        folded, profile = simplify(fold_batch_norm(graph)), load_profile("loihi2")
        pixels = Pixels(model.preprocess.mean, model.preprocess.std, model.preprocess.max_value)
        ranges = Calibration(folded, torch.zeros(1, *model.input_shape))
        network = sd.quantize(folded, pixels, ranges, profile.limits, Settings())
        assert len(sd.map_network(network, profile, {}).boxes) > 0
        program = sd.compile(model, target="loihi2")
        verdict = sd.verify(program, "digits", limit=4)
        found = sd.run(program, "digits", limit=4)
        found.report(tmp_path / "report.html")
        sd.export(program, "onnx", tmp_path / "program.onnx")
        energies = sd.account(program.network, found.events)
        assert isinstance(found, sd.Run)
        assert isinstance(program, sd.Program)
        assert len(graph.nodes) > 10
        return found.predictions.tolist(), verdict.passed, [round(e.total.nominal * 1e9) for e in energies]

    assert story() == story()


def test_public_names_are_listed_and_typed() -> None:
    """What type checkers read, what is imported when a name is used, and what `dir` lists are the same names."""
    tree = ast.parse((ROOT / "spikformer_deploy" / "__init__.py").read_text())
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: f"spikformer_deploy.{module}" for name, module in sd._PUBLIC.items()}
    assert set(sd.__all__) <= set(dir(sd))
    with pytest.raises(AttributeError, match="no attribute 'Programm'"):
        _ = sd.Programm


def test_importing_needs_no_torch_and_no_numba() -> None:
    code = "import sys, spikformer_deploy; print([m for m in ('torch', 'numba', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_all_orders_of_two_names() -> None:
    """Whatever is asked for first, the second is the same function."""
    expected = {name: getattr(sd, name) for name in sd.__all__}
    for one, other in itertools.permutations(sd.__all__, 2):
        assert (getattr(sd, one), getattr(sd, other)) == (expected[one], expected[other])
