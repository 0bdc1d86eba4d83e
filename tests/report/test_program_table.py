"""What `compile` and `inspect` promise of a program, in words."""

import pytest
from support.programs import program_of

from spikformer_deploy.report.tables import compile_summary, program_table


@pytest.mark.parametrize(
    ("exact", "error", "execution", "rounding"),
    [
        (True, 0.0123, "exact", "largest relative error 0.0123"),
        (False, 0.0, "not exact", "none: exact"),
    ],
)
def test_execution_and_rounding_are_told_apart(exact: bool, error: float, execution: str, rounding: str) -> None:
    summary = compile_summary(program_of("digits-v2"), "a.spk", 1.0, 2.0)
    summary |= {"exact": exact, "execution_exact": exact}
    summary["rounding"] = {"exact": error == 0.0, "largest_relative_error": error}
    table = program_table("a.spk", summary)
    names, values = (list(column.cells) for column in table.columns)
    shown = dict(zip(names, values, strict=True))
    assert shown["execution of the integers"] == execution
    assert shown["rounding to these integers"] == rounding
    assert len(shown) == len(summary) - 1
    assert names.index("rounding to these integers") + 1 == names.index("readout")
