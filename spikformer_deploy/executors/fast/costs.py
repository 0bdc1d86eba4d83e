"""What convolutions cost on this machine: measured once, and kept in the user's cache.

Costs decide which of several ways to the same integers is taken, and nothing else: a file that is missing, broken or of
another machine is as good as none, and one that cannot be written is not written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numba
import torch

from spikformer_deploy.base.cache import user_cache
from spikformer_deploy.base.errors import SpikdeployError
from spikformer_deploy.base.files import text_of, write_whole
from spikformer_deploy.executors.fast.pairs import numba_target

MEASUREMENT = 1
"""Which measurement gave the costs: another one gives others, which must not be mixed."""


class Costs(NamedTuple):
    """Nanoseconds of one thread.

    int8, pairs, fp32  a multiply-accumulate of dense convolutions: oneDNN's, ours (pairs.py), and floating point
    position           of events (gather.py): an output position
    window             of events: each position of its window
    row                of events: each row of weights that is added
    weight             of events: each weight of such a row
    """

    int8: float
    pairs: float
    fp32: float
    position: float
    window: float
    row: float
    weight: float


def usual(int8_limit: int) -> Costs:
    """Costs where nobody has measured: those of a Zen 4 core at 3.7 GHz, fitted to times of layers.

    int8_limit: the largest message with which oneDNN's int8 is exact, which says how its instructions multiply.  On
    other processors than x86 nothing is known of its speed, and it is not taken for fast.
    """
    known = platform.machine().lower() in ("x86_64", "amd64")
    int8 = 1 / 20
    if known:
        int8 = 1 / 220 if int8_limit > 128 else 1 / 115
    return Costs(int8=int8, pairs=1 / 170, fp32=1 / 55, position=50.0, window=12.0, row=0.7, weight=0.017)


@cache
def kept() -> Costs | None:
    """The costs that were measured on this machine; None where none are kept."""
    file = costs_file()
    if file is None or not os.path.exists(file):
        return None
    try:
        content = json.loads(text_of(file))
        if content["machine"] != machine():
            return None
        costs = Costs(*(float(content["costs"][name]) for name in Costs._fields))
    except (SpikdeployError, TypeError, KeyError, ValueError, OverflowError, RecursionError):
        return None
    return costs if all(0 <= c < math.inf for c in costs) else None


def keep(costs: Costs) -> Path | None:
    """Write costs down for the processes to come; the file, or None where that cannot be."""
    file = costs_file()
    if file is not None:
        content = json.dumps({"machine": machine(), "costs": costs._asdict()}, indent=2) + "\n"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content.encode())
        except (SpikdeployError, OSError):
            file = None
    kept.cache_clear()
    return file


def costs_file() -> Path | None:
    """Where costs of this machine and these versions are kept; None for a user without a home."""
    digest = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:16]
    cache_folder = user_cache()
    return None if cache_folder is None else cache_folder / "spikformer_deploy" / f"costs-{digest}.json"


@cache
def machine() -> dict[str, str]:
    """What costs hold for: another processor, library or limit of instructions has costs of its own."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "oneDNN limited to": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "numba limited to": " ".join(filter(None, numba_target())),
        "torch": torch.__version__,
        "oneDNN": onednn_version(),
        "numba": numba.__version__,
        "measurement": str(MEASUREMENT),
    }


def processor() -> str:
    """The name of the processor, and its family where the name says little, as those of virtual machines do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbered = [f"{word} {facts[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in facts]
    return f"{name} ({', '.join(numbered)})" if numbered else name


def onednn_version() -> str:
    """Of the oneDNN in torch; empty where torch has none."""
    found = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    return found[1] if found else ""
