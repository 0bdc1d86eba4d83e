"""The classifier: weights for spike counts over all positions, and accumulators that never fire."""

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


class Readout(AbstractProcess):
    """Every position of channel c reaches class o with weight[o, c].

    shapes  of the two ports; maps: (images, Y, X, C) of what comes in
    weight  (classes, C) float64
    """

    def __init__(
        self,
        *,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        maps: tuple[int, ...],
        weight: np.ndarray,
        **other: object,
    ) -> None:
        super().__init__(maps=maps, weight=weight, **other)
        self.s_in = InPort(shapes[0])
        self.a_out = OutPort(shapes[1])


class Accumulator(AbstractProcess):
    """v starts at the bias in the first of `time_steps` steps and adds what comes; it sends v."""

    def __init__(
        self, *, shape: tuple[int, ...], bias: np.ndarray, time_steps: int, delay: int, **other: object
    ) -> None:
        super().__init__(bias=bias, time_steps=time_steps, delay=delay, **other)
        self.a_in = InPort(shape)
        self.s_out = OutPort(shape)
        self.v = Var(shape, init=0)


@implements(proc=Readout, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class ReadoutModel(PyLoihiProcessModel):
    """Readout on a CPU: exact, as all sums stay below 2^53."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.maps, self.weight = proc_params["maps"], proc_params["weight"]

    def run_spk(self) -> None:
        counts = self.s_in.recv().reshape(self.maps).sum((1, 2), dtype=np.float64)
        self.a_out.send((counts @ self.weight.T).astype(np.int32).reshape(self.a_out.shape))


@implements(proc=Accumulator, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class AccumulatorModel(PyLoihiProcessModel):
    """Accumulator on a CPU."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.bias, self.time_steps, self.delay = (proc_params[key] for key in ("bias", "time_steps", "delay"))

    def run_spk(self) -> None:
        if (self.time_step - 1 - self.delay) % self.time_steps == 0:
            self.v[...] = self.bias
        self.v[...] = self.v + self.a_in.recv()
        self.s_out.send(self.v)
