"""Float graph -> integer network: calibrate.py on images, build.py the walk, neurons.py scales and bounds.

Nothing is imported here: network.py, the data types, must load without torch.
"""
