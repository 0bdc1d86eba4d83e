"""What files of all formats share: the key of what this package writes into them, and how long an image may last."""

ENTRY = "spikformer_deploy"
"""The key of the package's own entry in the metadata of a file, whatever its format."""
MOST_STEPS = 1024
"""Time steps T of an image, in any model, network or program."""

RANDOM = "random_weights"
"""Among the arguments of a file, or what it says of its training: the seed of weights that nobody trained."""
RANDOM_NOTE = "the weights are random: its accuracy and its firing rates are those of no trained model"
