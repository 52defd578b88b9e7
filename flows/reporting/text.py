"""The summary of a run as text: a table for the terminal, one for markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dept.trial import LINEAR, TrialOutcome
from flows.reporting.answers import together, worth
from flows.reporting.headline import headline
from flows.reporting.protocol import protocol
from flows.reporting.published import Comparison, compare
from flows.reporting.shots import k_of
from flows.reporting.summary import Row, means, measure_name, shown, summary_rows
from flows.reporting.variants import STARTS, TRANSFER, rank

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MOST_LINES = 300  # of a table for people; every number is in report.json


def picked(rows: Sequence[Row], most: int = MOST_LINES) -> tuple[list[Row], int]:
    """The rows to show, in their order, and how many are left out: of too many those of largest gain and loss."""
    beside = columns(rows)
    fit = most // (1 if beside is not None else max(1, len(shown(rows))))
    if len(rows) <= fit:
        return list(rows), 0
    gains = {place: row.gain for place, row in enumerate(rows)}
    order = sorted(gains, key=lambda place: -(gains[place] or 0.0))
    chosen = set(order[: fit - fit // 2] + order[len(order) - fit // 2 :])
    return [row for place, row in enumerate(rows) if place in chosen], len(rows) - len(chosen)


def left_out(rows: Sequence[Row], number_left: int) -> str:
    """The sentence about rows that `picked` left out; empty where there are none."""
    if not number_left:
        return ""
    return (
        f"{len(rows):,} pairs of target and k were tested; shown are the {len(rows) - number_left:,} of largest gain "
        "and loss. All are in report.json (dept report --json)."
    )


def columns(rows: Sequence[Row]) -> tuple[str, ...] | None:
    """The variants that fit beside each other in one line per target and k; None: a line for each variant."""
    found = shown(rows)
    if set(found) <= {*STARTS, *LINEAR}:
        return tuple(sorted({*STARTS, *found}, key=rank))
    return tuple(found) if len(found) <= len(STARTS) else None


def terminal_table(outcomes: Sequence[TrialOutcome], most: int = MOST_LINES) -> RenderableType:
    """The summary as a rich table with the headline below it, and the published numbers where there are any.

    Args:
        most: lines of the table; the means over targets come in addition.
    """
    from rich.console import Group

    every = summary_rows(outcomes)
    answer = headline(every)
    beside = columns(every)
    rows, left = picked(every, most)
    narrow = beside is not None and not set(LINEAR).isdisjoint(beside)  # no room for a last column in 80 characters
    said = (answer.text, answer.detail, worth(together(outcomes)), left_out(every, left))
    parts = (*said, _from(rows) if narrow else "", *protocol(outcomes))
    caption = " ".join(part for part in parts if part)
    table = _table(f"{_title(every)}, % (mean ± sample std over {_seeds(every)})", caption)
    if beside is not None:
        table.add_column("Target", no_wrap=True)
        table.add_column("k", justify="right")
        for variant in beside:
            table.add_column(variant.capitalize(), justify="right", no_wrap=True)
        table.add_column("Gain", justify="right", no_wrap=True)
        if not narrow:
            table.add_column("From", overflow="fold")
        for row in rows:
            cut = {variant: " ±" if variant in LINEAR else " (n=" for variant in beside}  # spreads are in the page
            texts = (text.split(cut[v])[0] for v, text in zip(beside, _texts(row, beside), strict=True))
            origin = () if narrow else (", ".join(row.sources) or "–",)
            table.add_row(row.target, str(row.k), *texts, _styled(row.gain), *origin)
        for line in mean_rows(every, beside) if left else ():
            table.add_row(line["name"], str(line["k"]), *line["texts"], _styled(line["gain"]), *(() if narrow else "–"))
    else:
        variants = shown(every)
        longest = max(len(row.target) for row in rows) + max(map(len, variants))
        fits = longest <= 40  # what the numbers and a narrow last column leave of 80
        for heading in ("Target", "k", "Variant", "Score", "Gain", "From"):
            numeric = heading in ("k", "Score", "Gain")
            whole = numeric or (fits and heading != "From")
            table.add_column(heading, justify="right" if numeric else "left", no_wrap=whole, overflow="fold")
        for row in rows:
            lines = lines_of(row, variants)
            for line in lines:
                place = (row.target, str(row.k)) if line is lines[0] else ("", "")
                cells = (line["variant"], line["text"], _styled(line["gain"]), line["origin"])
                table.add_row(*place, *cells, end_section=line is lines[-1])
        before = None
        for line in mean_lines(every):
            place = (line["name"], str(line["k"])) if line["k"] != before else ("", "")
            table.add_row(*place, line["variant"], f"{line['mean']:.1f}", _styled(line["gain"]), "–")
            before = line["k"]
    compared = compare(outcomes)
    return Group(table, "", _beside_published(compared)) if compared else table


def markdown(title: str, outcomes: Sequence[TrialOutcome], most: int = MOST_LINES) -> str:
    """The summary as markdown, for the Prefect artifact; `most` as in `terminal_table`."""
    every = summary_rows(outcomes)
    answer = headline(every)
    beside = columns(every)
    rows, left = picked(every, most)
    lines = [f"# {title}", "", f"**{answer.text}** {answer.detail} {worth(together(outcomes))}".rstrip(), ""]
    if left:
        lines += [left_out(every, left), ""]
    if beside is not None:
        lines += _markdown_table(
            ["Target", "k", *(variant.capitalize() for variant in beside), "Gain", "From"],
            [
                [row.target, str(row.k), *_texts(row, beside), _gain(row.gain), ", ".join(row.sources) or "–"]
                for row in rows
            ]
            + [
                [line["name"], str(line["k"]), *line["texts"], _gain(line["gain"]), "–"]
                for line in (mean_rows(every, beside) if left else ())
            ],
        )
    else:
        lines += _markdown_table(
            ["Target", "k", "Variant", "Score", "Gain", "From"],
            [
                [row.target, str(row.k), line["variant"], line["text"], _gain(line["gain"]), line["origin"]]
                for row in rows
                for line in lines_of(row, shown(every))
            ]
            + [
                [line["name"], str(line["k"]), line["variant"], f"{line['mean']:.1f}", _gain(line["gain"]), "–"]
                for line in mean_lines(every)
            ],
        )
    lines += [
        "",
        f"{_title(every)} in percent, mean ± sample standard deviation over n seeds; gain in "
        "points over scratch on the same shots.",
    ]
    if said := protocol(outcomes):
        lines += ["", " ".join(said)]
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
    numbers = {"k", "Score", "Gain", "Paper", "Paper, all", *(v.capitalize() for v in (*STARTS, *LINEAR))}
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
            lines.append({"name": name, "k": k_of(k), "variant": variant, "mean": mean, "gain": gain})
    return lines


def mean_rows(rows: Sequence[Row], beside: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the targets as one line per k, with the variants beside each other."""
    lines = []
    for k, (targets, found) in means(rows).items():
        name = f"mean, {targets} target{'s' if targets > 1 else ''}"
        texts = [f"{found[variant]:.1f}" if variant in found else "–" for variant in beside]
        known = {TRANSFER, "scratch"} <= found.keys()
        gain = found[TRANSFER] - found["scratch"] if known else None
        lines.append({"name": name, "k": k_of(k), "texts": texts, "gain": gain})
    return lines


def _from(rows: Sequence[Row]) -> str:
    """The sentence that stands for the column of sources."""
    sources = list(dict.fromkeys(source for row in rows for source in row.sources))
    return f"Transfer started from {', '.join(sources)}." if sources else ""


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
