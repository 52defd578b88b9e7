"""The results of a run as files to commit, with what they stand on: commit, chosen rates, rows left out."""

from __future__ import annotations

import json
from pathlib import Path

from flows.planning.plan import Plan
from flows.reporting.html import NUMBERS, load_outcomes
from flows.reporting.study_table import write_study
from infra.commit import source_commit


def write_results(folder: Path, plan: Plan, report: Path) -> tuple[Path, Path]:
    """Write <plan name>.json and <plan name>.png of a report; returns their paths.

    Raises:
        InputError: the report cannot be read, or holds no tested target.
    """
    outcomes = load_outcomes(report.parent)
    context = json.loads((report.parent / NUMBERS).read_text(encoding="utf-8"))["context"]
    facts = {
        "commit": source_commit() or None,
        "rates": context.get("rates"),
        "left_out_of_sources": context.get("leaked"),
    }
    if searches := context.get("searches"):
        counted = ("candidates", "steps", "tokens", "seconds")
        facts["search_cost"] = {name: round(sum(line[name] for line in searches)) for name in counted}
        facts["searches"] = searches
    return write_study(folder, plan, outcomes, facts)
