"""What a run found, for people: HTML page, terminal table, markdown, and the numbers behind them."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dept.trial import TrialOutcome, TrialSpec
from flows.reporting.published import compare
from flows.reporting.summary import headline, measure_name, score_of, shown, summary_rows
from flows.reporting.text import columns, lines_of, markdown, mean_lines, number, terminal_table
from infra.errors import InputError

__all__ = ["NUMBERS", "PAGE", "load_outcomes", "markdown", "terminal_table", "write_report"]

PAGE, NUMBERS = "report.html", "report.json"


def write_report(
    folder: Path,
    title: str,
    plan: Mapping[str, Any],
    outcomes: Sequence[TrialOutcome],
    context: Mapping[str, Any] | None = None,
) -> Path:
    """Write report.html (one file, opens offline), a PNG per plot and report.json; returns the path of the page.

    Args:
        folder: made if missing; files of an earlier report there are replaced.
        title: heading of the page.
        plan: the plan as plain data; shown in full.
        outcomes: every trial of the run, trained now or taken from the ledger.
        context: all keys optional. run_id (str), started (str), seconds (float, wall clock), reused (fingerprints taken
            from the ledger), champions (mappings with model, version, trial, validation, decision), links (name ->
            address), leaked (source task -> rows that the leakage guard left out), rates (key of the plan's rates ->
            chosen rates: of P, and of A and B where they have one), versions and machine (name -> value; this process's
            own if left out).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from flows.cli.findings import machine, versions
    from flows.reporting.figures import plots

    folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {"run_id": None, "started": None, "seconds": None, "champions": [], "links": {}}
    given |= {"leaked": {}, "rates": {}} | dict(context or {})
    # A list, not a set: it goes into report.json.
    given["reused"] = sorted(set(given.get("reused") or ()))
    given.setdefault("versions", versions())
    given.setdefault("machine", machine())
    rows = summary_rows(outcomes)
    drawn = plots(rows, outcomes)
    for plot in drawn:
        (folder / f"{plot.name}.png").write_bytes(plot.light)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.filters["number"] = number
    environment.filters["score"] = lambda found: score_of(found) if found else None
    page = environment.get_template("report.html.j2").render(
        title=title,
        plan=_yaml(plan),
        headline=headline(rows),
        rows=rows,
        columns=columns(rows),
        lines=[line for row in rows for line in lines_of(row, shown(rows))],
        means=mean_lines(rows),
        what=measure_name(rows),
        compared=compare(outcomes),
        searched=[outcome for outcome in outcomes if outcome.spec.role == "search"],
        plots=drawn,
        sources=[outcome for outcome in outcomes if outcome.spec.role == "source"],
        costs=_costs(outcomes, given),
        shape=outcomes[0].spec.adapter if outcomes else None,
        cut=sum(outcome.cut_rows for outcome in outcomes),
        context=given,
    )
    _replace(
        folder / NUMBERS,
        json.dumps(
            {"title": title, "plan": plan, "context": given, "outcomes": [_plain(outcome) for outcome in outcomes]},
            default=str,
        ),
    )
    _replace(folder / PAGE, page)
    return folder / PAGE


def load_outcomes(folder: Path) -> list[TrialOutcome]:
    """The outcomes that `write_report` left in `folder`.

    Raises:
        InputError: no report there, or one that cannot be read.
    """
    try:
        body = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        return [
            TrialOutcome(
                **{
                    **item,
                    "spec": TrialSpec.model_validate(item["spec"]),
                    "loss_curve": [tuple(point) for point in item["loss_curve"]],
                    "validation_curve": [tuple(point) for point in item["validation_curve"]],
                }
            )
            for item in body["outcomes"]
        ]
    except FileNotFoundError as error:
        raise InputError(f"report {folder.name}: not there; `dept run PLAN` writes one") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"report {folder.name}: {folder / NUMBERS} cannot be read; `dept run PLAN` writes it anew"
        ) from error


def _costs(outcomes: Sequence[TrialOutcome], context: Mapping[str, Any]) -> list[dict[str, Any]]:
    reused = set(context["reused"])
    costs = []
    for outcome in outcomes:
        if outcome.spec.role == "search":
            continue
        shape = outcome.spec.adapter
        # trainable = m*d + (s+d)*r, solved for d: the report needs no backbone
        known = outcome.trainable and outcome.spec.method == "dept"
        d = round((outcome.trainable - shape.s * shape.r) / (shape.m + shape.r)) if known else 0
        costs.append(
            {
                "outcome": outcome,
                "reused": outcome.spec.fingerprint in reused,
                "equal_prompt": shape.equal_prompt_length(d) if d > 0 else None,
            }
        )
    return costs


def _plain(outcome: TrialOutcome) -> dict[str, Any]:
    fields = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    return fields | {"spec": outcome.spec.model_dump(mode="json")}


def _replace(path: Path, text: str) -> None:
    """Write under another name, then rename: a killed run leaves the old report or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _yaml(plan: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(dict(plan), default=str)), sort_keys=False, allow_unicode=True)
