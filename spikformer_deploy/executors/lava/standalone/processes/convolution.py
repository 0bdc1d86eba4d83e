"""Synapses with shared weights: convolutions, and linear layers that every token goes through alike."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Convolution(AbstractProcess):
    """Cross-correlation with zero padding, times 2^shift; a linear layer over tokens is the 1x1 case.

    shapes           of the two ports
    maps             (images, Y, X, C) of what comes in and of what goes out
    weight           (C_out, C_in / groups, KY, KX) in a float type that holds every partial sum exactly
    stride, padding  (y, x)
    """

    def __init__(
        self,
        *,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        maps: tuple[tuple[int, ...], tuple[int, ...]],
        weight: np.ndarray,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
        shift: int,
        **other: object,
    ) -> None:
        super().__init__(maps=maps, weight=weight, stride=stride, padding=padding, groups=groups, shift=shift, **other)
        self.s_in = InPort(shapes[0])
        self.a_out = OutPort(shapes[1])


@implements(proc=Convolution, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class ConvolutionModel(PyLoihiProcessModel):
    """One matrix product for each position of the kernel; sums of integers that the float type holds are exact."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self.maps, self.stride, self.padding = (proc_params[key] for key in ("maps", "stride", "padding"))
        self.groups, self.shift = proc_params["groups"], proc_params["shift"]
        weight = proc_params["weight"]
        by_group = weight.reshape(self.groups, -1, *weight.shape[1:])
        # (KY, KX, groups, C_in / groups, C_out / groups)
        self.weight = np.ascontiguousarray(by_group.transpose(3, 4, 0, 2, 1))

    def run_spk(self) -> None:
        total = self._sum(self.s_in.recv().reshape(self.maps[0]).astype(self.weight.dtype))
        self.a_out.send((total.astype(np.int32) << self.shift).reshape(self.a_out.shape))

    def _sum(self, x: np.ndarray) -> np.ndarray:
        (height, width), (sy, sx), (py, px) = self.maps[1][1:3], self.stride, self.padding
        if py or px:
            x = np.pad(x, ((0, 0), (py, py), (px, px), (0, 0)))
        inputs = self.weight.shape[3]
        total: np.ndarray | None = None
        for i, j in np.ndindex(*self.weight.shape[:2]):
            seen = x[:, i : i + sy * (height - 1) + 1 : sy, j : j + sx * (width - 1) + 1 : sx]
            parts = [
                np.ascontiguousarray(seen[..., g * inputs : (g + 1) * inputs]).reshape(-1, inputs)
                @ self.weight[i, j, g]
                for g in range(self.groups)
            ]
            added = parts[0] if self.groups == 1 else np.concatenate(parts, 1)
            total = added if total is None else np.add(total, added, out=total)
        assert total is not None
        return total
