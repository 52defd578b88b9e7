"""The page of a flow run in MLflow: what it is and works with, and at its end table, plots, files and links.

Trials that an earlier run has trained stand below that run: this page links to them, so it is whole without them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dept.trial import TrialOutcome, score_of
from flows.execution.context import RunContext
from flows.reporting.html import NUMBERS, markdown
from flows.reporting.shots import k_of
from infra.mlflow_page import model_page
from registry.tracking import Rows
from registry.tracking.notes import order_lines, rates_of

TABLE = "trials.json"
LONGEST = 7_000  # characters of a note; MLflow takes 8,000
MOST_ROWS = 5_000  # of the table


def open_parent(context: RunContext, name: str) -> str:
    """Begin the MLflow run of a flow run; returns its id."""
    order = context.order.model_dump(mode="json")
    values = order_lines(order)
    note = f"**{name}** is under way: {_sentence(values)}. Its report comes with its end."
    return context.tracker.open_flow_run(name, values, {"plan": name}, note, datasets_of(context))


def datasets_of(context: RunContext) -> list[Rows]:
    """Every data set of a run, split by split."""
    found = []
    for name, splits in context.splits.items():
        task = context.tasks.get(name)
        about = {"url": task.url, "licence": task.license, "version": task.version} if task is not None else {}
        for use, rows in splits.parts().items():
            if rows:
                ids = [row.id for row in rows]
                found.append(
                    Rows(name, "training" if use == "train" else use, ids, digest=splits.data_hash, about=about)
                )
    return found


def close_parent(
    context: RunContext,
    name: str,
    outcomes: Sequence[TrialOutcome],
    totals: Mapping[str, float],
    champions: Sequence[Mapping[str, Any]] = (),
    page: Path | None = None,
) -> None:
    """End it with table, links, plots, report and order.

    Args:
        outcomes: every trial of the run, trained now or taken from the ledger.
        champions: what was decided, as reports have it. page: report.html, with its plots and numbers beside it.
    """
    context.stopping.check()  # of a run that another process goes on with this one ends nothing
    runs = _runs(context)
    note = _note(context, name, outcomes, champions, runs)
    files = [] if page is None else [page, *sorted(page.parent.glob("*.png")), page.parent / NUMBERS]
    order = context.order.model_dump(mode="json")
    with tempfile.TemporaryDirectory(prefix="dept-order-") as folder:
        plan = Path(folder) / "plan.yaml"
        plan.write_text(yaml.safe_dump(order, sort_keys=False, allow_unicode=True), encoding="utf-8")
        if outcomes:
            files.append(Path(folder) / TABLE)
            files[-1].write_text(json.dumps(_table(context, outcomes[:MOST_ROWS], runs)), encoding="utf-8")
        kept = [plan, *(file for file in files if file.is_file())]
        tables = [TABLE] if outcomes else []
        context.tracker.close_flow_run(context.parent_run, "FINISHED", totals, kept, note, tables)


def _runs(context: RunContext) -> dict[str, str]:
    """MLflow runs of the trials of this run, by fingerprint."""
    rows = context.ledger.find(run_id=context.run_id, outcomes=False)
    return {row.fingerprint: row.mlflow_run_id for row in rows if row.mlflow_run_id}


def _sentence(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {value}" for key, value in values.items())


def _note(
    context: RunContext,
    name: str,
    outcomes: Sequence[TrialOutcome],
    champions: Sequence[Mapping[str, Any]],
    runs: Mapping[str, str],
) -> str:
    lines = [f"**{name}**: {_sentence(order_lines(context.order.model_dump(mode='json')))}."]
    if outcomes:
        lines += ["", *markdown("", outcomes).strip().removeprefix("#").strip().splitlines()]
    if champions:
        lines += ["", "Champions:", ""]
        lines += [f"- {_model(row)}: {row.get('decision', '')}" for row in champions]
    lines += ["", "Files: report.html, plan.yaml, report.json and trials.json under Artifacts."]
    if outcomes:
        lines += ["", "Trials, with those that an earlier run trained:", ""]
    for outcome in outcomes:
        line = f"- {_linked(context, outcome, runs)}: {_score(outcome)}"
        if sum(map(len, lines)) + len(lines) + len(line) > LONGEST:
            lines.append(f"- ... the rest is in {TABLE}")
            break
        lines.append(line)
    return "\n".join(lines)[: LONGEST + 500]


def _model(row: Mapping[str, Any]) -> str:
    model = row.get("model")
    return f"[{model}]({model_page(str(model))})" if model else str(row.get("task", ""))


def _linked(context: RunContext, outcome: TrialOutcome, runs: Mapping[str, str]) -> str:
    run = runs.get(outcome.spec.fingerprint)
    return f"[{outcome.spec.label}]({context.tracker.place(run)})" if run else outcome.spec.label


def _score(outcome: TrialOutcome) -> str:
    value = score_of(outcome.test or outcome.validation)
    which = "test" if outcome.test else "validation"
    return f"{which} {value:.1f}" if value is not None else "not measured"


def _table(context: RunContext, outcomes: Sequence[TrialOutcome], runs: Mapping[str, str]) -> dict[str, list[Any]]:
    lines = []
    for outcome in outcomes:
        spec = outcome.spec
        run = runs.get(spec.fingerprint)
        lines.append(
            {
                "task": spec.task,
                "k": k_of(spec.shots),
                "seed": spec.seed,
                "start": spec.variant,
                "source": spec.source_task or "",
                "method": spec.method,
                "rates": rates_of(spec),
                "validation": score_of(outcome.validation),
                "test": score_of(outcome.test),
                "seconds": round(outcome.seconds, 2),
                "run": context.tracker.place(run) if run else "",
                "fingerprint": spec.fingerprint,
            }
        )
    return {"columns": list(lines[0]), "data": [list(line.values()) for line in lines]}
