"""What this process has taken of the machine's memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at the size of the process that this one was forked from
        high = next((x for x in status.read_text().splitlines() if x.startswith("VmHWM:")), None)
        if high is not None:
            return int(high.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
