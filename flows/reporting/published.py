"""What the paper reports, beside what a run found; every published number and its citation is in published.yaml."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dept.trial import TrialOutcome
from flows.reporting.shots import in_order, k_of
from flows.reporting.summary import Cell, metric_of, summary_rows
from flows.reporting.variants import TRANSFER

STARTS = ("scratch", TRANSFER)


@dataclass(frozen=True)
class Line:
    """One task, or the mean over a group's tasks, at one k. All numbers are percent.

    Attributes:
        name: the task, or as in `GLUE mean, 2 of 8`.
        paper: what is published, over the same tasks; None where no task of the group was run.
        group: the published average over all tasks of the group; None in the line of a task.
        shots: k; None for a trial on all training rows.
        ours: texts by start (scratch, transfer).
        cite: where the published number stands.
    """

    name: str
    metric: str
    paper: float | None
    group: float | None
    shots: int | None
    ours: dict[str, str]
    cite: str

    @property
    def k(self) -> str:
        """As shown: a number, or `all` for all training rows."""
        if self.paper is None:
            return "–"
        return str(k_of(self.shots))


@dataclass(frozen=True)
class Comparison:
    """Lines to show, the sentence that says where ours differs, and the citations."""

    lines: tuple[Line, ...]
    note: str
    cites: tuple[str, ...]


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """The content of published.yaml: paper, cites, groups and tasks."""
    body: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return body


def compare(outcomes: Sequence[TrialOutcome]) -> Comparison | None:
    """Ours beside the published; None where the backbone is not the paper's and no tested task is one of its tasks.

    Only DePT's trials are compared: targets by k, and sources, which were trained on all rows, as k = all.
    """
    known = published()
    tested = [o for o in outcomes if o.test and o.spec.method == "dept" and o.spec.role in ("source", "target")]
    mine = [o for o in tested if o.spec.task in known["tasks"] and o.spec.init != "untrained"]
    backbones = list(dict.fromkeys(o.spec.backbone for o in outcomes))
    if not mine and not any(_is_papers(backbone) for backbone in backbones):
        return None
    cells = _cells(mine)
    lines = []
    for group, about in known["groups"].items():
        members = [(task, k) for task, k in cells if known["tasks"][task]["group"] == group]
        for task, k in members:
            lines.append(_line(task, k, cells[task, k]))
        for k in in_order(k for _, k in members):
            lines.append(_mean(about, [task for task, at in members if at == k], k, cells))
        if not members and any(_is_papers(backbone) for backbone in backbones):
            everywhere = f"{about['name']} mean, 0 of {about['tasks']}"
            lines.append(Line(everywhere, "–", None, about["average"], None, {}, known["cites"]["tables"]))
    return Comparison(tuple(lines), _note(mine, backbones), tuple(dict.fromkeys(line.cite for line in lines)))


def _is_papers(backbone: str) -> bool:
    return backbone.rstrip("/").rsplit("/", 1)[-1].lower() == str(published()["paper"]["backbone"])


def _cells(mine: Sequence[TrialOutcome]) -> dict[tuple[str, int | None], dict[str, Cell]]:
    found: dict[tuple[str, int | None], dict[str, Cell]] = {}
    for row in summary_rows(mine):
        found[row.target, row.shots] = {start: row.cells[start] for start in STARTS if start in row.cells}
    full: dict[str, list[TrialOutcome]] = {}
    for outcome in mine:
        if outcome.spec.role == "source":
            full.setdefault(outcome.spec.task, []).append(outcome)
    for task, members in full.items():  # what a target learned from all rows counts before a source's
        found.setdefault((task, None), {}).setdefault("scratch", Cell(tuple(members)))
    return {key: cells for key, cells in found.items() if cells}


def _line(task: str, shots: int | None, cells: dict[str, Cell]) -> Line:
    known = published()
    entry = known["tasks"][task]
    ours = {
        start: cell.text + ("" if (metric := metric_of(cell.outcomes[0])) == entry["metric"] else f" {metric}")
        for start, cell in cells.items()
    }
    return Line(task, entry["metric"], entry["value"], None, shots, ours, known["cites"][entry["cite"]])


def _mean(about: dict[str, Any], tasks: Sequence[str], shots: int | None, cells: dict[Any, dict[str, Cell]]) -> Line:
    """Over the tasks of the group that were run at this k; a start that some of them lack has no mean."""
    known = published()
    ours = {
        start: f"{statistics.fmean(cells[task, shots][start].mean for task in tasks):.1f}"
        for start in STARTS
        if all(start in cells[task, shots] for task in tasks)
    }
    value = statistics.fmean(known["tasks"][task]["value"] for task in tasks)
    name = f"{about['name']} mean, {len(tasks)} of {about['tasks']}"
    return Line(name, "–", value, about["average"], shots, ours, known["cites"][about["cite"]])


def _note(mine: Sequence[TrialOutcome], backbones: Iterable[str]) -> str:
    paper = published()["paper"]
    said = (
        f"Published: {paper['authors']}, {paper['title']}, {paper['venue']} ({paper['url']}); {paper['backbone']}, "
        f"{paper['rows']}. "
    )
    if not mine:
        return said + "This run tested none of the paper's tasks."
    differs = [f"backbone {backbone}" for backbone in backbones if not _is_papers(backbone)]
    shots = sorted({o.spec.shots for o in mine if o.spec.shots is not None})
    if shots:
        differs.append(f"k = {', '.join(map(str, shots))} shots instead of all rows")
    capped = sorted({o.spec.train_rows for o in mine if o.spec.train_rows is not None})
    if capped:
        differs.append(f"sources trained on {', '.join(f'{rows:,}' for rows in capped)} rows at most")
    differs.append(f"at most {max(o.spec.test_rows for o in mine):,} test rows")
    wrong = sorted({o.spec.task for o in mine if metric_of(o) != published()["tasks"][o.spec.task]["metric"]})
    if wrong:
        differs.append(f"another metric for {', '.join(wrong)}")
    return said + f"Ours differ, and so must the numbers: {'; '.join(differs)}."
