"""Let candidates stand against champions: match, evaluate as trials of the ledger, decide. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dept.trial import TrialOutcome, TrialSpec
from flows.execution.context import RunContext
from flows.execution.heal import look
from flows.execution.settle import Workers, settle, work_here
from infra.errors import InputError
from registry.ledger.schema import DecisionRow
from registry.promotion.alone import ChampionChangedError
from registry.promotion.champion import MARGIN, Match, decide, match, standing
from registry.promotion.choose import candidates
from registry.promotion.compare import CONFIDENCE

STAGE = "judge"
TRIES = 3  # where other processes decide about the same champion meanwhile


def judge(
    context: RunContext,
    outcomes: Iterable[TrialOutcome],
    workers: Workers = work_here,
    *,
    margin: float = MARGIN,
    confidence: float = CONFIDENCE,
) -> list[DecisionRow]:
    """Decide about the candidate of each task among the outcomes of a run; one decision a task.

    Args:
        margin: points that a candidate must be better by. confidence: of all decisions about a champion together.

    Raises:
        LostError: an adapter was damaged meanwhile; its trial is pending again.
        InputError: a store that does not answer.
    """
    waiting = candidates(outcomes, context.tasks)
    decisions: dict[str, DecisionRow] = {}
    for left in reversed(range(TRIES)):
        try:
            matches = _matches(context, waiting, workers)
        except ChampionChangedError:
            matches = []
        for of, row in _decided(context, matches, workers, margin, confidence):
            if row is not None:
                decisions[of.task] = row
                del waiting[of.task]
        if not waiting:
            break
        if not left:
            raise InputError(f"champions of {', '.join(waiting)}: other processes change them again and again")
    return list(decisions.values())


def considered(context: RunContext, task: str) -> list[TrialSpec]:
    """Trials of a run that had a part in choosing among a task's adapters: their draws are seen."""
    rows = context.ledger.find(run_id=context.run_id, task=task, outcomes=False)
    return [row.trial_spec for row in rows if row.kind != "evaluate" and row.unreadable is None]


def told(row: DecisionRow, outcome: TrialOutcome | None = None) -> dict[str, Any]:
    """A decision, as reports and flows show it."""
    score = None if outcome is None else outcome.validation.get("score", outcome.validation.get("accuracy"))
    return {
        "model": row.model,
        "task": row.task,
        "version": row.challenger_version,
        "trial": outcome.spec.label if outcome else str(row.challenger_fingerprint)[:12],
        "validation": score,
        "champion": row.champion_score,
        "challenger": row.challenger_score,
        "decision": f"{row.decision}: {row.reason}",
    }


def _matches(context: RunContext, waiting: Mapping[str, TrialOutcome], workers: Workers) -> list[Match]:
    """A match a task; a champion whose adapter is lost is made again first, where its rows are still there."""
    lost = [spec for one in waiting.values() if (spec := _lost(context, one.spec)) is not None]
    settle(context, "champions", lost, workers)
    return [match(context, candidate, considered(context, name)) for name, candidate in waiting.items()]


def _lost(context: RunContext, candidate: TrialSpec) -> TrialSpec | None:
    """The spec of a champion without an adapter, whoever found that it is lost; None where nothing is to be made."""
    row = standing(context, candidate)
    if row is None or row.unreadable is not None:
        return None
    if row.trial_spec.computed != candidate.computed:
        return None  # what would be made now is another adapter than it was; its decision says what can be done
    if row.status == "finished" and not look(context, [context.ledger.outcome(row.fingerprint)]):
        return None
    spec = row.trial_spec
    return spec if spec.data_hash == context.splits[spec.task].data_hash else None


def _decided(
    context: RunContext, matches: Sequence[Match], workers: Workers, margin: float, confidence: float
) -> list[tuple[Match, DecisionRow | None]]:
    """None where another process has changed the champion meanwhile."""
    settled = settle(context, STAGE, [spec for of in matches for spec in of.specs], workers)
    found: list[tuple[Match, DecisionRow | None]] = []
    for of in matches:
        try:
            answered, failed = settled.by_fingerprint, settled.failed
            row = decide(context, of, answered, failed, margin=margin, confidence=confidence)
        except ChampionChangedError:
            found.append((of, None))
        else:
            found.append((of, row))
    return found
