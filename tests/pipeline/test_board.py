"""The folder that an engineer with access to a chip reads: what it says is what the program has."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.formats import RANDOM, RANDOM_NOTE
from spikformer_deploy.counts.slices import geometry
from spikformer_deploy.data.read import read
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.lava.standalone import __file__ as standalone
from spikformer_deploy.network.heads import heads_into
from spikformer_deploy.network.mapping import SECTIONS
from spikformer_deploy.network.neurons import Neuron
from spikformer_deploy.network.synapses import Conv, Window
from spikformer_deploy.pipeline.board import EXPECTED_IMAGES, board_files
from spikformer_deploy.timing.traffic import traffic

FIRST = "**What this is not: it holds no NeuroCore models and no microcode."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board") / "lava"
    sd.export(program_of("digits-v1"), "lava", folder, data="digits")
    return folder


def test_its_first_line_says_what_it_is_not(folder: Path) -> None:
    assert (folder / "README.md").read_text().startswith(FIRST)


def test_every_layer_has_a_line(folder: Path) -> None:
    program = program_of("digits-v1")
    lines = (folder / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]
    assert {row[1] for row in rows} == {site.name for site in program.mapping.sites if site.copy == 0}
    numbers = {row[1]: int(row[0]) for row in rows}
    assert all(numbers[population.name] == n for n, population in enumerate(program.network))
    sources = "".join(path.read_text() for path in (Path(standalone).parent / "processes").glob("*.py"))
    for row in rows:
        known = all(f"class {name}(" in sources for name in row[4].split(", "))
        assert known or row[4].startswith(("lava.proc.", "none")), row
    assert sum(int(row[7].replace(",", "")) for row in rows) == program.mapping.cores_used
    words = np.bincount(program.mapping.cores, program.mapping.words.sum(1))
    assert max(int(row[8].replace(",", "")) for row in rows) == words.max()


def test_every_key_of_the_description_is_explained(folder: Path) -> None:
    said = json.loads((folder / "network.json").read_text())
    lines = (folder / "README.md").read_text().splitlines()
    first = lines.index("| key | of | what |")
    explained = {key for line in lines[first + 2 :] if line.startswith("|") for key in line.split("|")[1].split(", ")}
    explained = {key.strip() for key in explained}
    keys = {key for part in (said["populations"], said["projections"]) for one in part for key in one}
    assert keys | set(said) - {"populations", "projections"} <= explained
    every = {field.name for kind in (*get_args(Neuron), Window, Conv) for field in fields(kind)}
    assert every <= explained


def test_the_boxes_hold_every_neuron_once(folder: Path) -> None:
    program = program_of("digits-v1")
    said = json.loads((folder / "mapping.json").read_text())
    holds = {site["name"]: np.zeros(site["shape"], int) for site in said["sites"]}
    at: dict[tuple[int, int], int] = {}
    for box in said["boxes"]:
        ranges = tuple(slice(*box[axis]) for axis in ("channels", "rows", "columns"))
        holds[box["site"]][ranges] += 1
        place = (box["chip"], box["core"])
        assert 0 <= box["core"] < said["cores_per_chip"]
        assert box["offset"] == at.get(place, 0)
        at[place] = box["offset"] + box["neurons"]
    assert all((count == 1).all() for count in holds.values())
    assert len(at) == program.mapping.cores_used
    words = [[box["words"][section] for section in SECTIONS] for box in said["boxes"]]
    assert np.array_equal(words, program.mapping.words)


def test_the_spikes_to_expect_are_those_of_the_reference(folder: Path) -> None:
    program = program_of("digits-v1")
    images = np.load(folder / "expected" / "images.npy")
    assert np.array_equal(images, read("digits", program.preprocess, limit=EXPECTED_IMAGES).pixels)
    names = [population.name for population in program.network.populations[:-1]]
    right = reference.execute(program.network, images[:2], record=names)
    with np.load(folder / "expected" / "spikes.npz") as spikes:
        for number, name in enumerate(names):
            assert np.array_equal(spikes[f"layer{number}"][:2], right.spikes[name]), name
    assert np.array_equal(np.load(folder / "expected" / "accumulators.npy")[:2], right.accumulators)


def checked(folder: Path, results: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "check.py"), str(results)]
    return subprocess.run(command, capture_output=True, text=True)


def write_results(folder: Path, results: Path, images: int) -> list[dict]:
    """Results of the first images as run.py writes them, without Lava; the facts of the layers."""
    populations = json.loads((folder / "network.json").read_text())["populations"]
    layers = []
    with np.load(folder / "expected" / "spikes.npz") as spikes:
        for number, population in enumerate(populations[:-1]):
            sent = spikes[f"layer{number}"][:images]
            facts = {"number": number, "name": population["name"], "shape": population["shape"]}
            facts |= {"time_steps": sent.shape[1], "images": len(sent), "sent": f"{number}.sent.npy"}
            layers.append(facts)
            by_step = sent.transpose(0, 1, 3, 4, 2).reshape(
                sent.shape[0] * sent.shape[1], 1, *sent.shape[3:], sent.shape[2]
            )
            np.save(results / f"{number}.sent.npy", by_step.astype(np.int32))
    (results / "layers.json").write_text(json.dumps(layers))
    np.save(results / "accumulators.npy", np.load(folder / "expected" / "accumulators.npy")[:images])
    return layers


def test_results_of_the_first_images_are_compared_with_these(folder: Path, tmp_path: Path) -> None:
    populations = json.loads((folder / "network.json").read_text())["populations"]
    write_results(folder, tmp_path, 2)
    done = checked(folder, tmp_path)
    assert (done.returncode, done.stdout.count("equal: ")) == (0, len(populations))
    assert f"compared: 2 of {EXPECTED_IMAGES} images" in done.stdout
    wrong = np.load(tmp_path / "accumulators.npy")
    wrong[1, 0] += 1
    np.save(tmp_path / "accumulators.npy", wrong)
    assert checked(folder, tmp_path).returncode == 1
    write_results(folder, tmp_path, 0)
    assert checked(folder, tmp_path).returncode == 2


def test_a_layer_of_fewer_images_is_not_equal(folder: Path, tmp_path: Path) -> None:
    layers = write_results(folder, tmp_path, 3)
    stopped = np.load(tmp_path / "4.sent.npy")
    np.save(tmp_path / "4.sent.npy", stopped[: 2 * layers[4]["time_steps"]])
    done = checked(folder, tmp_path)
    assert done.returncode == 2
    problem = f"accumulators.npy has 3 images, and 4.sent.npy has 2, of {layers[4]['name']}"
    assert done.stderr == f"{tmp_path}: {problem}\n"


def test_results_are_compared_layer_by_layer(folder: Path, tmp_path: Path) -> None:
    """Results as run.py writes them, without Lava: right ones, then one spike more."""
    populations = json.loads((folder / "network.json").read_text())["populations"]
    layers = write_results(folder, tmp_path, EXPECTED_IMAGES)
    done = checked(folder, tmp_path)
    assert (done.returncode, done.stdout.count("equal: ")) == (0, len(populations))
    assert f"compared: {EXPECTED_IMAGES} of {EXPECTED_IMAGES} images" in done.stdout
    wrong = np.load(tmp_path / "1.sent.npy")
    wrong.flat[5] ^= 1
    np.save(tmp_path / "1.sent.npy", wrong)
    done = checked(folder, tmp_path)
    assert done.returncode == 1
    shape = populations[1]["shape"]
    # files have their axes in the order that layers.json says, and places are told channel first
    row, column, channel = np.unravel_index(5, (*shape[1:], shape[0]))
    where = f"image 0, step 0, channel {channel}, row {row}, column {column}: {wrong.flat[5]}, not {wrong.flat[5] ^ 1}"
    assert f"1 values differ, the first at {where}: {populations[1]['name']}" in done.stdout
    (tmp_path / "2.sent.npy").unlink()
    done = checked(folder, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path}: 1 of {len(populations)} files are missing, the first is 2.sent.npy\n"
    (tmp_path / "layers.json").write_text(json.dumps(layers[:1]))
    done = checked(folder, tmp_path)
    problem = f"{len(layers) - 1} of {len(layers)} layers were not recorded, the first is {populations[1]['name']}"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path}: {problem}: run with --record spikes\n"


def test_without_images_it_says_how_to_get_them() -> None:
    files = board_files(program_of("digits-v1"), "a | b\nc", None)
    assert files.keys() == {"README.md", "mapping.json"}
    assert "--input IMAGES" in files["README.md"].decode()
    assert "# a \\| b c: a spiking network for loihi2" in files["README.md"].decode()


def test_a_port_is_warned_of_random_weights_and_of_ranges_that_were_only_seen() -> None:
    program = program_of("digits-v1")
    assert "**The weights are random" not in board_files(program, "a", None)["README.md"].decode()
    provenance = {**program.provenance, "training": {RANDOM: 0}}
    network = replace(program.network, bounds="observed")
    said = board_files(replace(program, network=network, provenance=provenance), "a", None)["README.md"].decode()
    assert f"\n**The{RANDOM_NOTE[3:]}.**\n**Not all states are proven to fit 24 bits" in said


def test_images_go_along_to_lava_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data: only to lava takes images along"):
        sd.export(program_of("digits-v1"), "onnx", tmp_path / "x.onnx", data="digits")


def test_attention_is_told_as_its_microcode_was_tried(folder: Path) -> None:
    """Turns and `due` are those with which tests/chips/test_microcode.py has counters run."""
    program = program_of("digits-v1")
    lines = (folder / "README.md").read_text().splitlines()
    at = lines.index(next(line for line in lines if line.startswith("| counters |")))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[at + 2 :]]
    told = {row[0]: row for row in itertools.takewhile(lambda row: len(row) == 9, rows)}
    sites = [site for site in program.mapping.sites if site.kind == "attention" and site.copy == 0]
    assert told.keys() == {site.name for site in sites}
    assert sites
    for site in sites:
        heads = heads_into(program.network, site.population)
        counting, answering = heads.turns(site.serial, site.copies)
        _, target, sources, shape, *_, copies, turns, due = told[site.name]
        assert target == site.population
        assert sources == ", ".join(program.network.into(site.population)[0].sources)
        assert (shape, copies) == ("x".join(map(str, heads.counters(site.serial))), str(site.copies))
        assert turns == f"{counting}, {answering}"
        assert due == (f"{counting - 1}, {counting}" if site.copies > 1 else "none")


def test_who_works_when_is_as_the_model_of_time_has_it(folder: Path) -> None:
    """Of every attention: in which sub-steps its operands send, and its counters exchange and answer."""
    program = program_of("digits-v1")
    lines = (folder / "README.md").read_text().splitlines()
    at = lines.index("| neurons | from | to | what they do |")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[at + 2 :]]
    rows = [row for row in itertools.takewhile(lambda row: len(row) == 4, rows)]
    told = {(name, row[3]): range(int(row[1]), int(row[2]) + 1) for row in rows for name in row[0].split(", ")}
    last = max(max(steps) for steps in told.values())
    assert f"A step of the network is {1 + last} time steps of the chip" in "\n".join(lines)
    assert last == program.mapping.chip_sub_steps
    made = traffic(geometry(program.network, program.mapping), program.profile)
    sites = {site.population: site.name for site in program.mapping.sites if site.kind == "attention" and not site.copy}
    assert sites
    of_attention = [n for n, site in enumerate(program.mapping.sites) if site.kind == "attention"]
    slices = np.concatenate([program.mapping.slices_of(number) for number in of_attention])
    for target, counters in sites.items():
        (works,) = [steps for (name, what), steps in told.items() if name == counters and "less 2" in what]
        sources = program.network.into(target)[0].sources
        operands = {
            source: set(told[source, f"send to {counters}, each in its turn, what they found in 0"])
            for source in sources
        }
        sent: dict[str, set[int]] = {source: set() for source in sources}
        answered: set[int] = set()
        for sender in made.senders:
            when = set(np.unique(sender.sub_step).tolist()) - {0}
            # answers are of the population that asks, and stand on the counters' places
            of_counters = np.isin(made.sweep.slice_at[sender.place], slices).any()
            if when and of_counters:
                answered |= when if sender.population in (*sources, target) else set()
            elif sender.population in sent:
                sent[sender.population] |= when
        assert sent == operands
        assert answered <= set(works)
        assert max(works) == max(answered)
        assert min(works) == 1 + min(set.union(*operands.values()))


def test_counters_and_sums_are_named(folder: Path) -> None:
    """In mapping.json, by the Processes that they are in Lava; network.json has the way that the mapping chose."""
    program = program_of("digits-v1")
    sites = json.loads((folder / "mapping.json").read_text())["sites"]
    described = json.loads((folder / "network.json").read_text())["projections"]
    attentions = [projection for projection in described if projection["kind"] == "attention"]
    assert attentions
    for attention in attentions:
        way = program.mapping.ways[attention["target"]]
        assert (attention["serial"], attention["copies"]) == way
        counters = [s for s in sites if s["kind"] == "attention" and s["population"] == attention["target"]]
        assert [site["copy"] for site in counters] == list(range(way.copies))
        assert {site["process"] for site in counters} == {"Counters"}
        (sums,) = (s for s in sites if s["kind"] == "population" and s["population"] == attention["target"])
        assert sums["process"] == "Answers, ProgrammableLif"
    named = [site["population"] for site in sites if "Answers" in site["process"]]
    assert named == [attention["target"] for attention in attentions]


def test_what_skips_levels_is_said_to_wait(folder: Path) -> None:
    """A branch of a residual is due when the longest way to its sum has been gone."""
    network = program_of("digits-v1").network
    lines = (folder / "README.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    levels = {cells[1]: int(cells[2]) for cells in table if len(cells) == 9 and cells[0].isdigit()}
    assert levels[network.input.name] == 0
    told = {(cells[0], cells[1]): int(cells[2]) for cells in table if len(cells) == 3 and cells[0] in levels}
    skipping: dict[tuple[str, str], int] = {}
    for projection in network.projections:
        waits = {source: levels[projection.target] - levels[source] - 1 for source in projection.sources}
        assert min(waits.values()) >= 0
        skipping |= {(source, projection.target): wait for source, wait in waits.items() if wait}
    assert told == skipping
    assert len(told) >= 2  # at least the two residuals of its block
    # on the longest way nothing waits
    for population in list(network)[1:]:
        sources = [source for projection in network.into(population.name) for source in projection.sources]
        assert levels[population.name] == 1 + max(levels[source] for source in sources)
