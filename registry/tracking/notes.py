"""What MLflow's pages of runs say of themselves, in Markdown, and tags that its pages know."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from dept.trial import TrialOutcome, TrialSpec, score_of
from infra.commit import source_commit
from infra.errors import InputError

NOTE = "mlflow.note.content"
EXPERIMENT = (
    "Adapters (decomposed prompt tuning) of frozen backbones. A **flow run** is one `dept run`; below it stands a run "
    "of each trial that it trained: one task, k, seed and start. Trials that an earlier run trained stand below that "
    "one; the flow run's page links to them.\n\n"
    "Parameters: `task`, `k` (shots; all: the whole pool), `seed`, `method`, `start` (how the adapter begins), "
    "`source` (task whose adapter it begins from), `lr_prompt` and `lr_low_rank` (peak rates of P, of A and B), "
    "`steps`. Metrics: `test/*` and `validation/*` are of the kept step, scores in percent and losses in nats; "
    "`curve/*` are curves, `cost/*` seconds, tokens and memory."
)


def of_trial(outcome: TrialOutcome, place: str) -> str:
    """The page of a trial's run: how the adapter was made, what it reached (percent), where it lies.

    Args:
        place: of its files, in the store; "" where it leaves none.
    """
    lines = [*recipe_lines(outcome.spec), f"- Reached: {reached(outcome)}; step {outcome.best_step} was kept"]
    if place:
        lines.append(f"- Adapter: `{place}` in the store, sha256 `{outcome.adapter_sha256[:12]}`")
    lines.append(f"- In the ledger: `dept trials show {outcome.spec.fingerprint[:12]}`")
    return "\n".join(lines)


def recipe_lines(spec: TrialSpec) -> list[str]:
    """How an adapter is made, for people."""
    shots = "all training rows" if spec.shots is None else f"{spec.shots} shots{' a class' if spec.per_class else ''}"
    source = f" from **{spec.source_task}**" if spec.source_task else ""
    return [
        f"- Task: **{spec.task}**, {shots}, seed {spec.seed}",
        f"- Method: {spec.method}; start: {spec.variant}{source}",
        f"- Recipe: {spec.training.steps} steps of {spec.training.batch_size}, rates {rates_of(spec)}, "
        f"m={spec.adapter.m}, r={spec.adapter.r}, s={spec.adapter.s}",
    ]


def reached(outcome: TrialOutcome) -> str:
    """Validation and test score, percent."""
    metric = str(outcome.extra.get("metric", "score"))
    parts = [
        f"{name} {metric} {score:.1f}"
        for name, found in (("validation", outcome.validation), ("test", outcome.test))
        if (score := score_of(found)) is not None
    ]
    return ", ".join(parts) or "not measured"


def rates_of(spec: TrialSpec) -> str:
    """The peak rates: of P, of A and B, and of the map of pictures, where there are such."""
    rates = [spec.training.lr_prompt] + ([spec.training.lr_low_rank] if spec.adapter.r else [])
    rates += [spec.training.lr_pictures] if spec.adapter.pictures else []
    return " / ".join(f"{rate:g}" for rate in rates)


def of_this_program() -> dict[str, Any]:
    """What MLflow's page shows as user and source of a run."""
    return {
        "mlflow.source.name": "dept-transfer",
        "mlflow.source.type": "PROJECT",
        "mlflow.source.git.commit": source_commit(),
        "mlflow.user": _user(),
    }


def order_lines(order: Mapping[str, Any]) -> dict[str, Any]:
    """The few keys of a plan by which flow runs are told apart; all of it stands in plan.yaml."""
    told = {}
    for key in ("backbone", "sources", "targets", "tasks", "shots", "seeds", "methods", "strategies", "steps"):
        value = order.get(key)
        if value not in (None, [], {}, ()):
            if key == "backbone":
                value = PurePath(value).name  # where a folder lies is nobody's business
            told[key] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return told


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, InputError):  # a container's user without a name
        return ""
