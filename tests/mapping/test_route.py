"""Expected messages between slices, against the events that are counted where every neuron fires in every step."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mappings import random_mapping
from support.networks import dual_network, graded_network, random_network

from spikformer_deploy.counts.slices import geometry, slice_events
from spikformer_deploy.counts.sums import weighted
from spikformer_deploy.executors.execution import Activity
from spikformer_deploy.mapping.route import nets_of
from spikformer_deploy.network.network import Network


@settings(deadline=None, max_examples=60)
@given(
    st.builds(random_network, st.integers(0, 10**6), st.just(1), blocks=st.integers(0, 2), shortcuts=st.booleans())
    | st.builds(graded_network, st.integers(0, 10**6), st.just(1))
    | st.builds(dual_network, st.integers(0, 10**6), st.just(1)),
    st.integers(0, 10**6),
)
def test_nets_expect_the_messages_that_are_counted(network: Network, seed: int) -> None:
    mapping = random_mapping(network, seed)
    mapping = replace(mapping, cores=np.arange(len(mapping.boxes)))
    counting = geometry(network, mapping)
    firing = {}
    activity = {}
    for name, cells in counting.cells.items():
        sizes = np.diff(cells.channels), np.bincount(cells.rows), np.bincount(cells.columns)
        messages = np.einsum("s,r,q->srq", *sizes)[None, None].astype(np.int32)
        firing[name] = messages
        active = np.ones(network[name].shape, bool)
        activity[name] = Activity(messages, cells, active, np.zeros(1, np.int64), np.zeros_like(messages))
    sent, received = weighted((counting.sent, counting.received), firing, counting.layout)[1]
    counted = slice_events(counting, sent, received, activity)
    nets = nets_of(network, mapping.sites, mapping.boxes, {})
    expected = np.bincount(nets.target, nets.messages, minlength=len(mapping.boxes))
    np.testing.assert_array_equal(expected, counted.messages_in[0, 0])
    assert (nets.messages > 0).all()
