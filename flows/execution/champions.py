"""Open a run that looks at champions: the tasks that they answer for, wherever those are known from. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dept.backbones.describe import describe
from dept.backbones.encoder_files import looked_up
from dept.config import AdapterConfig
from flows.execution.context import Engine, RunContext
from flows.execution.open import store_of
from flows.execution.own_tasks import known_tasks, stored_rows
from flows.planning.backbone_cost import chat_of
from flows.planning.retraining import Retraining
from infra.errors import InputError
from registry.ledger import Ledger
from registry.promotion.lookup import MOVES
from registry.store import Store
from registry.tracking import Tracker
from tasks.load import load_splits
from tasks.spec import FileSource, Task
from tasks.splits import Splits


@dataclass(frozen=True)
class Known:
    """What a decision by hand needs: `registry.promotion.rows.Stores` without a run."""

    ledger: Ledger
    store: Store
    tracker: Tracker
    tasks: Mapping[str, Task]
    splits: Mapping[str, Splits] = field(default_factory=dict)
    run_id: str = ""
    parent_run: str = ""


def stores_of(ledger: Ledger) -> Known:
    """The stores, opened, and every task that is known.

    Raises:
        InputError: a store that does not answer.
    """
    return Known(ledger, Store.open(), Tracker(), known_tasks(ledger))


def open_retraining(order: Retraining) -> tuple[RunContext, dict[str, str]]:
    """Open the stores and read the rows of every task that has a champion; no run is begun.

    Returns:
        The context, and why champions are left out, by task.

    Raises:
        InputError: a task that nobody knows, a backbone that is not in reach, a store that does not answer.
    """
    ledger = Ledger.open()
    tasks = known_tasks(ledger, order.own_tasks)
    unknown = [name for name in order.tasks if name not in tasks]
    if unknown:
        raise InputError(
            f"retrain: unknown task {unknown[0]!r}; known: {', '.join(sorted(tasks))}. Remedy: `dept tasks add FILE`, "
            "or `dept run` of the plan that has it"
        )
    backbone, store = describe(order.backbone, order.dtype, order.device), store_of(ledger)
    remembered = {name: row.rows_sha256 for name, row in ledger.own_tasks().items()}
    names = {row.task for row in ledger.decisions() if row.decision in MOVES}
    splits, left_out = dict[str, Splits](), dict[str, str]()
    for name in sorted(names if not order.tasks else names & set(order.tasks)):
        if name not in tasks:
            left_out[name] = "its task is not known here: `dept tasks add FILE`, or `dept run` of the plan that has it"
            continue
        try:
            splits[name] = rows_today(tasks[name], remembered.get(name, ""), store)
        except InputError as error:
            left_out[name] = str(error)
    context = RunContext(
        order=order,
        backbone_name=order.backbone,
        backbone_id=backbone.backbone_id,
        d=backbone.d,
        tells_words=backbone.tells_words,
        hidden=backbone.hidden,
        reads_pictures=backbone.reads_pictures,
        dtype=backbone.dtype,
        device=order.device,
        engine=Engine(),
        tasks=tasks,
        splits=splits,
        ledger=ledger,
        store=store,
        tracker=Tracker(),
        room=backbone.positions,
        computed=backbone.computed,
        chat=chat_of(backbone, (tasks[name] for name in splits)),
    )
    return context, left_out


def rows_today(task: Task, rows_sha256: str, store: Store) -> Splits:
    """Rows of a task from where they come from; from the store where that is gone, or on another machine.

    Raises:
        InputError: rows that cannot be read, and that the store does not hold.
    """
    source = task.source
    needed = (source.path, source.pictures) if isinstance(source, FileSource) else ()
    if rows_sha256 and any(path is not None and not path.exists() for path in needed):
        return stored_rows(store)(task, rows_sha256)
    return load_splits(task)


def with_encoder(shape: AdapterConfig) -> AdapterConfig:
    """The shape of an adapter, with the picture encoder that its map reads, if any, as its files are today.

    Raises:
        InputError: they are gone, or no picture encoder's.
    """
    sight = shape.pictures
    if sight is None or sight.encoder is None:
        return shape
    unknown = sight.model_copy(update={"encoder_id": None, "width": None})
    return shape.model_copy(update={"pictures": looked_up(unknown)})


def encoder_of(shape: Mapping[str, Any]) -> str | None:
    """The sha256 of the picture encoder that the map of an adapter of this shape reads; None: it reads none."""
    sight = shape.get("pictures") or {}
    found = sight.get("encoder_id")
    return None if found is None else str(found)


def join_retraining(body: Mapping[str, object]) -> RunContext:
    """The context of a retraining run, for a worker."""
    return open_retraining(Retraining.model_validate(body))[0]
