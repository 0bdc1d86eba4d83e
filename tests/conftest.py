"""What all tests share: a loaded machine fails no property test for its time, garbage is looked for rarely, and a model
that compiles again is not traced again."""

import gc

import pytest
from hypothesis import settings

settings.register_profile("unhurried", parent=settings.default, deadline=None)
settings.load_profile("unhurried")

RARELY = 100
"""Looks at young objects between two at all: Python's default is 10, and took a tenth of the time of all tests."""


def pytest_collection_finish() -> None:
    """What was imported and collected stays, and is not looked at again."""
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], RARELY)


@pytest.fixture(scope="session", autouse=True)
def models_are_traced_once() -> None:
    """Most tests that compile share a few models, and tracing is half of the time of a small compile."""
    from support.traces import remembered

    from spikformer_deploy.pipeline import stages

    stages.trace = remembered(stages.trace)
