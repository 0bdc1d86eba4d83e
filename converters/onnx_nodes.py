"""Nodes and constants of an ONNX graph as it grows: what the integer and the float export share."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from spikformer_deploy.errors import InputError

OPSET = 17
IR_VERSION = 8


class Nodes:
    """Standard operators, added one by one; a value is the name of the output that makes it."""

    def __init__(self) -> None:
        import onnx

        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def fresh(self, kind: str) -> str:
        """A name that nothing has."""
        return f"{kind}{len(self.nodes)}"

    def constant(self, values: Any, dtype: Any) -> str:
        """An initializer."""
        name = f"constant{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(values, dtype, order="C"), name))
        return name

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node with one output; its name."""
        out = name or self.fresh(operator.lower())
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    def cast(self, value: str, dtype: type[np.generic]) -> str:
        """The value as another type."""
        return self.node("Cast", value, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def shaped(self, value: str, *shape: int) -> str:
        """The value in another shape; one extent may be -1."""
        return self.node("Reshape", value, self.constant(shape, np.int64))

    def info(self, name: str, dtype: type[np.generic] | type[bool], shape: list[Any] | None) -> Any:
        """The description of a value."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)

    def model(self, name: str, given: Any, made: list[Any], about: str, functions: tuple[Any, ...] = ()) -> Any:
        """The checked ModelProto; `functions` are local ones of the domain LOCAL."""
        opsets = [self.onnx.helper.make_opsetid("", OPSET)]
        opsets += [self.onnx.helper.make_opsetid(LOCAL, 1)] if functions else []
        model = self.onnx.helper.make_model(
            self.onnx.helper.make_graph(self.nodes, name, [given], made, self.constants),
            opset_imports=opsets,
            functions=list(functions),
            producer_name="spikformer_deploy",
            ir_version=IR_VERSION,
            doc_string=about,
        )
        self.onnx.checker.check_model(model)
        return model


LOCAL = "spikformer_deploy"
"""The domain of our local functions, which consist of standard operators."""


def check_installed() -> None:
    """Raise InputError where onnx or ONNX Runtime is missing."""
    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise InputError("onnx", f"{' and '.join(missing)} cannot be imported", f"pip install {' '.join(missing)}")
