"""Metrics: pure functions, percent."""

from __future__ import annotations

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from tasks.captions import bleu, bleu_counts, cider_d
from tasks.formatting import Example
from tasks.spec import Task
from tasks.vqa import vqa_accuracy

INVALID = -1  # a prediction that is no label: always wrong


def measure(task: Task, examples: Sequence[Example], predictions: Sequence[int] | Sequence[str]) -> dict[str, float]:
    """Each of `task.metrics`, and `score`, the first of them; percent (correlations times 100).

    Args:
        predictions: one an example: class index, index in the grid (regression), INVALID, or text (qa, generation).

    Raises ValueError for no rows, unequal lengths, an index out of range or a prediction of the wrong type.
    """
    if not len(examples):
        raise ValueError("no rows to score")
    if len(predictions) != len(examples):
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples")
    found: dict[str, float]
    if task.scored:
        indices = [_index(guess, len(task.labels)) for guess in predictions]
        if task.grid:
            found = _regression(task, examples, indices)
        else:
            found = _classes(examples, indices, len(task.labels), task.metrics)
    else:
        texts = [_said(guess) for guess in predictions]
        found = {}
        for name in task.metrics:
            if name == "bleu4":
                counts = bleu_counts(texts, [example.answers for example in examples])
                found[name] = 100.0 * float(bleu(counts.sum(0)))
            else:
                found[name] = 100.0 * _mean(by_row(name, examples, texts))
    chosen = {name: found[name] for name in task.metrics}
    return chosen | {"score": chosen[task.metrics[0]]}


def by_row(metric: str, examples: Sequence[Example], texts: Sequence[str]) -> list[float]:
    """A metric of written answers for each row, whose mean is the task's; 1 is all right (CIDEr-D: up to 10).

    `bleu4` is none of them: it is of all rows together (`tasks.captions`).
    """
    pairs = zip(texts, examples, strict=True)
    if metric == "squad_em":
        return [_best(exact, text, example.answers) for text, example in pairs]
    if metric == "squad_f1":
        return [_best(overlap, text, example.answers) for text, example in pairs]
    if metric == "vqa_accuracy":
        return [vqa_accuracy(text, example.answers) for text, example in pairs]
    if metric == "cider_d":
        return cider_d(texts, [example.answers for example in examples])
    raise ValueError(f"{metric} has no value for a row")


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


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 15) -> float:
    """Expected calibration error, percent: by how much confidence and share of right answers differ, in equal bins.

    Bin b holds the rows whose confidence, the probability of the answer, is in (b/bins, (b+1)/bins]; the difference
    of means in each bin is weighted by its rows. Source: Guo et al. (2017), On Calibration of Modern Neural Networks,
    equation 3, with 15 bins (https://arxiv.org/abs/1706.04599).

    Returns NaN where a confidence is not finite. Raises ValueError for no rows or unequal lengths.
    """
    if not len(confidences) or len(confidences) != len(right):
        raise ValueError(f"{len(confidences)} confidences for {len(right)} answers")
    if not all(map(math.isfinite, confidences)):
        return math.nan
    gaps: dict[int, float] = defaultdict(float)
    for confidence, good in zip(confidences, right, strict=True):
        gaps[max(0, math.ceil(confidence * bins) - 1)] += confidence - good
    return 100.0 * sum(map(abs, gaps.values())) / len(confidences)


def normalise_answer(text: str) -> str:
    """The text as SQuAD compares it: lower case, no punctuation, no articles, single blanks.

    Source: Rajpurkar et al. (2016), the official evaluation script.
    """
    plain = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact(guess: str, answer: str) -> float:
    """1 where both are the same after `normalise_answer`, else 0."""
    return float(normalise_answer(guess) == normalise_answer(answer))


def overlap(guess: str, answer: str) -> float:
    """F1 (0..1) of the words of guess and answer after `normalise_answer`; 1 where both are empty."""
    ours, theirs = normalise_answer(guess).split(), normalise_answer(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def _classes(
    examples: Sequence[Example], guesses: Sequence[int], n_labels: int, wanted: Sequence[str]
) -> dict[str, float]:
    truth = [example.label for example in examples]
    found = classification(guesses, truth, n_labels)
    if "matthews" in wanted:
        # INVALID is a class of its own; sklearn gives 0 where one side is constant.
        found["matthews"] = 100.0 * float(matthews_corrcoef(truth, guesses))
    if {"f1", "multirc_f1", "multirc_em"} & set(wanted):
        # An INVALID counts as the other class, so that it is wrong for F1 as well where class 0 is right.
        known = [1 - gold if guess == INVALID else guess for gold, guess in zip(truth, guesses, strict=True)]
        found["f1"] = found["multirc_f1"] = 100.0 * float(f1_score(truth, known, zero_division=0))
        groups: dict[str, list[bool]] = defaultdict(list)
        for example, guess in zip(examples, known, strict=True):
            groups[example.group].append(guess == example.label)
        found["multirc_em"] = 100.0 * _mean([float(all(right)) for right in groups.values()])
    return found


def _regression(task: Task, examples: Sequence[Example], indices: Sequence[int]) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    points = [float(word) for word in task.words]
    truth = [_value(example) for example in examples]
    low, high = points[0], points[-1]
    # An INVALID counts as the end of the grid that is further from the right number.
    ours = [
        points[index] if index != INVALID else (low if gold - low > high - gold else high)
        for index, gold in zip(indices, truth, strict=True)
    ]
    if len(set(ours)) < 2 or len(set(truth)) < 2:  # no correlation is defined: it says nothing
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": 100.0 * float(pearsonr(ours, truth).statistic),
        "spearman": 100.0 * float(spearmanr(ours, truth).statistic),
    }


def _best(compare: Callable[[str, str], float], guess: str, answers: Sequence[str]) -> float:
    return max((compare(guess, answer) for answer in answers), default=0.0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _value(example: Example) -> float:
    if example.value is None:
        raise ValueError(f"example {example.id} has no value to compare with")
    return example.value


def _index(guess: int | str, n: int) -> int:
    if isinstance(guess, str) or (guess != INVALID and not 0 <= guess < n):
        raise ValueError(f"a prediction is neither INVALID nor in 0..{n - 1}: {guess!r}")
    return int(guess)


def _said(guess: int | str) -> str:
    if not isinstance(guess, str):
        raise ValueError(f"a prediction is not text: {guess!r}")
    return guess
