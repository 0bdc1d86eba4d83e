"""The law of what a program says beside its numbers: images, settings, the training, where it comes from.

Nothing here changes a spike; it decides how images become pixels, and what a report prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spikformer_deploy.base.plain import LARGEST_WHOLE, require, shown, table, training_record
from spikformer_deploy.base.series import check_series
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.series import preprocess_of_series
from spikformer_deploy.mapping.partition import way_of
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Source

ORIGIN = ("calibration", "graph_sha256", "mapping", "model_sha256", "settings", "training", "versions")
"""What `compile` writes of where a program comes from."""


def check_images(preprocess: Preprocess, network: Network) -> None:
    """Raise ValueError where images would become other pixels than the network was made for."""
    source = network.input.neuron
    assert isinstance(source, Source)
    shape = (preprocess.channels, *preprocess.extent)
    require(shape == network.input.shape, f"images of {shape}, and the network takes {network.input.shape}")
    if preprocess.series is not None:
        _check_series(preprocess, network, source)
    require(preprocess.max_value == source.max_value, f"pixels up to {preprocess.max_value} and {source.max_value}")
    pairs = {"mean": (preprocess.mean, network.mean), "std": (preprocess.std, network.std)}
    for what, (of_images, of_network) in pairs.items():
        problem = f"a {what} of {of_images}, and of {of_network.tolist()} in the network"
        require(list(of_images) == of_network.tolist(), problem)


def _check_series(preprocess: Preprocess, network: Network, source: Source) -> None:
    """Windows of a series become frames of this network, and its results are points of all variables."""
    series = preprocess.series
    assert series is not None
    check_series(series)
    require(preprocess == preprocess_of_series(series), "frames that are not those of its series")
    steps = network.time_steps if source.per_step else 0
    require(series.steps == steps, f"{series.steps} steps of a series, and {steps} of the network")
    outputs = network.output.size
    require(not series.standardised or outputs % series.variables == 0, f"{outputs} results of {series.variables}")


def check_origin(origin: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the entry, where what a program says of its origin is not what a report can print."""
    unknown = sorted(set(origin) - set(ORIGIN))
    require(not unknown, f"provenance of an unknown kind: {shown(', '.join(unknown))}")
    training_record(origin.get("training", {}))
    for name in ("model_sha256", "graph_sha256"):
        require(isinstance(origin.get(name, ""), str), f"{name} {shown(origin.get(name))}")
    for name, value in table("settings", origin.get("settings", {})).items():
        bits = name == "layer_bits" and all(type(of_layer) is int for of_layer in table(name, value).values())
        require(bits or isinstance(value, (str, int, float)), f"settings.{name} {shown(value)}")
    for name, value in table("versions", origin.get("versions", {})).items():
        require(isinstance(value, str), f"versions.{name} {shown(value)}")
    _check_calibration(table("calibration", origin.get("calibration", {})))
    _check_mapping(table("mapping", origin.get("mapping", {})))


def _check_calibration(calibration: dict[str, Any]) -> None:
    images = calibration.get("images", 0)
    data = calibration.get("data", "")
    require(set(calibration) <= {"images", "data"}, f"calibration of {shown(', '.join(sorted(calibration)))}")
    good = type(images) is int and 0 <= images < LARGEST_WHOLE and isinstance(data, str)
    require(good, f"calibration {shown(calibration)}")


def _check_mapping(mapping: dict[str, Any]) -> None:
    """How the mapping was chosen."""
    known = {"objective", "schedule", "runtime", "expected", "attention"}
    require(set(mapping) <= known, f"mapping of {shown(', '.join(sorted(mapping)))}")
    for name in ("objective", "schedule", "runtime"):
        require(isinstance(mapping.get(name, ""), str), f"mapping.{name} {shown(mapping.get(name))}")
    _check_way("mapping.expected", mapping.get("expected", {}))
    if "attention" in mapping:
        ways = table("mapping.attention", mapping["attention"])
        names = set(ways) - {"chosen"}
        require(all(map(way_of, names)), f"mapping.attention of {shown(', '.join(sorted(ways)))}")
        chosen = ways.get("chosen")
        good = isinstance(chosen, str) and way_of(chosen) is not None and "objective" in mapping
        require(good, "mapping.attention without what was chosen")
        for name in names:
            _check_way(f"mapping.attention.{name}", ways[name])


def _check_way(place: str, raw: Any) -> None:
    """What a mapping was expected to cost: numbers; or why it does not fit."""
    for name, value in table(place, raw).items():
        good = (
            isinstance(value, str) if name == "refused" else type(value) in (int, float) and 0 <= value < LARGEST_WHOLE
        )
        require(good, f"{place}.{name} {shown(value)}")
