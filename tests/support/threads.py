"""How many threads the tests of a folder have, whatever the others have."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch


def threads(count: int) -> Any:
    """A fixture for a conftest.py: torch has so many threads in each test, and afterwards those of before."""

    @pytest.fixture(autouse=True)
    def limited() -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        yield
        torch.set_num_threads(before)

    return limited
