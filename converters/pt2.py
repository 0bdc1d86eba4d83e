"""Programs of torch.export (.pt2), in and out, without running anything that stands in the file.

torch.export.load runs pickles (sample inputs, some weights), evaluates the expressions of shapes as Python and resolves
operators by name.  None of it is used here: graph and weights are JSON and plain bytes, read as such, and the sample
inputs are not looked at.  What cannot be read that way (weights that are pickles, custom objects, archives of other
versions) is loaded by torch only with --allow-pickle; else the error lists what the file would call.
"""

from __future__ import annotations

import ast
import copy
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.base.formats import ENTRY
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.converters.imported import (
    PIXELS_OR_COUNTS,
    About,
    Imported,
    about_in,
    imported,
    pixels_or_counts,
    steps_of,
)
from spikformer_deploy.graph.axes import BATCH
from spikformer_deploy.graph.export import Exported, export
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.parts import GETITEM
from spikformer_deploy.graph.trace import trace_exported

SCHEMA = 8
"""Major version of torch's schema of the graph: it changes where the meaning of a file does."""
ABOUT = f"{ENTRY}.json"
"""The extra file with our entry about the model."""
KEYWORD = 2
"""torch._export.serde.schema.ArgumentKind of an argument that is given by name."""
LARGEST_JSON = 2**28
LONGEST_SIZE = 1000
"""Characters of the expression of a size: parsing a longer one may take for ever."""
LARGEST_TENSOR = 2**58
"""Elements: more cannot be counted in bytes with 64 bits."""
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""torch._export.serde.schema.ScalarType."""


def _with_all_tensors(module: nn.Module) -> nn.Module:
    """The module with all its tensors in its state: those that follow from others, which no state_dict holds, too."""
    own = copy.deepcopy(module)
    for layer in own.modules():
        layer._non_persistent_buffers_set.clear()
    return own


def write_model(model: Loaded, path: Path) -> None:
    """Write the module, its batch dynamic and each LIF a single node `spikformer::lif`.

    `import spikformer_deploy.nn.lif` registers that operator, for others that read the file by torch.export.load.
    """
    frames = (model.time_steps,) if model.per_step else ()
    program = export(_with_all_tensors(model.module), (*frames, *model.input_shape))
    # where the sources lie on the disk of who exports is nobody's business: only the names of files stay
    for node in program.graph.nodes:
        trace = node.meta.get("stack_trace")
        if trace:
            node.meta["stack_trace"] = re.sub(r'File "[^"]*?([^"/\\]*)"', r'File "\1"', trace)
    # no neurons: their tau and threshold are exact in JSON
    about = About(model.time_steps, model.per_step, model.preprocess, model.labels, model.training, {})
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: about.text()})
    write_whole(path, buffer.getvalue())


def read_model(path: str | Path, *, time_steps: int | None = None, allow_pickle: bool = False) -> Imported:
    """The model in a .pt2 file.

    time_steps  T, where the file does not tell (only files of our own do)
    Raises InputError for a file that is damaged or would run code (unless allow_pickle), ModelError for a model that
    holds state or an operation that is not supported.
    """
    path = Path(path)
    try:
        with _Archive(path) as archive:
            about = archive.about()
            exported = archive.exported()
    except _OnlyByTorch as reason:
        if not allow_pickle:
            raise _refused(path, str(reason)) from None
        about, exported = _loaded(path)
    image = _image_shape(path, exported)
    frames = exported.input_shape[1] if len(exported.input_shape) == 5 else None
    steps = steps_of(path, time_steps, about, frames)
    per_step = frames is not None
    try:
        graph = check(trace_exported(exported, image, time_steps=steps, per_step=per_step))
    except DAMAGE as error:
        raise _damaged(path, error) from None
    notes = () if about else (PIXELS_OR_COUNTS,)
    return imported("pt2", path, graph, about, pixels_or_counts(graph), notes)


def _image_shape(path: Path, exported: Exported) -> Shape:
    """(C, Y, X) of what a program takes; ModelError where that is no batch of images or of frames."""
    # a scalar has no batch, and is refused like one image
    batch, *shape = exported.input_shape or (1,)
    if batch != BATCH:
        raise ModelError(
            str(path), f"it takes {batch} images at a time", "Export it with dynamic_shapes=({0: Dim('batch')},)."
        )
    if len(shape) not in (3, 4):
        raise ModelError(str(path), f"it takes {shape}", "It must take images (batch, C, Y, X) or (batch, T, C, Y, X).")
    channels, height, width = shape[-3:]
    return channels, height, width


DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RuntimeError, SyntaxError)
"""What reading a graph raises that is none."""


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else ""
    return InputError(str(path), f"its graph is damaged: {type(error).__name__} {reason}"[:300], "Export it again.")


# --- what only torch can load ----------------------------------------------------------------------------------------


class _OnlyByTorch(Exception):
    """The file needs torch's own loader, which may run code; the message says for what."""


def _refused(path: Path, reason: str) -> InputError:
    calls = sorted(_calls(path))
    listed = f", which would call {', '.join(calls)}" if calls else ""
    return InputError(
        str(path),
        f"loading it may run code of the file: {reason}{listed}",
        "Export the model again with this version of torch, or, if you trust the file, give --allow-pickle.",
    )


def _calls(path: Path) -> set[str]:
    """The functions that the pickles in an archive name."""
    functions: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            # what is packed may unpack to any size
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size < LARGEST_JSON:
                content = archive.read(entry) if _may_be_pickle(entry.filename) else b""
                try:
                    functions |= set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content)))
                except Exception:  # of no consequence: it is a list for a person
                    continue
    return functions


def _may_be_pickle(name: str) -> bool:
    return "/data/" in f"/{name}" and not name.endswith((".json", "/version", "/serialization_id"))


def _loaded(path: Path) -> tuple[About | None, Exported]:
    """By torch's own loader, which may run code: the user has said that the file is trusted."""
    extra = {ABOUT: ""}
    try:
        with path.open("rb") as stream:
            program = torch.export.load(stream, extra_files=extra)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(str(path), f"torch.export cannot load it: {reason[0]}") from None
    about = about_in(path, str(extra[ABOUT])) if extra[ABOUT] else None
    return about, Exported.of(program)


# --- the archive -----------------------------------------------------------------------------------------------------


class _Archive:
    """The zip file: JSON and the plain bytes of weights."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Archive:
        try:
            self.zip = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(str(self.path), f"it is damaged: {error}", "Copy the file again.") from None
        # names are "<name of the archive>/<member>", and the first part may be anything
        self.entries = {entry.filename.partition("/")[2]: entry for entry in self.zip.infolist()}
        return self

    def __exit__(self, *_: object) -> None:
        self.zip.close()

    def read(self, member: str) -> bytes:
        """The bytes of a member, which torch stores as they are: never more than the file has."""
        entry = self.entries.get(member)
        if entry is None:
            raise InputError(str(self.path), f"it is damaged: it has no {member}", "Export it again.")
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
        if not stored or entry.file_size >= self.path.stat().st_size:
            problem = f"{member} is packed, or larger than the file"
            raise InputError(str(self.path), f"it is damaged: {problem}", "Export it again.")
        try:
            return self.zip.read(entry)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            raise InputError(str(self.path), f"it is damaged: {error}", "Copy the file again.") from None

    def json(self, member: str) -> Any:
        """A member that is JSON."""
        content = self.read(member)
        if len(content) > LARGEST_JSON:
            raise InputError(str(self.path), f"{member} has {len(content):,} bytes")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(str(self.path), f"{member} is damaged: {error}", "Copy the file again.") from None

    def about(self) -> About | None:
        """What our own export wrote beside the program."""
        member = f"extra/{ABOUT}"
        if member not in self.entries:
            return None
        return about_in(self.path, self.read(member).decode("utf-8", "replace"))

    def exported(self) -> Exported:
        """The graph with its parameters; _OnlyByTorch where these cannot be read as they are."""
        if "archive_format" not in self.entries:
            raise _OnlyByTorch("it is an archive of torch before 2.8, whose weights are a pickle")
        native = [name for name in self.entries if name.startswith("data/aotinductor/")]
        if native:
            raise _OnlyByTorch(f"it holds compiled code ({native[0]})")
        models = [name for name in self.entries if name.startswith("models/")]
        if len(models) != 1 or not models[0].endswith(".json"):
            raise InputError(str(self.path), f"it holds {len(models)} programs", "It must hold one.")
        if self.read("byteorder") != b"little":
            raise InputError(str(self.path), "its bytes are not in little-endian order", "Export it again.")
        program = self.json(models[0])
        try:
            major = program["schema_version"]["major"]
            if major != SCHEMA:
                raise _OnlyByTorch(f"its graph has version {major} of torch's schema, and {SCHEMA} is read here")
            name = models[0].removeprefix("models/").removesuffix(".json")
            return _exported(program["graph_module"], self._weights(name))
        except DAMAGE as error:
            raise _damaged(self.path, error) from None

    def _weights(self, name: str) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name; those that share a file share its memory, as they did in the module."""
        config = self.json(f"data/weights/{name}_weights_config.json")["config"]
        pickled = [key for key, meta in config.items() if meta["use_pickle"]]
        if pickled:
            raise _OnlyByTorch(f"the weight {pickled[0]} is a pickle")
        files: dict[str, bytearray] = {}
        weights = {}
        for key, meta in config.items():
            file = str(meta["path_name"])
            if file not in files:
                # torch warns of buffers that cannot be written
                files[file] = bytearray(self.read(f"data/weights/{file}"))
            weights[key] = _tensor(key, files[file], meta["tensor_meta"])
        return weights


def _tensor(key: str, content: bytearray, meta: Mapping[str, Any]) -> torch.Tensor:
    """The tensor in `content`; ValueError where it does not lie within."""
    dtype = DTYPES.get(meta["dtype"])
    shape = [_size(size) for size in meta["sizes"]]
    strides = [_size(size) for size in meta["strides"]]
    offset = _size(meta["storage_offset"])
    if dtype is None or min([*shape, *strides, offset, 0]) < 0:
        raise ValueError(f"{key} of type {meta['dtype']} and shape {shape}")
    # the index of the last element: as_strided itself reads whatever lies there
    last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    if (last + 1) * dtype.itemsize > len(content) or 0 in shape:
        raise ValueError(f"{key} of shape {shape} does not lie within its {len(content)} bytes")
    return torch.frombuffer(content, dtype=dtype).as_strided(shape, strides, offset)


# --- the graph -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """The name of an operator, which stands for it and does nothing."""

    __name__: str

    def __str__(self) -> str:
        return self.__name__

    def __call__(self, *_: object, **__: object) -> None:
        raise AssertionError("nothing of a file is run")


def _exported(module: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Exported:
    """The graph as nodes of torch.fx without anything that could run; KeyError and the like where it is damaged."""
    source = module["graph"]
    signature = module["signature"]
    rebuilt = _Rebuilt({name: _value(meta) for name, meta in source["tensor_values"].items()})
    parameters = {}
    inputs = []
    for spec in signature["input_specs"]:
        kind, content = _only_item(spec)
        if kind not in ("parameter", "buffer", "user_input"):
            raise ModelError(
                str(content.get("tensor_constant_name", kind)),
                "a tensor that is no parameter is baked into the model (the state of an earlier run?)",
                "Reset the neurons before exporting (spikingjelly: functional.reset_net(model)).",
            )
        if kind == "user_input":
            name = content["arg"]["as_tensor"]["name"]
            rebuilt.add_placeholder(name)
            inputs.append(name)
        else:
            placeholder = rebuilt.add_placeholder(content["arg"]["name"])
            key = content[f"{kind}_name"]
            parameters[placeholder.name] = (key, weights[key])
    _refuse_state(signature)
    if len(inputs) != 1:
        raise ModelError("model", f"it takes {len(inputs)} inputs", "It must take only the images.")
    for entry in source["nodes"]:
        rebuilt.add_node(entry)
    rebuilt.graph.output(tuple(rebuilt.nodes[result["as_tensor"]["name"]] for result in source["outputs"]))
    return Exported(rebuilt.graph, parameters, tuple(rebuilt.values[inputs[0]].shape))


def _refuse_state(signature: Mapping[str, Any]) -> None:
    """Refuse a program that gives out more than its result: buffers that it writes."""
    for spec in signature["output_specs"]:
        if "user_output" not in spec:
            kind, content = _only_item(spec)
            raise ModelError(str(content.get("buffer_name", kind)), "the model changes it as it runs: it holds state")


def _only_item(union: Mapping[str, Any]) -> tuple[str, Any]:
    """(kind, content): torch's schema has a table of one entry for a value of one of several kinds."""
    ((kind, content),) = union.items()
    return kind, content


@dataclass
class _Rebuilt:
    """A torch.fx graph as it grows.

    values  by name: tensors of the shapes and types in the file, without content
    nodes   by the name of what they give out in the file; torch.fx gives them names of its own
    """

    values: Mapping[str, torch.Tensor]
    graph: torch.fx.Graph = field(default_factory=torch.fx.Graph)
    nodes: dict[str, Any] = field(default_factory=dict)

    def add_placeholder(self, name: str) -> torch.fx.Node:
        # a name out of the file might be no identifier, and torch.fx writes Python with it
        node = self.graph.placeholder(f"v{len(self.nodes)}")
        node.meta["val"] = self.values[name]
        self.nodes[name] = node
        return node

    def add_node(self, entry: Mapping[str, Any]) -> None:
        """One call of an operator, and its results by their names."""
        target = str(entry["target"]).removeprefix("torch.ops.")
        args = []
        kwargs = {}
        for argument in entry["inputs"]:
            value = _argument(target, self.nodes, argument["arg"])
            if argument.get("kind") == KEYWORD:
                kwargs[str(argument["name"])] = value
            else:
                args.append(value)
        node = self.graph.call_function(_Target(target), tuple(args), kwargs)
        node.meta |= _places(entry.get("metadata", {}))
        outputs = [_only_item(output) for output in entry["outputs"]]
        self._name_tensors(node, outputs)
        for kind, content in outputs:
            # numbers that the program computes, such as the size of the batch
            if "tensor" not in kind and isinstance(content, dict) and "as_name" in content:
                self.nodes[content["as_name"]] = node

    def _name_tensors(self, node: torch.fx.Node, outputs: list[tuple[str, Any]]) -> None:
        """The tensors that a node gives out: itself, or parts, of which the file leaves out how they are taken."""
        names = [tensor["name"] for kind, content in outputs for tensor in _tensors(kind, content)]
        if len(names) == 1 and outputs[0][0] == "as_tensor":
            node.meta["val"] = self.values[names[0]]
            self.nodes[names[0]] = node
            return
        if names:
            node.meta["val"] = tuple(self.values[name] for name in names)
        for index, name in enumerate(names):
            part = self.graph.call_function(_Target(GETITEM), (node, index))
            part.meta |= {**node.meta, "val": self.values[name]}
            self.nodes[name] = part


def _tensors(kind: str, content: Any) -> list[Any]:
    """The tensors in one output of a node."""
    if kind == "as_tensors":
        return list(content)
    return [content] if "tensor" in kind else []


def _places(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Where in the model a node comes from, for names and for errors: "key,module,class" for each module around it."""
    modules = str(metadata.get("nn_module_stack", "")).split(";")
    stack = [module.split(",", 2) for module in modules if module.count(",") >= 2]
    return {
        "stack_trace": str(metadata.get("stack_trace", "")),
        "nn_module_stack": {key: (path, kind) for key, path, kind in stack},
    }


def _argument(target: str, nodes: Mapping[str, Any], argument: Mapping[str, Any]) -> Any:
    """An argument of an operator; the name of a value stands for the node that gives it out."""
    kind, value = _only_item(argument)
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return nodes[value["name"]]
        case "as_int" | "as_float" | "as_bool" | "as_string" | "as_scalar_type" | "as_memory_format":
            return value
        case "as_ints" | "as_floats" | "as_bools" | "as_strings":
            return list(value)
        case "as_sym_int":
            return _whole(nodes, value)
        case "as_sym_ints":
            return [_whole(nodes, item) for item in value]
        case "as_tensors":
            return [nodes[item["name"]] for item in value]
        case "as_device" | "as_layout":
            return None
        case _:
            raise ModelError(target, f"arguments of kind '{kind}' are not supported")


def _whole(nodes: Mapping[str, Any], size: Mapping[str, Any]) -> Any:
    """A number of the file, or the node that computes it."""
    return size["as_int"] if "as_int" in size else nodes[size["as_name"]]


def _value(meta: Mapping[str, Any]) -> torch.Tensor:
    """A tensor of the shape and type that the file tells, without content."""
    shape = [_size(size) for size in meta["sizes"]]
    if any(extent < 0 for extent in shape) or math.prod(shape) >= LARGEST_TENSOR:
        raise ValueError(f"a tensor of shape {shape}")
    return torch.empty(shape, device="meta", dtype=DTYPES[meta["dtype"]])


def _size(size: Mapping[str, Any]) -> int:
    """A size, BATCH for the symbol: torch writes sums and products of symbols as sympy's constructors."""
    if "as_int" in size:
        return int(size["as_int"])
    text = str(size["as_expr"]["expr_str"])
    if len(text) > LONGEST_SIZE:
        raise ValueError(f"a size of {len(text)} characters")
    return _evaluated(ast.parse(text, mode="eval").body)


def _evaluated(node: ast.expr) -> int:
    """A size out of its expression, of which nothing is run: a grammar of numbers, symbols, sums and products."""
    match node:
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str())]):
            return BATCH
        case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=int(number))]):
            return number
        case ast.Call(func=ast.Name(id="Mul"), args=parts):
            return math.prod(_evaluated(part) for part in parts)
        case ast.Call(func=ast.Name(id="Add"), args=parts):
            return sum(_evaluated(part) for part in parts)
        case ast.Name():
            return BATCH
        case ast.Constant(value=int(number)):
            return number
        case _:
            raise ValueError(f"a size of {ast.unparse(node)[:80]}")
