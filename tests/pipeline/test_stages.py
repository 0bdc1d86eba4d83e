"""What a compile measures on images: of the integers that run, once, and the same on every number of threads."""

from pathlib import Path

import pytest
import torch
from support.deep import some

from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.pipeline.sample import calibration_images
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.quantization import ranges

NARROW = """
name = "narrow"
base = "loihi2"
description = "states too narrow for the worst case of a head"

[core.state_bits]
value = {bits}
unit = "bits"
kind = "guess"
source = "this test"
"""


@pytest.mark.long
@pytest.mark.parametrize(("bits", "bounds"), some([(20, "observed")], [(24, "static")]))
def test_the_integers_run_once_and_the_float_graph_never(
    bits: int, bounds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firing rates are those of the integer network, whether or not its head's range had to be seen as well."""
    target, loaded, runs = tmp_path / "narrow.toml", load("digits-v2"), []
    target.write_text(NARROW.format(bits=bits))
    run = engine.execute
    monkeypatch.setattr(engine, "execute", lambda *arguments: runs.append(arguments) or run(*arguments))
    monkeypatch.setattr(ranges, "execute", None)
    compiled = compile_model(loaded, str(target), check=False)
    network = compiled.program.network
    assert network.bounds == bounds
    assert len(runs) == 1
    done = reference.execute(network, calibration_images(loaded, None)[0])
    assert compiled.rates.keys() == done.activity.keys()
    for name, activity in done.activity.items():
        images, steps = activity.messages.shape[:2]
        assert compiled.rates[name] == activity.messages.sum() / (images * steps * network[name].size)
    if bounds == "observed":
        assert network.output.bounds == (-2 * done.peak_state["output"], 2 * done.peak_state["output"])


@pytest.mark.long
def test_threads_do_not_change_a_byte(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            compile_model("digits-v1", check=False).program.save(tmp_path / f"{count}.spk")
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "1.spk").read_bytes() == (tmp_path / "2.spk").read_bytes()
