"""What lava-nc 0.10.0 needs to run on Python 3.11 and later, and to start fast.  Lava is archived: see to it here.

Its module of compiler variables uses instances of plain dataclasses as defaults of fields, which Python refuses since
3.11 unless they are hashable.  Its compiler looks for the models of every single Process by running all files of a
package, once for each of them: 0.1 s a Process.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import Any

_MODULE = "lava.magma.compiler.var_model"


def make_importable() -> None:
    """Import the one module that fails, with dataclasses that hash; call this before any other import of Lava.

    Raises ModuleNotFoundError where lava-nc, or a package that it needs, is not installed.
    """
    if _MODULE in sys.modules:
        return
    original: Any = dataclasses.dataclass

    def hashable(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> Any:
            return original(cls, **{**({"unsafe_hash": True} if cls.__module__ == _MODULE else {}), **options})

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = hashable
    try:
        importlib.import_module(_MODULE)
    finally:
        dataclasses.dataclass = original


def find_models_once() -> None:
    """Let Lava's compiler look for the models of a class of Processes once, and first beside the class itself."""
    from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs

    search, known = ProcGroupDiGraphs._find_proc_models, {}

    def find(proc: Any) -> Any:
        kind = type(proc)
        if kind not in known:
            here = ProcGroupDiGraphs._find_proc_models_in_module(proc, sys.modules[kind.__module__])
            known[kind] = here or search(proc)
        return known[kind]

    ProcGroupDiGraphs._find_proc_models = staticmethod(find)
