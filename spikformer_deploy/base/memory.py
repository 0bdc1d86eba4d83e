"""What this process has taken of the machine's memory."""

from __future__ import annotations

import math
import sys
from pathlib import Path

KIB_PER_MIB = 2**10
BYTES_PER_MIB = 2**20


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB; NaN on a system that does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at the size of the process that this one was forked from
        high = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if high is not None:
            return int(high.split()[1]) / KIB_PER_MIB
    try:
        # only Unix has it
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, all others KiB
    return peak / BYTES_PER_MIB if sys.platform == "darwin" else peak / KIB_PER_MIB
