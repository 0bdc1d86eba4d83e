"""Lava can be imported on this Python, and says how to install it where it is not there."""

import subprocess
import sys

import pytest

CODE = "from spikformer_deploy.lava_backend.shim import make_importable; make_importable(); "


def in_own_process(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_lava_can_be_imported() -> None:
    pytest.importorskip("lava")
    code = "import dataclasses as d; before = d.dataclass; " + CODE
    code += "import lava.proc.lif.process; print(before is d.dataclass)"
    done = in_own_process(code)
    assert done.stdout.strip() == "True", done.stderr


def test_without_lava_the_way_out_is_named() -> None:
    done = in_own_process("import sys; sys.modules['lava'] = None; " + CODE)
    assert "InputError: lava: lava-nc cannot be imported" in done.stderr
    assert "pip install --no-deps --ignore-requires-python lava-nc==0.10.0" in done.stderr
