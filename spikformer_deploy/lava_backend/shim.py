"""Makes lava-nc 0.10.0 importable on Python 3.11 and later.

Its module of compiler variables uses instances of plain dataclasses as defaults of fields, which Python refuses since
3.11 unless they are hashable.  Lava is archived: this will not be repaired there.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import Any

from spikformer_deploy.errors import InputError

_MODULE = "lava.magma.compiler.var_model"


def make_importable() -> None:
    """Import the one module that fails, with dataclasses that hash; call this before any other import of Lava.

    Raises InputError where lava-nc is not installed.
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
    except ModuleNotFoundError as error:
        raise InputError(
            "lava",
            f"lava-nc cannot be imported ({error})",
            "Install it: pip install asteval && pip install --no-deps --ignore-requires-python lava-nc==0.10.0",
        ) from error
    finally:
        dataclasses.dataclass = original
