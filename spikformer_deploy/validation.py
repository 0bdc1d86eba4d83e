"""What is wrong with a validated file, in words: every problem with its path, as cattrs found them."""

from __future__ import annotations

import cattrs
import cattrs.v


def problems(error: BaseException) -> list[str]:
    """Every error of a structured file with its path; the checks of single values in their own words."""

    def words(problem: BaseException, kind: type | None) -> str:
        return str(problem.args[0]) if isinstance(problem, ValueError) and problem.args else default(problem, kind)

    default = cattrs.v.format_exception
    return cattrs.transform_error(error, format_exception=words)
