"""The input of a network."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Frames(AbstractProcess):
    """Sends pixels for `time_steps` steps, then those of the next batch; zeros after the last one.

    shape       of the port
    data        (batches, time_steps or 1, *shape) integers
    """

    def __init__(self, *, shape: tuple[int, ...], data: np.ndarray, time_steps: int, **other: object) -> None:
        super().__init__(shape=shape, data=data, time_steps=time_steps, **other)
        self.s_out = OutPort(shape)


@implements(proc=Frames, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class FramesModel(PyLoihiProcessModel):
    """Frames on a CPU."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.data, self.steps = proc_params["data"], proc_params["time_steps"]
        self.nothing = np.zeros(proc_params["shape"], np.int32)

    def run_spk(self) -> None:
        batch, step = divmod(self.time_step - 1, self.steps)
        if batch < len(self.data):
            self.s_out.send(self.data[batch, min(step, self.data.shape[1] - 1)].astype(np.int32))
        else:
            self.s_out.send(self.nothing)
