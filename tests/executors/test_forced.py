"""A forced kernel that is not exact on this processor is refused; the self-check sees every kind of convolution."""

import pytest

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.executors.fast import synapses


@pytest.mark.parametrize(("kind", "check"), [("int8", "int8_works"), ("events", "events_work")])
def test_inexact_forced_kernels_are_refused(kind: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKDEPLOY_KERNELS", kind)
    monkeypatch.setattr(synapses, check, lambda: False)
    with pytest.raises(InputError, match=f"SPIKDEPLOY_KERNELS: '{kind}' does not give exact integers"):
        synapses.kernels()


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
    assert not synapses.int8_works.__wrapped__()
