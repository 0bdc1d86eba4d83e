"""The suite of measurements on silicon: cases that are counted by hand, and what makes the networks that need files."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import attrs
import numpy as np
import pytest
import silicon
import silicon_cases as cases
import silicon_networks as networks
from click.testing import CliRunner

from spikformer_deploy.accounting.uncertainty import Range
from spikformer_deploy.chips import draws
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.profile import Profile, Time, load_profile, profile_names, quantities
from spikformer_deploy.executors import reference
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import Accumulator, Lif, LifKind, Source, step
from spikformer_deploy.network.synapses import Conv, Readout

ROOT = Path(__file__).parents[1]
CASES = {
    "two-neurons": cases.two_neurons(),
    "quartz-mnist": cases.quartz(16),
    "lsnn-smnist": cases.lsnn(),
    "autoencoder": cases.autoencoder(),
    "qp-solver": cases.qp(),
    **{f"boards {size}": case for size, _, case in cases.boards()},
}
DURATIONS = [attribute.name for attribute in attrs.fields(Time)]


@pytest.fixture(scope="module")
def rows() -> list[silicon.Row]:
    return list(silicon.by_hand())


def nominal_us(case: cases.Case) -> float:
    return float(silicon.step_ns(case, draws.nominal)[0]) / 1e3


# --- the rows --------------------------------------------------------------------------------------------------------


def test_every_row_says_what_it_is(rows: list[silicon.Row]) -> None:
    assert {row.role for row in rows} == {silicon.CALIBRATES, silicon.VALIDATES}
    named = [(row.case, row.quantity) for row in rows]
    assert len(set(named)) == len(named)
    assert all(row.measured > 0 for row in rows)


def test_the_envelope_holds_the_likely_interval_and_that_the_nominal_value(rows: list[silicon.Row]) -> None:
    for row in rows:
        low, high = row.predicted.likely
        assert row.predicted.low <= low <= row.predicted.nominal <= high <= row.predicted.high, row


def test_a_row_is_inside_where_its_likely_interval_holds_the_measurement() -> None:
    def row(measured: float) -> silicon.Row:
        predicted = Range(0.0, 5.0, 10.0, np.linspace(0.0, 10.0, 101))
        return silicon.Row("case", silicon.VALIDATES, "us", measured, predicted)

    assert [row(measured).inside for measured in (0.4, 0.6, 9.4, 9.6)] == [False, True, True, False]


def test_rows_that_need_files_are_skipped_loudly(tmp_path: Path) -> None:
    file = tmp_path / "silicon.json"
    result = CliRunner().invoke(silicon.main, ["--json", str(file)])
    assert result.exit_code == 0
    assert "skipped: nxtf-mnist needs --nxtf FOLDER" in result.stderr
    assert "skipped: pilotnet needs --pilotnet FOLDER" in result.stderr
    written = json.loads(file.read_text())["rows"]
    assert {row["case"] for row in written if "skipped" in row} == {"nxtf-mnist", "pilotnet"}
    keys = {"case", "role", "quantity", "measured", "likely", "envelope", "nominal", "ratio", "inside"}
    assert all(set(row) == keys for row in written if "skipped" not in row)


def test_the_document_has_the_rows_as_they_are(rows: list[silicon.Row]) -> None:
    lines = (ROOT / "docs" / "silicon.md").read_text().splitlines()
    written = {tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in lines if line.startswith("|")}
    missing = [cells for cells in map(silicon.cells_of, rows) if cells not in written]
    assert not missing, "run benchmarks/silicon.py with both folders, and put its table into docs/silicon.md"


def test_constants_name_the_case_that_calibrated_them(rows: list[silicon.Row]) -> None:
    known = {row.case for row in rows if row.role == silicon.CALIBRATES} | {"nxtf-mnist", "pilotnet"}
    for name in profile_names():
        named = {number.calibrated_on for _, number in quantities(load_profile(name))} - {None}
        assert named <= known


# --- prices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("duration", DURATIONS)
def test_a_slower_constant_never_makes_a_step_shorter(name: str, duration: str) -> None:
    case = CASES[name]
    slower = attrs.evolve(case.profile, time=slowed(case.profile, duration))
    changed = cases.Case(slower, case.work, case.repeats, case.tiles, case.chips, case.diameter)
    assert nominal_us(changed) >= nominal_us(case)


def slowed(profile: Profile, duration: str) -> Time:
    """The durations of a profile, one of them twice as long; a rate half as high."""
    number = getattr(profile.time, duration)
    factor = 0.5 if draws.is_rate(duration) else 2.0
    return attrs.evolve(profile.time, **{duration: attrs.evolve(number, value=factor * number.value, range=None)})


def test_two_neurons_take_their_sweep_barrier_and_runtime() -> None:
    time = load_profile("oheo_gulch").time
    sweep = 2 * time.neuron_update.value + time.spike_out.value
    expected = sweep + time.barrier_one_tile.value + time.step_runtime.value
    assert nominal_us(cases.two_neurons()) == pytest.approx(expected / 1e3, rel=1e-12)


def test_the_layers_of_the_qp_solver_take_turns() -> None:
    time = load_profile("oheo_gulch").time
    visit = time.neuron_programmable.value + time.spike_out.value
    end = time.barrier_one_tile.value + time.step_runtime.value
    assert nominal_us(cases.qp()) == pytest.approx(((264 + 144) / 2 * visit + end) / 1e3, rel=1e-12)


def test_boards_differ_by_the_hops_between_their_corners() -> None:
    small, large = (case for _, _, case in cases.boards())
    hop = load_profile("loihi1").time.barrier_chip_hop.value
    assert nominal_us(large) - nominal_us(small) == pytest.approx(8 * hop / 1e3, rel=1e-9)


def test_energies_add_over_steps() -> None:
    once = cases.quartz(8)
    twice = cases.Case(once.profile, once.work, 2 * once.repeats, once.tiles)
    one, two = silicon.core_energy(once), silicon.core_energy(twice)
    np.testing.assert_allclose(two.draws, 2 * one.draws, rtol=1e-12)
    assert (two.low, two.nominal, two.high) == pytest.approx((2 * one.low, 2 * one.nominal, 2 * one.high))


def test_the_energy_of_cores_is_that_of_their_events() -> None:
    energy = load_profile("loihi1").energy
    case = cases.lsnn()
    counts = {name: float(np.sum(getattr(case.work, name))) for name in ("updates", "idle", "spikes", "sent", "synops")}
    picojoules = (
        counts["updates"] * energy.neuron_update.value
        + counts["idle"] * energy.neuron_idle.value
        + counts["spikes"] * energy.spike_out.value
        + counts["sent"] * energy.axon_out.value
        + counts["synops"] * energy.synapse.value
    )
    assert silicon.core_energy(case).nominal == pytest.approx(picojoules / 1e3, rel=1e-12)


def test_a_quotient_of_times_that_move_together_is_sure() -> None:
    time = silicon.step_time(cases.two_neurons())
    ratio = silicon.quotient(time * 2.0, time)
    assert (ratio.low, ratio.nominal, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t_max", "steps"), [(8, 51), (16, 91), (32, 171), (64, 331), (128, 651)])
def test_every_unit_of_quartz_fires_once_an_image(t_max: int, steps: int) -> None:
    work = cases.quartz(t_max).work
    units = sum(layer.units for layer in cases.QUARTZ_LAYERS[1:])
    assert work.spikes.shape == (steps, 11)
    assert work.spikes.sum() == pytest.approx(units)
    assert work.synops.sum() == pytest.approx(230_064)
    np.testing.assert_allclose((work.updates + work.idle).sum(1), cases.QUARTZ_NEURONS)
    assert (work.updates >= 0).all()
    assert (work.idle >= 0).all()


def test_units_of_quartz_stay_awake_until_the_end_of_the_image() -> None:
    updates = cases.quartz(16).work.updates
    assert (np.diff(updates, axis=0) >= -1e-9).all()
    assert (updates[0, 4:] == 0).all()


def test_a_layer_of_quartz_fires_after_the_one_before_has_begun() -> None:
    t_max = 32
    for layer in cases.QUARTZ_LAYERS:
        share = layer.firing(t_max, 5 * t_max + 11)
        assert share.sum() == pytest.approx(1.0)
        assert not share[: layer.window * t_max].any()
        # those of no activation fire in the last step of the window
        assert share.argmax() == (layer.window + 1) * t_max - 1


# --- networks that need files ----------------------------------------------------------------------------------------


def keras_file(path: Path) -> Path:
    """A file of the layers of NxTF's network with random weights."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    kernels = {
        "conv2d_1": (5, 5, 1, 16),
        "conv2d_2": (3, 3, 16, 32),
        "conv2d_3": (3, 3, 32, 64),
        "conv2d_4": (4, 4, 64, 10),
    }
    with h5py.File(path, "w") as file:
        for name, shape in kernels.items():
            group = file.create_group(f"model_weights/{name}/{name}")
            group["kernel:0"] = rng.normal(0, 0.1, shape).astype(np.float32)
            group["bias:0"] = rng.normal(0, 0.05, shape[-1]).astype(np.float32)
    return path


def test_the_network_of_nxtf_obeys_the_law_and_its_boxes_tile_it(tmp_path: Path) -> None:
    network = networks.nxtf_network(keras_file(tmp_path / "model.h5"))
    check_network(network)
    shapes = {population.name: population.shape for population in network}
    assert shapes["conv2d_3"] == (64, 4, 4)
    mapping = networks.nxtf_mapping(network, load_profile("loihi1"))
    first, end = mapping.boxes[:, 1::2], mapping.boxes[:, 2::2]
    for index, site in enumerate(mapping.sites):
        of_site = mapping.boxes[:, 0] == index
        assert (end - first)[of_site].prod(1).sum() == np.prod(site.shape)
    assert mapping.cores_used == 16


def test_the_cores_of_nxtf_fill_four_tiles_of_a_column() -> None:
    profile = load_profile("loihi1")
    tiles = {networks.place_of(core, profile) // 4 for core in range(16)}
    assert tiles == {0, 8, 16, 24}


def test_integers_of_nxtf_are_within_a_step_of_the_weights() -> None:
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 0.1, (3, 3, 4, 5)).astype(np.float32)
    bias = rng.normal(0, 0.1, 5).astype(np.float32)
    weight, whole = networks.integers(kernel, bias)
    scale = max(np.abs(kernel).max(), np.abs(bias).max()) / 255
    assert np.abs(2.0 * weight * scale - kernel.transpose(3, 2, 0, 1)).max() <= 2.01 * scale
    assert np.abs(whole * scale - bias).max() <= 1.01 * scale


def test_input_neurons_of_nxtf_are_the_neurons_of_the_chip() -> None:
    pixels = np.arange(0, 256, 3, dtype=np.uint8).reshape(1, 1, 1, -1)
    spikes = networks.input_spikes(pixels)
    bias = (pixels[0] / 255 * 255).astype(np.int64)
    lif = Lif(LifKind.STOCK, 4096, 0, np.array([networks.THRESHOLD]), bias)
    expected = list(spikes_of(lif, bias.shape, networks.TIME_STEPS))
    np.testing.assert_array_equal(spikes[0], np.stack(expected))


def spikes_of(lif: Lif, shape: tuple[int, ...], steps: int) -> Iterator[np.ndarray]:
    """What neurons without synapses send in each step, (C, Y, X)."""
    state = None
    for _ in range(steps):
        sent, state, _ = step(lif, np.zeros((1, *shape), np.int64), state)
        yield sent[0]


def test_networks_that_run_are_timed_by_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "TIME_STEPS", 16)
    network = networks.nxtf_network(keras_file(tmp_path / "model.h5"))
    profile = load_profile("loihi1")
    pixels = np.random.default_rng(2).integers(0, 256, (3, 1, 28, 28)).astype(np.uint8)
    frames = networks.input_spikes(pixels)
    placed = networks.Placed(network, networks.nxtf_mapping(network, profile), profile, frames)
    assert placed.events.images == 3
    assert placed.events.populations["input"].spikes.sum() == frames.sum()
    # both have the same work; queues and hops come on top, and ticks round
    assert (placed.by_message.step_ns[NOMINAL] >= 0.99 * placed.closed.step_ns[NOMINAL]).all()
    one = placed.one(1)
    np.testing.assert_allclose(one.closed.step_ns[:, 0], placed.closed.step_ns[:, 1])


def test_a_source_of_their_spikes_stands_for_the_input_neurons() -> None:
    network = chain_from_pixels()
    pixels = np.random.default_rng(3).integers(0, 256, (2, 2, 3, 3)).astype(np.uint8)
    names = [networks.INPUT_NEURONS, "layer.1"]
    expected = reference.execute(network, pixels, record=names).spikes
    source = networks.from_input_neurons(network)
    check_network(source)
    spikes = reference.execute(source, expected[networks.INPUT_NEURONS], record=["layer.1"]).spikes
    np.testing.assert_array_equal(spikes["layer.1"], expected["layer.1"])
    assert expected["layer.1"].any()


def chain_from_pixels() -> Network:
    """Pixels, input neurons, a layer and counts, under the names of PilotNet's."""
    rng = np.random.default_rng(4)
    identity = np.eye(2, dtype=np.int8)[:, :, None, None]
    weight = rng.integers(-20, 60, (4, 2, 3, 3)).astype(np.int8)

    def lif(channels: int, threshold: int) -> Lif:
        none = np.zeros(channels, np.int64)
        return Lif(LifKind.STOCK, 4000, 0, np.full(channels, threshold), none, exact=False)

    populations = (
        Population(networks.PIXELS, (2, 3, 3), Source(), 255),
        Population(networks.INPUT_NEURONS, (2, 3, 3), lif(2, 400), 1),
        Population("layer.1", (4, 1, 1), lif(4, 100), 1),
        Population("counts", (4, 1, 1), Accumulator(np.zeros(4, np.int64), np.ones(4)), 0),
    )
    synapses = (Conv(identity), Conv(weight), Readout(np.eye(4, dtype=np.int8)))
    names = [population.name for population in populations]
    projections = tuple(Projection((a,), b, synapse) for (a, b), synapse in zip(pairwise(names), synapses, strict=True))
    return Network(populations, projections, 12, 24, 8, "observed", 1.0, mean=np.zeros(2), std=np.ones(2))


def test_the_nominal_point_is_that_of_the_corners() -> None:
    case = cases.two_neurons()
    assert silicon.step_ns(case, draws.corners)[NOMINAL] == silicon.step_ns(case, draws.nominal)[0]
