"""Logistic regression on what each text is turned into, and the choice of how: a head in closed form.

The regression is scikit-learn's (lbfgs, L2 on the weights, none on the bias): C weighs the losses of the rows against
the square of the weights. The loss is convex, so what it finds follows from rows and C alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.special import logsumexp

from dept.adapters.head import Head
from dept.batches.tokenise import Row
from dept.engine.evaluate import summarise
from dept.trial import goodness
from infra.errors import InputError

MOST_ROWS = 2_000  # whose products with each other are made
FOLDS = 5  # of a cross-validation, where no rows validate
Inputs = Any  # one per row: features [rows, F], a sparse matrix of them, or an array of texts


class Option(NamedTuple):
    """What is read of each text, and C: how much the rows count against small weights."""

    what: tuple[Any, ...]
    c: float


Score = Callable[[Inputs], list[list[float]]]  # log-probabilities (nats) over the labels, of sum 1
Make = Callable[[Option, Inputs, Sequence[int]], Score]  # trains: option, inputs, class of each


class Chosen(NamedTuple):
    """The option of the lowest loss, and the metrics (`dept.engine.evaluate.summarise`) that it was chosen by."""

    option: Option
    found: dict[str, float]


def choose(
    make: Make, options: Sequence[Option], inputs: Inputs, rows: Sequence[Row], checks: tuple[Inputs, Sequence[Row]]
) -> Chosen:
    """Train with each option and keep that of the lowest loss, of equals the better score, then the first.

    Args:
        inputs, rows: of the shots. checks: inputs and rows that validate; where there are none, the shots are cut into
            folds, each judged by what was trained on the others; of a single shot the first option counts.

    Raises:
        InputError: no shots.
    """
    if not rows:
        raise InputError("baseline: there are no rows to learn from")
    if not len(checks[1]) and len(rows) == 1:
        return Chosen(options[0], {})
    gold = [row.gold for row in rows]
    judged = checks[1] or rows

    def of(option: Option) -> dict[str, float]:
        if len(checks[1]):
            return summarise(make(option, inputs, gold)(checks[0]), judged)
        scores: list[list[float]] = [[] for _ in rows]
        for held, others in _folds(gold):
            score = make(option, inputs[others], [gold[i] for i in others])
            for place, line in zip(held, score(inputs[held]), strict=True):
                scores[place] = line
        return summarise(scores, judged)

    return max((Chosen(option, of(option)) for option in options), key=lambda chosen: goodness(chosen.found))


def _folds(gold: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Held-out rows and the others: rows of each class in turn to each fold, so that classes are spread evenly."""
    count = min(FOLDS, len(gold))
    order = sorted(range(len(gold)), key=lambda i: gold[i])
    for fold in range(count):
        held = sorted(order[fold::count])
        yield held, [i for i in range(len(gold)) if i not in set(held)]


def fit(inputs: Inputs, gold: Sequence[int], labels: int, c: float, standardise: bool = True) -> Head:
    """Logistic regression as a head over features [rows, F], dense or sparse.

    A label without a row is found as likely as one more row would make it (Laplace): 1 / (rows + 1) on the mean row.

    Args:
        gold: class of each row. labels: number of classes.
        standardise: each feature less its mean, by its spread over these rows; one that is constant says nothing.
    """
    seen = sorted(set(gold))
    x, mean, spread = _standard(inputs) if standardise else (inputs, *_plain(inputs.shape[1]))
    weight, bias = np.zeros((labels, x.shape[1])), np.zeros(labels)
    if len(seen) > 1 and x.shape[1]:
        weight[seen], bias[seen] = _regression(x, gold, c)
    if unseen := sorted(set(range(labels)) - set(seen)):
        likelihoods = logsumexp(np.asarray(x @ weight[seen].T) + bias[seen], axis=1)
        bias[unseen] = likelihoods.mean() - np.log(len(gold))
    return Head(*(torch.tensor(value, dtype=torch.float32) for value in (weight, bias, mean, spread)))


def log_probs(head: Head, inputs: Inputs) -> list[list[float]]:
    """Log-probabilities (nats) over a head's labels of features [rows, F], dense or sparse; of sum 1."""
    weight, bias, mean, spread = (value.detach().double().numpy() for value in head.named().values())
    scaled = weight / spread
    inputs = inputs if sparse.issparse(inputs) else np.asarray(inputs, dtype=np.float64)
    logits = np.asarray(inputs @ scaled.T) + (bias - scaled @ mean)
    found: list[list[float]] = torch.from_numpy(logits).log_softmax(1).tolist()
    return found


def _regression(x: Any, gold: Sequence[int], c: float) -> tuple[Any, Any]:
    """Weights [classes seen, F] and biases of rows x [rows, F]; of two classes each has half of the difference."""
    from sklearn.linear_model import LogisticRegression

    # The weights lie in the span of the rows, so they are found there: as many numbers as rows, not as features.
    given, basis = _within_span(x) if x.shape[1] > x.shape[0] and x.shape[0] <= MOST_ROWS else (x, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # many classes for few rows: as few shots have it
        found = LogisticRegression(C=c, max_iter=10_000, tol=1e-8).fit(given, gold)
    weight, bias = found.coef_, found.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return (weight if basis is None else np.asarray(weight @ basis)), bias


def _within_span(x: Any) -> tuple[Any, Any]:
    """Rows [rows, n] in an orthonormal basis [n, F] of their own span, n <= rows."""
    values, vectors = np.linalg.eigh((x @ x.T).toarray() if sparse.issparse(x) else x @ x.T)
    kept = values > 1e-12 * values[-1]
    size = np.sqrt(values[kept])
    return vectors[:, kept] * size, (x.T @ (vectors[:, kept] / size)).T


def _standard(inputs: Any) -> tuple[Any, Any, Any]:
    x = np.asarray(inputs, dtype=np.float64)
    mean, spread = x.mean(0), x.std(0)
    spread[spread < 1e-6 * np.maximum(1.0, abs(mean))] = 1.0  # rounding alone
    return (x - mean) / spread, mean, spread


def _plain(features: int) -> tuple[Any, Any]:
    return np.zeros(features), np.ones(features)
