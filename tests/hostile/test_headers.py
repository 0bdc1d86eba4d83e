"""Every value of a NIR graph, a recipe and a checkpoint's header in turn is something else: one message, or a model."""

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.forging import HOSTILE
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as safetensors_bytes
from support.chains import chain
from support.deep import some
from support.models import SMALL

from spikformer_deploy.base.errors import SpikdeployError
from spikformer_deploy.converters.checkpoints.read import load, save
from spikformer_deploy.converters.nir import write as nir_export
from spikformer_deploy.converters.nir.read import read_model
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.nn.zoo import build
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.training.recipe import read_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

h5py = pytest.importorskip("h5py")
EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_v2.toml"
FRAMES = Preprocess(2, 8, (0.0, 0.0), (1.0, 1.0), 1, 6)
IN_HDF5 = (
    np.zeros(0), np.zeros((2, 2)), np.full(2, 0.5), np.array([np.nan]), np.array([np.inf, 1]), np.array(-1),
    np.array(0), np.array(2**62), np.array([1, 2, 3]), np.ones((3, 3, 3, 3)), np.array(True), "word", "",
    np.array(["a", "b"], dtype=object), None, "group",
)  # fmt: skip
"""In place of any array or word; None: left out, "group": a group."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def with_value(value: Any, path: tuple[Any, ...], hostile: Any) -> Any:
    changed = copy.deepcopy(value)
    of = changed
    for key in path[:-1]:
        of = of[key]
    of[path[-1]] = hostile
    return changed


def read_or_refused(read: Any, path: Path, what: str) -> bool:
    """Whether a file is refused with one message; anything else that is raised is an error of ours."""
    try:
        read(path)
    except SpikdeployError as refused:
        message = str(refused)
    else:
        return False
    assert message, what
    return True


@pytest.mark.long
@pytest.mark.parametrize("changes", some([2], [len(IN_HDF5)]))
def test_nir_graphs(changes: int, tmp_path: Path) -> None:
    good = tmp_path / "good.nir"
    nir_export.write_model(chain(0, dyadic=False), good, FRAMES, (), {})
    names: list[str] = []
    with h5py.File(good) as file:
        file["node"].visititems(lambda name, _: names.append(name))
    rng, refused = np.random.default_rng(0), 0
    for name in names:
        for number in rng.permutation(len(IN_HDF5))[:changes]:
            hostile = IN_HDF5[number]
            path = tmp_path / "changed.nir"
            path.write_bytes(good.read_bytes())
            with h5py.File(path, "a") as file:
                del file[f"node/{name}"]
                if isinstance(hostile, str) and hostile == "group":
                    file.create_group(f"node/{name}")
                elif hostile is not None:
                    file[f"node/{name}"] = hostile
            refused += read_or_refused(lambda p: read_model(p, time_steps=3, dt=1e-4), path, f"{name} {number}")
    assert refused > changes * len(names) / 2


def test_numbers_of_a_nir_are_not_cut(tmp_path: Path) -> None:
    """A stride of 1.5 is no stride of 1."""
    path = tmp_path / "a.nir"
    nir_export.write_model(chain(0, dyadic=True), path, FRAMES, (), {})
    with h5py.File(path, "a") as file:
        del file["node/nodes/conv1/stride"]
        file["node/nodes/conv1/stride"] = np.array([1.5, 1.0])
    with pytest.raises(SpikdeployError, match=r"conv1: its stride is \[1.5, 1.0\], and must be whole numbers"):
        read_model(path)


def test_notes_of_before_with_infinity_are_read(tmp_path: Path) -> None:
    """Neurons that forget nothing had a tau of Infinity in them."""
    graph = chain(0, dyadic=False)
    path = tmp_path / "a.nir"
    nir_export.write_model(graph, path, FRAMES, (), {})
    with h5py.File(path, "a") as file:
        entry = file["node/metadata/spikformer_deploy"][()].decode()
        assert '"tau": null' in entry
        del file["node/metadata/spikformer_deploy"]
        file["node/metadata/spikformer_deploy"] = entry.replace('"tau": null', '"tau": Infinity')
    assert read_model(path).graph.digest() == graph.digest()


def toml(value: Any) -> str:
    """A value in TOML; tables stand inline."""
    match value:
        case None:
            return '""'
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f'"{k}" = {toml(v)}' for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            return json.dumps(value)
        case _:
            return repr(value)


def test_recipes(tmp_path: Path) -> None:
    good, path = tomllib.loads(EXAMPLE.read_text()), tmp_path / "changed.toml"
    refused = 0
    for place in places(good):
        for hostile in HOSTILE:
            changed = with_value(good, place, hostile)
            path.write_text("\n".join(f'"{key}" = {toml(value)}' for key, value in changed.items()))
            refused += read_or_refused(read_recipe, path, f"{place} {hostile!r}")
    assert refused > 10 * len(list(places(good)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, config = tmp_path_factory.mktemp("checkpoint") / "good.safetensors", SMALL["cifar"]
    training = {"recipe": {"model": {"depth": 1}}, "test_accuracy": 0.5}
    labels = tuple(map(str, range(config.num_classes)))
    save(path, build(config), config, Preprocess(3, 16, (0.5,) * 3, (0.25,) * 3), labels, training)
    return path


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["spikformer_deploy"])


def test_headers_of_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    header, tensors, path = header_of(checkpoint), tensors_of(checkpoint.read_bytes()), tmp_path / "changed.safetensors"
    rng = np.random.default_rng(0)
    refused = 0
    for place in places(header):
        for hostile in (HOSTILE[i] for i in rng.permutation(len(HOSTILE))[:5]):
            changed = with_value(header, place, hostile)
            path.write_bytes(safetensors_bytes(tensors, {"spikformer_deploy": json.dumps(changed)}))
            refused += read_or_refused(load, path, f"{place} {hostile!r}")
    assert refused > 3 * len(list(places(header)))


@pytest.mark.parametrize("labels", [["a"], [None] * 10, [1] * 10, "abcdefghij", {}, [["a"]] * 10])
def test_class_names_are_words_one_a_class(checkpoint: Path, labels: Any, tmp_path: Path) -> None:
    changed, path = {**header_of(checkpoint), "labels": labels}, tmp_path / "changed.safetensors"
    path.write_bytes(safetensors_bytes(tensors_of(checkpoint.read_bytes()), {"spikformer_deploy": json.dumps(changed)}))
    with pytest.raises(SpikdeployError, match="class name"):
        load(path)


def test_names_for_other_classes_are_refused_before_a_program_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.nir"
    nir_export.write_model(chain(0, dyadic=True), path, FRAMES, ("one", "too", "many", "names"), {})
    with pytest.raises(SpikdeployError, match="4 class names for 3 classes"):
        compile_model(path, check=False)
