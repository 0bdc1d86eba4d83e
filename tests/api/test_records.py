"""What calls give back: short at a prompt, safe in a notebook, plain for pandas, and whole where it was recorded."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.networks import random_images
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.executors import reference
from spikformer_deploy.report.rasters import HEIGHT, raster

LAYER = "block.0.attn.q_lif"
PATH = "{http://www.w3.org/2000/svg}path"


@pytest.fixture(scope="module")
def found() -> sd.Run:
    return sd.run(program_of("digits-v2"), "digits", limit=40, record=[LAYER, "output", "block.0.add", "input"])


def test_what_is_recorded_is_what_the_reference_does(found: sd.Run) -> None:
    network = found.program.network
    record = [LAYER, "output", "block.0.add"]
    pixels = found.data.pixels_in(slice(30, 34))  # the engine takes them in its second batch
    execution = reference.execute(network, pixels, record=record)
    for name in record:
        if name != "output":
            np.testing.assert_array_equal(found.spikes(name)[:, 30:34], execution.spikes[name].swapaxes(0, 1))
        if name != "block.0.add":
            np.testing.assert_array_equal(found.potentials(name)[:, 30:34], execution.membranes[name].swapaxes(0, 1))
    assert found.spikes(LAYER).shape == (4, 40, 48, 4, 4)
    assert found.spikes(LAYER).dtype == np.uint8
    assert found.potentials(LAYER).dtype == np.int32
    np.testing.assert_array_equal(found.potentials("output")[-1].reshape(40, -1), found.accumulators)


def test_layers_that_are_not_there_are_refused(found: sd.Run) -> None:
    program = found.program
    with pytest.raises(InputError, match=r"there is no layer 'block.0.attn.qlif'; did you mean block.0.attn.q_lif\?"):
        sd.run(program, "digits", record="block.0.attn.qlif")
    with pytest.raises(InputError, match=r"no layer 'block.0.attn.qlif'; did you mean"):
        found.spikes("block.0.attn.qlif")
    with pytest.raises(InputError, match=r'block.1.add: it was not recorded\n  Run with record=\["block.1.add"\]'):
        found.spikes("block.1.add")
    with pytest.raises(InputError, match=r"block.0.add: its neurons keep no potential"):
        found.potentials("block.0.add")
    with pytest.raises(InputError, match=r"1 layers of 40 images take 1 MiB, and 0 MiB are kept .*\n.*limit=1\."):
        sd.run(program, "digits", limit=40, record=LAYER, memory_limit=2**14)


def test_a_run_that_is_asked_for_nothing_records_nothing() -> None:
    run = sd.run(program_of("digits-v2"), "digits", limit=2, timing="none")
    assert run.recorded is None
    assert repr(run).splitlines()[0] == "Run"


def test_records_of_files_have_their_names(tmp_path: Path) -> None:
    pixels = random_images(program_of("digits-v2").network, 0, 3)[:, 0]
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    run = sd.run(program_of("digits-v2"), tmp_path, timing="none")
    alone = {f"{n}.png": sd.run(run.program, pixels[n : n + 1], timing="none").logits[0].tolist() for n in range(3)}
    assert {record["file"]: record["logits"] for record in run.to_records()} == alone
    assert "file" not in sd.run(run.program, pixels, timing="none").to_records()[0]


def test_energies_by_layer_add_up_and_fit_a_line(found: sd.Run) -> None:
    counted = sd.energy("digits-v2", found.data.pixels_in(slice(0, 2)))
    for account in counted.accounts:
        if account.energy is not None:
            total = sum(layer[account.convention] or 0 for layer in counted.layers)
            assert total == pytest.approx(account.energy.total.nominal, rel=1e-9)
        facts = counted.to_dict()["conventions"][account.convention]["layers"]
        for layer in facts:
            assert (layer["energy_mj"] is None) is (account.energy is None)
    for shown in (found.times, *found.energies, counted.accounts[0].energy):
        assert len(repr(shown)) < 120


def test_pictures_of_another_format_are_refused(found: sd.Run) -> None:
    for write in (lambda: found.raster("output", "r.png"), lambda: found.rates("rates")):
        with pytest.raises(InputError, match=r"written as SVG\n  Give a name that ends in \.svg"):
            write()


def test_records_are_plain_and_add_up(found: sd.Run) -> None:
    assert json.loads(json.dumps(found.layers)) == found.layers
    assert json.loads(json.dumps(found.to_records())) == found.to_records()
    assert [layer["name"] for layer in found.layers] == [p.name for p in found.program.network]
    assert sum(layer["synaptic_ops"] for layer in found.layers) == pytest.approx(found.events.synops, rel=1e-12)
    assert sum(layer["dense_macs"] for layer in found.layers) == found.events.dense_macs
    rate = next(layer["firing_rates"] for layer in found.layers if layer["name"] == LAYER)
    assert rate == found.spikes(LAYER).mean((1, 2, 3, 4)).tolist()
    records = found.to_records()
    assert [record["prediction"] for record in records] == found.predictions.tolist()
    assert np.mean([record["prediction"] == record["label"] for record in records]) == found.accuracy


def test_what_is_shown_fits_a_screen_and_is_escaped(found: sd.Run) -> None:
    program = found.program
    evil = replace(program, provenance={**program.provenance, "model_sha256": "<script>"})
    for shown in (program, found):
        lines = repr(shown).splitlines()
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 100
        ElementTree.fromstring(shown._repr_html_())
    assert "accuracy             " in repr(found)
    assert "cores    " in repr(program)
    assert "<script" not in evil._repr_html_()


def test_rasters_and_rates_are_pictures(found: sd.Run, tmp_path: Path) -> None:
    found.raster(LAYER, tmp_path / "raster.svg", image=3)
    found.rates(tmp_path / "rates.svg")
    assert ElementTree.parse(tmp_path / "raster.svg").getroot().get("aria-label") == f"{LAYER}, image 3"
    texts = [text.text for text in ElementTree.parse(tmp_path / "rates.svg").getroot().iter() if text.text]
    assert LAYER in texts
    assert "output" not in texts
    with pytest.raises(InputError, match="image: 40, and there are images 0 to 39"):
        found.raster(LAYER, tmp_path / "raster.svg", image=40)
    with pytest.raises(InputError, match="it was not recorded"):
        found.raster("block.1.add", tmp_path / "raster.svg")


def test_a_raster_has_a_mark_for_each_run_of_neighbours() -> None:
    spikes = np.random.default_rng(0).integers(0, 2, (5, 2, 3, 4)).astype(np.uint8)
    drawn = ElementTree.fromstring(raster(spikes, "layer"))
    (path,) = [p.get("d") or "" for p in drawn.iter(PATH)]
    rows = spikes.reshape(5, -1).astype(int)
    assert path.count("M") == int((np.diff(rows, axis=1, prepend=0) == 1).sum())
    heights = [float(mark.split("v")[1].split("h")[0]) for mark in path.split("M")[1:]]
    assert sum(heights) == pytest.approx(HEIGHT / 24 * spikes.sum())


def test_a_raster_of_many_neurons_keeps_every_spike() -> None:
    spikes = np.zeros((3, 4, 40, 40), np.uint8)
    spikes[1, 2, 3, 4] = 1
    drawn = ElementTree.fromstring(raster(spikes, "a <b>"))
    paths = [p.get("d") for p in drawn.iter(PATH)]
    assert len(paths) == 1
    assert paths[0].count("M") == 1
    assert drawn.get("aria-label") == "a <b>"


def test_random_images_record_as_the_stream_says() -> None:
    """A whole run and a stream record the same."""
    program = program_of("digits-v2")
    image = random_images(program.network, 9, 1)
    run, stream = sd.run(program, image, record=LAYER, timing="none"), sd.Stream(program, record=LAYER)
    for t in range(4):
        after = stream.step(image[0])
        np.testing.assert_array_equal(after.spikes[LAYER], run.spikes(LAYER)[t, 0])
        np.testing.assert_array_equal(after.potentials[LAYER], run.potentials(LAYER)[t, 0])


def test_a_report_writes_its_tables_and_pictures_too(found: sd.Run, tmp_path: Path) -> None:
    verdict = sd.verify(found.program, "digits", model="digits-v2", limit=40, backends=())
    found.report(
        tmp_path / "r.html",
        title="Mine",
        verdict=verdict,
        csv=tmp_path / "t",
        tex=str(tmp_path / "t"),
        figures=tmp_path / "f",
    )
    assert "<title>Mine" in (tmp_path / "r.html").read_text()
    tables = found.tables
    assert {path.stem for path in (tmp_path / "t").glob("*.csv")} == tables.keys()
    assert {path.stem for path in (tmp_path / "t").glob("*.tex")} == tables.keys()
    assert {path.suffix for path in (tmp_path / "f").iterdir()} == {".svg"}
    with open(tmp_path / "t" / "energies.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(row) for row in tables["energies"]]
    with open(tmp_path / "t" / "layers.csv", newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["layer"] for row in written] == [row["layer"] for row in tables["layers"]]
    heading = "spikes equal to the float model's (share)"
    equal = [float(row[heading]) for row in written if row[heading]]
    assert equal == list(verdict.equal_spikes.values())


def test_a_verdict_of_other_images_is_refused(found: sd.Run, tmp_path: Path) -> None:
    verdict = sd.verify(found.program, "digits", model="digits-v2", limit=20, backends=())
    with pytest.raises(InputError, match=r"verdict: it is of 20 images at .*, and the run of 40 images at "):
        found.report(tmp_path / "r.html", verdict=verdict)
    assert not list(tmp_path.iterdir())


def test_energies_of_a_float_model_and_their_tables(tmp_path: Path) -> None:
    counted = sd.energy("digits-v2", np.zeros((1, 1, 16, 16), np.uint8), conventions=["syops", "neurobench"])
    assert [energy.convention for energy in counted.energies] == ["syops"]
    counted.to_csv(tmp_path / "energy.csv")
    (row,) = csv.DictReader((tmp_path / "energy.csv").read_text().splitlines())
    assert float(row["energy (uJ/image)"]) == pytest.approx(counted.energies[0].total.nominal * 1e3, rel=1e-12)
    counted.to_latex(tmp_path / "energy.tex", by_layer=True)
    assert "patch\\_embed.stages.0.conv1" in (tmp_path / "energy.tex").read_text()
    alone = sd.energy("digits-v2", np.zeros((1, 1, 16, 16), np.uint8), conventions="neurobench")
    with pytest.raises(sd.SpikdeployError, match="has no prices"):
        alone.to_csv(tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_a_loop_of_ones_own_writes_the_files_of_energy(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    images = torch.rand(5, 4)
    with torch.no_grad(), sd.count_operations(model, time_steps=1) as counting:
        model(images)
    counting.to_csv(tmp_path / "all.csv")
    counting.to_csv(tmp_path / "layers.csv", "spikformer-paper", by_layer=True)
    counting.to_latex(tmp_path / "layers.tex", "spikformer-paper", by_layer=True)
    every = csv.DictReader((tmp_path / "all.csv").read_text().splitlines())
    assert {"spikformer-paper", "syops"} < {row["convention"] for row in every}
    *places, sums = csv.DictReader((tmp_path / "layers.csv").read_text().splitlines())
    energy = counting.energy("spikformer-paper").total.nominal * 1e3
    assert float(sums["spikformer-paper energy (uJ/image)"]) == pytest.approx(energy, rel=1e-11)
    # what stands beside an energy gives it: 4.6 pJ a MAC and 0.9 pJ an AC
    for row in (place for place in places if place["spikformer-paper energy (uJ/image)"]):
        macs, acs = (float(row[f"spikformer-paper {name} (1/image)"]) for name in ("MACs", "ACs"))
        expected = 4.6e-6 * macs + 0.9e-6 * acs
        assert float(row["spikformer-paper energy (uJ/image)"]) == pytest.approx(expected, rel=1e-11)
    assert "Zhou et al. 2023" in (tmp_path / "layers.tex").read_text()
    with pytest.raises(InputError, match="syop"):
        counting.to_csv(tmp_path / "none.csv", "syop")
