"""Every operation of exported models that is known, and what to do instead of others.

A handler takes a Call and returns what the result of the operation stands for (calls.py).
"""

from __future__ import annotations

from spikformer_deploy.graph.arithmetic import ARITHMETIC
from spikformer_deploy.graph.attentions import ATTENTIONS
from spikformer_deploy.graph.calls import Handler
from spikformer_deploy.graph.constants import with_constants
from spikformer_deploy.graph.layers import LAYERS
from spikformer_deploy.graph.layouts import LAYOUTS
from spikformer_deploy.graph.neurons import NEURONS
from spikformer_deploy.graph.parts import PARTS
from spikformer_deploy.graph.pools import POOLS

HANDLERS: dict[str, Handler] = with_constants(
    {**LAYOUTS, **LAYERS, **POOLS, **NEURONS, **ARITHMETIC, **ATTENTIONS, **PARTS}
)
"""Exported operation, as "aten.conv2d" -> its handler."""

READS_SHAPE_ONLY = ("aten.full_like",)
"""Operations that read nothing but the shape of a value."""

_NEURONS = "Put neurons in its place: a layer must receive spikes, or the image."
_NORMALISE = "Use batch normalisation, whose statistics are fixed."
_OWN_NEURON = (
    "If this is a neuron of your own: put LIFNode of spikingjelly, or spikformer_deploy.nn.lif.LIF, in its place; "
    "the command `energy` takes neurons as they are."
)
_DIFFERENCE = f"Differences of spikes are not supported: add the branches (x + y) instead. {_OWN_NEURON}"
_RANDOM = "The forward pass must draw no random numbers."
WAYS_OUT = {
    **dict.fromkeys(("relu", "gelu", "sigmoid", "silu", "tanh", "leaky_relu", "prelu", "elu", "hardtanh"), _NEURONS),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), _NORMALISE),
    **dict.fromkeys(("rsub", "sub"), _DIFFERENCE),
    **dict.fromkeys(("zeros_like", "new_zeros", "ge", "gt", "heaviside", "sign", "where"), _OWN_NEURON),
    **dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "bernoulli"), _RANDOM),
    "softmax": "Leave it out: it does not change the class; inside an attention, spikes need none.",
    "scaled_dot_product_attention": "Write it without softmax, (q @ k.transpose(-1, -2)) @ v * scale.",
    "autocast": "Compile the model in fp32, without autocast in its forward pass.",
    "max": "Take the mean over the time steps, or max-pooling of positions.",
}
"""What to do instead of an operation that is not known, by its plain name; calls.REWRITE for all others."""
