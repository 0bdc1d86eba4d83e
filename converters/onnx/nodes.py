"""Nodes and constants of an ONNX graph as it grows: what the integer and the float export share."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError

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

    def parameter(self, values: Any) -> str:
        """A float initializer; numbers that fp32 does not hold stand in double, with a Cast: nothing is lost."""
        exact = np.asarray(values, np.float64)
        if np.array_equal(exact.astype(np.float32), exact):
            return self.constant(exact, np.float32)
        return self.cast(self.constant(exact, np.float64), np.float32)

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node with one output; its name."""
        out = name or self.fresh(operator.lower())
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    def label(self, name: str, kind: str, start: int) -> None:
        """Name the last operation since node `start` that is no change of layout, and say what it is."""
        made = [node for node in self.nodes[start:] if node.op_type not in ("Reshape", "Transpose", "Cast")]
        if made:
            made[-1].name, made[-1].doc_string = name, kind

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

    def model(
        self, name: str, given: Any, made: list[Any], about: str, functions: tuple[Any, ...] = (), notes: str = ""
    ) -> Any:
        """The checked ModelProto; `functions` are local ones of the domain LOCAL, `notes` our entry in the metadata."""
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
        if notes:
            self.onnx.helper.set_model_props(model, {ENTRY: notes})
        self.onnx.checker.check_model(model)
        return model


ENTRY = "spikformer_deploy"
"""The key of our notes in the metadata."""
LOCAL = "spikformer_deploy"
"""The domain of our local functions, which consist of standard operators."""


def check_installed() -> None:
    """Raise InputError where onnx or ONNX Runtime is missing."""
    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise InputError("onnx", f"{' and '.join(missing)} cannot be imported", f"pip install {' '.join(missing)}")
