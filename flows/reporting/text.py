"""The summary of a run as text: a table for the terminal, one for markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dept.trial import TrialOutcome
from flows.reporting.published import Comparison, compare
from flows.reporting.summary import STARTS, TRANSFER, Row, headline, means, measure_name, shown, summary_rows

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def columns(rows: Sequence[Row]) -> tuple[str, ...] | None:
    """The variants that fit beside each other in one line per target and k; None: a line for each variant."""
    found = shown(rows)
    if set(found) <= set(STARTS):
        return STARTS
    return tuple(found) if len(found) <= len(STARTS) else None


def terminal_table(outcomes: Sequence[TrialOutcome]) -> RenderableType:
    """The summary as a rich table with the headline below it, and the published numbers where there are any."""
    from rich.console import Group

    rows = summary_rows(outcomes)
    answer = headline(rows)
    beside = columns(rows)
    table = _table(f"{_title(rows)}, % (mean ± sample std over {_seeds(rows)})", f"{answer.text} {answer.detail}")
    if beside is not None:
        table.add_column("Target", no_wrap=True)
        table.add_column("k", justify="right")
        for variant in beside:
            table.add_column(variant.capitalize(), justify="right", no_wrap=True)
        table.add_column("Gain", justify="right", no_wrap=True)
        table.add_column("From", overflow="fold")
        for row in rows:
            texts = (text.split(" (n=")[0] for text in _texts(row, beside))
            table.add_row(row.target, str(row.shots), *texts, _styled(row.gain), ", ".join(row.sources) or "–")
    else:
        variants = shown(rows)
        longest = max(len(row.target) for row in rows) + max(map(len, variants))
        fits = longest <= 40  # what the numbers and a narrow last column leave of 80
        for heading in ("Target", "k", "Variant", "Score", "Gain", "From"):
            numeric = heading in ("k", "Score", "Gain")
            whole = numeric or (fits and heading != "From")
            table.add_column(heading, justify="right" if numeric else "left", no_wrap=whole, overflow="fold")
        for row in rows:
            lines = lines_of(row, variants)
            for line in lines:
                place = (row.target, str(row.shots)) if line is lines[0] else ("", "")
                cells = (line["variant"], line["text"], _styled(line["gain"]), line["origin"])
                table.add_row(*place, *cells, end_section=line is lines[-1])
        before = None
        for line in mean_lines(rows):
            place = (line["name"], str(line["k"])) if line["k"] != before else ("", "")
            table.add_row(*place, line["variant"], f"{line['mean']:.1f}", _styled(line["gain"]), "–")
            before = line["k"]
    compared = compare(outcomes)
    return Group(table, "", _beside_published(compared)) if compared else table


def markdown(title: str, outcomes: Sequence[TrialOutcome]) -> str:
    """The summary as markdown, for the Prefect artifact."""
    rows = summary_rows(outcomes)
    answer = headline(rows)
    beside = columns(rows)
    lines = [f"# {title}", "", f"**{answer.text}** {answer.detail}", ""]
    if beside is not None:
        lines += _markdown_table(
            ["Target", "k", *(variant.capitalize() for variant in beside), "Gain", "From"],
            [
                [row.target, str(row.shots), *_texts(row, beside), _gain(row.gain), ", ".join(row.sources) or "–"]
                for row in rows
            ],
        )
    else:
        lines += _markdown_table(
            ["Target", "k", "Variant", "Score", "Gain", "From"],
            [
                [row.target, str(row.shots), line["variant"], line["text"], _gain(line["gain"]), line["origin"]]
                for row in rows
                for line in lines_of(row, shown(rows))
            ]
            + [
                [line["name"], str(line["k"]), line["variant"], f"{line['mean']:.1f}", _gain(line["gain"]), "–"]
                for line in mean_lines(rows)
            ],
        )
    lines += [
        "",
        f"{_title(rows)} in percent, mean ± sample standard deviation over n seeds; gain in "
        "points over scratch on the same shots.",
    ]
    if compared := compare(outcomes):
        body = [
            [
                line.name,
                line.metric,
                number(line.paper, 1),
                line.k,
                line.ours.get("scratch", "–"),
                line.ours.get(TRANSFER, "–"),
                number(line.group, 1),
            ]
            for line in compared.lines
        ]
        lines += ["", "## Beside the published numbers", ""]
        lines += _markdown_table(["Task", "Metric", "Paper", "k", "Scratch", "Transfer", "Paper, all"], body)
        lines += ["", compared.note, "", f"Published numbers: {'; '.join(compared.cites)}."]
    return "\n".join(lines)


def _table(title: str, caption: str) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    return Table(
        title=title,
        caption=caption,
        caption_justify="left",
        title_justify="left",
        box=SIMPLE,  # eight columns have to fit into 80 characters
        padding=(0, 1, 0, 0),
    )


def _beside_published(compared: Comparison) -> Table:
    table = _table(
        "Beside the published numbers, %", f"{compared.note} Published numbers: {'; '.join(compared.cites)}."
    )
    for heading in ("Task", "Metric", "Paper", "k", "Scratch", "Transfer"):
        numeric = heading not in ("Task", "Metric")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading in ("Paper", "k"))
    for line in compared.lines:
        paper = number(line.paper, 1) + ("" if line.group is None else f" (all {line.group:.1f})")
        table.add_row(line.name, line.metric, paper, line.k, *(line.ours.get(start, "–") for start in STARTS[1:]))
    return table


def _markdown_table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    numbers = {"k", "Score", "Gain", "Paper", "Paper, all", *(start.capitalize() for start in STARTS)}
    rule = ["---:" if heading in numbers else "---" for heading in headings]
    escaped = ([cell.replace("|", r"\|") for cell in cells] for cells in body)
    return ["| " + " | ".join(cells) + " |" for cells in (headings, rule, *escaped)]


def lines_of(row: Row, variants: Sequence[str]) -> list[dict[str, Any]]:
    """A line for each variant of one target and k; the line of transfer names the strategies that were chosen."""
    lines = []
    for variant in variants:
        if variant in row.cells:
            cell = row.cells[variant]
            gains = row.gains_of(variant) if variant not in ("scratch", "untrained") else ()
            chosen = ", ".join(dict.fromkeys(cell.variants)) if variant == TRANSFER else cell.origin
            lines.append(
                {
                    "row": row,
                    "variant": variant,
                    "text": cell.text,
                    "macro_f1": cell.macro_f1_text,
                    "gain": sum(gains) / len(gains) if gains else None,
                    "origin": "–" if variant.startswith("source:") else chosen or "–",
                }
            )
    return lines


def mean_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The last block: means over the targets, per k and variant."""
    lines = []
    for k, (targets, found) in means(rows).items():
        for variant, mean in found.items():
            name = f"mean, {targets} target{'s' if targets > 1 else ''}"
            known = "scratch" in found and variant not in ("scratch", "untrained")
            gain = mean - found["scratch"] if known else None
            lines.append({"name": name, "k": k, "variant": variant, "mean": mean, "gain": gain})
    return lines


def _title(rows: Sequence[Row]) -> str:
    return "Test accuracy" if measure_name(rows) == "accuracy" else "Test score (each task's first metric)"


def _seeds(rows: Sequence[Row]) -> str:
    numbers = sorted({cell.n for row in rows for start, cell in row.cells.items() if start != "untrained"})
    if numbers in ([], [1]):
        return "1 seed"
    return f"{numbers[0]} to {numbers[-1]} seeds" if len(numbers) > 1 else f"{numbers[0]} seeds"


def _texts(row: Row, variants: Sequence[str]) -> list[str]:
    return [row.cells[variant].text if variant in row.cells else "–" for variant in variants]


def _gain(gain: float | None) -> str:
    return "–" if gain is None else f"{gain:+.1f}"


def _styled(gain: float | None) -> str:
    return "–" if gain is None else f"[{'green' if gain > 0 else 'red'}]{gain:+.1f}[/]"


def number(value: float | None, digits: int = 0) -> str:
    """Thousands set apart by a thin space; a dash for what was not measured."""
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")
