"""The flow `dept-retrain`: stale champions get a challenger; the better one answers from then on.

A controller, as `dept-transfer` is: it adds trials and waits for the ledger, and loads no backbone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import prefect.runtime
from prefect import Flow, flow
from prefect.artifacts import create_table_artifact

from dept.backbones.describe import told_dtype
from dept.trial import TrialOutcome
from flows.begun import begun
from flows.execution.challengers import train_challengers
from flows.execution.champions import encoder_of, open_retraining, with_encoder
from flows.execution.context import RunContext
from flows.execution.fan_out import workers_for
from flows.execution.heal import LostError
from flows.execution.judge import judge, told
from flows.execution.progress import say
from flows.execution.settle import Workers, work_here
from flows.mlflow_page import close_parent
from flows.pages import SHORT_SECONDS, ended_in_prefect, ends, run_name, step, tagged
from flows.planning.plan import WorkerCount
from flows.planning.retraining import Retraining, Stale, reasons
from flows.planning.roots import check_paths
from infra.errors import InputError
from infra.hidden import hidden_credentials
from infra.quiet import errors_told_by_caller
from infra.temporary_server import prefect_api
from registry.ledger.schema import DecisionRow
from registry.promotion.lookup import Champion, all_champions
from registry.promotion.rows import state_of

TRIES = 3  # of a run in which adapters are damaged under its hands
DAY = 86_400.0


@dataclass
class Looked:
    """Champions by what becomes of them: stale, fresh (names of models), left out (task -> why)."""

    stale: list[Stale] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def make_flow(opened: tuple[RunContext, dict[str, str]] | None = None) -> Flow[..., dict[str, Any]]:
    """The flow; with what `run` has opened already, so that rows are read once."""

    @flow(name="dept-retrain", flow_run_name=run_name)
    def dept_retrain(
        order: Retraining | None = None, workers: WorkerCount | None = None, restart: bool = False
    ) -> dict[str, Any]:
        """Look whether champions are stale, train challengers with transfer, and promote those that are better.

        Args:
            order: which champions, how old they may get, and by how much a challenger must win.
            workers: workers at a time; empty: as the order has it, else the limit of their pool, or 1.
            restart: start this run again, up to three times, if its process dies.
        """
        order = order or Retraining()
        with ends(), hidden_credentials():
            if prefect.runtime.deployment.id:
                check_paths(order)
                if line := told_dtype(order.dtype, order.device):
                    say(f"Frozen weights of challengers: {line}.")
            with workers_for(workers or order.workers) as crew:
                context, left_out = opened or open_retraining(order)
                return control(context, order, left_out, crew)

    return dept_retrain


dept_retrain = make_flow()  # what a deployment runs


def run(order: Retraining | None = None) -> dict[str, Any]:
    """Run the flow in this process, with this process as its worker, and say what it did.

    Raises:
        InputError: something that the user can mend.
    """
    order = order or Retraining()
    opened = open_retraining(order)  # a slip in the order should not wait for a server
    with prefect_api(), errors_told_by_caller(), ended_in_prefect():
        return make_flow(opened)(order)


def control(
    context: RunContext, order: Retraining, left_out: dict[str, str], workers: Workers = work_here
) -> dict[str, Any]:
    """Look, train, judge.

    Raises:
        InputError: a full disk, or a store that does not answer.
    """
    decided, failed = list[dict[str, Any]](), dict[str, str]()
    with begun(context, "retrain", "retrain"), tagged("retrain"):
        found = step("look-for-stale-champions", lambda: look(context, order), timeout=SHORT_SECONDS)
        found.left_out |= left_out
        if found.stale:
            decided, failed = _challenged(context, order, found.stale, workers)
        table = decided or [{"model": name, "decision": "not-stale"} for name in found.fresh]
        create_table_artifact(table, key="dept-retrain")
        totals = {
            "stale": float(len(found.stale)),
            "fresh": float(len(found.fresh)),
            "left_out": float(len(found.left_out)),
            "promoted": float(sum(row["decision"] == "promoted" for row in decided)),
        }
        close_parent(context, "retrain", [], totals, decided)
    return {
        "run_id": context.parent_run,
        "fresh": found.fresh,
        "decisions": decided,
        "failed": failed,
        "stale": {item.task: item.reasons for item in found.stale},
        "left_out": found.left_out,
    }


def look(context: RunContext, order: Retraining) -> Looked:
    """Champions whose data, task spec or backbone have changed, or that are too old; the fresh ones are noted as such.

    A change that a challenger has already answered, and lost, makes no champion stale again.
    """
    found, now = Looked(), context.ledger.now()
    for current in _champions(context):
        if current.task not in context.splits:
            continue  # left out, for a reason that is told; or not asked for
        if not current.backbone_id:
            found.left_out[current.task] = current.note
            continue
        row = context.ledger.get(current.fingerprint)
        if row is None or row.unreadable is not None:
            why = "is not in this ledger" if row is None else f"cannot be read: {row.unreadable}"
            found.left_out[current.task] = f"its champion {current.fingerprint[:12]} {why}"
            continue
        spec = row.trial_spec  # its adapter may be lost: what judges it makes it again
        name, last = current.task, _last_decision(context, current)
        try:
            shape = with_encoder(spec.adapter)
        except InputError as error:  # the files of the picture encoder that it reads
            found.left_out[name] = str(error)
            continue
        today: dict[str, str | int | None] = {
            "data_hash": context.splits[name].data_hash,
            "task_version": context.tasks[name].version,
            "backbone_id": context.backbone_id,
            "computed": context.computed,
        }
        if (encoder := encoder_of(shape.model_dump())) is not None:
            today["encoder"] = encoder
        age = (now - (last.at if last else current.since)).total_seconds() / DAY
        changed, old = reasons(spec, state_of(context, spec), today, age, order.max_age_days)
        if changed and _answered(context, current, today):
            changed = []
        if changed or old:
            item = Stale(task=name, fingerprint=current.fingerprint, reasons=changed + old, only_old=not changed)
            found.stale.append(item)
        else:
            _note_fresh(context, current, f"nothing changed; {age:.1f} days old")
            found.fresh.append(current.name)
    return found


def _champions(context: RunContext) -> Iterator[Champion]:
    """Those on today's weights; and of tasks without one, the newest on older weights of the same backbone."""
    every = all_champions(context.ledger, context.tracker)
    current = {one.task: one for one in every if one.backbone_id == context.backbone_id}
    older: dict[str, Champion] = {}
    for one in sorted(every, key=lambda one: one.since):
        if one.task not in current and one.backbone == context.backbone_name:
            older[one.task] = one
    yield from (current | older).values()


def _challenged(
    context: RunContext, order: Retraining, stale: list[Stale], workers: Workers
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Train and judge challengers; what was decided, and what failed. Where an adapter is lost it is made again."""
    for left in reversed(range(TRIES)):
        try:
            trained = step("train-challengers", lambda: train_challengers(context, order, stale, workers))
            rows = step("judge-challengers", partial(_judged, context, order, trained.outcomes, workers))
        except LostError as error:
            if not left:
                raise InputError(f"{error}. Adapters are lost again and again; check the store's disk") from error
            continue
        outcomes = trained.by_fingerprint
        return [_short(row, told(row, outcomes.get(str(row.challenger_fingerprint)))) for row in rows], trained.told
    raise AssertionError("unreachable")


def _judged(
    context: RunContext, order: Retraining, outcomes: list[TrialOutcome], workers: Workers
) -> list[DecisionRow]:
    return judge(context, outcomes, workers, margin=order.margin, confidence=order.confidence)


def _about(context: RunContext, current: Champion) -> list[DecisionRow]:
    rows = context.ledger.decisions(task=current.task)
    return [row for row in rows if current.fingerprint in (row.champion_fingerprint, row.challenger_fingerprint)]


def _last_decision(context: RunContext, current: Champion) -> DecisionRow | None:
    made = [row for row in _about(context, current) if row.decision != "not-stale"]
    return made[-1] if made else None


def _answered(context: RunContext, current: Champion, today: dict[str, str | int | None]) -> bool:
    """Whether a challenger on the data, spec and backbone of today was compared with this champion, and lost."""
    for row in _about(context, current):
        compared = row.decision == "kept" and row.rows  # else one of the two could not be scored
        if compared and row.champion_fingerprint == current.fingerprint and row.challenger_fingerprint:
            trial = context.ledger.get(row.challenger_fingerprint)
            then = {} if trial is None else {**trial.spec, "encoder": encoder_of(trial.spec.get("adapter") or {})}
            if trial is not None and all(then.get(key) == value for key, value in today.items()):
                return True
    return False


def _note_fresh(context: RunContext, current: Champion, reason: str) -> None:
    context.ledger.record_decision(
        current.name,
        current.task,
        "not-stale",
        reason,
        champion_version=current.version,
        champion_fingerprint=current.fingerprint,
        champion_score=current.validation,
        backbone_id=current.backbone_id,
        run_id=context.run_id or None,
    )


def _short(row: DecisionRow, about: dict[str, Any]) -> dict[str, Any]:
    return {**about, "decision": row.decision, "reason": row.reason}
