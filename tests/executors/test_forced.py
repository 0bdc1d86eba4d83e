"""A forced kernel that is not exact here is refused, and one that is not exact for a layer falls back with a note."""

import numpy as np
import pytest

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.executors.fast import synapses
from spikformer_deploy.network.synapses import Conv

CONV = Conv(np.full((16, 8, 1, 1), -127, np.int8), (1, 1), (0, 0))


@pytest.mark.parametrize(
    ("kind", "check", "fails"),
    [("int8", "int8_limit", 0), ("pairs", "pairs_work", False), ("events", "events_work", False)],
)
def test_inexact_forced_kernels_are_refused(kind: str, check: str, fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKDEPLOY_KERNELS", kind)
    monkeypatch.setattr(synapses, check, lambda: fails)
    with pytest.raises(InputError, match=f"SPIKDEPLOY_KERNELS: '{kind}' does not give exact integers"):
        synapses.kernels()


@pytest.mark.parametrize(("kind", "most"), [("int8", 129), ("pairs", 65), ("pairs", 255), ("int8", 256)])
def test_a_layer_that_a_forced_kernel_is_not_exact_for_falls_back(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of four messages of 64 and weights of -127 are within 16 bits, of 65 they are not."""
    monkeypatch.setenv("SPIKDEPLOY_KERNELS", kind)
    monkeypatch.setattr(synapses, "int8_limit", lambda: 128)
    monkeypatch.setattr(synapses, "pairs_work", lambda: True)
    layer = synapses.convolution(CONV, (8, 1, 1), most, 2**20)
    assert layer.kinds == ("fp32",)
    assert synapses.note([layer]) == "fp32"


def test_the_note_names_what_runs_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKDEPLOY_KERNELS", "int8")
    monkeypatch.setattr(synapses, "int8_limit", lambda: 128)
    layers = [synapses.convolution(CONV, (8, 1, 1), *bounds) for bounds in ((128, 2**20), (1, 2**25))]
    assert synapses.note(layers) == "int8, fp64"


@pytest.mark.parametrize("wrong", [(40, 1), (3, 1), (24, 24)])
def test_self_check_sees_one_inexact_kind(wrong: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def inexact(conv: synapses.Conv) -> synapses.Convolution:
        inputs = conv.weight.shape[1] * conv.groups
        off = int((inputs, conv.groups) == wrong)

        def run(maps: synapses.Maps, padding: tuple[int, int]) -> synapses.Maps:
            sums = synapses._float_convolution(conv, synapses.torch.float64)(maps, padding)
            return sums + off

        return run

    monkeypatch.setattr(synapses, "_int8_convolution", inexact)
    assert synapses.int8_limit.__wrapped__() == 0


@pytest.mark.parametrize(("holds", "limit"), [(2**14, 64), (2**15, 128), (2**20, 255), (1, 0)])
def test_self_check_finds_the_largest_message(holds: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products added up in pairs that saturate beyond `holds`."""

    def saturating(conv: synapses.Conv) -> synapses.Convolution:
        def run(maps: synapses.Maps, padding: tuple[int, int]) -> synapses.Maps:
            largest = 2 * int(maps.max()) * int(np.abs(conv.weight.astype(np.int64)).max())
            exact = synapses._float_convolution(conv, synapses.torch.float64)(maps, padding)
            return exact - int(largest > holds)

        return run

    monkeypatch.setattr(synapses, "_int8_convolution", saturating)
    assert synapses.int8_limit.__wrapped__() == limit
