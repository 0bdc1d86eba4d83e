"""Work for tests of the seam: classes that another process can import."""

import os
import signal
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.inference.seam import Work


@dataclass(frozen=True, eq=False)
class Squares(Work):
    """(process, threads, square of the item); what happens is a line of a file in `folder`.

    dies_at  the item at which its process dies, once; wrong: the item that cannot be used
    """

    folder: Path
    dies_at: int = -1
    wrong: int = -1

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._note("sent")

    @cached_property
    def prepared(self) -> bool:
        self._note("prepared")
        return True

    def __call__(self, item: int) -> tuple[int, int, int]:
        assert self.prepared
        if item == self.wrong:
            raise InputError(f"item {item}", "it is wrong", "Leave it out.")
        if item == self.dies_at and not (self.folder / "died").exists():
            self._note("died")
            os.kill(os.getpid(), signal.SIGKILL)
        self._note("begins")
        time.sleep(0.002)
        self._note("ends")
        return os.getpid(), torch.get_num_threads(), item**2

    def _note(self, event: str) -> None:
        with (self.folder / event).open("a") as file:
            file.write(f"{os.getpid()} {time.monotonic_ns()}\n")

    def noted(self, event: str) -> list[tuple[int, int]]:
        """(process, time in ns) of what happened."""
        path = self.folder / event
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]
