"""Lava's own LIF where nothing proves that its state fits: what Lava would wrap or clip is an error here."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import AbstractPyLifModelFixed, PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset


class GuardedLif(LIFReset):
    """lava.proc.lif.LIFReset; a current or potential beyond `limit` is an error, which names the layer."""

    def __init__(self, *, limit: int, layer: str, **other: object) -> None:
        super().__init__(**other)
        self.proc_params["limit"] = limit
        self.proc_params["layer"] = layer


@implements(proc=GuardedLif, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class GuardedLifModel(AbstractPyLifModelFixed):
    """PyLifResetModelBitAcc, whose functions it takes as they are (Lava lets no model inherit from a finished one)."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: int = LavaPyType(int, np.int32, precision=17)
    scale_threshold = PyLifResetModelBitAcc.scale_threshold
    spiking_activation = PyLifResetModelBitAcc.spiking_activation
    run_spk = PyLifResetModelBitAcc.run_spk

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.effective_vth = 0
        self.reset_interval, self.reset_offset = proc_params["reset_interval"], proc_params["reset_offset"]
        self.limit, self.layer = proc_params["limit"], proc_params["layer"]

    def subthr_dynamics(self, activation_in: np.ndarray) -> None:
        """Lava's update of u and v, once it is known to fit."""
        u = self._left(self.u, self.du + self.ds_offset) + (activation_in.astype(np.int64) << self.act_shift)
        drive = u + self.effective_bias
        v = self._left(self.v, self.dv + self.dm_offset) + drive
        largest = max(int(np.abs(state).max()) for state in (u, drive, v))
        if largest > self.limit:
            raise OverflowError(f"{self.layer}: a potential of {largest} leaves the state (at most {self.limit})")
        super().subthr_dynamics(activation_in)

    def _left(self, state: np.ndarray, decay: int) -> np.ndarray:
        """What a decay in multiples of 1 / 4096 leaves, rounded toward zero."""
        kept = state.astype(np.int64) * (self.decay_unity - int(decay))
        return np.sign(kept) * (np.abs(kept) >> self.decay_shift)
