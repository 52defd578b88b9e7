"""What a trial leaves behind: its manifest, its outcome, and its end in MLflow and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dept.adapters.adapter import Adapter
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import Row
from dept.engine.train import State
from dept.trial import TrialOutcome, TrialSpec
from flows.execution.rows import Piece
from infra.errors import InputError

if TYPE_CHECKING:
    from flows.execution.work import Workshop


def manifest(shop: Workshop, spec: TrialSpec, shots: Sequence[Piece], validation: Sequence[Piece]) -> dict[str, Any]:
    """What an adapter's file says beside its numbers; of few-shot trials also the ids of the drawn rows.

    A multitask adapter answers for no task of its own.
    """
    task = shop.tasks.get(spec.task)
    answers = {"template": task.template, "labels": list(task.labels), "words": list(task.words)} if task else {}
    return {
        "fingerprint": spec.fingerprint,
        "backbone": shop.name,
        "backbone_id": spec.backbone_id,
        "dtype": str(shop.backbone.dtype).removeprefix("torch."),
        "method": spec.method,
        "task": spec.task,
        "task_version": spec.task_version,
        **answers,
        "shots": spec.shots,
        "drawn": None if spec.shots is None else {"shots": _ids(shots), "validation": _ids(validation)},
        "source_task": spec.source_task,
        "source_sha256": spec.source_sha256,
    }


def _ids(pieces: Sequence[Piece]) -> list[str]:
    return [example.id for _, example in pieces]


def outcome_of(shop: Workshop, spec: TrialSpec, rows: Sequence[Row], state: State, sha256: str) -> TrialOutcome:
    """The outcome of a trained trial, before its test; `rows` are those it learned from and was validated on."""
    task = shop.tasks.get(spec.task)
    return TrialOutcome(
        spec=spec,
        adapter_folder=shop.adapters / spec.fingerprint,
        adapter_sha256=sha256,
        best_step=state.best_step,
        steps_done=state.step,
        validation=state.best,
        loss_curve=state.loss_curve,
        validation_curve=state.validation_curve,
        seconds=state.seconds,
        tokens=state.tokens,
        tokens_per_second=state.tokens / state.seconds if state.tokens else 0,
        cut_rows=sum(row.cut for row in rows),
        padding=state.padded / state.tokens if state.tokens else 1.0,
        extra={"metric": task.metrics[0] if task else "score", "rate": spec.training.lr_prompt},
    )


def finish(shop: Workshop, outcome: TrialOutcome, test: dict[str, float], owner: str) -> None:
    """Close a trial whose adapter is durable: its MLflow run first, the ledger last."""
    outcome.test = test
    run_id = shop.tracker.log_trial(shop.parent_run, outcome)
    shop.ledger.finish(outcome.spec.fingerprint, run_id, outcome, owner)


def load_adapter(backbone: Backbone, outcome: TrialOutcome) -> Adapter:
    """The adapter of a trial, checked against the ledger's sha256 and the backbone.

    Raises:
        InputError: missing, damaged, altered, or of another backbone.
    """
    adapter = Adapter.load(outcome.adapter_folder)
    if adapter.sha256 != outcome.adapter_sha256:
        raise InputError(
            f"adapter {outcome.adapter_folder}: its sha256 is not the one in the ledger. Remedy: restore "
            "the folder from the trial's MLflow run (artifact `adapter`)"
        )
    backbone.check_adapter(adapter)
    return adapter
