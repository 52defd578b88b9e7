"""What a run found, for people: HTML page, terminal table, markdown, and the numbers behind them."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dept.trial import TrialOutcome, TrialSpec
from flows.summary import STARTS, Row, headline, summary_rows
from tasks.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

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
            address), versions and machine (name -> value; this process's own if left out).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from flows.doctor import machine, versions
    from flows.figures import plots

    folder.mkdir(parents=True, exist_ok=True)
    given = {"run_id": None, "started": None, "seconds": None, "champions": [], "links": {}} | dict(context or {})
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
    environment.filters["number"] = _number
    page = environment.get_template("report.html.j2").render(
        title=title,
        plan=_yaml(plan),
        headline=headline(rows),
        rows=rows,
        starts=STARTS,
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
                    "adapter_folder": Path(item["adapter_folder"]),
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


def terminal_table(outcomes: Sequence[TrialOutcome]) -> Table:
    """The summary as a rich table with the headline below it."""
    from rich.box import SIMPLE
    from rich.table import Table

    rows = summary_rows(outcomes)
    answer = headline(rows)
    table = Table(
        title=f"Test accuracy, % (mean ± sample std over {_seeds(rows)})",
        caption=f"{answer.text} {answer.detail}",
        caption_justify="left",
        title_justify="left",
        box=SIMPLE,  # eight columns have to fit into 80 characters
        padding=(0, 1, 0, 0),
    )
    table.add_column("Target", no_wrap=True)
    table.add_column("k", justify="right")
    for start in STARTS:
        table.add_column(start.capitalize(), justify="right", no_wrap=True)
    table.add_column("Gain", justify="right", no_wrap=True)
    table.add_column("From", overflow="fold")
    for row in rows:
        style = "" if row.gain is None else "green" if row.gain > 0 else "red"
        table.add_row(
            row.target,
            str(row.shots),
            *(text.split(" (n=")[0] for text in _texts(row)),
            f"[{style}]{_gain(row)}[/]" if style else _gain(row),
            ", ".join(row.sources) or "–",
        )
    return table


def markdown(title: str, outcomes: Sequence[TrialOutcome]) -> str:
    """The summary as markdown, for the Prefect artifact."""
    rows = summary_rows(outcomes)
    answer = headline(rows)
    lines = [
        f"# {title}",
        "",
        f"**{answer.text}** {answer.detail}",
        "",
        "| Target | k | Untrained | Scratch | Transfer | Gain | From |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cells = [row.target, str(row.shots), *_texts(row), _gain(row), ", ".join(row.sources) or "–"]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "Test accuracy in percent, mean ± sample standard deviation over n seeds; gain in "
            "points over scratch on the same shots.",
        ]
    )


def _costs(outcomes: Sequence[TrialOutcome], context: Mapping[str, Any]) -> list[dict[str, Any]]:
    reused = set(context["reused"])
    costs = []
    for outcome in outcomes:
        shape = outcome.spec.adapter
        # trainable = m*d + (s+d)*r, solved for d: the report needs no backbone
        d = round((outcome.trainable - shape.s * shape.r) / (shape.m + shape.r)) if outcome.trainable else 0
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
    return fields | {"spec": outcome.spec.model_dump(mode="json"), "adapter_folder": str(outcome.adapter_folder)}


def _replace(path: Path, text: str) -> None:
    """Write under another name, then rename: a killed run leaves the old report or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _yaml(plan: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(dict(plan), default=str)), sort_keys=False, allow_unicode=True)


def _seeds(rows: Sequence[Row]) -> str:
    numbers = sorted({cell.n for row in rows for start, cell in row.cells.items() if start != "untrained"})
    if numbers in ([], [1]):
        return "1 seed"
    return f"{numbers[0]} to {numbers[-1]} seeds" if len(numbers) > 1 else f"{numbers[0]} seeds"


def _texts(row: Row) -> list[str]:
    return [row.cells[start].accuracy_text if start in row.cells else "–" for start in STARTS]


def _gain(row: Row) -> str:
    return "–" if row.gain is None else f"{row.gain:+.1f}"


def _number(value: float | None, digits: int = 0) -> str:
    """Thousands set apart by a thin space; a dash for what was not measured."""
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")
