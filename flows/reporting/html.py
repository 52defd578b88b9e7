"""The page of a report: one file that opens offline, of bounded size however many trials there are."""

from __future__ import annotations

import base64
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dept.trial import TrialOutcome
from flows.reporting.answers import honesty, together, worth
from flows.reporting.headline import headline
from flows.reporting.made_on import machine, versions
from flows.reporting.numbers import NUMBERS, load_outcomes, load_report, write_numbers
from flows.reporting.protocol import protocol
from flows.reporting.published import compare
from flows.reporting.shots import k_of
from flows.reporting.summary import (
    Row,
    joins,
    measure_name,
    score_of,
    shown,
    summary_rows,
    trained,
    tried,
    unmoved,
)
from flows.reporting.text import (
    columns,
    left_out,
    lines_of,
    markdown,
    mean_lines,
    mean_rows,
    number,
    picked,
    terminal_table,
)
from infra.files import write_bytes, write_text

__all__ = ["NUMBERS", "PAGE", "load_outcomes", "load_report", "markdown", "terminal_table", "write_report"]

PAGE = "report.html"
MOST = 200  # lines of each table but the first; more trials are summed up, more of other things left out
MOST_OPEN = 120  # lines of the first table that stand open; more are folded behind the means
MOST_PLAN = 100_000  # characters of the plan that are shown
NAMED = 8  # trials that a sentence names


def write_report(
    folder: Path,
    title: str,
    plan: Mapping[str, Any],
    outcomes: Sequence[TrialOutcome],
    context: Mapping[str, Any] | None = None,
) -> Path:
    """Write report.html (one file, opens offline), a PNG per plot and report.json; returns the path of the page.

    The page stays below 3 MB: of very many targets it shows means, spreads and the largest gains and losses, and says
    what it leaves out. report.json always holds every number.

    Args:
        folder: made if missing; files of an earlier report there are replaced.
        title: heading of the page.
        plan: the plan as plain data.
        outcomes: every trial of the run, trained now or taken from the ledger.
        context: all keys optional. run_id (str), started (str), seconds (float, wall clock), reused (fingerprints taken
            from the ledger), others (fingerprints that other workers trained meanwhile), champions (mappings with
            model, version, trial, validation, decision), links (name -> address), leaked (source task -> rows that the
            leakage guard left out), rates (key of the plan's rates -> chosen rates: of P, and of A and B where they
            have one), searches (see `flows.reporting.searched`), versions and machine (name -> value; this process's
            own if left out).
    """
    from flows.reporting.bars import bar_plot
    from flows.reporting.curves import curve_plots

    given: dict[str, Any] = {"run_id": None, "started": None, "seconds": None, "champions": [], "links": {}}
    given |= {"leaked": {}, "rates": {}, "searches": []} | dict(context or {})
    # A list, not a set: it goes into report.json.
    for key in ("reused", "others"):
        given[key] = sorted(set(given.get(key) or ()))
    given.setdefault("versions", versions())
    given.setdefault("machine", machine())
    rows = summary_rows(outcomes)
    plots = ([bar_plot(rows)] if rows else []) + curve_plots(outcomes)
    for plot in plots:
        write_bytes(folder / f"{plot.name}.png", plot.light)
    write_numbers(folder, title, plan, given, outcomes)
    page = _template().render(
        title=title,
        plan=_yaml(plan),
        headline=headline(rows),
        what=measure_name(rows),
        compared=compare(outcomes),
        plots=plots,
        unmoved=_unmoved(outcomes),
        protocol=" ".join(protocol(outcomes)),
        test_rows=max((one.spec.test_rows for one in outcomes if one.spec.role == "target"), default=0),
        shape=outcomes[0].spec.adapter if outcomes else None,
        cut=sum(outcome.cut_rows for outcome in outcomes),
        context=given,
        most=MOST,
        honesty=honesty(rows)[:MOST],
        together=(answering := together(outcomes))[:MOST],
        distilled=any(one.distilled is not None for one in answering),
        worth=worth(answering),
        **_results(rows),
        **_trials(outcomes, set(given["reused"]), set(given["others"])),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.filters["number"] = number
    environment.filters["commands"] = lambda text: Markup(
        escape(text).replace("dept report --json", Markup("<code>dept report --json</code>"))
    )
    environment.filters["score"] = lambda found: score_of(found) if found else None
    return environment.get_template("report.html.j2")


def _results(rows: Sequence[Row]) -> dict[str, Any]:
    """The first table; where rows are left out, the means over all targets stand above them."""
    beside, variants = columns(rows), shown(rows)
    kept, left = picked(rows)
    return {
        "rows": kept,
        "columns": beside,
        "groups": [lines_of(row, variants) for row in kept],
        "means": mean_lines(rows) if beside is None else mean_rows(rows, beside) if left else [],
        "folded": beside is None and len(kept) * len(variants) > MOST_OPEN,
        "left_out": left_out(rows, left),
    }


def _trials(outcomes: Sequence[TrialOutcome], reused: set[str], others: set[str]) -> dict[str, Any]:
    """Sources, costs (a line a trial, or summed up), and the trials that searched.

    What answers together costs what its members do; to put them together costs nothing to speak of.
    """
    made = [outcome for outcome in outcomes if trained(outcome) or joins(outcome)]
    sources = [outcome for outcome in made if outcome.spec.role == "source"]
    searched = [outcome for outcome in outcomes if tried(outcome)]
    many = len(made) > MOST
    keys = {outcome.spec.fingerprint for outcome in made}
    return {
        "sources": sources[:MOST],
        "sources_left": max(0, len(sources) - MOST),
        "trials": len(made),
        "reused": len(reused & keys),
        "others": len(others & keys),
        "costs": [] if many else [_cost(outcome, reused, others) for outcome in made],
        "summed": _summed(made) if many else [],
        "searched": searched,
    }


def _cost(outcome: TrialOutcome, reused: set[str], others: set[str]) -> dict[str, Any]:
    key = outcome.spec.fingerprint
    return {
        "outcome": outcome,
        "variant": _variant(outcome),
        "by": "ledger" if key in reused else "another worker" if key in others else "this run",
        "kept": _kept(outcome),
        "equal_prompt": _equal_prompt(outcome),
    }


def _variant(outcome: TrialOutcome) -> str:
    return f"auto, together: {outcome.spec.variant}" if joins(outcome) else outcome.spec.variant


def _kept(outcome: TrialOutcome) -> str:
    if not outcome.steps_done:
        return "–"
    return str(outcome.best_step) if outcome.best_step else "0, its start"


def _equal_prompt(outcome: TrialOutcome) -> float | None:
    """Tokens of the plain soft prompt with as many trainable numbers; None with more than its pair."""
    shape = outcome.spec.adapter
    # trainable = m*d + (s+d)*r, solved for d: the report needs no backbone
    known = outcome.trainable and outcome.spec.method == "dept" and not (shape.reads or shape.pictures)
    d = round((outcome.trainable - shape.s * shape.r) / (shape.m + shape.r)) if known else 0
    return shape.equal_prompt_length(d) if d > 0 else None


def _summed(made: Sequence[TrialOutcome]) -> list[dict[str, Any]]:
    """Costs by kind of trial, k and variant."""
    groups: dict[tuple[str, str, str], list[TrialOutcome]] = {}
    for outcome in made:
        spec = outcome.spec
        source = spec.role == "source"
        shots = str(k_of(spec.shots))
        groups.setdefault((spec.role, "–" if source else shots, "source" if source else _variant(outcome)), []).append(
            outcome
        )
    return [
        {
            "variant": variant,
            "k": k,
            "trials": len(members),
            "seconds": sum(o.seconds for o in members),
            "median": statistics.median(o.seconds for o in members),
            "speed": statistics.median(o.tokens_per_second for o in members),
            "memory": max(o.peak_memory_mib for o in members),
            "unmoved": len(unmoved(members)),
            "cut": sum(o.cut_rows for o in members),
        }
        for (_, k, variant), members in list(groups.items())[:MOST]
    ]


def _unmoved(outcomes: Sequence[TrialOutcome]) -> str:
    """The sentence about trials that kept their start; empty where there are none."""
    found = unmoved(outcomes)
    if not found:
        return ""
    total = sum((trained(o) or joins(o)) and o.steps_done > 0 for o in outcomes)
    names = ", ".join(outcome.spec.label for outcome in found[:NAMED])
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    return (
        f"{len(found):,} of {total:,} trained trials kept step 0: no validation loss was below that of the start, so "
        f"the adapter is its start and training added nothing ({names}{more})."
    )


def _yaml(plan: Mapping[str, Any]) -> str:
    import yaml

    text = yaml.safe_dump(json.loads(json.dumps(dict(plan), default=str)), sort_keys=False, allow_unicode=True)
    return text if len(text) <= MOST_PLAN else f"{text[:MOST_PLAN]}\n... (the rest is in {NUMBERS})"
