"""What a run found, for people: summary rows, and the same rows as HTML page, terminal table and markdown."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dept.trial import Init, TrialOutcome, TrialSpec
from tasks.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

PAGE, NUMBERS = "report.html", "report.json"
STARTS: tuple[Init, ...] = ("untrained", "scratch", "transfer")


@dataclass(frozen=True)
class Cell:
    """Test scores (percent) of one target, k and start; one entry per seed, in the order of `seeds`."""

    seeds: tuple[int, ...]
    accuracy: tuple[float, ...]
    macro_f1: tuple[float, ...]

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def accuracy_mean(self) -> float:
        """Mean accuracy over seeds."""
        return statistics.fmean(self.accuracy)

    @property
    def accuracy_std(self) -> float | None:
        """Sample standard deviation (n - 1); None for one seed, which has no spread."""
        return statistics.stdev(self.accuracy) if self.n > 1 else None

    @property
    def accuracy_text(self) -> str:
        """As in `83.7 ± 1.2 (n=2)`."""
        return _spread(self.accuracy)

    @property
    def macro_f1_text(self) -> str:
        """As in `83.7 ± 1.2 (n=2)`."""
        return _spread(self.macro_f1)


@dataclass(frozen=True)
class Row:
    """One target and k: a cell per start, and what transfer gained on the same shots."""

    target: str
    shots: int
    sources: tuple[str, ...]
    cells: dict[str, Cell]

    @property
    def gains(self) -> tuple[float, ...]:
        """Accuracy points of transfer over scratch, one per seed that both have."""
        if not {"scratch", "transfer"} <= self.cells.keys():
            return ()
        scratch, transfer = (
            dict(zip(self.cells[start].seeds, self.cells[start].accuracy, strict=True))
            for start in ("scratch", "transfer")
        )
        return tuple(transfer[seed] - scratch[seed] for seed in scratch if seed in transfer)

    @property
    def gain(self) -> float | None:
        """Mean of `gains`; None where no seed has both starts."""
        return statistics.fmean(self.gains) if self.gains else None


@dataclass(frozen=True)
class Headline:
    """The answer of the run: one sentence, what stands behind it, and the mean gain in points."""

    text: str
    detail: str
    gain: float | None


def summary_rows(outcomes: Sequence[TrialOutcome]) -> list[Row]:
    """Aggregate tested target trials over seeds, per target and k, in the order in which they come.

    An untrained trial has no shots; it is shown beside every k of its target.
    """
    unique = {outcome.spec.fingerprint: outcome for outcome in outcomes}
    tested = [outcome for outcome in unique.values() if outcome.spec.role == "target" and outcome.test]
    places = dict.fromkeys(
        (outcome.spec.task, outcome.spec.shots) for outcome in tested if outcome.spec.shots is not None
    )
    rows = []
    for target, shots in places:
        cells: dict[str, Cell] = {}
        sources: dict[str, None] = {}
        for start in STARTS:
            members = sorted(
                (
                    outcome
                    for outcome in tested
                    if outcome.spec.task == target
                    and outcome.spec.init == start
                    and outcome.spec.shots in (shots, None)
                ),
                key=lambda outcome: outcome.spec.seed,
            )
            if members:
                cells[start] = Cell(
                    tuple(outcome.spec.seed for outcome in members),
                    tuple(outcome.test["accuracy"] for outcome in members),
                    tuple(outcome.test["macro_f1"] for outcome in members),
                )
            sources |= dict.fromkeys(outcome.spec.source_task for outcome in members if outcome.spec.source_task)
        rows.append(Row(target, shots, tuple(sources), cells))
    return rows


def headline(rows: Sequence[Row]) -> Headline:
    """What transfer was worth: mean over seeds, then over k, then over targets, each counting the same."""
    paired = [row for row in rows if row.gain is not None]
    if not paired:
        return Headline(
            "No answer yet: no target has both a scratch and a transfer trial on the same shots.",
            "Put both into the plan's inits to compare them.",
            None,
        )
    by_target: dict[str, list[float]] = {}
    for row in paired:
        by_target.setdefault(row.target, []).append(statistics.fmean(row.gains))
    means = [statistics.fmean(gains) for gains in by_target.values()]
    gain = statistics.fmean(means)
    single = [value for row in paired for value in row.gains]
    over = f"on average over {_count(len(by_target), 'target')} ({_shots(paired)}, {_seeds(paired)})"
    if abs(gain) < 0.05:
        text = f"Transfer made no difference to test accuracy {over}."
    elif gain > 0:
        text = f"Transfer was worth {gain:+.1f} points of test accuracy {over}."
    else:
        text = f"Transfer lost {-gain:.1f} points of test accuracy against scratch {over}."
    ahead = sum(mean > 0 for mean in means)
    detail = f"Ahead of scratch on {ahead} of {_count(len(means), 'target')}."
    if len(single) > 1:
        detail += (
            f" Trained on the same shots, a single pair of trials differs by {min(single):+.1f} "
            f"to {max(single):+.1f} points."
        )
    return Headline(text, detail, gain)


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
    from rich.table import Table

    rows = summary_rows(outcomes)
    answer = headline(rows)
    table = Table(
        title="Test accuracy, % (mean ± sample std over seeds)",
        caption=f"{answer.text} {answer.detail}",
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("Target", no_wrap=True)
    table.add_column("k", justify="right")
    for start in STARTS:
        table.add_column(start.capitalize(), justify="right")
    table.add_column("Gain", justify="right")
    table.add_column("From")
    for row in rows:
        style = "" if row.gain is None else "green" if row.gain > 0 else "red"
        table.add_row(
            row.target,
            str(row.shots),
            *_texts(row),
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


def _texts(row: Row) -> list[str]:
    return [row.cells[start].accuracy_text if start in row.cells else "–" for start in STARTS]


def _gain(row: Row) -> str:
    return "–" if row.gain is None else f"{row.gain:+.1f}"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread} (n={len(values)})"


def _number(value: float | None, digits: int = 0) -> str:
    """Thousands set apart by a thin space; a dash for what was not measured."""
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _shots(rows: Sequence[Row]) -> str:
    return "k = " + ", ".join(str(k) for k in sorted({row.shots for row in rows}))


def _seeds(rows: Sequence[Row]) -> str:
    most = max(len(row.gains) for row in rows)
    least = min(len(row.gains) for row in rows)
    return _count(most, "seed") if most == least else f"{least} to {most} seeds"
