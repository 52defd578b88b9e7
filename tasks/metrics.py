"""Metrics: pure functions, percent."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.metrics import accuracy_score, f1_score

INVALID = -1  # a prediction that is no label: always wrong


def classification(predictions: Sequence[int], labels: Sequence[int], n_labels: int) -> dict[str, float]:
    """Accuracy and macro-F1, both percent, of class indices in 0..n_labels-1.

    A prediction may be INVALID. Macro-F1 is the mean over all `n_labels` classes; a class that neither occurs nor is
    predicted counts 0. Raises ValueError for no rows, unequal lengths or an index out of range.
    """
    if not len(labels):
        raise ValueError("no rows to score")
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    if any(not 0 <= label < n_labels for label in labels):
        raise ValueError(f"a label is outside 0..{n_labels - 1}")
    if any(guess != INVALID and not 0 <= guess < n_labels for guess in predictions):
        raise ValueError(f"a prediction is neither INVALID nor in 0..{n_labels - 1}")
    truth, guesses = list(labels), list(predictions)
    macro = f1_score(truth, guesses, labels=list(range(n_labels)), average="macro", zero_division=0)
    return {"accuracy": 100.0 * float(accuracy_score(truth, guesses)), "macro_f1": 100.0 * float(macro)}
