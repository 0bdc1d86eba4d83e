"""The child of against_lava.py: a chain of layers in Lava's stock processes.  FOLDER/chain.npz -> FOLDER/found.npz."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.executors.lava.standalone.shim import make_importable

make_importable()
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi1SimCfg  # noqa: E402
from lava.proc.conv import utils  # noqa: E402
from lava.proc.conv.process import Conv  # noqa: E402
from lava.proc.dense.process import Dense  # noqa: E402
from lava.proc.io.sink import RingBuffer as Sink  # noqa: E402
from lava.proc.io.source import RingBuffer as Frames  # noqa: E402
from lava.proc.lif.process import LIF  # noqa: E402
from lava.utils.weightutils import SignMode  # noqa: E402

_conv_scipy = utils.conv_scipy


def _conv_of_many_channels(*args: Any, groups: int = 1) -> np.ndarray:
    return _conv_scipy(*args[:6], int(args[6]) if len(args) > 6 else int(groups))


# Lava holds the groups in 8 bits, and numpy 2 does not divide 192 channels by that
utils.conv_scipy = _conv_of_many_channels


def main() -> None:
    """Build, run T steps after the depth of the chain (every synapse of Lava adds a step), then time as many again."""
    folder = Path(sys.argv[1])
    with np.load(folder / "chain.npz") as file:
        arrays = dict(file)
    frames = arrays.pop("frames")
    depth = sum(name.startswith("weight") for name in arrays)
    steps = depth + len(frames)
    dense = frames.shape[2:] == (1, 1)
    # Lava's layout of maps is (W, H, C), time last
    data = frames[:, :, 0, 0].T if dense else frames.transpose(3, 2, 1, 0)
    # the same frames over and over: Lava's Dense costs little where nothing fires
    source = Frames(data=np.resize(data.T, (2 * steps, *data.T.shape[1:])).T)
    out = source.s_out
    for index in range(depth):
        weight = arrays[f"weight{index}"]
        threshold = int(arrays[f"threshold{index}"][0])
        if dense:
            synapse = Dense(weights=weight[:, :, 0, 0].astype(int), sign_mode=SignMode.MIXED)
        else:
            padding = weight.shape[2] // 2
            # a true convolution in Lava: the kernel is turned over, (C_out, kx, ky, C_in)
            turned = weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1).astype(int)
            stride = tuple(arrays[f"stride{index}"].tolist())
            synapse = Conv(weight=turned, input_shape=out.shape, padding=(padding, padding), stride=stride)
        lif = LIF(shape=synapse.a_out.shape, vth=threshold, du=4095, dv=2048)
        out.connect(synapse.s_in)
        synapse.a_out.connect(lif.a_in)
        out = lif.s_out
    sink = Sink(shape=out.shape, buffer=steps)
    out.connect(sink.a_in)
    try:
        sink.run(RunSteps(steps), Loihi1SimCfg(select_tag="fixed_pt"))
        spikes = sink.data.get()[..., depth:steps]
        start = time.perf_counter()
        sink.run(RunSteps(steps), Loihi1SimCfg(select_tag="fixed_pt"))
        seconds = (time.perf_counter() - start) / steps
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        os._exit(1)  # Lava's stop waits for ever for processes that have failed
    sink.stop()
    spikes = spikes.T[:, :, None, None] if dense else spikes.transpose(3, 2, 1, 0)
    np.savez(folder / "found.npz", spikes=spikes.astype(np.uint8), seconds=seconds)


if __name__ == "__main__":
    main()
