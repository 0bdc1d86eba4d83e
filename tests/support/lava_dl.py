"""Runs a .net file in lava-dl's own netx, without its training half:  python lava_dl.py FILE FRAMES T OUT.

FRAMES (T, C, Y, X) are spikes for the first layer; OUT gets what the last layer sends, (neurons, steps).
"""

import os
import sys
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "spikformer_deploy" / "executors" / "lava" / "standalone"))
from shim import make_importable

make_importable()
import lava.proc.conv.utils as conv_utils  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi1SimCfg  # noqa: E402
from lava.proc.io.sink import RingBuffer as Sink  # noqa: E402
from lava.proc.io.source import RingBuffer as Frames  # noqa: E402


def folder() -> Path | None:
    """Where lava-dl's netx is installed."""
    found = (Path(place) / "lava" / "lib" / "dl" for place in sys.path)
    return next((f for f in found if (f / "netx" / "hdf5.py").exists()), None)


def repair_for_numpy_2() -> None:
    """Lava passes `newshape`, which is gone, and counts groups of a convolution in 8 bits."""
    reshape, convolve = np.reshape, conv_utils.conv_scipy
    np.reshape = lambda a, *shape, newshape=None, **k: reshape(a, newshape if newshape is not None else shape[0], **k)
    conv_utils.conv_scipy = lambda *a, groups=1: convolve(*a[:6], int(a[6]) if len(a) > 6 else int(groups))


def stand_in(place: Path) -> None:
    """Empty packages for the training half, of which netx wants one function for neurons that nobody uses here."""
    for name in ("lava.lib", "lava.lib.dl", "lava.lib.dl.slayer", "lava.lib.dl.slayer.neuron"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(place)] if name == "lava.lib.dl" else []
    resonators = types.ModuleType("lava.lib.dl.slayer.neuron.rf")
    resonators.neuron_params = dict
    sys.modules[resonators.__name__] = resonators


def main(file: str, frames: str, steps: str, out: str) -> None:
    """Run the frames, then as many empty steps as the network is deep."""
    from lava.lib.dl.netx.hdf5 import Network

    # the first synapse delivers a step late, and lava-dl counts that for input layers with neurons alone
    network = Network(net_config=file, reset_interval=int(steps), reset_offset=1)
    spikes, depth = np.load(frames), len(network.layers)
    data = np.concatenate([spikes, np.zeros((depth, *spikes.shape[1:]), spikes.dtype)]).transpose(3, 2, 1, 0)
    source = Frames(data=data.astype(np.int32))
    sink = Sink(shape=network.out.shape, buffer=data.shape[3])
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    sink.run(RunSteps(data.shape[3]), Loihi1SimCfg(select_tag="fixed_pt"))
    np.save(out, sink.data.get()[:, depth:])
    sink.stop()


if __name__ == "__main__":
    place = folder()
    if place is None:
        os._exit(77)
    repair_for_numpy_2()
    stand_in(place)
    main(*sys.argv[1:])
