"""The one rule by which champions change, for runs and for retraining alike: match, evaluate, decide.

`match` says what has to be evaluated, a worker lets both adapters answer the same rows, `decide` compares the answers
(`compare`), records the decision and moves MLflow's aliases. A kill between any two steps is made good by `restore`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from dept.trial import TrialOutcome, TrialSpec
from registry.ledger.locks import Held
from registry.ledger.schema import DecisionRow, TrialRow
from registry.promotion import versions
from registry.promotion.alone import ChampionChangedError, alone
from registry.promotion.compare import CONFIDENCE, Comparison, compare, rows_hash
from registry.promotion.evaluation import evaluation, otherwise
from registry.promotion.lookup import MOVES, Champion, champion, of_weights
from registry.promotion.names import CHALLENGER, CHAMPION, model_name
from registry.promotion.older import adopt
from registry.promotion.rows import Stores, judging_rows, remember, remembered, seen_by, surely
from tasks.formatting import Example

MARGIN = 1.0
_TESTED = ("rows", "rows_hash", "margin", "confidence", "difference", "low", "high", "p", "alpha", "wins", "losses")


@dataclass(frozen=True)
class Match:
    """A candidate, the champion it stands against, and the rows that judge; `specs`: what has to be evaluated.

    unsure: of which of the two it is not known which rows it has seen, so that these may favour it; "" for neither.
    older: why a champion of 0.1.0 cannot be met. otherwise: what is to be said of a champion that was trained while
    its backbone was computed otherwise (`TrialSpec.computed`), "" of others.
    """

    task: str
    name: str
    candidate: TrialOutcome
    champion: Champion | None
    rows: tuple[Example, ...] = ()
    specs: tuple[TrialSpec, ...] = ()
    unsure: str = ""
    older: str = ""
    otherwise: str = ""


def match(stores: Stores, candidate: TrialOutcome, considered: Iterable[TrialSpec]) -> Match:
    """What has to be evaluated before a candidate can be decided about.

    Args:
        considered: the other trials of its task in its run (searches and probes too).

    Raises:
        ChampionChangedError: another process decides meanwhile.
        InputError: a store that does not answer.
    """
    spec = candidate.spec
    trials = [spec, *considered]
    seen, known = seen_by(stores, candidate, trials[1:]), surely(stores, trials)
    with alone(stores, spec) as held:
        older = adopt(stores, spec.task, spec.backbone, spec.backbone_id, held)
        restore(stores, spec.task, spec.backbone_id, held)
    found = champion(stores.ledger, stores.tracker, spec.task, spec.backbone_id)
    name = found.name if found else versions.find_model(stores.tracker, spec.task, spec.backbone_id)
    name = name or model_name(spec.backbone, spec.backbone_id, spec.task)
    remember(stores, candidate, seen, known)
    if found is None or found.fingerprint == spec.fingerprint or found.adapter_key is None:
        return Match(spec.task, name, candidate, found, older=older)
    theirs, sure = remembered(stores, stores.ledger.outcome(found.fingerprint))
    mine, known = remembered(stores, candidate)
    rows = tuple(judging_rows(stores, spec.task, mine | theirs))
    specs: tuple[TrialSpec, ...] = ()
    if rows:
        old = stores.ledger.outcome(found.fingerprint)
        specs = (
            evaluation(stores, old, rows, "champion", spec.computed),
            evaluation(stores, candidate, rows, "challenger", spec.computed),
        )
    unsure = " and ".join(name for name, good in (("the champion", sure), ("the candidate", known)) if not good)
    told = otherwise(stores.ledger.get(found.fingerprint), spec)
    return Match(spec.task, name, candidate, found, rows, specs, unsure, otherwise=told)


def standing(stores: Stores, spec: TrialSpec) -> TrialRow | None:
    """The trial of the champion that a candidate of this spec would meet; None where the ledger does not know it."""
    found = champion(stores.ledger, stores.tracker, spec.task, spec.backbone_id)
    return None if found is None else stores.ledger.get(found.fingerprint)


def decide(
    stores: Stores,
    of: Match,
    answered: Mapping[str, TrialOutcome],
    failed: Mapping[str, str] | None = None,
    *,
    margin: float = MARGIN,
    confidence: float = CONFIDENCE,
) -> DecisionRow:
    """Decide about a candidate, record it, and let MLflow's aliases say so.

    The same candidate against the same champion on the same rows is decided once: asked again, it is the same decision.

    Args:
        answered: outcomes of the evaluations, by fingerprint; those that failed are not there.
        failed: why evaluations failed, by fingerprint.

    Raises:
        ChampionChangedError: there is another champion than when the match was made.
        InputError: a store that does not answer, or has lost the candidate's adapter.
    """
    spec = of.candidate.spec
    with alone(stores, spec) as held:
        now = champion(stores.ledger, stores.tracker, spec.task, spec.backbone_id)
        if (now and now.fingerprint) != (of.champion and of.champion.fingerprint):
            raise ChampionChangedError(of.name)
        past = of_weights(stores.ledger.decisions(task=spec.task), spec.backbone_id)
        if now is None:
            before = of.older or "no champion before"
            return _record(stores, of, held, "first", f"{before}; validation {_validation(of.candidate)}")
        if now.fingerprint == spec.fingerprint:
            mine = [row for row in past if row.challenger_fingerprint == spec.fingerprint]
            return mine[-1] if mine else _record(stores, of, held, "by-hand", "champion by an alias set in MLflow")
        return _against(stores, of, held, past, answered, failed or {}, margin, confidence)


def _against(
    stores: Stores,
    of: Match,
    held: Held,
    past: list[DecisionRow],
    answered: Mapping[str, TrialOutcome],
    failed: Mapping[str, str],
    margin: float,
    confidence: float,
) -> DecisionRow:
    assert of.champion is not None
    if of.champion.adapter_key is None:
        return _record(stores, of, held, "kept", _unscored(stores, of.champion.fingerprint))
    about = [row for row in past if row.champion_fingerprint == of.champion.fingerprint]
    missing = [one for one in of.specs if one.fingerprint not in answered]
    if missing:
        which = ("the champion" if one.role == "champion" else "the candidate" for one in missing)
        hand = "; or `dept promote` by hand" if any(one.role == "champion" for one in missing) else ""
        reasons = "; ".join(failed.get(one.fingerprint, "it was not evaluated") for one in missing)
        return _record(
            stores, of, held, "kept", f"{' and '.join(which)} could not be scored, the champion stays: {reasons}{hand}"
        )
    hashed = rows_hash(of.rows)
    for row in about:
        same = (row.challenger_fingerprint, row.rows_hash, row.margin, row.confidence)
        if same == (of.candidate.spec.fingerprint, hashed, margin, confidence):
            return row
    looks = sum(row.p is not None for row in about)
    said = [answered[one.fingerprint].extra["rows"] for one in of.specs] or [(), ()]
    found = compare(stores.tasks[of.task], of.rows, said[0], said[1], margin=margin, confidence=confidence, looks=looks)
    return _record(
        stores, of, held, "promoted" if found.better else "kept", _unsure(of, found), **_columns(found, looks)
    )


def _unscored(stores: Stores, fingerprint: str) -> str:
    row, ends = stores.ledger.get(fingerprint), "so it cannot be scored; it stays"
    if row is None:
        return f"the champion's adapter is not in this ledger, {ends}. Remedy: `dept promote` by hand"
    why = f"its trial is {row.status}{f' ({row.error})' if row.error else ''}"
    again = f"`dept trials retry {fingerprint[:12]}` once that is mended, or `dept promote` by hand"
    return f"the champion's adapter is lost and {why}, {ends}. Remedy: {again}"


def _unsure(of: Match, found: Comparison) -> str:
    told = [f"not all rows that {of.unsure} had seen are known; these may favour it"] if of.unsure else []
    told += [of.otherwise] if of.otherwise else []
    return f"{found.reason} ({'; '.join(told)})" if told else found.reason


def _columns(found: Comparison, looks: int) -> dict[str, Any]:
    columns = {name: getattr(found, name) for name in _TESTED}
    if 0.5**found.rows > found.alpha:
        columns["p"] = None  # so few rows could prove nothing: no chance was spent
    scores = {"champion_score": found.champion, "challenger_score": found.candidate} if found.rows else {}
    if not found.rows:
        columns |= {"difference": None, "low": None, "high": None}
    about = {"test": found.test, "metric": found.metric, "needed": found.needed, "looks": looks}
    return {**columns, **scores, **about}


def _record(stores: Stores, of: Match, held: Held, verdict: str, reason: str, **numbers: Any) -> DecisionRow:
    """The version first, then the audit, the aliases last: what a kill leaves undone `restore` does."""
    spec = of.candidate.spec
    version = versions.register(stores, of.name, of.candidate)
    row = stores.ledger.record_decision(
        of.name,
        of.task,
        verdict,
        reason,
        champion_version=of.champion.version if of.champion else None,
        champion_fingerprint=of.champion.fingerprint if of.champion else None,
        challenger_version=str(version.version),
        challenger_fingerprint=spec.fingerprint,
        backbone_id=spec.backbone_id,
        dtype=spec.dtype,
        run_id=stores.run_id or None,
        held=held,
        **numbers,
    )
    carry_out(stores, row, version, held)
    return row


def restore(stores: Stores, task: str, backbone_id: str, held: Held) -> None:
    """Let MLflow say what the ledger says: complete a decision that a kill cut short, write again what was deleted.

    An alias that a person moved after the decision was carried out stays where it is.

    Args:
        held: the model's lock.

    Raises:
        LockLostError: another decides about the champion meanwhile.
        InputError: a store that does not answer.
    """
    decisions = of_weights(stores.ledger.decisions(task=task), backbone_id)
    moved = [row for row in decisions if row.decision in MOVES]
    if not moved:
        return
    last = moved[-1]
    outcome = stores.ledger.outcomes([str(last.challenger_fingerprint)]).get(str(last.challenger_fingerprint))
    if outcome is not None and stores.store.exists(outcome.adapter_key):  # else it is said where it is asked for
        version = versions.register(stores, last.model, outcome)
        if not _told(version, last) or versions.by_alias(stores.tracker, last.model, CHAMPION) is None:
            carry_out(stores, last, version, held)
    kept = decisions[-1]
    if kept.decision == "kept":
        loser = versions.by_fingerprint(stores.tracker, kept.model, str(kept.challenger_fingerprint))
        if loser is not None and not _told(loser, kept):
            carry_out(stores, kept, loser, held)


def carry_out(stores: Stores, row: DecisionRow, version: ModelVersion, held: Held) -> None:
    """Let MLflow's aliases and tags say what was decided; versions of earlier losers go.

    Raises:
        LockLostError: another decides about the champion meanwhile; it carries this decision out first (`restore`).
    """
    tracker, mine = stores.tracker, str(row.challenger_fingerprint)
    past = stores.ledger.decisions(model=row.model)
    held.renew()  # who has lost the lock moves no alias of a later decision
    keep = {mine} | {str(one.challenger_fingerprint) for one in past if one.decision in MOVES}
    if row.decision in MOVES:
        versions.move(tracker, version, CHAMPION)
        versions.drop_alias(tracker, row.model, CHALLENGER)
    else:
        versions.move(tracker, version, CHALLENGER)
    versions.tidy(tracker, row.model, keep)
    if row.decision in MOVES and (trial := stores.ledger.get(mine)) is not None:
        spec = TrialSpec.model_validate(trial.spec)
        versions.register_all_tasks(stores, spec, str(version.run_id))
        versions.tell_of_champion(stores, row, spec)
    versions.tell(tracker, version, row)


def _told(version: ModelVersion, row: DecisionRow) -> bool:
    return bool(version.tags.get("decision.at") == row.at.isoformat())


def _validation(outcome: TrialOutcome) -> str:
    older = outcome.validation.get("accuracy", math.nan)  # outcomes of before there were other metrics
    return f"{outcome.validation.get('score', older):.2f}"
