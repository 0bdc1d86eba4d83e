"""Windows of time series as frames: integers of both signs, and blocks of channels for weights that depend on the step.

A value x becomes round(x * scale), and its sign says in which of two channels it stands: pixels are unsigned, and zero
sends nothing.  Where the encoder of a model has other weights in each time step, each step has channels of its own,
which send zeros in all other steps; and one that sends a constant, for the bias of that step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.plain import require

LARGEST = 511
"""Of a pixel: 9 bits beside the sign, which leave 24 bits of state room for exact decays."""
SCALE = 32
"""Pixels a unit, where no data tell a better one: values up to 16."""
EPSILON = 1e-5
"""Added to the variance of a window that is standardised, as the official code does."""
POSITIONS = ("", "add", "concat")
"""What becomes of the spikes that mark positions: there are none, they are added, or they are further channels."""
MOST_SIZE = 2**20
MOST_VALUES = 2**24
"""Of a frame, as of an image."""


@dataclass(frozen=True, slots=True)
class Series:
    """Which windows a model takes, (L, V) points of variables, and how they are laid out.

    tokens        what the positions of a frame are, "points" or "variables"; the others are its channels
    steps         T where weights depend on the step; 0: one frame (2 L, 1, V) holds for all steps, the positive and
                  the negative part of one point after the other
    before        how many times the first point is repeated before it: a difference of the first point is zero
    standardised  every variable of a window by its own mean and standard deviation; undone in what is forecast
    scale         integers a unit
    positions     one of POSITIONS
    marks         V for "add", or the number of further channels
    table         hexadecimal: whether each mark spikes, a bit each in the order (T, L, marks)

    Frames of points    ((V + marks of "concat") B, 1, L); the B = 3 T channels of a variable are the positive parts of
                        the T steps, the negative parts, and the constants, and the last one is the mark if there is any
    Frames of variables (T B, 1, V); the B = 2 (L + before) + 1 channels of a step are the positive parts of its points,
                        the negative parts, and the constant
    """

    points: int
    variables: int
    tokens: str = "points"
    steps: int = 0
    before: int = 0
    standardised: bool = False
    scale: int = SCALE
    positions: str = ""
    marks: int = 0
    table: str = ""

    @property
    def frame(self) -> tuple[int, int, int]:
        """(C, Y, X) of a frame."""
        if self.tokens == "points":
            groups = self.variables + (self.marks if self.positions == "concat" else 0)
            return groups * (3 * self.steps + bool(self.positions)), 1, self.points
        if not self.steps:
            return 2 * self.points, 1, self.variables
        return self.steps * (2 * (self.points + self.before) + 1), 1, self.variables

    def values(self, windows: Float) -> Float:
        """What the network is shown of windows (N, L, V)."""
        if not self.standardised:
            return windows
        mean, std = self.moments(windows)
        return (windows - mean[:, None]) / std[:, None]

    def moments(self, windows: Float) -> tuple[Float, Float]:
        """Mean and standard deviation of every variable, (N, V) each."""
        mean = windows.mean(1)
        return mean, np.sqrt(windows.var(1) + EPSILON)

    def integers(self, windows: Float) -> tuple[Int, int]:
        """(N, L, V) integers of windows, and how many of them were beyond what a pixel holds."""
        whole = np.rint(self.values(windows) * self.scale)
        beyond = int((np.abs(whole) > LARGEST).sum())
        return np.clip(whole, -LARGEST, LARGEST).astype(np.int64), beyond

    def frames(self, integers: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Frames (N, T, C, 1, X) of integers (N, L, V), or one for all steps, (N, C, 1, X)."""
        before = np.repeat(integers[:, :1], self.before, 1)
        values = np.concatenate([before, integers], 1)
        parts: NDArray[np.integer] = np.stack([np.maximum(values, 0), np.maximum(-values, 0)])
        return self._of_points(parts) if self.tokens == "points" else self._of_variables(parts)

    def _of_points(self, parts: NDArray[np.integer]) -> NDArray[np.uint16]:
        """parts (2, N, L, V): of both signs."""
        _, count, points, variables = parts.shape
        steps = self.steps
        groups = self.frame[0] // (3 * steps + bool(self.positions))
        out = np.zeros((count, steps, groups, self.frame[0] // groups, points), np.uint16)
        marks = self._marked()
        for t in range(steps):
            for sign in (0, 1):
                out[:, t, :variables, sign * steps + t] = parts[sign].transpose(0, 2, 1)
            out[:, t, :variables, 2 * steps + t] = self.scale
            if self.positions:
                first = variables if self.positions == "concat" else 0
                out[:, t, first : first + self.marks, -1] = self.scale * marks[t].T
        return out.reshape(count, steps, -1, 1, points)

    def _of_variables(self, parts: NDArray[np.integer]) -> NDArray[np.uint16]:
        """parts (2, N, L + before, V): of both signs."""
        _, count, points, variables = parts.shape
        if not self.steps:
            return np.stack([*parts], 2).astype(np.uint16).reshape(count, 2 * points, 1, variables)
        both = np.concatenate([*parts], 1)
        out = np.zeros((count, self.steps, self.steps, 2 * points + 1, variables), np.uint16)
        for t in range(self.steps):
            out[:, t, t, :-1] = both
            out[:, t, t, -1] = self.scale
        return out.reshape(count, self.steps, -1, 1, variables)

    def _marked(self) -> NDArray[np.bool_]:
        """(T, L, marks) of the table."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(self.table), np.uint8))
        size = self.steps * self.points * self.marks
        return bits[:size].astype(bool).reshape(self.steps, self.points, self.marks)


def check_series(series: Series) -> None:
    """Raise ValueError for a series that makes no frames: sizes, words, and a table of another size."""
    sizes = {"points": series.points, "variables": series.variables, "scale": series.scale}
    for name, value in sizes.items():
        require(0 < value < MOST_SIZE, f"a series of {name} = {value}")
    require(series.scale <= LARGEST, f"a scale of {series.scale}, and a constant is at most {LARGEST}")
    require(0 <= series.steps < MOST_SIZE and series.before in (0, 1), f"{series.steps} steps, {series.before} before")
    require(series.tokens in ("points", "variables"), f"tokens '{series.tokens[:20]}'")
    of_points = series.tokens == "points"
    require(not of_points or (series.steps > 0 and not series.before), "points whose weights are the same in all steps")
    require(series.positions in POSITIONS, f"positions '{series.positions[:20]}'")
    marked = bool(series.positions)
    require(marked == bool(series.marks) and (of_points or not marked), f"{series.marks} marks")
    require(series.positions != "add" or series.marks == series.variables, f"{series.marks} marks that are added")
    require(0 <= series.marks < MOST_SIZE, f"{series.marks} marks")
    digits = 2 * -(-series.steps * series.points * series.marks // 8)
    require(len(series.table) == digits and set(series.table) <= set("0123456789abcdef"), "its table of marks")
    channels, height, width = series.frame
    require(channels * height * width <= MOST_VALUES, f"frames of {channels * height * width} values")


def table_of(marks: NDArray[np.bool_]) -> str:
    """The `table` of marks (T, L, marks)."""
    return np.packbits(marks.reshape(-1)).tobytes().hex()


def fitting_scale(largest: float) -> int:
    """The largest power of two that keeps values up to `largest` within a pixel, and a constant 1 too."""
    if not 0 < largest < np.inf:
        return SCALE
    exponent = int(np.floor(np.log2(LARGEST / largest)))
    return 1 << min(max(exponent, 0), LARGEST.bit_length() - 1)
