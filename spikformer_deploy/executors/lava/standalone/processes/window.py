"""Unit synapses from a window of positions of the same channel: pooling."""

from collections.abc import Iterator

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Window(AbstractProcess):
    """Sums over windows, with zeros beyond the border, times 2^shift.

    shapes                   of the two ports
    maps                     (images, Y, X, C) of what comes in and of what goes out
    kernel, stride, padding  (y, x); offset: how far every window is moved over the map that comes in
    """

    def __init__(
        self,
        *,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        maps: tuple[tuple[int, ...], tuple[int, ...]],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        offset: tuple[int, int],
        shift: int,
        **other: object,
    ) -> None:
        geometry = {"kernel": kernel, "stride": stride, "padding": padding, "offset": offset}
        super().__init__(maps=maps, shift=shift, **geometry, **other)
        self.s_in = InPort(shapes[0])
        self.a_out = OutPort(shapes[1])


class Largest(Window):
    """The largest value of each window, which leaves out what is beyond the border."""


class _Geometry:
    """What each position of a window sees."""

    def __init__(self, proc_params: dict) -> None:
        self.maps, self.kernel = proc_params["maps"], proc_params["kernel"]
        self.stride, self.padding = proc_params["stride"], proc_params["padding"]
        self.offset = proc_params["offset"]

    def seen(self, x: np.ndarray, beyond: int) -> Iterator[np.ndarray]:
        """One map for each position of the window, `beyond` the border a constant."""
        (height, width), (sy, sx), (oy, ox) = self.maps[1][1:3], self.stride, self.offset
        # as much border as any window reaches into, on all sides
        py, px = self.padding[0] + abs(oy), self.padding[1] + abs(ox)
        x = np.pad(x.reshape(self.maps[0]), ((0, 0), (py, py), (px, px), (0, 0)), constant_values=beyond)
        for i, j in np.ndindex(*self.kernel):
            top, left = i + abs(oy) + oy, j + abs(ox) + ox
            yield x[:, top : top + sy * (height - 1) + 1 : sy, left : left + sx * (width - 1) + 1 : sx]


@implements(proc=Window, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class WindowModel(PyLoihiProcessModel):
    """One addition for each position of the window."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.geometry, self.shift = _Geometry(proc_params), proc_params["shift"]

    def run_spk(self) -> None:
        total = np.zeros(self.geometry.maps[1], np.int32)
        for seen in self.geometry.seen(self.s_in.recv(), 0):
            total += seen
        self.a_out.send((total << self.shift).reshape(self.a_out.shape))


@implements(proc=Largest, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class LargestModel(PyLoihiProcessModel):
    """One comparison for each position of the window."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.geometry = _Geometry(proc_params)

    def run_spk(self) -> None:
        lowest = np.iinfo(np.int32).min
        best = np.full(self.geometry.maps[1], lowest, np.int32)
        for seen in self.geometry.seen(self.s_in.recv(), lowest):
            np.maximum(best, seen, out=best)
        self.a_out.send(best.reshape(self.a_out.shape))
