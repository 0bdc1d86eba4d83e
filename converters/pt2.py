"""Programs of torch.export (.pt2), in and out, without running anything that stands in the file.

torch.export.load runs pickles (sample inputs, some weights), evaluates the expressions of shapes as Python and resolves
operators by name.  None of it is used here: graph and weights are JSON and plain bytes, read as such, and the sample
inputs are not looked at.  What cannot be read that way (weights that are pickles, custom objects, archives of other
versions) is loaded by torch with --allow-pickle alone; else the error lists what the file would call.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.converters.imported import ENTRY, MOST_STEPS, About, Imported, parsed, sha256_of
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph.axes import BATCH
from spikformer_deploy.graph.export import Exported, export
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.parts import GETITEM
from spikformer_deploy.graph.trace import trace_exported

SCHEMA = 8
"""Major version of torch's schema of the graph: it changes where the meaning of a file does."""
NOTES = f"{ENTRY}.json"
KEYWORD = 2
"""torch._export.serde.schema.ArgumentKind of an argument that is given by name."""
LARGEST_JSON = 2**28
LONGEST_SIZE = 1000
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""torch._export.serde.schema.ScalarType."""


def write_model(model: Loaded, path: Path) -> None:
    """Write the module, its batch dynamic and each LIF a single node `spikformer::lif`.

    `import spikformer_deploy.nn.lif` registers that operator, for others that read the file by torch.export.load.
    """
    steps = (model.time_steps,) if model.per_step else ()
    program = export(model.module, (*steps, *model.input_shape))
    for node in program.graph.nodes:  # where the sources lie is nobody's business
        if trace := node.meta.get("stack_trace"):
            node.meta["stack_trace"] = re.sub(r'File "[^"]*?([^"/\\]*)"', r'File "\1"', trace)
    notes = About(model.time_steps, model.per_step, model.preprocess, model.labels, model.training, {})
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={NOTES: notes.text()})
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
            told = archive.notes()
            exported = archive.exported()
    except _OnlyByTorch as reason:
        if not allow_pickle:
            raise _refused(path, str(reason)) from None
        told, exported = _loaded(path)
    return _imported(path, exported, told, time_steps)


def _imported(path: Path, exported: Exported, told: About | None, time_steps: int | None) -> Imported:
    batch, *shape = exported.input_shape
    if batch != BATCH:
        raise ModelError(
            str(path), f"it takes {batch} images at a time", "Export it with dynamic_shapes=({0: Dim('batch')},)."
        )
    if len(shape) not in (3, 4):
        raise ModelError(str(path), f"it takes {shape}", "It must take images (batch, C, Y, X) or (batch, T, C, Y, X).")
    per_step = len(shape) == 4
    steps = time_steps or (told.time_steps if told else shape[0] if per_step else None)
    if steps is None or not 0 < steps <= MOST_STEPS:
        problem = f"{steps} time steps" if steps else "it does not say how many time steps an image has"
        raise ModelError(str(path), problem, "Give --time-steps.")
    channels, height, width = shape[-3:]
    try:
        graph = check(trace_exported(exported, (channels, height, width), time_steps=steps, per_step=per_step))
    except DAMAGE as error:
        raise _damaged(path, error) from None
    notes: tuple[str, ...] = ()
    if told is None:
        notes = ("the input is taken as pixels / 255, or as counts where it is a frame a step: the file does not tell",)
        std = 1 / 255 if per_step else 1.0
        told = About(steps, per_step, Preprocess(channels, height, (0.0,) * channels, (std,) * channels, 255, width))
    if (told.preprocess.channels, *told.preprocess.extent) != (channels, height, width):
        raise InputError(str(path), f"its input is {shape[-3:]}, and the notes of its export say otherwise")
    training = dict(told.training or {})
    return Imported("pt2", graph, told.preprocess, told.labels, sha256_of(path), training, notes)


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
    found: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size < LARGEST_JSON:
                content = archive.read(entry) if _may_be_pickle(entry.filename) else b""
                try:
                    found |= set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content)))
                except Exception:  # of no consequence: it is a list for a person
                    continue
    return found


def _may_be_pickle(name: str) -> bool:
    return "/data/" in f"/{name}" and not name.endswith((".json", "/version", "/serialization_id"))


def _loaded(path: Path) -> tuple[About | None, Exported]:
    """By torch's own loader, which may run code: the user has said that the file is trusted."""
    extra = {NOTES: ""}
    try:
        with path.open("rb") as stream:
            program = torch.export.load(stream, extra_files=extra)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(str(path), f"torch.export cannot load it: {reason[0]}") from None
    return parsed(path, str(extra[NOTES])) if extra[NOTES] else None, Exported.of(program)


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
        # names are "<name of the archive>/<member>"
        self.entries = {entry.filename.partition("/")[2]: entry for entry in self.zip.infolist()}
        return self

    def __exit__(self, *_: object) -> None:
        self.zip.close()

    def read(self, member: str) -> bytes:
        entry = self.entries.get(member)
        size = self.path.stat().st_size
        if (
            entry is None
            or entry.compress_type != zipfile.ZIP_STORED
            or not entry.file_size == entry.compress_size < size
        ):
            problem = f"it has no {member}" if entry is None else f"{member} is packed, or larger than the file"
            raise InputError(str(self.path), f"it is damaged: {problem}", "Export it again.")
        try:
            return self.zip.read(entry)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            raise InputError(str(self.path), f"it is damaged: {error}", "Copy the file again.") from None

    def json(self, member: str) -> Any:
        content = self.read(member)
        if len(content) > LARGEST_JSON:
            raise InputError(str(self.path), f"{member} has {len(content):,} bytes")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(str(self.path), f"{member} is damaged: {error}", "Copy the file again.") from None

    def notes(self) -> About | None:
        """What our own export wrote beside the program."""
        return parsed(self.path, self.read(f"extra/{NOTES}").decode("utf-8", "replace")) if self._has_notes() else None

    def _has_notes(self) -> bool:
        return f"extra/{NOTES}" in self.entries

    def exported(self) -> Exported:
        """The graph with its parameters; _OnlyByTorch where these cannot be read as they are."""
        if "archive_format" not in self.entries:
            raise _OnlyByTorch("it is an archive of torch before 2.8, whose weights are a pickle")
        if native := [name for name in self.entries if name.startswith("data/aotinductor/")]:
            raise _OnlyByTorch(f"it holds compiled code ({native[0]})")
        models = [name for name in self.entries if name.startswith("models/")]
        if len(models) != 1 or not models[0].endswith(".json"):
            raise InputError(str(self.path), f"it holds {len(models)} programs", "It must hold one.")
        name = models[0].removeprefix("models/").removesuffix(".json")
        if self.read("byteorder") != b"little":
            raise InputError(str(self.path), "its bytes are not in little-endian order", "Export it again.")
        program = self.json(models[0])
        try:
            major = program["schema_version"]["major"]
            if major != SCHEMA:
                raise _OnlyByTorch(f"its graph has version {major} of torch's schema, and {SCHEMA} is read here")
            return _exported(program["graph_module"], self._weights(name))
        except DAMAGE as error:
            raise _damaged(self.path, error) from None

    def _weights(self, name: str) -> dict[str, torch.Tensor]:
        config = self.json(f"data/weights/{name}_weights_config.json")["config"]
        if pickled := [key for key, meta in config.items() if meta["use_pickle"]]:
            raise _OnlyByTorch(f"the weight {pickled[0]} is a pickle")
        content: dict[str, bytearray] = {}
        out = {}
        for key, meta in config.items():
            file, tensor = str(meta["path_name"]), meta["tensor_meta"]
            if file not in content:
                content[file] = bytearray(self.read(f"data/weights/{file}"))
            out[key] = _tensor(key, content[file], tensor)
        return out


def _tensor(key: str, content: bytearray, meta: Mapping[str, Any]) -> torch.Tensor:
    """The tensor in `content`; ValueError where it does not lie within."""
    dtype, shape = DTYPES.get(meta["dtype"]), [_size(s) for s in meta["sizes"]]
    strides, offset = [_size(s) for s in meta["strides"]], _size(meta["storage_offset"])
    if dtype is None or min([*shape, *strides, offset, 0]) < 0:
        raise ValueError(f"{key} of type {meta['dtype']} and shape {shape}")
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
    source, signature = module["graph"], module["signature"]
    values = {name: _value(meta) for name, meta in source["tensor_values"].items()}
    graph = torch.fx.Graph()
    nodes: dict[str, Any] = {}
    parameters, inputs = {}, []
    for spec in signature["input_specs"]:
        ((kind, told),) = spec.items()
        if kind not in ("parameter", "buffer", "user_input"):
            raise ModelError(
                str(told.get("tensor_constant_name", kind)),
                "a tensor that is no parameter is baked into the model (the state of an earlier run?)",
                "Reset the neurons before exporting (spikingjelly: functional.reset_net(model)).",
            )
        name = told["arg"]["as_tensor"]["name"] if kind == "user_input" else told["arg"]["name"]
        nodes[name] = graph.placeholder(f"v{len(nodes)}")
        nodes[name].meta["val"] = values[name]
        if kind == "user_input":
            inputs.append(name)
        else:
            key = told[f"{kind}_name"]
            parameters[nodes[name].name] = (key, weights[key])
    if changed := [spec for spec in signature["output_specs"] if "user_output" not in spec]:
        ((kind, told),) = changed[0].items()
        raise ModelError(str(told.get("buffer_name", kind)), "the model changes it as it runs: it holds state")
    if len(inputs) != 1:
        raise ModelError("model", f"it takes {len(inputs)} inputs", "It must take the images alone.")
    for entry in source["nodes"]:
        _add_node(graph, nodes, values, entry)
    graph.output(tuple(nodes[out["as_tensor"]["name"]] for out in source["outputs"]))
    return Exported(graph, parameters, tuple(values[inputs[0]].shape))


def _add_node(graph: torch.fx.Graph, nodes: dict[str, Any], values: Mapping[str, torch.Tensor], entry: Any) -> None:
    target = str(entry["target"]).removeprefix("torch.ops.")
    args, kwargs = [], {}
    for given in entry["inputs"]:
        value = _argument(target, nodes, given["arg"])
        if given.get("kind") == KEYWORD:
            kwargs[str(given["name"])] = value
        else:
            args.append(value)
    node = graph.call_function(_Target(target), tuple(args), kwargs)
    metadata = entry.get("metadata", {})
    node.meta["stack_trace"] = str(metadata.get("stack_trace", ""))
    stack = [part.split(",", 2) for part in str(metadata.get("nn_module_stack", "")).split(";") if part.count(",") >= 2]
    node.meta["nn_module_stack"] = {key: (module, kind) for key, module, kind in stack}
    outputs = [(kind, told) for out in entry["outputs"] for kind, told in out.items()]
    tensors = [t for kind, told in outputs for t in (told if kind == "as_tensors" else [told]) if "tensor" in kind]
    if len(tensors) == 1 and outputs[0][0] == "as_tensor":
        nodes[tensors[0]["name"]] = node
        node.meta["val"] = values[tensors[0]["name"]]
    elif tensors:  # parts, of which the file leaves out how they are taken
        node.meta["val"] = tuple(values[tensor["name"]] for tensor in tensors)
        for i, tensor in enumerate(tensors):
            part = graph.call_function(_Target(GETITEM), (node, i))
            part.meta |= {**node.meta, "val": values[tensor["name"]]}
            nodes[tensor["name"]] = part
    for kind, told in outputs:
        if "tensor" not in kind and isinstance(told, dict) and "as_name" in told:
            nodes[told["as_name"]] = node


def _argument(target: str, nodes: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    ((kind, value),) = given.items()
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
            return value["as_int"] if "as_int" in value else nodes[value["as_name"]]
        case "as_sym_ints":
            return [v["as_int"] if "as_int" in v else nodes[v["as_name"]] for v in value]
        case "as_tensors":
            return [nodes[v["name"]] for v in value]
        case "as_device" | "as_layout":
            return None
        case _:
            raise ModelError(target, f"arguments of kind '{kind}' are not supported")


def _value(meta: Mapping[str, Any]) -> torch.Tensor:
    """A tensor of the shape and type that the file tells, without content."""
    shape = [_size(size) for size in meta["sizes"]]
    if any(extent < 0 for extent in shape) or math.prod(shape) >= 2**58:
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
