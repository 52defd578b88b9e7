"""Prefect tasks around the work: coarse, and they pass ids and paths, never tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from dept.trial import TrialOutcome
from flows import report
from flows.plan import Plan
from flows.specs import SourceKey, source_specs, target_specs
from flows.work import Workshop, best_sources, work
from registry.promotion import Decision, crown
from tasks.errors import InputError
from tasks.home import home
from tasks.splits import few_shot

# One flow run lives in one process, and its workshop (backbone, ledger, tracker) never crosses a task boundary:
# the tasks get the MLflow id of the flow run and look it up here.
_open: dict[str, Workshop] = {}


@contextlib.contextmanager
def opened(shop: Workshop) -> Iterator[None]:
    """Make a workshop known to the tasks of its flow run; end the MLflow run of a flow that breaks off."""
    _open[shop.parent_run] = shop
    try:
        yield
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        with contextlib.suppress(InputError):  # the first error is the one to show
            shop.tracker.close_flow_run(shop.parent_run, status, {}, [])
        raise
    finally:
        _open.pop(shop.parent_run, None)


def workshop(run_id: str) -> Workshop:
    """The workshop of a flow run."""
    return _open[run_id]


def plan_of(run_id: str) -> Plan:
    """The plan of a flow run of dept-transfer."""
    plan = _open[run_id].order
    assert isinstance(plan, Plan)
    return plan


def outcomes_of(shop: Workshop, fingerprints: list[str]) -> list[TrialOutcome]:
    """Outcomes of finished trials, from the ledger."""
    return [shop.ledger.outcome(fingerprint) for fingerprint in fingerprints]


@task(name="train-sources")
def train_sources(run_id: str) -> list[str]:
    """Train an adapter on each source task; returns fingerprints."""
    shop = _open[run_id]
    specs = source_specs(plan_of(run_id), shop.tasks, shop.splits, shop.backbone.weights_id)
    return [outcome.spec.fingerprint for outcome in work(shop, specs, "sources")]


@task(name="choose-sources")
def choose(run_id: str, sources: list[str]) -> list[tuple[SourceKey, tuple[str, str]]]:
    """Choose the source of each (target, k, seed), as the plan says or on validation; (key, (task, sha256))."""
    shop, plan = _open[run_id], plan_of(run_id)
    if "transfer" not in plan.inits:
        return []
    finished = {outcome.spec.task: outcome for outcome in outcomes_of(shop, sources)}
    needed = {plan.fixed_source(target) for target in plan.targets} - {None} or set(finished)
    if not finished or not needed <= set(finished):
        raise InputError(f"transfer: source trials failed: {shop.failed}. Remedy: lower the rates of source_training")
    wanted = {
        (name, k, seed): (shop.tasks[name], few_shot(shop.splits[name], k, seed, len(shop.tasks[name].labels))[1])
        for name in plan.targets
        if plan.fixed_source(name) is None
        for k in plan.shots
        for seed in plan.seeds
    }
    best = best_sources(shop, list(finished.values()), wanted)
    best |= {
        (name, k, seed): finished[fixed]
        for name in plan.targets
        if (fixed := plan.fixed_source(name))
        for k in plan.shots
        for seed in plan.seeds
    }
    return [(key, (outcome.spec.task, outcome.adapter_sha256)) for key, outcome in best.items()]


@task(name="train-targets")
def train_targets(run_id: str, chosen: list[tuple[SourceKey, tuple[str, str]]]) -> list[str]:
    """Train and test every target trial in one stack; returns fingerprints."""
    shop = _open[run_id]
    specs = target_specs(plan_of(run_id), shop.tasks, shop.splits, shop.backbone.weights_id, dict(chosen))
    return [outcome.spec.fingerprint for outcome in work(shop, specs, "targets")]


@task(name="register-champions")
def register(run_id: str, fingerprints: list[str]) -> list[dict[str, Any]]:
    """Register the best adapter of each task, by validation score, and let it reign where it is the best so far."""
    shop = _open[run_id]
    best: dict[str, TrialOutcome] = {}
    for outcome in outcomes_of(shop, fingerprints):
        if outcome.validation and _rank(outcome) > (
            _rank(best[outcome.spec.task]) if outcome.spec.task in best else (-1.0, 0.0)
        ):
            best[outcome.spec.task] = outcome
    return [
        _told(crown(shop.tracker, shop.ledger, outcome, shop.tasks[name]), outcome) for name, outcome in best.items()
    ]


@task(name="write-report")
def write_report(run_id: str, fingerprints: list[str], champions: list[dict[str, Any]], started: str) -> str:
    """Write report and plots, and a Prefect artifact with the table; returns the path of report.html."""
    shop, plan = _open[run_id], plan_of(run_id)
    outcomes = outcomes_of(shop, fingerprints)
    links = {"MLflow run": link} if (link := shop.tracker.link(run_id)) else {}
    context: Mapping[str, Any] = {
        "run_id": run_id,
        "started": started,
        "champions": champions,
        "links": links,
        "seconds": (datetime.now().astimezone() - datetime.fromisoformat(started)).total_seconds(),
        "reused": [fp for fp in fingerprints if fp not in shop.trained],
    }
    title = f"dept-transfer: {plan.name}"
    page = report.write_report(home() / "reports" / run_id, title, plan.model_dump(mode="json"), outcomes, context)
    create_markdown_artifact(report.markdown(title, outcomes), key="dept-transfer", description=str(page))
    return str(page)


def plots_beside(page: Path) -> list[Path]:
    """The report and its plots, to be kept with the run in MLflow."""
    return [page, *sorted(page.parent.glob("*.png"))]


def _rank(outcome: TrialOutcome) -> tuple[float, float]:
    return outcome.validation["accuracy"], -outcome.validation["loss"]


def _told(decision: Decision, outcome: TrialOutcome) -> dict[str, Any]:
    return {
        "model": decision.model,
        "version": decision.challenger_version,
        "trial": outcome.spec.label,
        "validation": decision.challenger_score,
        "decision": f"{decision.decision}: {decision.reason}",
    }
