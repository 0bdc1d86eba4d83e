"""The models in PyTorch: neurons, shared layers, and one module for each family of published models (see zoo.py)."""
