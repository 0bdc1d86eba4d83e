"""The timeline: its intervals against the times of the steps, its trace against what Perfetto reads."""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chips import random_machine, random_wave
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.timing import mesh
from spikformer_deploy.timing.state import at_rest, entries_of
from spikformer_deploy.timing.timeline import stalls


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_stalls_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(10):
        machine = random_machine(rng)
        routes, wave = random_wave(rng, len(machine.cores))
        times, log, _ = mesh.run_wave(at_rest(machine), entries_of(machine, routes), wave, log=True)
        assert log is not None
        timer = SimpleNamespace(machine=machine, traffic=SimpleNamespace(routes=routes))
        core, start, end = stalls(timer, wave, log)
        np.testing.assert_array_equal(np.bincount(core, end - start, len(machine.cores)), times.stalled)


@pytest.mark.long
def test_trace_of_the_bundled_model(tmp_path: Path) -> None:
    """Slices of a track follow one another, stalls lie within sweeps, counters are shares."""
    program = program_of("digits-v2")
    result = sd.run(program, "digits", limit=1, timing="cycle")
    result.timeline(tmp_path / "timeline.json")
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    tracks: dict[tuple[int, int, str], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"], event["name"].split(",")[0]].append((event["ts"], event["dur"]))
        elif event["ph"] == "C":
            assert 0 <= event["args"]["occupied, %"] <= 120
    for slices in tracks.values():
        starts, lengths = np.array(sorted(slices)).T
        assert (starts[1:] >= (starts + lengths)[:-1] - 1e-9).all()
    assert {"soma sweep", "axon-out", "synapse service", "stall", "barrier", "runtime"} <= {
        name for _, _, name in tracks
    }
    ends = [start + length for (_, _, name), s in tracks.items() if name == "runtime" for start, length in s]
    assert result.cycle is not None
    assert result.times is not None
    # hardly any queue of this network is full
    assert abs(result.cycle.step_us_mean[1] / result.times.step_us_mean[1] - 1) < 0.15
    np.testing.assert_allclose(max(ends), result.cycle.step_ns[1].sum() / 1e3)
