"""stub"""

from spikformer_deploy.network.neurons import Lif, LifKind, Neuron, Source


def counter_length() -> float:
    return 1.0


def relay_length() -> float:
    return 1.0


def relative_length(neuron: Neuron) -> float:
    return 0.0 if isinstance(neuron, Source) or (isinstance(neuron, Lif) and neuron.kind == LifKind.STOCK) else 1.0
