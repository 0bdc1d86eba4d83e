"""Profiles: every number with unit, kind and source; a bad file is refused with all its errors."""

from pathlib import Path

import attrs
import pytest

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.profile import (
    BEFORE,
    from_dict,
    load_profile,
    of_before,
    operation_energies,
    profile_names,
    quantities,
    to_dict,
    under,
)
from spikformer_deploy.chips.quantity import KINDS

CHIPS = {"loihi1": 1, "loihi2": 1, "oheo_gulch": 1, "kapoho_point": 8, "alia_point": 32, "hala_point": 1152}
FOLDER = Path(__file__).parents[2] / "hw_profiles"


@pytest.mark.parametrize("name", CHIPS)
def test_profiles_are_whole(name: str) -> None:
    profile = load_profile(name)
    assert int(profile.board.chips) == CHIPS[name]
    assert profile.cores == CHIPS[name] * profile.cores_per_chip
    for path, quantity in quantities(profile):
        assert quantity.kind in KINDS, path
        assert quantity.source, path
        assert quantity.low <= quantity.value <= quantity.high, path
    assert from_dict(to_dict(profile)) == profile


def test_every_target_is_tested() -> None:
    assert set(profile_names()) == set(CHIPS)


def test_known_numbers() -> None:
    """Facts of the literature: Davies et al. 2018, Frady et al. 2020, Horowitz 2014."""
    loihi1, loihi2 = load_profile("loihi1"), load_profile("loihi2")
    assert loihi1.corners["davies2018"].synapse.value == 23.6
    assert loihi1.power.static_chip.value == 104
    assert not loihi1.limits.programmable
    assert loihi1.limits.message_bits == 1
    assert set(loihi2.corners) == {"pilotnet-fit", "halapoint", "loihi1-carryover"}
    assert loihi2.time.barrier_chip.value <= 200
    operations = operation_energies()
    assert operations["fp32_add"].value + operations["fp32_multiply"].value == pytest.approx(4.6)


def test_hala_point_stays_below_its_published_ceilings() -> None:
    """380 T synaptic operations a second for 1152 chips: no profile may promise more."""
    profile = load_profile("hala_point")
    per_second = profile.cores / (profile.time.synapse_conv.value * 1e-9)
    assert per_second < 380e12


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'name = "mine"\nbase = "loihi2"\ndescription = "two chips"\n'
        '[board.chips]\nvalue = 2\nunit = "chips"\nkind = "guess"\nsource = "mine"\n'
    )
    profile = load_profile(str(mine))
    assert (profile.name, int(profile.board.chips)) == ("mine", 2)
    assert profile.core == load_profile("loihi2").core


def test_a_file_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Other numbers under the name of their base would pass for it."""
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "loihi2"\ndescription = "two chips"\n')
    with pytest.raises(InputError, match=r"required field missing @ \$\.name") as error:
        load_profile(str(mine))
    assert 'name = "mychip"' in error.value.way_out


def test_cores_that_cannot_be_counted_have_their_line(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    head, more = 'name = "mine"\nbase = "loihi2"\n', 'unit = "{}"\nkind = "guess"\nsource = "mine"\n'
    mine.write_text(head + "[board.chips]\nvalue = 65536\n" + more.format("chips") + "[chip.tiles_x]\nvalue = 4000\n"
                    + more.format("tiles"))  # fmt: skip
    with pytest.raises(InputError, match=r"at most 16,777,216 can be .* @ \$\.board\.chips \(line 3\)"):
        load_profile(str(mine))
    mine.write_text(head + "[chip.reserved_cores]\nvalue = 128\n" + more.format("cores"))
    with pytest.raises(InputError, match=r"no core is left .* @ \$\.chip\.reserved_cores \(line 3\)"):
        load_profile(str(mine))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('unit   = "ns"\n', "", r"required field missing @ \$\.time\.synapse_conv\.unit"),
        ('unit   = "ns"\n', 'unit   = "us"\n', "unit 'us' instead of 'ns'"),
        ('kind   = "fitted"', 'kind   = "dreamt"', "there is no kind 'dreamt': there are measured, datasheet, "),
        ("value  = 20000", "value  = -1", "a finite number of at least 0"),
        ("value  = 20000", 'value  = "many"', r"\$\.core\.memory_words\.value"),
        ("range  = [0.37, 2.0]", "range  = [3.0, 4.0]", "does not hold the value"),
        ('corner = "pilotnet-fit"', 'corner = "best"', "nominal corner 'best'"),
        ("[chip.tiles_x]", "[chip.towers]", r"unknown key; known: tiles_x, .* @ \$\.chip\.towers \(line 5\)"),
        ("[chip.tiles_x]", "[chip.tiles_x", "no readable TOML"),
    ],
)
def test_every_error_has_its_path(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (FOLDER / "loihi2.toml").read_text()
    assert old in text
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        load_profile(str(bad))


def test_all_errors_at_once(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    text = (FOLDER / "loihi2.toml").read_text()
    for broken in (text.replace('kind   = "derived"\n', "", 2), text.replace('unit   = "mW"', 'unit   = "W"', 2)):
        bad.write_text(broken)
        with pytest.raises(InputError) as raised:
            load_profile(str(bad))
        assert str(raised.value).count("@ $.") == 2


def test_unknown_targets() -> None:
    with pytest.raises(InputError, match="no target is called 'loihi3'"):
        load_profile("loihi3")
    with pytest.raises(InputError, match="there is no such file"):
        load_profile("missing.toml")


def forged(path: str, value: object) -> dict:
    """The plain values of a profile with another one at `path`."""
    raw = to_dict(load_profile("loihi2"))
    *way, last = path.split(".")
    section = raw
    for key in way:
        section = section[key]
    section[last] = value
    if last == "value":
        section["range"] = None
    return raw


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("core.memory_words.value", 0.5, "no whole number of words"),
        ("core.memory_words.value", 0.0, "0 words, and some are needed"),
        ("core.memory_words.value", 1e300, "at most 1e"),
        ("core.memory_words.value", 1e11, "at most 2147483648"),
        ("core.memory_words.value", "20000", "no finite number"),
        ("core.memory_words.value", True, "no finite number"),
        ("core.memory_words.value", float("nan"), "no finite number"),
        ("core.memory_words.value", 2**70, "at most 1e"),
        ("core.message_bits.value", 65.0, "at most 64 are possible"),
        ("core.programmable.value", 2.0, "at most 1 are possible"),
        ("chip.reserved_cores.value", 128.0, "128 of 128 cores a chip are reserved"),
        ("chip.tiles_x.value", 4097.0, "at most 4096"),
        ("board.chips.value", 0.0, "0 chips"),
        ("board.columns.value", 0.0, "0 chips"),
        ("time.link_rate.value", 0.0, "0 messages/ns"),
        ("time.link_rate.unit", "ns", "unit 'ns' instead of 'messages/ns'"),
        ("time.synapse_conv.range", [0.0, float("inf")], "."),
        ("time.synapse_conv.range", [3.0, 4.0], "does not hold"),
        ("time.synapse_conv.range", [0.1], "."),
        ("time.synapse_conv.source", 3, "no text"),
        ("corner", "best", "nominal corner 'best'"),
        ("corners", {}, "nominal corner"),
        ("name", " ", "an empty name"),
        ("secret", 1, "secret"),
    ],
)
def test_a_program_holds_a_profile_under_the_same_law(path: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(forged(path, value))


def test_profiles_of_programs_of_before() -> None:
    """They lack three numbers, are read without them, and are written as they were."""
    raw = to_dict(load_profile("loihi2"))
    for section, name in (("time", "step_runtime"), ("time", "neuron_programmable"), ("power", "running_chip")):
        del raw[section][name]
    profile = from_dict(raw)
    assert of_before(profile)
    assert not of_before(load_profile("loihi2"))
    assert profile.time.step_runtime.value == profile.power.running_chip.value == 0
    # microcoded neurons cost what all neurons did
    assert profile.time.neuron_programmable.value == profile.time.neuron_update.value
    assert to_dict(profile) == raw


def test_a_bare_runtime_costs_nothing() -> None:
    profile = load_profile("loihi2")
    assert under(profile, "lava") == profile
    assert under(profile, "bare").time.step_runtime.high == 0
    with pytest.raises(InputError, match="'fast' is none of lava, bare"):
        under(profile, "fast")


def test_calibrated_numbers_name_their_case() -> None:
    numbers = dict(quantities(load_profile("loihi2")))
    assert numbers["time.step_runtime"].calibrated_on == "two-neurons"
    assert numbers["time.step_runtime"].role == "calibrated"
    assert numbers["time.axon_in"].role == "guessed"
    # a case has set its high end, and nothing its value
    assert numbers["time.neuron_programmable"].calibrated_on == "qp-solver"
    assert numbers["time.neuron_programmable"].role == "guessed"
    assert numbers["time.synapse_conv"].role == "independent"


def test_a_number_is_kept_whatever_its_source_says() -> None:
    """What stands for "no such number" is left out of a program; another value with that source is not."""
    profile = load_profile("loihi2")
    number = attrs.evolve(profile.time.step_runtime, source=BEFORE)
    odd = attrs.evolve(profile, time=attrs.evolve(profile.time, step_runtime=number))
    assert not of_before(odd)
    assert from_dict(to_dict(odd)) == odd
