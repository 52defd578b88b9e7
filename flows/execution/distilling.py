"""What an adapter that learns from an ensemble is taught, and which rows may still validate it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dept.adapters.adapter import Adapter
from dept.baselines.answering import members_of, weights_of
from dept.baselines.ensemble import Ensemble
from dept.baselines.regression import Regression
from dept.batches.tokenise import Row
from dept.engine.distil import taught
from dept.readout import mean_answers
from dept.trial import TrialSpec
from flows.execution.adapters import UnusableError, find_answering
from flows.execution.context import RunContext
from flows.execution.measure import answered
from flows.execution.rows import TaskExample


@dataclass(frozen=True)
class Teacher:
    """An ensemble that a trial learns from.

    Attributes:
        drawn: ids of the rows that its members have seen, by what they were to them. validation: its own metrics.
    """

    answering: Adapter | Ensemble
    drawn: dict[str, list[str]]
    validation: dict[str, float]

    def unseen(self, examples: Sequence[TaskExample]) -> list[TaskExample]:
        """Rows that may validate what has learned from it: none whose label any member has learned."""
        learned = set(self.drawn.get("shots", ()))
        return [one for one in examples if one[1].id not in learned]

    def seen(self, drawn: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
        """What a trial has drawn, and what its teacher has."""
        if drawn is None:
            return None
        return {part: sorted({*rows, *self.drawn.get(part, ())}) for part, rows in drawn.items()}


def teacher_of(context: RunContext, spec: TrialSpec) -> Teacher | None:
    """The ensemble that a trial learns from; None where it learns from labels.

    Raises:
        UnusableError, LostError, InputError: see `flows.execution.adapters.find_answering`.
    """
    if spec.teacher_sha256 is None:
        return None
    answering = find_answering(context, spec.teacher_sha256)
    if isinstance(answering, Regression):
        raise UnusableError(f"adapter {spec.teacher_sha256[:12]} is a {answering.method}, which teaches no adapter")
    row = context.ledger.by_sha256(spec.teacher_sha256)
    validation = context.ledger.outcome(row.fingerprint).validation if row is not None else {}
    drawn: dict[str, Any] = answering.metadata.get("drawn") or {}
    return Teacher(answering, drawn, validation)


def taught_rows(
    context: RunContext,
    teacher: Teacher,
    spec: TrialSpec,
    examples: Sequence[TaskExample],
    rows: Sequence[Row],
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """A trial's rows with the answers of its teacher, of all members together."""
    own = [example for _, example in examples]
    _, parts = answered(context, members_of(teacher.answering), spec.task, own, progress)
    return taught(rows, mean_answers(parts, weights_of(teacher.answering)))
