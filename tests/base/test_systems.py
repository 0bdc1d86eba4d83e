"""Systems that are no Unix: nothing that only Unix has is asked for when a module is imported."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from spikformer_deploy.base import memory
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.executors import execution

ONLY_UNIX = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")
OF_OS = ("fork", "getuid", "killpg", "sched_getaffinity", "setsid", "WNOHANG")
OF_SIGNAL = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2")

IMPORT_ALL = f"""
import builtins, importlib, os, pkgutil, signal
import torch  # libraries know the system that they were built for: what they look for is still there
try:
    import distributed
except ImportError:
    pass
original = builtins.__import__

def without_unix(name, scope=None, *rest):
    if name in {ONLY_UNIX} and (scope or {{}}).get("__name__", "").startswith("spikformer_deploy"):
        raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
    return original(name, scope, *rest)

builtins.__import__ = without_unix
for module, names in ((os, {OF_OS}), (signal, {OF_SIGNAL})):
    for name in names:
        delattr(module, name)
import spikformer_deploy
found = []
for module in pkgutil.walk_packages(spikformer_deploy.__path__, "spikformer_deploy."):
    if ".lava.standalone." in module.name or module.name.endswith("__main__"):
        continue  # the files of an exported folder, which run in Lava
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name in {ONLY_UNIX}:
            raise
        continue  # a library of an extra
    found.append(module.name)
assert "spikformer_deploy.base.memory" in found
print(len(found))
"""


@pytest.mark.long
def test_every_module_is_imported_without_what_only_unix_has() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_a_system_that_does_not_say_what_a_process_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(memory, "Path", lambda name: Path("no such folder"))
    assert math.isnan(memory.peak_memory_mib())
    monkeypatch.setattr(execution, "peak_memory_mib", memory.peak_memory_mib)
    asked = execution.Request(network=None, memory_limit=2**30)
    with pytest.raises(InputError, match="--memory-limit: this system does not say what a process takes"):
        asked.images_at_once(1, 1)
    assert execution.Request(network=None).images_at_once(1, 5) == 5
