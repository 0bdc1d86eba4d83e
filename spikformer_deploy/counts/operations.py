"""What the forward passes of a float model cost in operations: plain sums, which conventions of energy read.

Nothing here knows a model, a chip or a price.  Sums run over all calls and all images; per image is the sum / images.
Sums of whole numbers are Python integers and exact; rates and values are floats.
"""

from __future__ import annotations

from dataclasses import dataclass

from spikformer_deploy.base.arrays import Float, Int

KINDS = (
    "convolution",
    "linear",
    "product",
    "pooling",
    "norm",
    "addition",
    "multiplication",
    "scaling",
    "reduction",
    "function",
    "unknown",
)
"""What an operation is.

convolution     of an activation with weights, transposed ones too
linear          matrix product of an activation with weights: linear, matmul, einsum; its "taps" are the input features
product         matrix product of two activations: attention by matmul, bmm, einsum, scaled_dot_product_attention
pooling         average and maximum over windows, adaptive ones too
norm            batch, layer, group and instance normalization
addition        of two activations, element by element: residuals, positional sums of activations
multiplication  of two activations, element by element: gates, masks, the k * v of spike-driven attention
scaling         of an activation by a constant or a parameter, or an addition of one, element by element
reduction       sums and means over dimensions that are no windows
function        of each element: relu, softmax, gelu, thresholds that belong to no neuron
unknown         arithmetic that is not understood: named in `not_understood`, and counted dense where shapes tell it

What a neuron does inside is no operation: it is in its NeuronRecord.  Weights inside of a neuron (recurrent ones) are.
"""

CLASSES = ("binary", "signs", "two values", "integers", "levels", "real")
"""What the values of an operand were seen to be in one call: the first that holds.

binary      all in {0, 1}; all zeros and all ones too
signs       all in {-1, 0, 1}
two values  at most two distinct values, all within [0, 1]: {0, 0.5}, a constant 0.3
integers    whole numbers from 0 to 255
levels      whole multiples of 1/2, 1/4, 1/8 or 1/16 from 0 to 255: counts divided by D, averages of spikes
real        anything else
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums over those calls of one operation whose operands were seen to be alike.

    A pair is one multiplication of an input element with one weight (of a product: of two elements) that the definition
    of the operation asks for.  Pairs with padding are none: they are only in `dense_padded`.

    Values are not looked at of additions, scalings, norms, reductions, functions and what is unknown, nor of
    multiplications where neither operand is spikes: all their elements are counted as reals that are not 0.

    operand          class of the input, one of CLASSES; of a product or multiplication: of the first operand
    other            class of the second operand of a product or multiplication; None of the other kinds
    calls            how often it ran
    elements_in      elements of the input (of the first operand), without padding
    nonzero_in       those that are not 0
    sum_in           sum of |value| of them
    elements_other   the same of the second operand; 0 where there is none
    nonzero_other
    sum_other
    elements_out     elements of the output
    nonzero_out      those that are not 0; counted of relu and sigmoid only
    weights          elements of the weights, each once a call; of a pooling: of the window
    dense            pairs: multiply-accumulates where nothing is skipped.  Of a pooling: elements under windows;
                     of the kinds that work element by element: elements of the output; of a norm: of the input
    dense_padded     the same where padding is multiplied too: the FLOPs that papers quote
    pairs            pairs where the input is not 0, zero weights included; of a product or multiplication: where both
                     operands are not 0
    effective        pairs where neither the input nor the weight is 0; where there are no weights: pairs
    weighted         sum of |input| over `pairs`; of a product or multiplication: sum of |first * second|
    slots            pairs if each value were sent as that many unary spikes: sum of |input| / unit, where the unit is
                     the largest of 1, 1/2, 1/4, 1/8, 1/16 of which all values of the call are multiples, or the one
                     non-zero value of {0, v} where v is no whole number; pairs where {u, v} have no unit; 0 of
                     other reals.  Of a product: of its first operand over `first_pairs`
    by_rate          sum over calls of (share of inputs that are not 0) * dense_padded: firing rate * FLOPs
    by_mean          sum over calls of (mean of |input|) * dense_padded
    first_pairs      of a product or multiplication: pairs where the first operand is not 0, whatever the second is
    second_pairs     the same of the second operand
    fewer_pairs      sum over calls of the smaller of the two
    by_rate_other    by_rate of the second operand
    by_rate_smaller  by_rate of the operand whose share is smaller in that call
    biases           additions of biases: elements of the output where there is a bias; of a norm: where it is affine
    biases_by_mean   sum over calls of (mean of |input|) * biases
    bias_size        elements of the bias, each once a call
    bias_size_by_mean  sum over calls of (mean of |input|) * bias_size
    rows             of a convolution: inputs, each of a batch; of a linear layer: rows of its matrix, tokens as well
    """

    operand: str
    other: str | None
    calls: int
    elements_in: int
    nonzero_in: int
    sum_in: float
    elements_out: int
    dense: int
    dense_padded: int
    pairs: int
    effective: int
    weighted: float
    slots: float
    by_rate: float
    by_mean: float
    elements_other: int = 0
    nonzero_other: int = 0
    sum_other: float = 0.0
    nonzero_out: int = 0
    weights: int = 0
    first_pairs: int = 0
    second_pairs: int = 0
    fewer_pairs: int = 0
    by_rate_other: float = 0.0
    by_rate_smaller: float = 0.0
    biases: int = 0
    biases_by_mean: float = 0.0
    bias_size: int = 0
    bias_size_by_mean: float = 0.0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """One place of a model that computes.

    name        path of the module, and the operator where it is no layer of its own: "block.0.attn: matmul"; "" is the
                model itself, and a second line with the same operator has "#2" behind it.  Additions, scalings,
                reductions and functions of a module are one place: "block.0: addition"
    kind        one of KINDS
    module      class of the module in whose forward it ran: "Conv2d", "SSA"
    functional  whether it is called as a function, so that tools that look at layers alone do not see it
    operators   names of torch's operators that were seen there: "convolution", "addmm", "bmm"
    first       whether its input is the input of the model, moved, repeated or scaled at most
    counted     what it cost, by what its operands were
    """

    name: str
    kind: str
    module: str
    functional: bool
    operators: tuple[str, ...]
    first: bool
    counted: tuple[Counted, ...]


@dataclass(frozen=True, slots=True, eq=False)
class NeuronRecord:
    """One population of neurons: a module that is known to be neurons, or a threshold that is written by hand.

    By time step where steps can be told, S = T; else S = 1 and all is in it.

    name         path of the module; of a threshold by hand: path and operator, "net: heaviside"
    neuron       class of the module: "LIFNode", "Leaky"; "threshold" where it is written by hand
    elements     neurons of one image and time step; where steps cannot be told: outputs of one image
    updates      (S,) neurons times images: each neuron is updated once a step
    spikes       (S,) outputs that are not 0
    values       (S,) sum of |output|; equal to `spikes` for binary spikes
    largest      the largest output: 1 of binary spikes, D of integer ones
    operand      class of all outputs together, one of CLASSES
    """

    name: str
    neuron: str
    elements: int
    updates: Int
    spikes: Int
    values: Float
    largest: float
    operand: str


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """What a model holds.

    parameters       elements of its parameters, shared ones once
    trainable        those that require a gradient
    bytes            of its parameters
    buffer_bytes     of its buffers: statistics, counters, and states where a library keeps them so
    weights          elements of the weights of linear, convolution and recurrent layers, the latter with their biases
    zero_weights     those that are 0
    """

    parameters: int
    trainable: int
    bytes: int
    buffer_bytes: int
    weights: int
    zero_weights: int


@dataclass(frozen=True, slots=True)
class OperationCounts:
    """What the forward passes of a model cost.

    images          images that went through it
    time_steps      steps of each; None where nothing tells them.  They are in all sums already
    passes          how often the model was called
    operations      in the order of their first call
    neurons         in the order of their first call
    parameters      what the model holds
    not_understood  operators that do arithmetic and have no rule, each with where it ran: "head: fft_rfft"
    """

    images: int
    time_steps: int | None
    passes: int
    operations: tuple[Operation, ...]
    neurons: tuple[NeuronRecord, ...]
    parameters: ParameterCounts
    not_understood: tuple[str, ...]
