"""What the operations of a model are under the rules of papers and of the packages that users count with.

Every rule takes an operation and what was counted of those of its calls that read alike; it gives their MACs and ACs
over all images, or None where the paper or the package does not see them.  Rules are written from what the packages
do; tests/compare runs the packages themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from spikformer_deploy.counts.operations import Counted, NeuronRecord, Operation, OperationCounts

LAYERS = ("convolution", "linear")
SYNAPTIC = (*LAYERS, "product", "unknown")
"""Kinds of operations that are synaptic work; what is not understood is taken for it, and for dense."""

BINARY = "binary"
AT_MOST_TWO_VALUES = (BINARY, "two values")
"""Operands that syops takes for spikes: {0, 0.5} and a constant 0.3 as well."""

SYOPS_NORMS = ("BatchNorm", "InstanceNorm", "GroupNorm")
SYOPS_POOLS = ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool")
SYOPS_FUNCTIONS = ("ReLU", "PReLU", "ELU", "LeakyReLU", "ReLU6", "GELU")
SYOPS_NEURONS = ("IFNode", "LIFNode", "ParametricLIFNode")
"""Class names that syops looks for, the first two without their dimensions; it asks for exactly these classes."""

SPIKINGJELLY_NEURONS = ("IFNode", "LIFNode", "ParametricLIFNode", "ILIFNode")
"""Classes of spikingjelly whose state is one membrane."""
FP32_BYTES = 4

RECURRENT = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
NEUROBENCH_ACTIVATIONS = ("ReLU", "Sigmoid")
NEUROBENCH_NEURON_OPERATIONS = {"Leaky": 4, "Lapicque": 11}
"""Operations that NeuroBench counts for one update of a neuron of snntorch, where they do not depend on its reset."""


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-accumulates, additions, and bytes that are read and written; over all images unless said otherwise."""

    macs: float = 0.0
    acs: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.acs + other.acs, self.bytes + other.bytes)

    def scaled(self, share: float) -> Work:
        """All of it times `share`."""
        return Work(self.macs * share, self.acs * share, self.bytes * share)


NO_WORK = Work()


# --- papers ----------------------------------------------------------------------------------------------------------


def additions(operation: Operation, counted: Counted) -> float:
    """Additions where zeros of the input are skipped and a message of value s is s spikes.

    Of a product: of the binary operand that is sparser; where none is binary, of the first as unary spikes.
    """
    if operation.kind == "product" and _binary_operands(counted):
        return _skipped(counted)
    # no unit, no spikes: each value that is not zero is one
    return counted.slots or float(counted.pairs)


def messages(operation: Operation, counted: Counted) -> float:
    """The same where a message is one addition a synapse, whatever its value."""
    if operation.kind != "product":
        return counted.pairs
    return _skipped(counted) if _binary_operands(counted) else counted.first_pairs


def approximate(operation: Operation, counted: Counted) -> float:
    """The same by rates: mean value of the input * FLOPs, borders as interior."""
    if operation.kind == "product":
        return _product_by_rate(counted)
    if not counted.slots:
        return counted.by_rate
    # counts divided by D are whole in units of 1 / D
    return counted.by_mean * counted.slots / counted.weighted


def _product_by_rate(counted: Counted) -> float:
    binary = _binary_operands(counted)
    if len(binary) == 2:
        return counted.by_rate_smaller
    if binary:
        return {"first": counted.by_rate, "second": counted.by_rate_other}[binary[0]]
    # every element of an operand meets as many others: the mean is exact
    return counted.slots or counted.by_rate_smaller


def _binary_operands(counted: Counted) -> list[str]:
    """Which operands of a product are zeros and ones."""
    operands = (("first", counted.operand), ("second", counted.other))
    return [name for name, operand in operands if operand == BINARY]


def _skipped(counted: Counted) -> float:
    """Additions of a product with a binary operand where its zeros are skipped; of two, the sparser one's."""
    binary = _binary_operands(counted)
    if len(binary) == 2:
        return counted.fewer_pairs
    return counted.first_pairs if binary == ["first"] else counted.second_pairs


# --- syops 0.0.5 -----------------------------------------------------------------------------------------------------


def syops_counter(operation: Operation, counted: Counted) -> Work | None:
    """Modules of the classes that it knows; class by the values of a call, rate by their mean."""
    if operation.functional:
        return None
    if operation.kind in LAYERS:
        # a linear layer's bias is counted once a call, a convolution's at every position
        biases = (counted.bias_size, counted.bias_size_by_mean)
        if operation.kind == "convolution":
            biases = (counted.biases, counted.biases_by_mean)
        return _by_mean(counted, counted.dense_padded + biases[0], counted.by_mean + biases[1])
    if operation.kind == "pooling" and operation.module.startswith(SYOPS_POOLS):
        return _by_mean(counted, counted.elements_in, counted.sum_in)
    # of these no values are known: they are taken for reals, as they are where no layer of spikes stands before them
    if operation.kind == "norm" and operation.module.startswith(SYOPS_NORMS):
        return Work(macs=(2 if counted.biases else 1) * counted.elements_in)
    if operation.kind == "reduction" and operation.module.startswith(SYOPS_POOLS):
        return Work(macs=counted.elements_in)
    if operation.kind == "function" and operation.module in SYOPS_FUNCTIONS:
        return Work(macs=counted.elements_out)
    return None


def syops_counter_neurons(record: NeuronRecord) -> Work | None:
    """An addition an update, whatever it fires."""
    known = record.neuron.removeprefix("MultiStep") in SYOPS_NEURONS
    return Work(acs=float(record.updates.sum())) if known else None


def syops_slots(operation: Operation, counted: Counted) -> Work | None:
    """Whole-number messages as unary spikes, a slot each: every slot is a call of its own, of binary spikes."""
    if operation.functional or operation.kind not in LAYERS:
        return None
    if not counted.slots:
        return syops_counter(operation, counted)
    biases = counted.biases_by_mean if operation.kind == "convolution" else counted.bias_size_by_mean
    return Work(acs=(counted.by_mean + biases) * counted.slots / counted.weighted)


def _by_mean(counted: Counted, dense: float, by_mean: float) -> Work:
    return Work(acs=by_mean) if counted.operand in AT_MOST_TWO_VALUES else Work(macs=dense)


# --- spikingjelly 2.0 ------------------------------------------------------------------------------------------------


def spikingjelly(operation: Operation, counted: Counted) -> Work | None:
    """Its MACCounter, its SynOpCounter as additions, and the bytes of its NeuromorphicMemoryAccessCounter."""
    if operation.kind == "norm":
        batch = any("batch_norm" in operator for operator in operation.operators)
        return Work(macs=counted.elements_in if counted.biases else 0) if batch else None
    if operation.kind in LAYERS:
        return _spikingjelly_layer(operation, counted)
    fused = any("scaled_dot_product" in operator for operator in operation.operators)
    if operation.kind != "product" or fused:
        return None
    match _binary_operands(counted):
        case []:
            return Work(macs=counted.dense)
        case ["first"]:
            return Work(acs=counted.first_pairs)
        case ["second"]:
            return Work(acs=counted.second_pairs)
        case _:
            return Work(acs=counted.pairs)


def _spikingjelly_layer(operation: Operation, counted: Counted) -> Work:
    """A weight is read for each spike that meets it, or for each multiply-accumulate; a bias for each output."""
    binary = counted.operand == BINARY
    uses = counted.pairs if binary else counted.dense_padded
    read = 0 if not _is_layer_module(operation) else (uses + counted.biases) * FP32_BYTES
    return Work(acs=uses, bytes=read) if binary else Work(macs=uses, bytes=read)


def spikingjelly_neurons(record: NeuronRecord) -> Work | None:
    """A membrane is read and written once a step."""
    known = record.neuron in SPIKINGJELLY_NEURONS
    return Work(bytes=2.0 * int(record.updates.sum()) * FP32_BYTES) if known else None


def spikingjelly_figures(counts: OperationCounts, total: Work) -> dict[str, float]:
    """Under its names."""
    return {"mac": total.macs, "synop": total.acs, "memory_access_bytes": total.bytes}


# --- NeuroBench 2.3.0 ------------------------------------------------------------------------------------------------


def neurobench(operation: Operation, counted: Counted) -> Work | None:
    """Effective_MACs and Effective_ACs."""
    if not _neurobench_sees(operation):
        return None
    if counted.operand in (BINARY, "signs"):
        return Work(acs=counted.effective)
    return Work(macs=counted.effective)


def neurobench_figures(counts: OperationCounts, total: Work) -> dict[str, float]:
    """Its metrics by its names: static ones, then those an image."""
    held = counts.parameters
    layers = [c for operation in counts.operations if _neurobench_sees(operation) for c in operation.counted]
    figures = {
        "ParameterCount": held.parameters,
        "Footprint": held.bytes + held.buffer_bytes,
        "ConnectionSparsity": round(held.zero_weights / held.weights, 4) if held.weights else 0.0,
        "ActivationSparsity": _activation_sparsity(counts),
        "Effective_MACs": total.macs,
        "Effective_ACs": total.acs,
        "Dense": sum(c.dense for c in layers) / counts.images,
    }
    if counts.neurons and all(record.neuron in NEUROBENCH_NEURON_OPERATIONS for record in counts.neurons):
        each = [NEUROBENCH_NEURON_OPERATIONS[record.neuron] * record.updates.sum() for record in counts.neurons]
        figures["Neuron Dense Ops"] = float(sum(each)) / counts.images
    return figures


def _neurobench_sees(operation: Operation) -> bool:
    return _is_layer_module(operation) and operation.module not in RECURRENT


def _is_layer_module(operation: Operation) -> bool:
    """Whether it is a module for linear maps or for convolutions that are not transposed."""
    return operation.kind in LAYERS and not operation.functional and not operation.module.startswith("ConvTranspose")


def _activation_sparsity(counts: OperationCounts) -> float:
    """Zeros among the outputs of neurons that are modules, of ReLU and of Sigmoid, over all steps and images."""
    neurons = [r for r in counts.neurons if r.neuron != "threshold"]
    functions = [
        c for o in counts.operations if o.kind == "function" and o.module in NEUROBENCH_ACTIVATIONS for c in o.counted
    ]
    outputs = sum(int(r.updates.sum()) for r in neurons) + sum(c.elements_out for c in functions)
    nonzero = sum(int(r.spikes.sum()) for r in neurons) + sum(c.nonzero_out for c in functions)
    return (outputs - nonzero) / outputs if outputs else 0.0
