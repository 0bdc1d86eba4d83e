"""Bits by layer as the command line takes them: used, shown by inspect, and refused in one clear message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BITS = {"block.0.mlp.fc1_linear": 4, "head": 6}


@pytest.mark.long
def test_a_file_of_bits_is_used_and_shown(tmp_path: Path, here: Callable[..., Any]) -> None:
    """Quotes around names make no difference, and inspect shows what reaches each population."""
    summaries = []
    for number, name in enumerate(("block.0.mlp.fc1_linear", '"block.0.mlp.fc1_linear"')):
        (tmp_path / "bits.toml").write_text(f"{name} = 4\nhead = 6\n")
        file = tmp_path / f"{number}.spk"
        done = here("compile", "digits-v1", "--layer-bits", tmp_path / "bits.toml", "--no-check", "-o", file, "--json")
        assert done.returncode == 0, done.stderr
        summaries.append(json.loads(done.stdout))
    assert (tmp_path / "0.spk").read_bytes() == (tmp_path / "1.spk").read_bytes()
    plain = here("compile", "digits-v1", "--no-check", "-o", tmp_path / "plain.spk", "--json")
    assert summaries[0]["memory_words"] < json.loads(plain.stdout)["memory_words"]
    shown = json.loads(here("inspect", tmp_path / "0.spk", "--json").stdout)
    assert shown["provenance"]["settings"]["layer_bits"] == BITS
    fewer = {name: bits for name, bits in shown["weight_bits"].items() if bits != [8]}
    assert fewer == {"block.0.mlp.fc1_lif": [4], "output": [6]}
    assert "bits of the synapses" in here("inspect", tmp_path / "0.spk").stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "bits.toml: there is no such file"),
        ("", "bits.toml: it names no layer"),
        ("[block]\n", "bits.toml: it names no layer"),
        ("head: 4", "bits.toml: it is no readable TOML"),
        ("head = [4, 5]", "bits.toml: head = a list of 2, and bits are a whole number"),
        ("[[head]]\nbits = 4", "bits.toml: head = a list of 1, and bits are a whole number"),
        ("head = 4.0", "bits.toml: head = 4.0, and bits are a whole number"),
        ("head = 1", "--layer-bits: 1 bits for 'head', and the target has 2 to 8"),
        ("head = 9", "--layer-bits: 9 bits for 'head', and the target has 2 to 8"),
        ("heda = 4", "--layer-bits: 'heda' is no layer with weights or attention; did you mean head?"),
        ("input = 4", "--layer-bits: 'input' is no layer with weights or attention"),
    ],
)
def test_what_is_no_table_of_bits_is_one_clear_message(
    text: str | None, message: str, tmp_path: Path, here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("bits.toml").write_text(text)
    before = sorted(tmp_path.iterdir())
    done = here("compile", "digits-v1", "--no-check", "--layer-bits", "bits.toml", "-o", "m.spk")
    assert done.returncode == 2
    # lines are folded at the width of a terminal
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before
