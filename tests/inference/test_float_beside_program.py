"""Counts of a float model beside those of the program that it compiles to: rounding moves spikes, and nothing else."""

import numpy as np
import pytest
import torch
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.accounting.conventions import additions
from spikformer_deploy.accounting.operators import Account, account
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.counts.events import Events
from spikformer_deploy.data.read import read
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph.module import GraphModule, Neurons
from spikformer_deploy.network.synapses import Attention
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import float_graph

IMAGES = 32
ONE_BY_ONE = 6
MESSAGES = "spikformer-paper-messages"
"""The convention of a float model that counts as a program is counted: a message once, whatever its value."""

Pair = tuple[Loaded, Program]


@pytest.fixture(scope="module", params=["digits-v1", "digits-v2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return sd.load(request.param), program_of(request.param)


def events_of(program: Program, images: int = IMAGES) -> Events:
    return sd.run(program, "digits", limit=images, timing="none").events


def of_program(events: Events) -> list[int]:
    """Additions of every layer behind the first but the head, in all images; an attention is one layer."""
    kinds = ("conv", "attention")
    return [int(additions(p).sum()) for p in events.projections if p.kind in kinds and p.sources != ("input",)]


def of_float(found: Account, images: int = IMAGES) -> list[int]:
    """The same of a float model: two products make an attention, and the first one stands before the second."""
    layers: list[int] = []
    places = [place for place in found.places if place.name != "head" and not place.work.macs]
    for place in places:
        count = round(place.work.acs * images)
        if place.name.endswith("#2"):
            layers[-1] += count
        else:
            layers.append(count)
    return layers


def products(program: Program, target: str, spikes: dict[str, np.ndarray], by_step: bool) -> int:
    """Additions of q (K^T V) of all images; which operand has fewer spikes is asked of each image, or of each step."""
    (projection,) = program.network.into(target)
    assert isinstance(projection.synapse, Attention)
    depth = program.network[target].shape[0] // projection.synapse.heads
    parts = ONE_BY_ONE * (program.network.time_steps if by_step else 1)
    q, k, v = (spikes[source].reshape(parts, -1).sum(1, dtype=np.int64) for source in projection.sources)
    return int(depth * (np.minimum(k, v) + q).sum())


@pytest.mark.long
def test_with_the_spikes_of_the_program_the_counts_are_its_own(pair: Pair) -> None:
    """Every layer, exactly: two executors, two ways of counting, one number."""
    loaded, program = pair
    pixels = read("digits", program.preprocess, limit=ONE_BY_ONE).pixels
    fired = [p.name for p in program.network if p.neuron.fires]
    spikes = engine.execute(program.network, pixels, record=fired).spikes
    module = GraphModule(float_graph(loaded))
    image = 0  # one after the other: which operand of a product has fewer spikes is asked of each image
    for path, layer in module.named_modules():
        if isinstance(layer, Neurons):
            forced = torch.from_numpy(spikes[path].astype(np.float32)).transpose(0, 1).contiguous()
            layer.register_forward_hook(lambda *_, forced=forced: forced[:, image : image + 1])
    with sd.count_operations(module, program.network.time_steps) as counting, torch.no_grad():
        for image in range(ONE_BY_ONE):
            module(torch.from_numpy(program.preprocess.normalised(pixels[image : image + 1])))
    counts = of_float(account(counting.counts, MESSAGES), ONE_BY_ONE)
    events = events_of(program, ONE_BY_ONE)
    expected = of_program(events)
    kinds = [p for p in events.projections if p.kind in ("conv", "attention") and p.sources != ("input",)]
    for i, projection in enumerate(kinds):
        if projection.kind == "attention":
            # the program asks in each step which operand has fewer spikes, and the model's product is one of all steps
            assert expected[i] == products(program, projection.target, spikes, by_step=True)
            expected[i] = products(program, projection.target, spikes, by_step=False)
    assert counts == expected
    records = {record.name: int(record.spikes.sum()) for record in counting.counts.neurons}
    assert records == {name: int(spikes[name].sum()) for name in fired}


def test_rounding_moves_a_few_spikes_and_with_them_the_counts(pair: Pair) -> None:
    loaded, program = pair
    events = events_of(program)
    counted = sd.energy(loaded, "digits", conventions=[MESSAGES], limit=IMAGES)
    (found,) = counted.accounts
    assert found.energy is not None
    ours, theirs = of_float(found), of_program(events)
    assert ours != theirs
    for of_model, of_chip in zip(ours, theirs, strict=True):
        assert of_model == pytest.approx(of_chip, rel=0.06)
    assert sum(ours) == pytest.approx(sum(theirs), rel=0.01)
    # neurons, their updates and the dense work know nothing of spikes
    for record in counted.counts.neurons:
        assert record.elements == program.network[record.name].size
        assert int(record.updates.sum()) == record.elements * program.network.time_steps * IMAGES
    dense = [p.dense * program.network.time_steps for p in events.projections if p.kind == "conv"]
    layers = [o for o in counted.counts.operations if o.kind in ("convolution", "linear") and o.name != "head"]
    assert [sum(c.dense_padded for c in o.counted) // IMAGES for o in layers] == dense


def test_the_head_of_a_model_reads_once_and_that_of_a_program_every_step(pair: Pair) -> None:
    """The one structural difference: the models average before their heads, and the chip sums logits step by step."""
    loaded, program = pair
    head = next(p for p in events_of(program).projections if p.kind == "readout")
    (found,) = sd.energy(loaded, "digits", conventions=[MESSAGES], limit=IMAGES).accounts
    (of_model,) = [place.work.acs for place in found.places if place.name == "head"]
    assert of_model < int(head.synops.sum()) / IMAGES
