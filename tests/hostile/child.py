"""Runs the command line on many files in one process with little memory: a line of JSON for each command that comes.

The first line that comes is a list of commands to warm up with, whose exit codes are the first line of answers.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

SPARE = 3 * 2**29
"""Bytes of address space beyond what the imports have taken."""
SECONDS = 30


def outcome(main: object, arguments: list[str]) -> dict[str, object]:
    """Exit code, what was printed and what was raised beyond it, seconds and the growth of memory at its peak."""
    printed, said = io.StringIO(), io.StringIO()
    code, raised = 0, ""
    start, before = time.monotonic(), _memory("VmRSS")
    # the peak begins anew, so that one file is not charged for another
    Path("/proc/self/clear_refs").write_text("5")
    sys.argv = ["spikdeploy", *arguments]
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            main()  # type: ignore[operator]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        raised = traceback.format_exc()[-3000:]
    finally:
        signal.alarm(0)
    return {
        "code": code,
        "stdout": printed.getvalue(),
        "stderr": said.getvalue(),
        "raised": raised,
        "seconds": time.monotonic() - start,
        "grown_mib": (_memory("VmHWM") - before) / 2**10,
    }


def _memory(name: str) -> int:
    """KiB that the process takes (VmRSS), or took at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def run() -> None:
    import torch  # noqa: F401  on a busy machine its import alone takes longer than a command may

    from spikformer_deploy.cli.main import main

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    # everything that is imported on the way is there before memory is limited
    warmed = [outcome(main, arguments)["code"] for arguments in json.loads(sys.stdin.readline())]
    sys.stdout.write(json.dumps(warmed) + "\n")
    sys.stdout.flush()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE, taken + SPARE))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(outcome(main, json.loads(line))) + "\n")
        sys.stdout.flush()


run()
