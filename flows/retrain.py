"""The flow `dept-retrain`: stale champions get a challenger; the better one answers from then on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from pydantic import BaseModel

from dept.adapters.adapter import Adapter
from dept.backbones.shared import shared_backbone
from dept.config import TrainConfig
from dept.trial import TrialOutcome, TrialSpec
from flows.execution.measure import measured
from flows.execution.rows import examples_of
from flows.execution.steps import opened, workshop
from flows.execution.strategies import best_sources
from flows.execution.work import Engine, Workshop, work
from flows.planning.retraining import Retraining
from infra.errors import InputError
from infra.quiet import errors_told_by_caller
from infra.temporary_server import prefect_api
from registry.ledger import Ledger
from registry.promotion.champion import Champion, Decision, Scores, challenge, champion, keep, model_name
from registry.store import Store
from registry.tracking import Tracker
from tasks.catalogue import catalogue
from tasks.draws import subset
from tasks.formatting import Example
from tasks.load import load_splits
from tasks.spec import Task


class Stale(BaseModel):
    """A champion that wants a challenger, and why."""

    task: str
    fingerprint: str
    reasons: list[str]
    only_old: bool


def examine(order: Retraining) -> Workshop:
    """Open stores and backbone; know every task that a champion answers for. No run is begun.

    Raises:
        InputError: an unknown task, rows that cannot be read, a store that does not answer.
    """
    known = catalogue() | {own.name: own for own in order.own_tasks}
    unknown = [name for name in order.tasks if name not in known]
    if unknown:
        raise InputError(f"retrain: unknown task {unknown[0]!r}; known: {', '.join(sorted(known))}")
    ledger, tracker = Ledger.open(), Tracker()
    trained = dict.fromkeys(row.task for row in ledger.find(status="finished", backbone=order.backbone))
    tasks = {name: known[name] for name in trained if name in known and name in (order.tasks or trained)}
    backbone = shared_backbone(order.backbone, order.dtype, order.device)
    return Workshop(
        order,
        order.backbone,
        Engine(),
        backbone,
        known,
        {name: load_splits(task) for name, task in tasks.items()},
        ledger,
        Store.open(),
        tracker,
    )


def prepare(order: Retraining) -> Workshop:
    """Examine the order and open its MLflow run.

    Raises:
        InputError: see `examine`.
    """
    shop = examine(order)
    shop.parent_run = shop.tracker.open_flow_run("retrain", order.model_dump(mode="json"), {"backbone": order.backbone})
    return shop


@task(name="look-for-stale-champions")
def look(run_id: str) -> tuple[list[Stale], list[str]]:
    """Champions whose data, task spec or backbone have changed, or that are too old; and models that are fresh."""
    shop, order = workshop(run_id), order_of(run_id)
    stale, fresh = [], []
    for name, splits in shop.splits.items():
        reigning = champion(shop.tracker, model_name(shop.name, name))
        if reigning is None:
            continue
        spec = _spec(shop, reigning)
        age = (datetime.now(UTC) - reigning.created_at).total_seconds() / 86400
        changed = [
            f"{what} changed"
            for what, old, new in (
                ("task data", spec.data_hash, splits.data_hash),
                ("task spec", spec.task_version, shop.tasks[name].version),
                ("backbone", spec.backbone_id, shop.backbone.weights_id),
            )
            if old != new
        ]
        old = [f"{age:.1f} days old, more than {order.max_age_days:g}"] if age > order.max_age_days else []
        if changed or old:
            stale.append(
                Stale(task=name, fingerprint=reigning.fingerprint, reasons=changed + old, only_old=not changed)
            )
        else:
            keep(shop.ledger, reigning, name, f"nothing changed; {age:.1f} days old")
            fresh.append(reigning.name)
    return stale, fresh


@task(name="train-challengers")
def train_challengers(run_id: str, stale: list[Stale]) -> list[str]:
    """Train a challenger for each stale champion, from the best source adapter there is; returns fingerprints."""
    shop = workshop(run_id)
    wanted = {item.task: _renewed(shop, item) for item in stale}
    sources = _sources(shop)
    specs = []
    for name, spec in wanted.items():
        fitting = [s for s in sources if s.spec.adapter == spec.adapter and s.spec.task != name]
        if fitting:
            best = best_sources(shop, fitting, {name: examples_of(shop, spec)}, TrainConfig(steps=0))[name]
            spec = spec.model_copy(
                update={
                    "init": "best-source",
                    "start": "source",
                    "source_task": best.spec.task,
                    "source_sha256": best.adapter_sha256,
                    "training": order_of(run_id).training if spec.role == "target" else spec.training,
                }
            )
        specs.append(spec)
    return [outcome.spec.fingerprint for outcome in work(shop, specs, "challengers")]


@task(name="judge-challengers")
def judge(run_id: str, challengers: list[str]) -> list[dict[str, Any]]:
    """Score champion and challenger on the same test rows; move the alias if the challenger is better by the margin."""
    shop, order = workshop(run_id), order_of(run_id)
    told = []
    for fingerprint in challengers:
        outcome = shop.ledger.outcome(fingerprint)
        name = outcome.spec.task
        reigning = champion(shop.tracker, model_name(shop.name, name))
        if reigning is None:
            raise InputError(f"retrain: the champion of {name} was taken away meanwhile")
        rows = subset(shop.splits[name].test, order.test_rows, 0)
        mine, theirs = (
            _scored(shop, Adapter.load(folder), shop.tasks[name], rows)
            for folder in (shop.store.fetch(outcome.adapter_key), reigning.adapter_folder)
        )
        decision = challenge(
            shop.tracker, shop.ledger, reigning.name, theirs, mine, order.margin, outcome=outcome, task=shop.tasks[name]
        )
        told.append(_told(decision))
    return told


@flow(name="dept-retrain")
def dept_retrain(order: Retraining | None = None) -> dict[str, Any]:
    """Look whether champions are stale, train challengers with transfer, and promote those that are better.

    Args:
        order: which champions, how old they may get, and by how much a challenger must win.
    """
    shop = prepare(order or Retraining())
    run_id = shop.parent_run
    with opened(shop):
        stale, fresh = look(run_id)
        decisions = judge(run_id, train_challengers(run_id, stale)) if stale else []
        create_table_artifact(
            decisions or [{"model": name, "decision": "not-stale"} for name in fresh], key="dept-retrain"
        )
        totals = {
            "stale": float(len(stale)),
            "fresh": float(len(fresh)),
            "promoted": float(sum(d["decision"] == "promoted" for d in decisions)),
        }
        shop.tracker.close_flow_run(run_id, "FINISHED", totals, [])
    return {
        "run_id": run_id,
        "fresh": fresh,
        "decisions": decisions,
        "failed": shop.failed,
        "stale": {item.task: item.reasons for item in stale},
    }


def order_of(run_id: str) -> Retraining:
    """The order of a flow run of dept-retrain."""
    order = workshop(run_id).order
    assert isinstance(order, Retraining)
    return order


def run(order: Retraining | None = None) -> dict[str, Any]:
    """Run the flow in this process and say what it did.

    Raises:
        InputError: something that the user can mend.
    """
    examine(order or Retraining())  # before the server; the flow examines too, since a deployed one starts there
    with prefect_api(), errors_told_by_caller():
        return dept_retrain(order)


def _spec(shop: Workshop, reigning: Champion) -> TrialSpec:
    row = shop.ledger.get(reigning.fingerprint)
    if row is None:
        raise InputError(
            f"{reigning.name}: its champion {reigning.fingerprint[:12]} is not in this ledger. Remedy: use "
            "the DEPT_HOME that trained it"
        )
    return row.trial_spec


def _renewed(shop: Workshop, item: Stale) -> TrialSpec:
    """The champion's spec on the data, task spec and backbone of today."""
    row = shop.ledger.get(item.fingerprint)
    assert row is not None
    spec, splits = row.trial_spec, shop.splits[item.task]
    seed = spec.seed
    if item.only_old:  # the same fingerprint would be the same adapter: other shots and another start instead
        seed = 1 + max(other.seed for other in shop.ledger.find(task=item.task))
    test_rows = min(spec.test_rows, len(splits.test))
    return spec.model_copy(update={**_today(shop, item.task), "seed": seed, "test_rows": test_rows})


def _sources(shop: Workshop) -> list[TrialOutcome]:
    """Finished source adapters of today's backbone; where it has changed, the sources are trained on it first."""
    rows = shop.ledger.find(role="source", status="finished", backbone=shop.name)
    current = [row for row in rows if row.trial_spec.backbone_id == shop.backbone.weights_id]
    if current or not rows:
        newest = {(row.task, row.trial_spec.adapter): row for row in current}
        return [shop.ledger.outcome(row.fingerprint) for row in newest.values()]
    specs = []
    for name, row in {row.task: row for row in rows if row.task in shop.tasks}.items():
        shop.splits.setdefault(name, load_splits(shop.tasks[name]))
        specs.append(row.trial_spec.model_copy(update=_today(shop, name)))
    return work(shop, specs, "sources")


def _today(shop: Workshop, name: str) -> dict[str, Any]:
    """The fields of a spec that say what data, task spec and backbone are today; nothing is transferred yet."""
    return {
        "data_hash": shop.splits[name].data_hash,
        "task_version": shop.tasks[name].version,
        "backbone_id": shop.backbone.weights_id,
        "dtype": str(shop.backbone.dtype).removeprefix("torch."),
        "init": "scratch",
        "start": "text",
        "source_task": None,
        "source_sha256": None,
    }


def _scored(shop: Workshop, adapter: Adapter, of: Task, rows: Sequence[Example]) -> Scores:
    """The task's score on test rows; NaN where the adapter no longer fits the backbone, so that it cannot win."""
    digest = hashlib.sha256("\n".join(f"{row.id}\t{row.text}\t{row.target}" for row in rows).encode()).hexdigest()
    try:
        shop.backbone.check_adapter(adapter)
        (found,) = measured(shop, [adapter], [(of.name, rows)])
    except InputError:
        return Scores(float("nan"), digest, len(rows))
    return Scores(found["score"], digest, len(rows))


def _told(decision: Decision) -> dict[str, Any]:
    return {
        "model": decision.model,
        "decision": decision.decision,
        "reason": decision.reason,
        "champion": decision.champion_score,
        "challenger": decision.challenger_score,
        "version": decision.challenger_version,
    }
