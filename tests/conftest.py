"""What all tests share: processors are shared out, a loaded machine fails no property test for its time, garbage is
looked for rarely, and a model that compiles again is not traced again."""

import gc
import os

import pytest
from hypothesis import settings

# processes of tests that stand beside each other share the processors, and do not take all of them each
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

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
