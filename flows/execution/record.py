"""What a trial leaves behind: its files in the store, its outcome in the ledger, its run in MLflow; in that order."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dept.batches.tokenise import Row
from dept.engine.state import State
from dept.trial import PICTURES, TrialOutcome, TrialSpec
from flows.execution.context import RunContext
from flows.execution.heal import LostError, heal, place_of
from flows.execution.lease import Lease, LeaseLostError
from flows.execution.rows import TaskExample, cut_of, room_of, sees
from infra.errors import written
from registry.ledger import Claim
from registry.tracking import TrialLog

CLOSE_GROUP = 8  # trials whose holds are renewed, then written to MLflow and the ledger together
Save = Callable[[Path], str]  # writes an adapter into a new folder and returns its sha256


def manifest(
    context: RunContext, spec: TrialSpec, shots: Sequence[TaskExample], validation: Sequence[TaskExample]
) -> dict[str, Any]:
    """What an adapter's file says beside its numbers; of few-shot trials also the ids of the drawn rows.

    A multitask adapter answers for no task of its own.
    """
    task = context.tasks.get(spec.task)
    answers: dict[str, Any] = {}
    if task is not None:
        answers = {"template": task.template, "labels": list(task.labels), "words": list(task.words), **cut_of(task)}
        answers["answer_length"] = None if task.scored else room_of(context, spec.task, spec.adapter)
        saw = spec.method != "tfidf" and sees(context, task, spec.adapter)
        answers |= {"picture": True} if saw else {}
    return {
        "fingerprint": spec.fingerprint,
        "backbone": context.backbone_name,
        "backbone_id": spec.backbone_id,
        "dtype": spec.dtype or context.dtype,
        "method": spec.method,
        "task": spec.task,
        "task_version": spec.task_version,
        **answers,
        "shots": spec.shots,
        "drawn": None if spec.shots is None else {"shots": _ids(shots), "validation": _ids(validation)},
        "source_task": spec.source_task,
        "source_sha256": spec.source_sha256,
    }


def _ids(examples: Sequence[TaskExample]) -> list[str]:
    return [example.id for _, example in examples]


def outcome_of(context: RunContext, spec: TrialSpec, rows: Sequence[Row], state: State) -> TrialOutcome:
    """The outcome of a trained trial, before its files and its test; `rows`: learned from and validated on."""
    task = context.tasks.get(spec.task)
    found = context.ledger.outcomes([spec.searched]) if spec.searched and spec.refit else {}
    return TrialOutcome(
        spec=spec,
        adapter_key="",
        adapter_sha256="",
        best_step=state.best_step,
        steps_done=state.step,
        # Nothing validates a refit: what its search found over the folds stands for it.
        validation=next((search.validation for search in found.values()), state.best),
        loss_curve=state.loss_curve,
        validation_curve=state.validation_curve,
        validation_loss_curve=state.validation_loss_curve,
        seconds=state.seconds,
        tokens=state.tokens,
        tokens_per_second=state.tokens / state.seconds if state.tokens else 0,
        cut_rows=sum(row.cut for row in rows),
        padding=state.padded / state.tokens if state.tokens else 1.0,
        extra={
            "metric": task.metrics[0] if task else "score",
            "rate": spec.training.lr_prompt,
            **({"readout": state.readout} if state.readout else {}),
            **({PICTURES: True} if any(row.seen for row in rows) else {}),
        },
    )


def keep(context: RunContext, lease: Lease, claim: Claim, outcome: TrialOutcome, save: Save) -> bool:
    """Store a trial's adapter durably, then enter it as trained; False where another attempt holds the trial.

    Raises:
        InputError: the disk is full, or the store cannot be written.
    """
    with written(tempfile.gettempdir()), tempfile.TemporaryDirectory(prefix="dept-adapter-") as folder:
        outcome.adapter_sha256 = save(Path(folder) / "adapter")
        outcome.files_sha256 = context.store.put_folder(Path(folder) / "adapter", claim.key)
    outcome.adapter_key = claim.key
    held = context.ledger.trained(claim, outcome, provenance(context))
    if not held:
        lease.closed(claim.fingerprint)
        context.discard(context.begun.pop(key_of(claim), None))
    return held


def close(context: RunContext, lease: Lease, done: Sequence[tuple[Claim, TrialOutcome]]) -> None:
    """End trials whose files are durable: their MLflow runs first, the ledger last.

    Trained adapters and searches make an MLflow run, others none. One whose files are lost meanwhile is made again.
    What another attempt holds by now is left to it: no MLflow run is written, and one that was is deleted.

    Raises:
        LeaseLostError: another attempt holds some of them; the others are closed.
        InputError: a store that does not answer.
    """
    lost = sum(_close(context, lease, done[at : at + CLOSE_GROUP]) for at in range(0, len(done), CLOSE_GROUP))
    if lost:
        raise LeaseLostError(f"{lost} trials are held by another worker")


def _close(context: RunContext, lease: Lease, done: Sequence[tuple[Claim, TrialOutcome]]) -> int:
    """`close` of a few; returns how many another attempt holds."""
    logs, whole = [], []
    held = lease.held([claim for claim, _ in done])
    lost = len(done) - len(held)
    for claim, _ in done:
        if claim.fingerprint not in held:
            context.discard(context.begun.pop(key_of(claim), None))
    done = [(claim, outcome) for claim, outcome in done if claim.fingerprint in held]
    for claim, outcome in done:
        folder = None
        if outcome.adapter_key:
            try:
                folder = place_of(context, outcome)
            except LostError as error:
                heal(context, outcome, str(error))
                lease.closed(claim.fingerprint)
                continue
        whole.append((claim, outcome))
        if outcome.spec.kind in ("train", "search", "ensemble"):
            begun = context.begun.pop(key_of(claim), None)
            logs.append(TrialLog(outcome, claim.attempt, folder, provenance(context), begun=begun))
    runs = context.tracker.log_trials(context.parent_run, logs, on_wait=lease.progress) if logs else {}
    ended = context.ledger.finish_many([(claim, runs.get(claim.fingerprint, ""), outcome) for claim, outcome in whole])
    for claim, _ in whole:
        lease.closed(claim.fingerprint)
        if claim.fingerprint not in ended:
            lost += 1
            if claim.fingerprint in runs:
                _unwrite(context, claim, runs[claim.fingerprint])
    return lost


def _unwrite(context: RunContext, claim: Claim, mlflow_run: str) -> None:
    """Delete the MLflow run of an attempt that the ledger refuses; never one of another attempt."""
    run = context.tracker.ask("get_run", mlflow_run)
    if run.data.tags.get("attempt") == str(claim.attempt) and run.info.lifecycle_stage == "active":
        context.tracker.ask("delete_run", mlflow_run)


def fail(context: RunContext, lease: Lease, claim: Claim, reason: str) -> None:
    """Say for good why a trial has no result; its MLflow run, where it was begun, says so too."""
    begun = context.begun.pop(key_of(claim), None)
    if begun is not None and begun.run_id is not None:
        context.tracker.fail(begun.run_id, reason)
    context.ledger.fail(claim, reason)
    lease.closed(claim.fingerprint)


def key_of(claim: Claim) -> tuple[str, int]:
    """By what its training is known in `RunContext.begun`."""
    return claim.fingerprint, claim.attempt


def provenance(context: RunContext) -> Mapping[str, Any]:
    """How a result came about, which its numbers do not depend on."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "run": context.run_id,
        "engine": "deepspeed" if context.engine.ranks else "local",
        "ranks": context.engine.ranks or 1,
        **context.backbone.provenance(),
    }
