"""Counting while a float model runs: count.py for whom, mode.py how, rules.py what, neurons.py whose."""
