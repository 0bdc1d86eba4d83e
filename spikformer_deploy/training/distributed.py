"""One process or several: `torchrun --nproc-per-node N --no-python spikdeploy train RECIPE` shares each batch out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class World:
    """This process: its rank among `size`, and the device it works on."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    @property
    def part(self) -> slice:
        """This process's images of a batch: every `size`-th."""
        return slice(self.rank, None, self.size)

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module`, with its gradients averaged over the processes (V1's official LayerNorms have none)."""
        return module if self.size == 1 else DistributedDataParallel(module, find_unused_parameters=True)

    def mean(self, value: Tensor) -> float:
        """Mean of a scalar over the processes."""
        value = value.detach().clone()
        if self.size > 1:
            distributed.all_reduce(value)
        return float(value) / self.size

    def wait(self) -> None:
        """Until all processes have come to this line."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def world() -> Iterator[World]:
    """The processes that torchrun started (one, without it); a GPU each where there are any, else the CPU."""
    rank = int(os.environ.get("RANK", 0))
    size = int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if size > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        if size > 1:
            distributed.destroy_process_group()
