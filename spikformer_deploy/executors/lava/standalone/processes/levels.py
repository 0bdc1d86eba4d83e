"""Neurons that send small integers: how many of their levels the potential reaches."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Levels(AbstractProcess):
    """u = floor(v * decay / 4096) + input + bias; s = how many levels u reaches; v = u - s * reset.

    It sends s, as one graded spike.

    shape       of ports and state; bias broadcasts to it
    levels      (C, D), ascending
    reset       (C,), what each unit that is sent takes off
    time_steps  of an image, `delay` steps after that of the input: v is zero before the first one
    state_bits  of u and of input + bias: more is an error, which names the layer
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        decay: int,
        bias: np.ndarray,
        levels: np.ndarray,
        reset: np.ndarray,
        time_steps: int,
        delay: int,
        state_bits: int,
        layer: str,
        **other: object,
    ) -> None:
        super().__init__(
            decay=decay, bias=bias, levels=levels, reset=reset, time_steps=time_steps, delay=delay,
            state_bits=state_bits, layer=layer, **other,
        )  # fmt: skip
        self.a_in = InPort(shape)
        self.s_out = OutPort(shape)
        self.v = Var(shape, init=0)


@implements(proc=Levels, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class LevelsModel(PyLoihiProcessModel):
    """Levels on a CPU, in 64 bits: one comparison and one addition a level."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.decay, self.bias, self.reset = (proc_params[key] for key in ("decay", "bias", "reset"))
        self.time_steps, self.delay, self.layer = (proc_params[key] for key in ("time_steps", "delay", "layer"))
        self.levels = proc_params["levels"].T
        self.limit = 2 ** (proc_params["state_bits"] - 1) - 1

    def run_spk(self) -> None:
        v = self.v.astype(np.int64)
        if (self.time_step - 1 - self.delay) % self.time_steps == 0:
            v[...] = 0
        drive = self.a_in.recv().astype(np.int64) + self.bias
        potential = (v * self.decay >> 12) + drive
        largest = max(int(np.abs(potential).max()), int(np.abs(drive).max()))
        if largest > self.limit:
            raise OverflowError(f"{self.layer}: a potential of {largest} leaves the state (at most {self.limit})")
        sent = np.zeros_like(potential)
        for level in self.levels:
            sent += potential >= level
        self.v[...] = potential - sent * self.reset
        self.s_out.send(sent.astype(np.int32))
