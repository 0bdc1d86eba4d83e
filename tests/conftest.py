"""What all tests share: a loaded machine fails no property test for its time, and garbage is looked for rarely."""

import gc

from hypothesis import settings

settings.register_profile("unhurried", parent=settings.default, deadline=None)
settings.load_profile("unhurried")

RARELY = 100
"""Looks at young objects between two at all: Python's default is 10, and took a tenth of the time of all tests."""


def pytest_collection_finish() -> None:
    """What was imported and collected stays, and is not looked at again."""
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], RARELY)
