"""The engine keeps to the number of threads that it is given, and leaves it as it was."""

import subprocess
import sys

COUNTED = """
import numba, torch
torch.set_num_threads({threads})
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.executors.fast import threads
compile_model("digits-v2", check=False)
print(torch.get_num_threads(), numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS)
with threads.as_many_as_torch() as count:
    print(count, numba.get_num_threads())
"""


def test_the_first_loop_does_not_change_the_threads_of_torch() -> None:
    """In a process of its own: numba starts its threads once."""
    done = subprocess.run([sys.executable, "-c", COUNTED.format(threads=1)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", "1", "1"]
