"""The leaky integrate-and-fire neuron that Loihi 2's microcode can be."""

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


class ProgrammableLif(AbstractProcess):
    """v = floor(v * decay / 4096) + input + bias; s = v >= threshold; v = 0 where s, or v - threshold (soft).

    strict: v = ceil(v * decay / 4096) + input + bias; s = v > threshold.

    shape       of ports and state; bias and threshold broadcast to it
    time_steps  of an image, `delay` steps after that of the input: v is zero before the first one
    state_bits  of v: more is an error, which names the layer
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        decay: int,
        bias: np.ndarray,
        threshold: np.ndarray,
        time_steps: int,
        delay: int,
        state_bits: int,
        soft: bool,
        strict: bool,
        layer: str,
        **other: object,
    ) -> None:
        super().__init__(
            decay=decay, bias=bias, threshold=threshold, time_steps=time_steps, delay=delay, state_bits=state_bits,
            soft=soft, strict=strict, layer=layer, **other,
        )  # fmt: skip
        self.a_in = InPort(shape)
        self.s_out = OutPort(shape)
        self.v = Var(shape, init=0)


@implements(proc=ProgrammableLif, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class ProgrammableLifModel(PyLoihiProcessModel):
    """ProgrammableLif on a CPU, in 64 bits."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.decay, self.bias, self.threshold = (proc_params[key] for key in ("decay", "bias", "threshold"))
        self.time_steps, self.delay = proc_params["time_steps"], proc_params["delay"]
        self.layer, self.soft, self.strict = (proc_params[key] for key in ("layer", "soft", "strict"))
        self.limit = 2 ** (proc_params["state_bits"] - 1) - 1

    def run_spk(self) -> None:
        v = self.v.astype(np.int64)
        if (self.time_step - 1 - self.delay) % self.time_steps == 0:
            v[...] = 0
        # adding 4095 before the division by 4096 rounds up
        v = (v * self.decay + 4095 * self.strict >> 12) + self.a_in.recv() + self.bias
        largest = max(int(v.max()), -int(v.min()))
        if largest > self.limit:
            raise OverflowError(f"{self.layer}: a potential of {largest} leaves the state (at most {self.limit})")
        spikes = v > self.threshold if self.strict else v >= self.threshold
        v = np.where(spikes, v - self.threshold if self.soft else 0, v)
        self.v[...] = v
        self.s_out.send(spikes.astype(np.int32))
