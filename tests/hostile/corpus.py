"""Files that are damaged or mean harm, made from good ones; each is to be refused with one clear message."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import torch
from safetensors.torch import save as safetensors_bytes
from support.chains import chain
from support.models import SMALL
from support.networks import preprocess_of, random_network

from spikformer_deploy.base.flat import checksum
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.checkpoints.read import Loaded, save
from spikformer_deploy.converters.nir import write as nir_export
from spikformer_deploy.converters.onnx import write as onnx_model
from spikformer_deploy.converters.pt2 import write_model as write_pt2
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.nn.zoo import build, named
from spikformer_deploy.pipeline.program import FORMAT, Program, to_bytes

MODEL, PROGRAM, PROFILE, IMAGES = "model", "program", "profile", "images"
"""What a file is given as; a model is compiled, a program inspected and run, ..."""

CANARY = "executed"
FRAMES = Preprocess(2, 8, (0.0, 0.0), (1.0, 1.0), 1, 6)


class Payload:
    """A pickle that creates a file in the working folder."""

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {CANARY}",))


def corpus(folder: Path) -> dict[str, tuple[str, str]]:
    """Write all files; file name -> (what it is given as, a pattern of the message)."""
    told: dict[str, tuple[str, str]] = {}
    for makers in (torch_files, safetensors_files, programs, onnx_files, hdf5_files, pt2_files, other_files):
        for name, use, content, message in makers():
            assert name not in told, name
            told[name] = (use, message)
            (folder / name).write_bytes(content)
    return told


def flipped(folder: Path, count: int) -> list[str]:
    """Write copies of good files with one byte changed; their names."""
    makers = {"torch": _saved(_state()), "ours": _ours(), "nir": _nir(), "onnx": _onnx(), "pt2": good_pt2()}
    rng = np.random.default_rng(0)
    names = []
    for kind, content in makers.items():
        # headers are where the meaning is: half of the changes fall into the first and the last kilobytes
        places = [*rng.integers(0, len(content), count // 2), *rng.integers(0, 2000, count // 4)]
        places += [len(content) - int(x) for x in rng.integers(1, 4000, count - len(places))]
        for place in places:
            changed = bytearray(content)
            changed[place] ^= int(rng.integers(1, 256))
            names.append(f"{kind}-flipped-{place}")
            (folder / names[-1]).write_bytes(bytes(changed))
    return names


Entry = tuple[str, str, bytes, str]


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "file"


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _zipped(members: dict[str, bytes], packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():  # not of this second: same members, same bytes
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return buffer.getvalue()


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _cuts(name: str, use: str, content: bytes) -> Iterator[Entry]:
    for length in (len(content) // 3, len(content) - 7):
        yield f"{name}-cut-{length}", use, content[:length], "."


# --- torch -------------------------------------------------------------------------------------------------------

OFFICIAL = named("v1-4-384", dim=64, depth=1, heads=2)


def _state(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    state: dict[str, Any] = dict(build(OFFICIAL).state_dict())
    for key, value in changes.items():
        state[key.replace("__", ".")] = value
    return {key: value for key, value in state.items() if value is not None}


def torch_files() -> Iterator[Entry]:
    state = _state()
    weight = state["head.weight"]
    good = _saved(state)
    yield from _cuts("torch", MODEL, good)
    evil = {"state_dict": state, "extra": Payload()}
    yield "pickle-in-zip.pth", MODEL, _saved(evil), r"would run code of the file: posix\.system"
    old = _saved(evil, _use_new_zipfile_serialization=False)
    yield "pickle-old.pth", MODEL, old, r"would run code of the file: .*posix\.system"
    yield "pickle-plain.pth", MODEL, pickle.dumps(Payload()), r"would run code of the file: posix\.system"
    yield "pickle-arguments.pth", MODEL, _saved({"model": state, "args": Payload()}), "would run code"
    yield "module.pth", MODEL, _saved(torch.nn.Linear(2, 2)), r"would run code of the file: .*Linear"
    script = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    yield "script.pt", MODEL, script.getvalue(), "it is a TorchScript program"
    for name, value, message in (
        ("nan", torch.full_like(weight, torch.nan), "head.weight: .* not all finite"),
        ("inf", torch.full_like(weight, torch.inf), "head.weight: .* not all finite"),
        ("integers", weight.to(torch.int64), "head.weight: torch.int64 values"),
        ("complex", weight.to(torch.complex64), "head.weight: torch.complex64 values"),
        ("shape", weight[:, :-1].clone(), "head.weight: its shape is"),
        ("sparse", weight.to_sparse(), "head.weight: .* sparse"),
        ("expanded", torch.zeros(1).expand(2**20, 2**20), "head.weight: .* repeats fewer values"),
        ("missing", None, "of no official checkpoint"),
        ("rank", weight[0], "head.weight: its shape is"),
        ("word", "a word", "no state_dict in it"),
    ):
        yield f"weight-{name}.pth", MODEL, _saved(_state(head__weight=value)), message
    variance = "block.0.attn.q_bn.running_var"
    complex_variance = _saved(_state(**{variance: torch.ones(64, dtype=torch.complex64)}))
    yield "complex-variance.pth", MODEL, complex_variance, "torch.complex64 values"
    yield "negative-variance.pth", MODEL, _saved(_state(**{variance: -torch.ones(64)})), "negative running variance"
    for name, key, value in (
        ("scalar", "patch_embed.proj_conv3.weight", torch.tensor(1.0)),
        ("empty", "patch_embed.proj_conv3.weight", torch.zeros(0, 32, 3, 3)),
        ("position", "pos_embed", torch.tensor(1.0)),
        ("scalar-head", "head.weight", torch.tensor(1.0)),
    ):
        yield f"shape-{name}.pth", MODEL, _saved({**state, key: value}), "shape"
    yield "key-missing.pth", MODEL, _saved(_state(head__bias=None)), "missing keys: head.bias"
    yield "key-unknown.pth", MODEL, _saved(_state(extra=weight)), "unknown keys: extra"
    yield "key-number.pth", MODEL, _saved({1: weight}), "."
    yield "heads.pth", MODEL, _saved({"state_dict": state, "args": argparse.Namespace(num_heads=7)}), "do not divide"
    yield "heads-zero.pth", MODEL, _saved({"state_dict": state, "args": argparse.Namespace(num_heads=0)}), "heads = 0"
    for name, arguments in (("list", ["T", 4]), ("word", "T"), ("number", 7.0)):
        arguments_of = {"state_dict": {**state, "extra": weight}, "args": arguments}
        yield f"arguments-{name}.pth", MODEL, _saved(arguments_of), "unknown keys: extra"
    steps = argparse.Namespace(T=2**30)
    yield (
        "time-steps.pth",
        MODEL,
        _saved({"state_dict": state, "args": steps}),
        "time steps = 1073741824, and it must be 1 to 1024",
    )
    blocks = {f"block.{i}.{key}": weight for i in range(2000) for key in ("a", "b")}
    yield "many-blocks.pth", MODEL, _saved({**state, **blocks}), "unknown keys|missing keys|blocks"
    yield "a-list.pth", MODEL, _saved([weight]), "holds a list"
    yield "nothing.pth", MODEL, _saved({}), "."
    members = _members(good)
    pickled = next(name for name in members if name.endswith("data.pkl"))
    bomb = _zipped({**members, pickled: members[pickled] + bytes(2**28)}, packed=True)
    yield "bomb.pth", MODEL, bomb, "packed"
    storage = next(name for name in members if name.endswith("data/0"))
    yield "storage-missing.pth", MODEL, _zipped({k: v for k, v in members.items() if k != storage}), "."
    yield "storage-short.pth", MODEL, _zipped({**members, storage: b"1234"}), "."
    yield "not-a-model.zip", MODEL, _zipped({"a.txt": b"hello"}), "zip file of something else"


# --- safetensors -------------------------------------------------------------------------------------------------


def _header(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _ours(**changes: Any) -> bytes:
    with _scratch() as path:
        config = SMALL["cifar"]
        save(path, build(config), config, Preprocess(3, 16, (0.0,) * 3, (1.0,) * 3), (), {})
        content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    entry = json.loads(header["__metadata__"]["spikformer_deploy"])
    for key, value in changes.items():
        place, _, field = key.partition("__")
        if field:
            entry[place][field] = value
        else:
            entry[place] = value
    header["__metadata__"]["spikformer_deploy"] = json.dumps(entry)
    return _header(header, content[8 + size :])


def safetensors_files() -> Iterator[Entry]:
    good = _ours()
    yield from _cuts("safetensors", MODEL, good)
    yield "header-huge.safetensors", MODEL, struct.pack("<Q", 2**62) + b"{" + bytes(100), "header of"
    yield "header-deep.safetensors", MODEL, _header(b"{" + b'"a":[' * 50000 + b"]" * 50000 + b"}"), "damaged"
    yield "header-no-json.safetensors", MODEL, _header(b"{not json}"), "damaged"
    yield "header-list.safetensors", MODEL, _header({"__metadata__": [1]}), "damaged"
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    other = {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}
    yield "overlap.safetensors", MODEL, _header({"a": one, "b": other}, bytes(12)), "damaged"
    yield "beyond.safetensors", MODEL, _header({"a": {**one, "data_offsets": [0, 2**40]}}, bytes(8)), "damaged"
    yield "shape-huge.safetensors", MODEL, _header({"a": {**one, "shape": [2**40, 2**40]}}, bytes(8)), "damaged"
    yield "dtype.safetensors", MODEL, _header({"a": {**one, "dtype": "OBJ"}}, bytes(8)), "damaged"
    yield "foreign.safetensors", MODEL, safetensors_bytes({"x": torch.ones(2)}), "of no official checkpoint"
    for name, changes, message in (
        ("version", {"version": 99}, "version 99"),
        ("kind", {"kind": "recipe"}, "holds a recipe"),
        ("depth", {"config__depth": 1000000}, "depth"),
        ("dim", {"config__dim": 2**19}, "."),
        ("dim-negative", {"config__dim": -4}, "dim = -4"),
        ("dim-word", {"config__dim": "64"}, "dim = '64'"),
        ("heads", {"config__heads": 5}, "do not divide"),
        ("time-steps", {"config__time_steps": 10**6}, "time steps = 1000000"),
        ("family", {"config__family": "v9"}, "v9"),
        ("family-list", {"config__family": ["v1"]}, "header is damaged"),
        ("pooling", {"config__pooling": 11}, "header is damaged"),
        ("field", {"config__secret": 1}, "header is damaged"),
        ("size", {"preprocess__size": 10**6}, "header is damaged"),
        ("std", {"preprocess__std": [0, 0, 0]}, "header is damaged"),
        ("std-nan", {"preprocess__std": [float("nan")] * 3}, "header is damaged"),
        ("max", {"preprocess__max_value": 10**9}, "header is damaged"),
        ("labels", {"labels": 3}, "header is damaged"),
        ("stages", {"config__image_size": 10**5, "preprocess__size": 10**5}, "header is damaged"),
    ):
        yield f"entry-{name}.safetensors", MODEL, _ours(**changes), message


# --- programs ----------------------------------------------------------------------------------------------------


def good_program() -> bytes:
    network = random_network(1, blocks=0, state_bits=24)
    profile = load_profile("kapoho_point")
    return to_bytes(Program(network, map_network(network, profile, {}), profile, preprocess_of(network), (), {}))


def _resealed(content: bytes, old: str, new: str) -> bytes:
    """The program with its structure changed, and a checksum that fits."""
    from safetensors.numpy import load, save

    size = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + size])["__metadata__"]["spikformer_deploy"]
    assert old in text, old
    structure, tensors = json.loads(text.replace(old, new)), load(content)
    structure.pop("sha256")
    # of NaN there is no checksum
    structure["sha256"] = "0" * 64 if "NaN" in new else checksum(structure, tensors)
    return save(tensors, {"spikformer_deploy": json.dumps(structure, sort_keys=True)})


def programs() -> Iterator[Entry]:
    good = good_program()
    yield from _cuts("program", PROGRAM, good)
    for place in (9, len(good) // 3, len(good) - 5):
        flipped = bytearray(good)
        flipped[place] ^= 4
        yield f"flipped-{place}.spk", PROGRAM, bytes(flipped), "."
    yield "longer.spk", PROGRAM, good + b"\0", "."
    size = int.from_bytes(good[:8], "little")
    text = json.loads(json.loads(good[8 : 8 + size])["__metadata__"]["spikformer_deploy"])
    first = json.dumps(text["network"]["populations"][1]["shape"])
    own = f'"format": {FORMAT}'
    assert own in json.dumps(text)
    yield "format.spk", PROGRAM, _resealed(good, own, '"format": 99'), "format 99"
    yield "shape.spk", PROGRAM, _resealed(good, f'"shape": {first}', '"shape": [1048576, 1048576, 64]'), "."
    steps = f'"time_steps": {text["network"]["time_steps"]}'
    yield "time-steps.spk", PROGRAM, _resealed(good, steps, '"time_steps": 1000000000'), "time steps"
    bits = f'"state_bits": {text["network"]["state_bits"]}'
    yield "state-bits.spk", PROGRAM, _resealed(good, bits, '"state_bits": 4000'), "state bits"
    yield "nan.spk", PROGRAM, _resealed(good, '"max_value": 255', '"max_value": NaN'), "."


# --- ONNX --------------------------------------------------------------------------------------------------------


def _onnx(edit: Callable[[Any], None] = lambda model: None) -> bytes:
    with _scratch() as path:
        onnx_model.write_model(chain(0, dyadic=False), path, FRAMES, (), {})
        model = onnx.load(path)
    edit(model)
    return bytes(model.SerializeToString())


def onnx_files() -> Iterator[Entry]:
    yield from _cuts("onnx", MODEL, _onnx())

    def node(model: Any, kind: str) -> Any:
        return next(n for n in model.graph.node if n.op_type == kind)

    def weight(model: Any) -> Any:
        return next(t for t in model.graph.initializer if len(t.dims) == 4)

    def cyclic(model: Any) -> None:
        node(model, "Conv").input[0] = model.graph.node[-1].output[0]

    def external(model: Any) -> None:
        tensor = weight(model)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../../../etc/passwd"

    def dims(*sizes: int) -> Callable[[Any], None]:
        def edit(model: Any) -> None:
            tensor = weight(model)
            del tensor.dims[:]
            tensor.dims.extend(sizes)

        return edit

    def batch_norm(model: Any) -> None:
        conv = node(model, "Conv")
        for name, value in (("one", 1.0), ("zero", 0.0)):
            tensor = onnx.numpy_helper.from_array(np.full(4, value, np.float32), name)
            model.graph.initializer.append(tensor)
        made = onnx.helper.make_node("BatchNormalization", [conv.output[0], "one", "zero", "zero", "zero"], ["bn"])
        made.attribute.append(onnx.helper.make_attribute("epsilon", 0.0))
        place = list(model.graph.node).index(conv) + 1
        for later in model.graph.node:
            later.input[:] = ["bn" if i == conv.output[0] else i for i in later.input]
        model.graph.node.insert(place, made)

    def nested(model: Any) -> None:
        inner = onnx.helper.make_graph([], "inner", [], [])
        for _ in range(20):
            branch = onnx.helper.make_node("If", ["c"], ["o"], then_branch=inner)
            inner = onnx.helper.make_graph([branch], "inner", [], [])
        node(model, "Conv").CopyFrom(onnx.helper.make_node("If", ["images"], ["o"], then_branch=inner))

    def expand(model: Any) -> None:
        shape = onnx.numpy_helper.from_array(np.array([2**40, 1, 1, 1], np.int64), "giant")
        model.graph.initializer.append(shape)
        model.graph.node[0].op_type = "Expand"
        del model.graph.node[0].attribute[:]
        model.graph.node[0].input[:] = ["images", "giant"]

    def steps(model: Any) -> None:
        for prop in model.metadata_props:
            prop.value = prop.value.replace('"time_steps": 3', '"time_steps": 1000000000')

    def words(model: Any) -> None:
        model.graph.initializer.append(onnx.helper.make_tensor("s", onnx.TensorProto.STRING, [1], [b"x"]))

    def opset(model: Any) -> None:
        node(model, "Conv").domain = "evil"

    def outputs(model: Any) -> None:
        del model.graph.output[:]

    def tau(model: Any) -> None:
        for made in model.graph.node:
            for attribute in made.attribute:
                if attribute.name == "tau":
                    attribute.f = float("nan")

    def stride(model: Any) -> None:
        for attribute in node(model, "Conv").attribute:
            if attribute.name == "strides":
                attribute.ints[:] = [0, 0]

    for name, edit, message in (
        ("cyclic", cyclic, "a cycle"),
        ("external", external, "stand in another file"),
        ("dims-huge", dims(2**40, 2, 3, 3), "its values are not there"),
        ("dims-negative", dims(-1, 2, 3, 3), "its values are not there"),
        ("dims-other", dims(4, 1, 3, 3), "."),
        ("zero-variance", batch_norm, "variance that is not positive"),
        ("nested", nested, "operator If is not supported"),
        ("expand", expand, "repetition|expansion"),
        ("steps", steps, "notes of its export are damaged"),
        ("words", words, "type"),
        ("domain", opset, "operator evil.Conv is not supported"),
        ("outputs", outputs, "0 outputs"),
        ("tau", tau, "NaN"),
        ("stride", stride, "strides"),
    ):
        yield f"{name}.onnx", MODEL, _onnx(edit), message

    yield "deep.onnx", MODEL, _deep(), "damaged"


def _deep() -> bytes:
    """A graph in a node in a graph, and so on."""
    graph = b""
    for _ in range(2000):
        for number in (6, 5, 1):
            graph = bytes([number << 3 | 2]) + _varint(len(graph)) + graph
    return b"\x08\x08" + bytes([7 << 3 | 2]) + _varint(len(graph)) + graph


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


# --- HDF5 --------------------------------------------------------------------------------------------------------


def _nir(edit: Callable[[Any], None] = lambda file: None) -> bytes:
    with _scratch() as path:
        nir_export.write_model(chain(0, dyadic=True), path, FRAMES, (), {})
        with h5py.File(path, "a") as file:
            edit(file)
        return path.read_bytes()


WEIGHT = "node/nodes/conv1/weight"


def hdf5_files() -> Iterator[Entry]:
    yield from _cuts("nir", MODEL, _nir())

    def put(name: str, value: Any) -> Callable[[Any], None]:
        def edit(file: Any) -> None:
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value

        return edit

    def external(file: Any) -> None:
        shape = file[WEIGHT].shape
        del file[WEIGHT]
        file.create_dataset(WEIGHT, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])

    def virtual(file: Any) -> None:
        shape = file[WEIGHT].shape
        del file[WEIGHT]
        layout = h5py.VirtualLayout(shape, "f4")
        layout[...] = h5py.VirtualSource("/etc/other.h5", "x", shape)
        file.create_virtual_dataset(WEIGHT, layout)

    def hole(file: Any) -> None:
        del file[WEIGHT]
        file.create_dataset(WEIGHT, (2**40,), "f4", chunks=(2**20,))

    def bomb(file: Any) -> None:
        del file[WEIGHT]
        file.create_dataset(WEIGHT, (2**26,), "f4", chunks=(2**22,), compression="gzip", data=np.zeros(2**26, "f4"))

    def loop(file: Any) -> None:
        file["node/nodes/conv1/inner"] = file["node/nodes"]

    def kind(file: Any) -> None:
        put("node/nodes/conv1/type", "Exec")(file)

    def edges(file: Any) -> None:
        put("node/edges", np.array([["conv1", "lif1"], ["lif1", "conv1"]], dtype=object))(file)

    for name, edit, message in (
        ("link-external", put(WEIGHT, h5py.ExternalLink("/etc/passwd", "/x")), "is a link"),
        ("link-soft", put(WEIGHT, h5py.SoftLink("/node/nodes/conv2/weight")), "is a link"),
        ("external", external, "another file"),
        ("virtual", virtual, "another file"),
        ("hole", hole, "larger than"),
        ("bomb", bomb, "larger than"),
        ("loop", loop, "more than"),
        ("kind", kind, "conv1: NIR nodes of kind Exec"),
        ("edges", edges, "nothing flows into it|recurrent"),
        ("nan", put(WEIGHT, np.full((4, 2, 3, 3), np.nan)), "conv1: its weight holds NaN"),
        ("words", put(WEIGHT, "words"), "holds no numbers"),
        ("missing", put(WEIGHT, None), "lacks weight"),
        ("shape", put(WEIGHT, np.ones((4, 5, 3, 3))), "."),
        ("rank", put(WEIGHT, np.ones(4)), "weight of shape"),
        ("input", put("node/nodes/input/shape", np.array([2**20, 2**20, 2**20])), "input of shape"),
        ("padding", put("node/nodes/conv1/padding", np.array([2**40, 1])), "padding"),
        ("stride", put("node/nodes/conv1/stride", np.array([0, 0])), "stride"),
        ("steps", put("node/metadata/spikformer_deploy", "{"), "notes of its export are damaged"),
        ("tau", put("node/nodes/lif1/tau", np.zeros((4, 8, 6))), "tau is 0 steps"),
        ("type", put("node/type", "Affine"), "no NIR graph"),
    ):
        yield f"{name}.nir", MODEL, _nir(edit), message
    yield from netx_files()


NEURON = {"type": "CUBA", "iDecay": 4096, "vDecay": 1024, "vThMant": 30}
CONV = {"type": "conv", "weight": np.ones((4, 2, 3, 3)), "neuron": NEURON, "stride": 1, "padding": 1}
INPUT = {"type": "input", "shape": [2, 4, 5], "neuron": NEURON}


def _put(group: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _put(group.create_group(key), value)
        else:
            group[key] = np.bytes_(value) if isinstance(value, str) else value


def _net(*layers: Any, steps: Any = 3) -> bytes:
    with _scratch() as path:
        with h5py.File(path, "w") as file:
            _put(file, {"layer": {str(i): layer for i, layer in enumerate(layers)}, "simulation": {"tSample": steps}})
        return path.read_bytes()


def good_netx() -> bytes:
    """Every kind of layer, with all that may be said of them."""
    conv = {"shape": [4, 4, 5], "inChannels": 2, "outChannels": 4, "kernelSize": [3, 3], "dilation": 1, "groups": 1}
    weight = np.arange(160).reshape(2, 80) % 7 - 3.0
    dense = {"type": "dense", "weight": weight, "neuron": NEURON, "delay": 0, "inFeatures": 80, "outFeatures": 2}
    return _net(INPUT, {**CONV, **conv}, {"type": "flatten"}, dense)


def members() -> Iterator[tuple[str, Any, str]]:
    """What may stand in the place of an array, and what is said of it; a function makes it at its name."""

    def virtual(file: Any, name: str) -> None:
        layout = h5py.VirtualLayout((4, 2, 3, 3), "f4")
        layout[...] = h5py.VirtualSource("/etc/other.h5", "x", (4, 2, 3, 3))
        file.create_virtual_dataset(name, layout)

    def external(file: Any, name: str) -> None:
        file.create_dataset(name, (4, 2, 3, 3), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])

    def bomb(file: Any, name: str) -> None:
        file.create_dataset(name, (2**26,), "f4", chunks=(2**22,), compression="gzip", data=np.zeros(2**26, "f4"))

    yield "link-soft", h5py.SoftLink("/"), "is a link"
    yield "link-nowhere", h5py.SoftLink("/nothing"), "is a link"
    yield "link-external", h5py.ExternalLink("/etc/passwd", "/x"), "is a link"
    yield "external", external, "stands in another file"
    yield "virtual", virtual, "stands in another file"
    yield "bomb", bomb, "larger than"
    yield "hole", lambda file, name: file.create_dataset(name, (2**40,), "f4", chunks=(2**20,)), "larger than"
    yield "empty", h5py.Empty("f4"), "is empty"
    yield "compound", np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]), "neither numbers nor a word"
    yield "complex", np.ones((4, 2, 3, 3), np.complex64), "neither numbers nor a word"
    yield "reference", lambda file, name: file.create_dataset(name, data=file.ref, dtype=h5py.ref_dtype), "neither"
    yield "lists", lambda file, name: file.create_dataset(name, (3,), h5py.vlen_dtype("i4")), "neither numbers"
    yield "type", np.dtype("i4"), "neither a group nor data"
    yield "group", lambda file, name: file.create_group(name), "."
    yield "loop", lambda file, name: file.__setitem__(name, file["/"]), "more than"


def _with_member(content: bytes, name: str, value: Any) -> bytes:
    """An HDF5 file with another member in the place of one."""
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "a") as file:
        del file[name]
        if callable(value) and not isinstance(value, np.dtype):
            value(file, name)
        else:
            file[name] = value
    return buffer.getvalue()


def netx_files() -> Iterator[Entry]:
    neuron, conv, good, file_of = NEURON, CONV, [INPUT, CONV], _net
    yield from _cuts("netx", MODEL, file_of(*good))
    for name, content, message in (
        ("nan", file_of(good[0], {**conv, "weight": np.full((4, 2, 3, 3), np.nan)}), "no integers"),
        ("stride", file_of(good[0], {**conv, "stride": 0}), "layer.1: stride"),
        ("shape-huge", file_of({**good[0], "shape": [2**20, 2**20, 2**20]}, conv), "."),
        ("steps", file_of(*good, steps=2**40), "time steps"),
        ("steps-nan", file_of(*good, steps=np.nan), "."),
        ("decay", file_of(good[0], {**conv, "neuron": {**neuron, "vDecay": np.nan}}), "."),
        ("decay-range", file_of(good[0], {**conv, "neuron": {**neuron, "vDecay": 10**9}}), "."),
        ("threshold-words", file_of(good[0], {**conv, "neuron": {**neuron, "vThMant": "many"}}), "."),
        ("groups", file_of(good[0], {**conv, "groups": 0}), "."),
        ("kernel", file_of(good[0], {**conv, "weight": np.ones((4, 2, 30, 30))}), "."),
    ):
        yield f"{name}.net", MODEL, content, message
    for name, value, message in members():
        yield f"member-{name}.net", MODEL, _with_member(file_of(*good), "layer/1/weight", value), message
        yield f"member-{name}.nir", MODEL, _with_member(_nir(), WEIGHT, value), message
    with _scratch() as path:
        with h5py.File(path, "w") as file:
            file["something"] = 1
        yield "other.h5", MODEL, path.read_bytes(), "HDF5 file of something else"


# --- exported programs -------------------------------------------------------------------------------------------


@cache
def good_pt2() -> bytes:
    """A small model."""
    config = replace(SMALL["cifar"], dim=8, heads=1)
    with _scratch() as path:
        preprocess = Preprocess(3, 16, (0.0,) * 3, (1.0,) * 3)
        write_pt2(Loaded(build(config).eval(), config, preprocess, (), "", {}, ()), path)
        return path.read_bytes()


def pt2_files() -> Iterator[Entry]:
    good = good_pt2()
    yield from _cuts("pt2", MODEL, good)
    members = _members(good)
    graph = next(name for name in members if name.endswith("models/model.json"))
    weights = next(name for name in members if name.endswith("weights_config.json"))

    def edited(member: str, old: str, new: str) -> bytes:
        assert old.encode() in members[member], old
        return _zipped({**members, member: members[member].replace(old.encode(), new.encode())})

    size = "Symbol('s77', positive=True, integer=True)"
    call = f"__import__('os').system('touch {CANARY}')"
    yield "expression.pt2", MODEL, edited(graph, size, call), "a size of __import__"
    yield "expression-deep.pt2", MODEL, edited(graph, size, "(" * 900 + "1" + ")" * 900), "damaged"
    yield (
        "operator.pt2",
        MODEL,
        edited(graph, "torch.ops.aten.matmul.default", "torch.os.system"),
        "operation torch.os .* is not supported",
    )
    yield "pickled-weight.pt2", MODEL, edited(weights, '"use_pickle": false', '"use_pickle": true'), "is a pickle"
    evil = {**members, weights: members[weights].replace(b'"use_pickle": false', b'"use_pickle": true', 1)}
    first = next(name for name in members if name.endswith("weights/weight_0"))
    yield "payload.pt2", MODEL, _zipped({**evil, first: _saved(Payload())}), r"would call posix\.system"
    yield "weight-beyond.pt2", MODEL, edited(weights, '"as_int": 3}', '"as_int": 3000000}'), "damaged|within"
    yield "path.pt2", MODEL, edited(weights, "weight_0", "../../../etc/passwd"), "damaged"
    yield "packed.pt2", MODEL, _zipped({**members, graph: members[graph] + b" " * 2**26}, packed=True), "packed"
    deep = b'{"a":' * 100000 + b"1" + b"}" * 100000
    yield "json-deep.pt2", MODEL, _zipped({**members, graph: deep}), "damaged"
    native = graph.replace("models/model.json", "data/aotinductor/model/model.so")
    yield "native.pt2", MODEL, _zipped({**members, native: b"\x7fELF"}), "compiled code"
    old = {"version": b"8.2", "serialized_exported_program.json": b"{}", "serialized_state_dict.pt": _saved(Payload())}
    yield "old.pt2", MODEL, _zipped(old), "before 2.8"


# --- the rest ----------------------------------------------------------------------------------------------------


def other_files() -> Iterator[Entry]:
    yield "empty", MODEL, b"", "no model file"
    yield "byte", MODEL, b"\x08", "no model file"
    yield "words.txt", MODEL, b"hello\n", "no model file"
    yield "zeros", MODEL, bytes(2**20), "no model file"
    yield "image.png", MODEL, b"\x89PNG\r\n\x1a\n" + bytes(100), "no model file"
    yield "protobuf", MODEL, b"\x08\x08" + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(20), "no model file"
    yield "syntax.toml", PROFILE, b'name = "x\n', "."
    yield "empty.toml", PROFILE, b"", "."
    yield "fields.toml", PROFILE, b'base = "loihi2"\nsecret = 1\n', "secret"
    yield "base.toml", PROFILE, b'base = "../../../etc/passwd"\n', "no known target"
    yield "number.toml", PROFILE, b'base = "loihi2"\n[core]\nneurons = "many"\n', "."
    yield "deep.toml", PROFILE, b"a = " + b"[" * 50000 + b"]" * 50000, "."
    yield "binary.toml", PROFILE, bytes(range(256)), "."
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload()], dtype=object), allow_pickle=True)
    yield "pickle.npy", IMAGES, buffer.getvalue(), "."
    buffer = io.BytesIO()
    np.savez(buffer, images=np.array([Payload()], dtype=object), labels=np.zeros(1, np.int64))
    yield "pickle.npz", IMAGES, buffer.getvalue(), "."
    yield "huge.npy", IMAGES, _npy((2**20, 1, 2**10, 2**10)), "."
    yield "huge.npz", IMAGES, _zipped({"images.npy": _npy((2**20, 1, 2**10, 2**10))}, packed=True), "."
    yield "huge.idx", IMAGES, struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**12, 2**12), "."
    yield "slip.zip", IMAGES, _zipped({"../../escaped.png": b"\x89PNG\r\n\x1a\n"}), "."


def _npy(shape: tuple[int, ...]) -> bytes:
    """A header that says so much, and nothing after it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(100)
