"""Nodes and constants of an ONNX graph as it grows: what the integer and the float export share."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.formats import ENTRY

OPSET = 17
IR_VERSION = 8
"""That of ONNX 1.12, which brought opset 17; a runtime refuses files of later versions than it knows."""
LOCAL = "spikformer_deploy"
"""The domain of our local functions, which consist of standard operators."""
INTEGERS = "spiking_network"
"""The name of the graph of a program, by which a reader knows that it is no float model."""
LAYOUT_OPERATORS = ("Reshape", "Transpose", "Cast")
"""They change how values are laid out or stored, and no value."""


class Nodes:
    """Standard operators, added one by one; a value is the name of the output that makes it.

    prefix  of all names that nobody gives: those of a graph within a graph must differ from the outer ones
    """

    def __init__(self, prefix: str = "") -> None:
        import onnx

        self.onnx = onnx
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def fresh(self, kind: str) -> str:
        """A name that nothing has."""
        return f"{self.prefix}{kind}{len(self.nodes)}"

    def constant(self, values: Any, dtype: Any) -> str:
        """An initializer."""
        name = f"{self.prefix}constant{len(self.constants)}"
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
        operations = [node for node in self.nodes[start:] if node.op_type not in LAYOUT_OPERATORS]
        if operations:
            operations[-1].name = name
            operations[-1].doc_string = kind

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
        self, name: str, taken: Any, results: list[Any], title: str, functions: tuple[Any, ...] = (), entry: str = ""
    ) -> Any:
        """The checked ModelProto.

        name            of its graph
        taken, results  descriptions of the input and of the outputs
        title           one line for persons
        functions       local ones of the domain LOCAL
        entry           our own in the metadata, "" for none
        """
        opsets = [self.onnx.helper.make_opsetid("", OPSET)]
        opsets += [self.onnx.helper.make_opsetid(LOCAL, 1)] if functions else []
        model = self.onnx.helper.make_model(
            self.onnx.helper.make_graph(self.nodes, name, [taken], results, self.constants),
            opset_imports=opsets,
            functions=list(functions),
            producer_name=ENTRY,
            ir_version=IR_VERSION,
            doc_string=title,
        )
        if entry:
            self.onnx.helper.set_model_props(model, {ENTRY: entry})
        self.onnx.checker.check_model(model)
        return model


def check_installed() -> None:
    """Raise InputError where onnx or ONNX Runtime is missing."""
    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise InputError("onnx", f"{' and '.join(missing)} cannot be imported", f"pip install {' '.join(missing)}")
