"""Which classes a program takes for which: accuracy by class, confusions, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run

LARGEST_MATRIX = 40
"""Classes; of more, only the confusions that happen most are listed."""
MOST_CONFUSED = 20


def class_values(run: Run) -> dict[str, Any] | None:
    """Accuracy by class and confusions; None where the images have no labels, or results are no classes.

    by_class   in the order of the classes, those that images have: class, images, right, accuracy, and what it is
               taken for most: taken_for, times (null and 0 where nothing is)
    matrix     (classes, classes) images by label and by prediction; null of more than LARGEST_MATRIX classes
    confused   the confusions that happen most: label, prediction, images
    """
    if run.labels is None or run.results is not None:
        return None
    count = run.accumulators.shape[1]
    names = list(run.program.labels) or [str(number) for number in range(count)]
    matrix = np.bincount(run.labels * count + run.predictions, minlength=count * count).reshape(count, count)
    return {
        "names": names,
        "by_class": [_of_class(names, matrix, number) for number in np.flatnonzero(matrix.sum(1)).tolist()],
        "matrix": matrix.tolist() if count <= LARGEST_MATRIX else None,
        "confused": _confused(names, matrix),
    }


def _of_class(names: list[str], matrix: np.ndarray, number: int) -> dict[str, Any]:
    row = matrix[number].copy()
    images, right = int(row.sum()), int(row[number])
    row[number] = 0
    most = int(row.argmax())
    return {
        "class": names[number],
        "images": images,
        "right": right,
        "accuracy": right / images,
        "taken_for": names[most] if row[most] else None,
        "times": int(row[most]),
    }


def _confused(names: list[str], matrix: np.ndarray) -> list[dict[str, Any]]:
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = (divmod(int(place), len(matrix)) for place in order)
    return [
        {"label": names[label], "prediction": names[prediction], "images": int(wrong[label, prediction])}
        for label, prediction in pairs
        if wrong[label, prediction]
    ]
