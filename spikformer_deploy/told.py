"""The law of what a file says beside its numbers: images, class names, the training, where a program comes from.

Nothing here changes a spike; it decides how images become pixels, what a class is called and what a report prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spikformer_deploy.images import Preprocess
from spikformer_deploy.mapping.partition import SERIALS
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Source

ORIGIN = ("calibration", "mapping", "model_sha256", "settings", "training", "versions")
"""What `compile` writes of where a program comes from."""
MOST = 2**53
"""Of anything that is counted or expected."""


def check_images(preprocess: Preprocess, network: Network) -> None:
    """Raise ValueError where images would become other pixels than the network was made for."""
    source = network.input.neuron
    assert isinstance(source, Source)
    said = (preprocess.channels, *preprocess.extent)
    demand(said == network.input.shape, f"images of {said}, and the network takes {network.input.shape}")
    demand(preprocess.max_value == source.max_value, f"pixels up to {preprocess.max_value} and {source.max_value}")
    for what, own, of_network in (("mean", preprocess.mean, network.mean), ("std", preprocess.std, network.std)):
        demand(list(own) == of_network.tolist(), f"a {what} of {own}, and of {of_network.tolist()} in the network")


def class_names(raw: Any, classes: int) -> tuple[str, ...]:
    """The names of classes in plain values: none, or one a class.  Raises ValueError for anything else."""
    demand(isinstance(raw, Sequence) and not isinstance(raw, str), f"class names {shown(raw)}")
    odd = [name for name in raw if not isinstance(name, str)]
    demand(not odd, f"a class name of {shown(odd[0]) if odd else ''}")
    demand(len(raw) in (0, classes), f"{len(raw)} class names for {classes} classes")
    return tuple(raw)


def training_of(raw: Any) -> dict[str, Any]:
    """What a file says of its training, a table; where it holds a recipe, that is one, too.  Raises ValueError."""
    training = table("training", raw)
    recipe = table("training.recipe", training.get("recipe", {}))
    table("training.recipe.model", recipe.get("model", {}))
    return training


def check_origin(origin: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the entry, where what a program says of its origin is not what a report can print."""
    unknown = sorted(set(origin) - set(ORIGIN))
    demand(not unknown, f"provenance of an unknown kind: {shown(', '.join(unknown))}")
    training_of(origin.get("training", {}))
    demand(isinstance(origin.get("model_sha256", ""), str), f"model_sha256 {shown(origin.get('model_sha256'))}")
    for name, value in table("settings", origin.get("settings", {})).items():
        demand(isinstance(value, (str, int, float)), f"settings.{name} {shown(value)}")
    for name, value in table("versions", origin.get("versions", {})).items():
        demand(isinstance(value, str), f"versions.{name} {shown(value)}")
    _check_calibration(table("calibration", origin.get("calibration", {})))
    _check_mapping(table("mapping", origin.get("mapping", {})))


def _check_calibration(calibration: dict[str, Any]) -> None:
    images, data = calibration.get("images", 0), calibration.get("data", "")
    demand(set(calibration) <= {"images", "data"}, f"calibration of {shown(', '.join(sorted(calibration)))}")
    good = type(images) is int and 0 <= images < MOST and isinstance(data, str)
    demand(good, f"calibration {shown(calibration)}")


def _check_mapping(mapping: dict[str, Any]) -> None:
    """How the mapping was chosen."""
    known = {"objective", "schedule", "expected", "attention"}
    demand(set(mapping) <= known, f"mapping of {shown(', '.join(sorted(mapping)))}")
    for name in ("objective", "schedule"):
        demand(isinstance(mapping.get(name, ""), str), f"mapping.{name} {shown(mapping.get(name))}")
    _check_way("mapping.expected", mapping.get("expected", {}))
    if "attention" in mapping:
        ways = table("mapping.attention", mapping["attention"])
        demand(ways.get("chosen") in SERIALS and "objective" in mapping, "mapping.attention without what was chosen")
        demand(set(ways) <= {"chosen", *SERIALS}, f"mapping.attention of {shown(', '.join(sorted(ways)))}")
        for name in set(ways) - {"chosen"}:
            _check_way(f"mapping.attention.{name}", ways[name])


def _check_way(place: str, raw: Any) -> None:
    """What a mapping was expected to cost: numbers; or why it does not fit."""
    for name, value in table(place, raw).items():
        good = isinstance(value, str) if name == "refused" else type(value) in (int, float) and 0 <= value < MOST
        demand(good, f"{place}.{name} {shown(value)}")


def table(place: str, raw: Any) -> dict[str, Any]:
    """`raw`, which must be a table; ValueError names its place."""
    demand(isinstance(raw, dict), f"{place} {shown(raw)} instead of a table")
    return dict(raw)


def shown(raw: Any) -> str:
    """A value as an error shows it."""
    text = repr(raw)
    return text if len(text) <= 60 else f"{text[:60]}..."


def demand(holds: bool, problem: str) -> None:
    """Raise ValueError where something does not hold."""
    if not holds:
        raise ValueError(problem)
