"""Prefect tasks around the work: coarse, and they pass ids and paths, never tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from dept.trial import STACKED, TrialOutcome
from flows.execution.strategies import origins_of
from flows.execution.work import Workshop, ground_of, work
from flows.planning.plan import Plan, RateKey
from flows.planning.rates import best_rates
from flows.planning.trials import Cell, Ground, Origin, Rate, cells_to_start, search_specs, source_specs, target_specs
from flows.reporting import html as report
from infra.errors import InputError
from infra.settings import home
from registry.promotion.champion import Decision, crown

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
    """Train an adapter on each source task, and one on all where the plan asks for it; returns fingerprints."""
    shop = _open[run_id]
    return [outcome.spec.fingerprint for outcome in work(shop, source_specs(plan_of(run_id), ground(shop)), "sources")]


@task(name="choose-starts")
def choose(run_id: str, sources: list[str]) -> list[tuple[Cell, str, Origin]]:
    """The adapter that each draw of shots starts from, for each strategy; (draw, strategy, origin)."""
    shop, plan = _open[run_id], plan_of(run_id)
    found = origins_of(shop, plan, outcomes_of(shop, sources), cells_to_start(plan))
    return [(cell, strategy, origin) for (cell, strategy), origin in found.items()]


@task(name="choose-rates")
def choose_rates(
    run_id: str, starts: list[tuple[Cell, str, Origin]]
) -> tuple[list[tuple[RateKey, str, Rate]], list[str]]:
    """Learning rates by a small search on validation rows, where the plan names several of a method.

    Returns:
        (method, target, rates) of each choice, and the fingerprints of the trials that it cost.
    """
    shop, plan = _open[run_id], plan_of(run_id)
    tried = search_specs(plan, ground(shop), as_origins(starts))
    outcomes = work(shop, [spec for specs in tried.values() for spec in specs], "rate trials")
    by_fingerprint = {outcome.spec.fingerprint: outcome for outcome in outcomes}
    best = best_rates(tried, by_fingerprint, plan.rates_per == "target")
    return [(key, target, rate) for (key, target), rate in best.items()], list(by_fingerprint)


@task(name="train-targets")
def train_targets(
    run_id: str, starts: list[tuple[Cell, str, Origin]], rates: list[tuple[RateKey, str, Rate]]
) -> list[str]:
    """Train and test every target trial, the stacked ones together; returns fingerprints."""
    shop = _open[run_id]
    chosen = {(key, target): rate for key, target, rate in rates}
    specs = target_specs(plan_of(run_id), ground(shop), as_origins(starts), chosen)
    return [outcome.spec.fingerprint for outcome in work(shop, specs, "targets")]


def ground(shop: Workshop) -> Ground:
    """What the trials of a flow run stand on."""
    return ground_of(shop.tasks, shop.splits, shop.backbone)


def as_origins(starts: list[tuple[Cell, str, Origin]]) -> dict[tuple[Cell, str], Origin]:
    """What `choose` gave, to be looked up."""
    return {(cell, strategy): origin for cell, strategy, origin in starts}


@task(name="register-champions")
def register(run_id: str, fingerprints: list[str]) -> list[dict[str, Any]]:
    """Register the best adapter of each task, by validation score, and let it reign where it is the best so far."""
    shop = _open[run_id]
    best: dict[str, TrialOutcome] = {}
    for outcome in outcomes_of(shop, fingerprints):
        if outcome.spec.method not in STACKED or outcome.spec.task not in shop.tasks or not outcome.validation:
            continue  # a multitask adapter answers for no task of its own; a rival is no adapter that can be served
        reigning = best.get(outcome.spec.task)
        if reigning is None or _by_score(outcome) > _by_score(reigning):
            best[outcome.spec.task] = outcome
    return [
        _told(crown(shop.tracker, shop.ledger, outcome, shop.tasks[name]), outcome) for name, outcome in best.items()
    ]


@task(name="write-report")
def write_report(
    run_id: str,
    fingerprints: list[str],
    champions: list[dict[str, Any]],
    rates: list[tuple[RateKey, str, Rate]],
    started: str,
) -> str:
    """Write report and plots, and a Prefect artifact with the table; returns the path of report.html."""
    shop, plan = _open[run_id], plan_of(run_id)
    outcomes = outcomes_of(shop, fingerprints)
    links = {"MLflow run": link} if (link := shop.tracker.link(run_id)) else {}
    context: Mapping[str, Any] = {
        "run_id": run_id,
        "started": started,
        "champions": champions,
        "links": links,
        # Only DePT has a second rate, that of A and B.
        "rates": {
            f"{key} on {target}" if target else key: rate[: 2 if key in ("dept", "transfer") else 1]
            for key, target, rate in rates
        },
        "leaked": {name: n for name, splits in shop.splits.items() if (n := splits.dropped.get("leaked", 0))},
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


def _by_score(outcome: TrialOutcome) -> tuple[float, float]:
    """A champion is judged by what people read, as `registry.promotion.champion` does; of equals, by the lower loss."""
    return outcome.validation["score"], -outcome.validation["loss"]


def _told(decision: Decision, outcome: TrialOutcome) -> dict[str, Any]:
    return {
        "model": decision.model,
        "version": decision.challenger_version,
        "trial": outcome.spec.label,
        "validation": decision.challenger_score,
        "decision": f"{decision.decision}: {decision.reason}",
    }
