"""The paired bootstrap: how far the difference of two adapters' scores would move on other rows. Pure.

Rows are drawn with replacement, the same for both adapters; rows of one question (MultiRC) are drawn together. The
metrics are those of `tasks.metrics`, here of weighted rows, for all draws at once. Source: Efron & Tibshirani (1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from tasks.captions import bleu, bleu_counts
from tasks.formatting import Example
from tasks.metrics import INVALID, by_row, measure, overlap
from tasks.spec import Task

DRAWS = 2000
SEED = 0
Floats = NDArray[np.float64]
_BY_ROW = ("squad_em", "squad_f1", "vqa_accuracy", "cider_d")  # whose score is the mean over rows


@dataclass(frozen=True)
class Resampled:
    """Points. `spread`: standard error of the difference. See `Comparison` for the others."""

    difference: float
    spread: float
    low: float
    high: float
    p: float
    wins: int
    losses: int


def bootstrap(
    task: Task,
    rows: Sequence[Example],
    champion: Sequence[int] | Sequence[str],
    candidate: Sequence[int] | Sequence[str],
    confidence: float,
) -> Resampled:
    """Resample the difference candidate - champion of the task's first metric.

    p and interval are Student's, with the bootstrap's standard error and one degree of freedom less than units (rows or
    questions) that are answered differently: the others tell nothing, and with few of them the tails are heavy.
    """
    groups = [row.group or str(i) for i, row in enumerate(rows)]
    index = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    unit = np.array([index[name] for name in groups])
    generator = np.random.default_rng(SEED)
    drawn = generator.multinomial(len(index), np.full(len(index), 1 / len(index)), size=DRAWS)
    weights = np.vstack([np.ones(len(rows)), drawn[:, unit]]).astype(np.float64)
    first = weighted(task, rows, candidate, weights) - weighted(task, rows, champion, weights)
    difference, spread = float(first[0]), float(first[1:].std(ddof=1))
    nearer = _nearer(task, rows, champion, candidate)
    differing = len({unit[i] for i, (old, new) in enumerate(zip(champion, candidate, strict=True)) if old != new})
    freedom = max(1, differing - 1)
    wins, losses = int((nearer > 0).sum()), int((nearer < 0).sum())
    if spread <= 0:
        return Resampled(difference, 0.0, difference, difference, 1.0, wins, losses)
    reach = float(student.isf((1 - confidence) / 2, freedom)) * spread
    p = float(student.sf(difference / spread, freedom))
    return Resampled(difference, spread, difference - reach, difference + reach, p, wins, losses)


def weighted(task: Task, rows: Sequence[Example], answers: Sequence[int] | Sequence[str], weights: Floats) -> Floats:
    """The task's first metric, percent, of the rows as often as each line of `weights` [draws, rows] says; [draws]."""
    metric = task.metrics[0]
    if metric in _BY_ROW:  # CIDEr-D counts its documents over all rows, however often one is drawn
        return _mean(np.array(by_row(metric, rows, list(map(str, answers)))), weights)
    if metric == "bleu4":
        counts = bleu_counts(list(map(str, answers)), [row.answers for row in rows])
        points: Floats = 100 * bleu(weights @ counts)
        return points
    if metric in ("pearson", "spearman"):
        return _correlation(task, rows, np.array(answers, dtype=int), weights)
    truth, guess = np.array([row.label for row in rows]), np.array(answers)
    if metric in ("f1", "multirc_f1"):
        return 100 * _f1(truth, np.where(guess == INVALID, 1 - truth, guess), 1, weights)
    if metric == "macro_f1":
        each_class = [_f1(truth, guess, label, weights) for label in range(len(task.labels))]
        mean: Floats = 100 * np.stack(each_class).mean(0)
        return mean
    if metric == "matthews":
        return 100 * _matthews(truth, guess, weights)
    found = []  # a metric that has no short way here
    for line in weights.astype(int):
        again: list[int] = np.repeat(np.arange(len(rows)), line).tolist()
        said: Any = [answers[i] for i in again]
        found.append(measure(task, [rows[i] for i in again], said)["score"])
    return np.array(found)


def _mean(values: Floats, weights: Floats) -> Floats:
    found: Floats = 100 * (weights @ values) / weights.sum(1)
    return found


def _correlation(task: Task, rows: Sequence[Example], guess: NDArray[np.int64], weights: Floats) -> Floats:
    points = np.array([float(word) for word in task.words])
    truth = np.array([0.0 if row.value is None else row.value for row in rows])
    far = np.where(truth - points[0] > points[-1] - truth, points[0], points[-1])
    ours = np.where(guess == INVALID, far, points[guess])
    if task.metrics[0] == "spearman":
        return _pearson(_ranks(ours, weights), _ranks(truth, weights), weights)
    return _pearson(ours[None], truth[None], weights)


def _f1(truth: NDArray[np.int64], guess: NDArray[np.int64], label: int, weights: Floats) -> Floats:
    hits = weights @ ((truth == label) & (guess == label)).astype(float)
    both = weights @ ((truth == label).astype(float) + (guess == label))
    found: Floats = np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)
    return found


def _matthews(truth: NDArray[np.int64], guess: NDArray[np.int64], weights: Floats) -> Floats:
    total, right = weights.sum(1), weights @ (truth == guess).astype(float)
    classes = np.unique(np.concatenate([truth, guess]))
    ours = np.stack([weights @ (guess == one).astype(float) for one in classes], 1)
    theirs = np.stack([weights @ (truth == one).astype(float) for one in classes], 1)
    shared = right * total - (ours * theirs).sum(1)
    size = np.sqrt((total**2 - (ours**2).sum(1)) * (total**2 - (theirs**2).sum(1)))
    found: Floats = np.divide(shared, size, out=np.zeros_like(size), where=size > 0)
    return found


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Mean ranks [draws, rows] of values that stand there as often as the weights say."""
    _, place = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), place.max() + 1))
    for column in range(counts.shape[1]):
        counts[:, column] = weights[:, place == column].sum(1)
    return (counts.cumsum(1) - counts / 2 + 0.5)[:, place]


def _pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    total = weights.sum(1, keepdims=True)
    x, y = x - (weights * x).sum(1, keepdims=True) / total, y - (weights * y).sum(1, keepdims=True) / total
    shared = (weights * x * y).sum(1)
    size = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    found: Floats = np.divide(shared, size, out=np.zeros_like(size), where=size > 1e-12)
    return 100 * found


def _nearer(
    task: Task,
    rows: Sequence[Example],
    champion: Sequence[int] | Sequence[str],
    candidate: Sequence[int] | Sequence[str],
) -> Floats:
    """Above 0 where the candidate's answer is nearer to the truth, below where the champion's is."""
    metric = task.metrics[0]
    if metric in ("vqa_accuracy", "cider_d"):
        old, new = (np.array(by_row(metric, rows, list(map(str, said)))) for said in (champion, candidate))
        signs: Floats = np.sign(new - old)
        return signs

    def gain(row: Example, old: int | str, new: int | str) -> float:
        before, after = _distance(task, row, old), _distance(task, row, new)
        return 0.0 if before == after else float(np.sign(before - after))

    return np.array([gain(row, champion[i], candidate[i]) for i, row in enumerate(rows)])


def _distance(task: Task, row: Example, answer: int | str) -> float:
    if isinstance(answer, str):
        return -max((overlap(answer, right) for right in row.answers), default=0.0)
    if task.grid and row.value is not None:
        return float("inf") if answer == INVALID else abs(float(task.words[answer]) - row.value)
    return float(answer != row.label)
