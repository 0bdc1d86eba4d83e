"""What a population sends, and its potentials, written to files."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class SpikeRecorder(AbstractProcess):
    """Keeps what comes in the steps after `delay`, `steps` of them, and writes (steps, *shape) to `file` (.npy)."""

    def __init__(self, *, shape: tuple[int, ...], file: str, delay: int, steps: int, **other: object) -> None:
        super().__init__(shape=shape, file=file, delay=delay, steps=steps, **other)
        self.s_in = InPort(shape)


class PotentialRecorder(AbstractProcess):
    """The same for a variable, read at the end of each step."""

    def __init__(self, *, shape: tuple[int, ...], file: str, delay: int, steps: int, **other: object) -> None:
        super().__init__(shape=shape, file=file, delay=delay, steps=steps, **other)
        self.v = RefPort(shape)


class _Kept:
    """Values of some steps, written when the last one is there."""

    def __init__(self, proc_params: dict) -> None:
        self.file, self.delay, self.steps = (proc_params[key] for key in ("file", "delay", "steps"))
        self.values = np.zeros((self.steps, *proc_params["shape"]), np.int32)

    def keep(self, time_step: int, value: np.ndarray) -> None:
        index = time_step - 1 - self.delay
        if 0 <= index < self.steps:
            self.values[index] = value
        if index == self.steps - 1:
            np.save(self.file, self.values)


@implements(proc=SpikeRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SpikeRecorderModel(PyLoihiProcessModel):
    """SpikeRecorder on a CPU."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.kept = _Kept(proc_params)

    def run_spk(self) -> None:
        self.kept.keep(self.time_step, self.s_in.recv())


@implements(proc=PotentialRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PotentialRecorderModel(PyLoihiProcessModel):
    """PotentialRecorder on a CPU; variables may be read only in the phase after the spikes."""

    v: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.kept = _Kept(proc_params)

    def post_guard(self) -> bool:
        return True

    def run_post_mgmt(self) -> None:
        self.kept.keep(self.time_step, self.v.read())
