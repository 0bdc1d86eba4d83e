"""Spiking self-attention: products of spikes, or of small integers, without softmax."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Attention(AbstractProcess):
    """weight * q (K^T V) * 2^shift, head by head.

    shapes  of the ports of q and k, and of those of v and of what goes out
    maps    (images, Y, X, C) of the same
    heads   each has an equal, consecutive range of the channels of each
    kind    float type that holds every partial sum exactly
    Source: Zhou et al. 2023 (Spikformer), eq. 6, without the scale, which the next thresholds hold.
    """

    def __init__(
        self,
        *,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        maps: tuple[tuple[int, ...], tuple[int, ...]],
        heads: int,
        weight: int,
        shift: int,
        kind: str,
        **other: object,
    ) -> None:
        super().__init__(maps=maps, heads=heads, weight=weight, shift=shift, kind=kind, **other)
        self.q_in, self.k_in, self.v_in = InPort(shapes[0]), InPort(shapes[0]), InPort(shapes[1])
        self.a_out = OutPort(shapes[1])


@implements(proc=Attention, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class AttentionModel(PyLoihiProcessModel):
    """K^T V first: two batched matrix products of integers that the float type holds."""

    q_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    k_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    v_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.maps, self.heads, self.kind = (proc_params[key] for key in ("maps", "heads", "kind"))
        self.factor = proc_params["weight"] << proc_params["shift"]

    def run_spk(self) -> None:
        narrow, wide = self.maps
        q, k, v = self._by_head(self.q_in, narrow), self._by_head(self.k_in, narrow), self._by_head(self.v_in, wide)
        out = (q @ (k.swapaxes(2, 3) @ v)).swapaxes(1, 2).astype(np.int32) * self.factor
        self.a_out.send(out.astype(np.int32).reshape(self.a_out.shape))

    def _by_head(self, port: PyInPort, maps: tuple[int, ...]) -> np.ndarray:
        """(images, heads, tokens, channels of a head)"""
        images, height, width, channels = maps
        heads = port.recv().reshape(images, height * width, self.heads, channels // self.heads)
        return heads.swapaxes(1, 2).astype(self.kind)
