"""Random integer networks: every executor, kernel, count and file agrees with the plain twin."""

import pytest
from campaign.agreement import Inputs, assert_counts, assert_executors_agree, assert_file_keeps, mappings
from campaign.integers import images_for, integer_network, narrower
from support.deep import some

FEW, MANY, AT_ONCE = 5, 1000, 50


def check(seed: int) -> str:
    """What came of the network of that seed: it ran, or overflowed, in all executors alike."""
    network = integer_network(seed)
    images = images_for(network, seed)
    right = assert_executors_agree(Inputs(network, images, seed))
    if right is None:
        return "overflow"
    made = mappings(network, images, seed)
    for mapping in made:
        assert_counts(network, mapping, images)
    if len(made) > 1:
        assert_file_keeps(network, made[1], images, right)
    bits = max(right.peak_state.values()).bit_length()
    if bits > 2 and seed % 4 == 0:
        assert assert_executors_agree(Inputs(narrower(network, bits), images, seed)) is None
    return "mapped" if len(made) > 1 else "ran"


def check_all(seeds: range) -> dict[int, str]:
    """Differences fail, with the seed in front; most networks neither overflow nor are too large for a chip."""
    found: dict[int, str] = {}
    for seed in seeds:
        try:
            found[seed] = check(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert list(found.values()).count("mapped") >= 0.7 * len(seeds), found
    return found


@pytest.mark.parametrize("first", some([0], long=[FEW]))
def test_all_executors_agree(first: int) -> None:
    assert len(check_all(range(first, first + FEW))) == FEW


@pytest.mark.deep
@pytest.mark.parametrize("first", range(2 * FEW, MANY, AT_ONCE))
def test_all_executors_agree_on_many(first: int) -> None:
    seeds = range(first, min(first + AT_ONCE, MANY))
    assert list(check_all(seeds)) == list(seeds)
