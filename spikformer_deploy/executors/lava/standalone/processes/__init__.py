"""Lava Processes of a Spikformer, each with its fixed-point model for CPUs.

Maps are (images, Y, X, C), or (C,) where there is one image and one position; all ports carry int32.  Every Process
receives, computes and sends in the same time step.  Lava runs every file of this folder while it looks for models.
"""
