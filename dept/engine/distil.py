"""Rows that teach what others answer: a teacher's probabilities in place of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dept.batches.tokenise import Row
from dept.readout import normalised


def taught(rows: Sequence[Row], answers: Sequence[Sequence[float]]) -> list[Row]:
    """The same rows with soft labels, to be trained on with the objective `words`.

    Hinton et al. 2015 (arXiv 1503.02531) at temperature 1 and without the gold labels beside: a teacher that has
    learned from these rows holds them already.

    Args:
        answers: the teacher's log-probabilities (nats) of each row's words; they need no sum.
    """
    soft = [tuple(map(math.exp, normalised(line))) for line in answers]
    return [replace(row, soft=one) for row, one in zip(rows, soft, strict=True)]
