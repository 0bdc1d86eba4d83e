"""What makes a trained network cheaper on the chip: each step by itself, held against images that it has not seen."""
