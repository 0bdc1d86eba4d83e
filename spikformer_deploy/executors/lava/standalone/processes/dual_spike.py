"""Dual spike transformation: products of currents and spikes."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class DualSpike(AbstractProcess):
    """y^T s * 2^shift, head by head: positions of y become channels; over_tokens: y s, of spikes that stand for these.

    shapes  of the ports of y, of s, and of what goes out
    maps    (images, Y, X, C) of the same
    heads   each has an equal, consecutive range of the channels of each
    kind    float type that holds every partial sum exactly
    Source: Shi et al. 2024 (SpikingResformer), eq. 8 and 9, without the scale, which the next thresholds hold.
    """

    def __init__(
        self,
        *,
        shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        maps: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        heads: int,
        over_tokens: bool,
        shift: int,
        kind: str,
        **other: object,
    ) -> None:
        super().__init__(maps=maps, heads=heads, over_tokens=over_tokens, shift=shift, kind=kind, **other)
        self.y_in, self.s_in = InPort(shapes[0]), InPort(shapes[1])
        self.a_out = OutPort(shapes[2])


@implements(proc=DualSpike, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class DualSpikeModel(PyLoihiProcessModel):
    """A batched matrix product of integers that the float type holds."""

    y_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.maps, self.heads, self.kind = (proc_params[key] for key in ("maps", "heads", "kind"))
        self.over_tokens, self.shift = proc_params["over_tokens"], proc_params["shift"]

    def run_spk(self) -> None:
        y, s = (self._by_head(port, maps) for port, maps in zip((self.y_in, self.s_in), self.maps[:2], strict=True))
        # (images, heads, positions, channels): of s y^T, or s y, the positions are those of s
        out = (s @ (y if self.over_tokens else y.swapaxes(2, 3))).swapaxes(1, 2).astype(np.int32) << self.shift
        self.a_out.send(out.reshape(self.a_out.shape))

    def _by_head(self, port: PyInPort, maps: tuple[int, ...]) -> np.ndarray:
        """(images, heads, positions, channels of a head)"""
        images, height, width, channels = maps
        heads = port.recv().reshape(images, height * width, self.heads, channels // self.heads)
        return heads.swapaxes(1, 2).astype(self.kind)
