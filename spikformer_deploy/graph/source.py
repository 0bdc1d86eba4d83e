"""Where in a user's model something stands: the module's path and the line of its source, for names and messages."""

from __future__ import annotations

import linecache
import re
import traceback

import torch
from torch import nn

LIBRARIES = (
    "-packages/torch/", "-packages/spikingjelly/", "/spikingjelly/activation_based/", "/spikingjelly/clock_driven/",
    "/spikformer_deploy/graph/", "/spikformer_deploy/converters/", "/spikformer_deploy/nn/lif.py",
)  # fmt: skip
"""Folders and files whose lines are not the user's."""


def of_library(path: str) -> bool:
    """Whether a source file is torch's, spikingjelly's or ours, and no user's."""
    return any(part in path for part in LIBRARIES)


def module_path(node: torch.fx.Node) -> str:
    """Where in the module tree an exported operation was called, "block.0.attn"; "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def module_type(node: torch.fx.Node) -> str | None:
    """The class of the module that called it, "torch.nn.modules.conv.Conv2d"; None where torch does not know."""
    stack = node.meta.get("nn_module_stack") or {}
    kind = list(stack.values())[-1][1] if stack else None
    # a class in a fresh export, its name in a program that was saved and loaded
    return kind if isinstance(kind, str) or kind is None else f"{kind.__module__}.{kind.__qualname__}"


def is_leaf(kind: str, operation: str) -> bool:
    """Whether the module is the operation itself (torch.nn.Conv2d, our neurons), so that its path is name enough."""
    return kind.startswith("torch.nn.modules") or operation in ("lif", "levels")


def source_line(node: torch.fx.Node) -> str:
    """The innermost line of the model's source, "model.py:12: x = ..."; "" where torch does not know."""
    trace = node.meta.get("stack_trace") or ""
    frames = re.findall(r'File "([^"]*)", line (\d+), in [^\n]+\n\s*(.*)', trace)
    frames = [frame for frame in frames if not of_library(frame[0])]
    return _place(*frames[-1]) if frames else ""


def raising_line(error: Exception) -> str:
    """The innermost line of the user's code that an exception came through; "" where there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not of_library(f.filename)]
    return _place(frames[-1].filename, frames[-1].lineno, str(frames[-1].line)) if frames else ""


def forward_line(module: nn.Module) -> str:
    """Where the outermost forward pass of the user's own stands; "" where all are a library's."""
    for part in module.modules():
        code = type(part).forward.__code__ if hasattr(type(part).forward, "__code__") else None
        if code is not None and not of_library(code.co_filename):
            first = code.co_firstlineno
            return _place(code.co_filename, first, linecache.getline(code.co_filename, first))
    return ""


def _place(path: str, line: object, code: str) -> str:
    """The file's name is enough for its writer, and tells others nothing about folders."""
    return f"{path.rsplit('/', 1)[-1]}:{line}: {code.strip()}"
