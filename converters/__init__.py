"""From the files that users have to a module with weights.  One module per format; checkpoint.py reads checkpoints."""
