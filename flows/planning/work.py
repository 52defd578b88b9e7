"""How much a trial has to do: steps, and rows that are read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dept.trial import LINEAR, STACKED, TrialOutcome, TrialSpec


class Work(NamedTuple):
    """Steps of a trial, and the rows that it trains on and validates, each counted as often as it is read."""

    steps: int
    trained: float
    validated: float


def work_of(spec: TrialSpec, drawn: int | None, checked: int) -> Work:
    """What a trial has to do at most; a search where all candidates come to each rung together.

    Args:
        drawn: its shots; None: all rows. checked: rows that validate it.
    """
    if spec.search is not None:
        return _of_search(spec, drawn, checked)
    training = spec.training
    rows = drawn and 2 * drawn if spec.refit else drawn
    batch = training.batch_size if rows is None else min(training.batch_size, rows)
    if spec.kind == "mixture" and drawn is not None:
        batch = drawn  # each step reads all shots
    if spec.kind == "ensemble":
        return Work(0, 0, 0)
    learns = spec.init != "untrained" and spec.method not in ("in-context", *LINEAR) and not spec.refit
    checks = 1 + -(-training.end // training.eval_every) if learns and checked else 0
    # Once more than they are trained on, since calibration takes the texts of the shots as well.
    batch_alone = spec.calibration == "batch"  # it needs no validation rows
    takes = (batch_alone or (spec.calibration == "choose" and checked and not spec.refit)) and spec.method not in LINEAR
    unlabelled = drawn or 0 if takes else 0
    return Work(training.end, training.end * batch, checks * checked + unlabelled)


def _of_search(spec: TrialSpec, drawn: int | None, checked: int) -> Work:
    assert spec.search is not None
    folds, training = spec.search.folds, spec.search.candidates[0].training
    steps = folds * spec.search.steps(anew=spec.method not in STACKED)
    held = checked if folds == 1 or drawn is None else 2 * drawn / folds
    batch = training.batch_size if drawn is None else min(training.batch_size, drawn)
    checks = steps / training.eval_every + folds * len(spec.search.candidates)
    headed = {(one.source_sha256, one.start, one.adapter) for one in spec.search.candidates if one.adapter.reads}
    fits = len(headed) * folds * (drawn or 0)  # each start's head is a probe of its own pass
    return Work(steps, steps * batch, checks * held + fits)


class AnyWinner(dict[str, TrialOutcome]):
    """What a search will find is not known before: its first candidate stands for it, with all its steps, and as many
    beside it as may answer together.

    Args:
        found: outcomes of those that are done, by fingerprint.
    """

    def __init__(self, wanted: Iterable[TrialSpec], found: Mapping[str, TrialOutcome]) -> None:
        for spec in wanted:
            assert spec.search is not None
            many, steps = len(spec.search.candidates), spec.training.steps
            told: dict[str, Any] = {"winner": 0, "members": list(range(min(many, spec.search.together)))}
            told["tried"] = [{"best_step": steps}] * many
            self[spec.fingerprint] = TrialOutcome(spec, "", "", steps, 0, {}, extra={"search": told})
        self.update(found)
