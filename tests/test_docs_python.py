"""The blocks of docs/python.md run as they stand, one after the other, in one folder."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCK = re.compile(
    r"(<!-- not run: .*? -->\n\n)?(?:```python\n(.*?)```|^((?:    (?:spikdeploy|python) [^\n]*\n)+))", re.DOTALL | re.M
)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    compiled = program_of("digits-v2")
    true_compile = sd.compile
    # what it compiles is compiled already, where it is called as the page calls it
    monkeypatch.setattr(sd, "compile", lambda *a, **k: true_compile(*a, **k) if "weigth_bits" in k else compiled, False)
    names: dict = {}
    found = [match.groups() for match in BLOCK.finditer(PAGE.read_text())]
    assert len(found) == 11
    for excuse, code, commands in found:
        if excuse:
            continue
        if code:
            exec(compile(code, str(PAGE), "exec"), names)
        for command in (commands or "").splitlines():
            monkeypatch.setattr(sys, "argv", shlex.split(command))
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code, command
    said = capsys.readouterr().out
    assert "unknown option 'weigth_bits'; did you mean weight_bits?" in said
    assert said.count('"frame":') == 6
