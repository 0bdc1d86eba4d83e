"""What a user must know of layers whose neurons never fired: a dead model is exact too, and cheap."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN_LAYERS = 4
"""Layers that the note names before it counts the others."""


def note_on_silence(silent: Sequence[str], layers: int, images: str = "these images") -> tuple[str, ...]:
    """A note on layers of neurons that never fired on some images, of all `layers`; () where all did."""
    if not silent:
        return ()
    if len(silent) == layers:
        return (f"no neuron fires on {images}, in any of {layers} layers: the model sees nothing of them",)
    more = f" and {len(silent) - SHOWN_LAYERS} more" if len(silent) > SHOWN_LAYERS else ""
    names = ", ".join(silent[:SHOWN_LAYERS])
    return (f"neurons never fire on {images} in {len(silent)} of {layers} layers: {names}{more}",)
