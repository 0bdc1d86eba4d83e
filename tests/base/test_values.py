"""Arrays that are frozen keep their values, or are refused."""

import numpy as np
import pytest

from spikformer_deploy.base.values import frozen


@pytest.mark.parametrize("values", [[128], [-129], [0.5], [np.nan], [2**40]])
def test_values_that_do_not_fit_are_refused(values: list) -> None:
    with pytest.raises(ValueError, match="do not fit int8"), np.errstate(invalid="ignore"):
        frozen(np.array(values), np.int8)


def test_values_that_fit_are_kept() -> None:
    array = np.array([-128.0, 127.0])
    out = frozen(array, np.int8)
    assert out.dtype == np.int8
    assert out.tolist() == [-128, 127]
    assert not out.flags.writeable
    assert array.flags.writeable
