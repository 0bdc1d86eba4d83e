"""Neurons without state: OR and AND of spikes, sums as graded spikes, streams of currents, and plain delays."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Or(AbstractProcess):
    """Fires where any of its inputs is not zero."""

    def __init__(self, *, shape: tuple[int, ...], **other: object) -> None:
        super().__init__(**other)
        self.a_in = InPort(shape)
        self.s_out = OutPort(shape)


class Sum(AbstractProcess):
    """Sends the sum of its inputs as a graded spike."""

    def __init__(self, *, shape: tuple[int, ...], **other: object) -> None:
        super().__init__(**other)
        self.a_in = InPort(shape)
        self.s_out = OutPort(shape)


class And(AbstractProcess):
    """Fires where its inputs sum up to `inputs`."""

    def __init__(self, *, shape: tuple[int, ...], inputs: int, **other: object) -> None:
        super().__init__(inputs=inputs, **other)
        self.a_in = InPort(shape)
        self.s_out = OutPort(shape)


class Stream(AbstractProcess):
    """Sends (input + bias) / 2^drop, rounded to the nearest, as a signed graded spike.

    bias     of the shape of the ports
    largest  magnitude that it may send: more is an error, which names the layer
    """

    def __init__(
        self, *, shape: tuple[int, ...], bias: np.ndarray, drop: int, largest: int, layer: str, **other: object
    ) -> None:
        super().__init__(bias=bias, drop=drop, largest=largest, layer=layer, **other)
        self.a_in = InPort(shape)
        self.s_out = OutPort(shape)


class Delay(AbstractProcess):
    """Sends what came `steps` time steps ago: lets a short branch wait for a longer one."""

    def __init__(self, *, shape: tuple[int, ...], steps: int, **other: object) -> None:
        super().__init__(shape=shape, steps=steps, **other)
        self.a_in = InPort(shape)
        self.s_out = OutPort(shape)


@implements(proc=Or, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class OrModel(PyLoihiProcessModel):
    """Or on a CPU."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        self.s_out.send((self.a_in.recv() != 0).astype(np.int32))


@implements(proc=Sum, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SumModel(PyLoihiProcessModel):
    """Sum on a CPU: Lava adds what arrives at one port."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        self.s_out.send(self.a_in.recv().astype(np.int32))


@implements(proc=And, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class AndModel(PyLoihiProcessModel):
    """And on a CPU."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.inputs = proc_params["inputs"]

    def run_spk(self) -> None:
        self.s_out.send((self.a_in.recv() >= self.inputs).astype(np.int32))


@implements(proc=Stream, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class StreamModel(PyLoihiProcessModel):
    """Stream on a CPU."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.bias, self.drop, self.layer = (proc_params[key] for key in ("bias", "drop", "layer"))
        self.limit = proc_params["largest"] << self.drop

    def run_spk(self) -> None:
        current = self.a_in.recv().astype(np.int64) + self.bias
        largest = max(int(current.max()), -int(current.min()))
        if largest > self.limit:
            raise OverflowError(f"{self.layer}: a current of {largest} in a stream of at most {self.limit}")
        self.s_out.send((current + (1 << self.drop >> 1) >> self.drop).astype(np.int32))


@implements(proc=Delay, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class DelayModel(PyLoihiProcessModel):
    """Delay on a CPU."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.waiting = [np.zeros(proc_params["shape"], np.int32)] * proc_params["steps"]

    def run_spk(self) -> None:
        self.waiting.append(np.array(self.a_in.recv(), np.int32))
        self.s_out.send(self.waiting.pop(0))
