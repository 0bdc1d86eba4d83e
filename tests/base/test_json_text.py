"""JSON: NaN and infinity are neither written nor read, whatever holds them and however deep."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.models import SMALL

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.json_text import parsed, sealed, written
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.checkpoints.read import load, save
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.nn.zoo import build

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def strict(text: str) -> object:
    def refused(word: str) -> object:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refused)


def finite(value: object) -> object:
    """The rule, said once more: null stands where there is no such number."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [finite(item) for item in value]
        case dict():
            return {key: finite(item) for key, item in value.items()}
    return value


@pytest.mark.long
@given(VALUES, st.sampled_from([None, 1, 2]), st.booleans())
def test_what_is_written_is_json(value: object, indent: int | None, compact: bool) -> None:
    text = written(value, indent=indent, compact=compact)
    assert strict(text) == finite(value) == parsed(text)


@given(VALUES)
def test_what_is_sealed_comes_back_as_it_was(value: object) -> None:
    if finite(value) == value:
        assert parsed(sealed(value)) == value
    else:
        with pytest.raises(ValueError, match="not JSON compliant"):
            sealed(value)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_what_is_no_number_is_not_read(word: str) -> None:
    with pytest.raises(ValueError, match=r"no number|too large"):
        parsed(f'{{"a": [1, {{"b": {word}}}]}}')


def test_too_deep() -> None:
    with pytest.raises(ValueError, match="too deep"):
        parsed("[" * 100_000 + "]" * 100_000)


def test_exports_of_before_wrote_infinity() -> None:
    assert parsed('{"tau": Infinity}', of_before=True) == {"tau": None}
    with pytest.raises(ValueError, match="no number"):
        parsed('{"tau": NaN}', of_before=True)


def test_a_training_that_went_astray(tmp_path: Path) -> None:
    """Its weights are kept, and what is said of it is null."""
    config, path = SMALL["cifar"], tmp_path / "astray.safetensors"
    training = {"train_accuracy": math.nan, "loss": [math.inf, 1.0]}
    save(path, build(config), config, Preprocess(3, 16, (0.5,) * 3, (0.25,) * 3), (), training)
    assert load(path).training == {"train_accuracy": None, "loss": [None, 1.0]}
    done = CliRunner().invoke(cli, ["inspect", "--json", str(path)])
    assert done.exit_code == 0
    assert strict(done.stdout)


def test_a_checkpoint_with_nan_is_refused(tmp_path: Path) -> None:
    """A header that a version of before, or somebody else, has written so."""
    config, path = SMALL["cifar"], tmp_path / "nan.safetensors"
    save(path, build(config), config, Preprocess(3, 16, (0.5,) * 3, (0.25,) * 3), (), {"train_accuracy": 0.5})
    path.write_bytes(path.read_bytes().replace(b'\\"train_accuracy\\": 0.5', b'\\"train_accuracy\\": NaN'))
    with pytest.raises(InputError, match="NaN is no number"):
        load(path)
