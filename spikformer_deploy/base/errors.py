"""The one family of errors: every message names the place, the limit and the way out.

The command line prints the message and exits with code 2; nobody sees a traceback for a mistake of theirs.
"""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """`text` with control characters, which may steer a terminal, written as escapes; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class SpikdeployError(Exception):
    """Something the user can mend: `place` says where, `problem` what and which limit, `way_out` what to do.

    str(error) is "<place>: <problem>" and, on a second, indented line, the way out.

    notes  what else must be known, as that the weights are random: printed before the error
    """

    notes: tuple[str, ...] = ()

    def __init__(self, place: str, problem: str, way_out: str = "") -> None:
        self.place = place
        self.problem = problem
        self.way_out = way_out
        # a name may hold a line end, and so may the words of a library: only lists are indented lines of their own
        super().__init__(re.sub("\n(?!  )", " ", f"{place}: {problem}") + (f"\n  {way_out}" if way_out else ""))

    # else pickle would call the class with the one message, and an error in a worker process would be lost
    def __reduce__(self) -> tuple[type[SpikdeployError], tuple[str, str, str], dict[str, tuple[str, ...]]]:
        return type(self), (self.place, self.problem, self.way_out), {"notes": self.notes}


class InputError(SpikdeployError):
    """A file, an image, an option or a profile that cannot be used as it is."""


class ModelError(SpikdeployError):
    """A model that cannot be traced or loaded: an unsupported operation, a missing key, a mixed-up axis."""


class QuantizeError(SpikdeployError):
    """A layer that no integer arithmetic of the target can hold."""


class MappingError(SpikdeployError):
    """A network that does not fit the target: the message says what is needed and which board would hold it."""


class ProgramError(SpikdeployError):
    """A program file that is damaged, foreign or of another version."""


class OverflowDetected(SpikdeployError):
    """An integer left the width of the target's state during a run (a program marked `bounds: observed`)."""


class BackendError(SpikdeployError):
    """An executor in a process of its own that failed: Lava, ONNX Runtime."""
