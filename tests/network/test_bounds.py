"""Worst cases, worked out from a network alone: no run leaves them, and what the quantizer claims holds them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from support.chains import chain, frames
from support.deep import some
from support.models import SIBLINGS, SMALL, model_and_images
from support.networks import dual_network, networks, random_images

from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.network.bounds import is_proven, worst_cases
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Stream
from spikformer_deploy.pipeline.program import from_bytes, to_bytes
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.quantization.build import Pixels, quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings


def assert_holds(network: Network) -> None:
    """What the network claims holds its worst case, if it claims a proof; and the law is obeyed."""
    check_network(network)
    if network.bounds == "static":
        assert is_proven(network)
        for name, worst in worst_cases(network).items():
            low, high = network[name].bounds
            assert low <= worst.state[0] <= worst.state[1] <= high, name


@settings(max_examples=150)
@given(
    networks() | st.builds(dual_network, st.integers(0, 10**6)),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["random", "brightest", "dark", "columns"]),
)
def test_no_run_leaves_the_worst_case(network: Network, seed: int, kind: str) -> None:
    """With as many bits of state as it takes, so that nothing is stopped on the way."""
    wide = replace(network, state_bits=60, populations=tuple(without_limit(p) for p in network))
    images = random_images(network, seed)
    match kind:
        case "brightest":
            images = np.full_like(images, network.input.max_out)
        case "dark":
            images = np.zeros_like(images)
        case "columns":
            images[..., ::2] = network.input.max_out
    worst, run = worst_cases(network), reference.execute(wide, images, record=[p.name for p in network])
    for population in network:
        name, expected = population.name, worst[population.name]
        assert run.peak_state[name] <= expected.largest, name
        sent = run.spikes[name].astype(np.int64).max((0, 1, 3, 4)), run.spikes[name].astype(np.int64).min((0, 1, 3, 4))
        assert (sent[0] <= expected.high).all(), name
        assert (sent[1] >= expected.low).all(), name


LAWFUL = ["imagenet", "v2", "sdt1-imagenet", "qkformer-dvs"]
"""One each of the stems, of streams and of sums."""


def without_limit(population):  # type: ignore[no-untyped-def]
    """A stream may send what it will."""
    return replace(population, max_out=2**40) if isinstance(population.neuron, Stream) else population


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from(["programmable", "stock"]),
    st.sampled_from(["group", "tensor", "channel"]),
    st.integers(4, 8),
)
def test_chains(seed: int, dyadic: bool, neuron: str, granularity: str, bits: int) -> None:
    graph = chain(seed, dyadic=dyadic)
    calibration = Calibration(graph, frames(graph, seed))
    pixels = Pixels((0.0, 0.0), (1.0, 1.0), 1)
    limits = load_profile("loihi2").limits
    try:
        network = quantize(graph, pixels, calibration, limits, Settings(bits, granularity, neuron))
    except QuantizeError:
        reject()
    assert_holds(network)


@pytest.mark.parametrize(
    ("name", "neuron", "schedule"),
    some(
        [
            ("digits-v2", "stock", "token-serial"),
        ],
        [
            ("digits-v1", "stock", "token-serial"),
            ("digits-v2", "programmable", "spatial"),
            ("digits-levels", "programmable", "spatial"),
            ("cifar10", "stock", "token-serial"),
        ],
        long=[
            ("digits-v1", "programmable", "spatial"),
            ("digits-levels", "programmable", "token-serial"),
            ("cifar10", "programmable", "spatial"),
        ],
    ),
)
def test_bundled_models_are_accepted(name: str, neuron: str, schedule: str) -> None:
    program = compile_model(name, "kapoho_point", neuron=neuron, schedule=schedule, check=False).program
    assert_holds(program.network)
    assert from_bytes(to_bytes(program), "file").digest() == program.digest()


@pytest.mark.parametrize(
    "name", some(LAWFUL[:1], [name for name in SMALL | SIBLINGS if name not in LAWFUL], long=LAWFUL[1:])
)
def test_all_families_are_accepted(name: str) -> None:
    config = (SMALL | SIBLINGS)[name]
    module, _ = model_and_images(config)
    channels, size = config.in_channels, config.image_size
    preprocess = Preprocess(channels, size, (0.5,) * channels, (0.25,) * channels)
    loaded = Loaded(module.eval(), config, preprocess, (), "0" * 64, {}, ())
    program = compile_model(loaded, "hala_point", check=False).program
    assert_holds(program.network)
    assert from_bytes(to_bytes(program), "file").digest() == program.digest()
