"""Hold a task against its real rows: what a user should know before training on it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.planning.check_lengths import check_lengths
from flows.planning.encoders import read_as_letters
from flows.planning.plan_file import load_plan
from infra.errors import InputError
from infra.names import expanded
from infra.nearest import near
from tasks.catalogue import catalogue, get_task, read_tasks
from tasks.formatting import Example
from tasks.leakage import guard
from tasks.load import load_splits
from tasks.picture_reader import size_of
from tasks.pictures import payload_of
from tasks.spec import Task
from tasks.splits import Splits
from tasks.yaml_file import read_yaml

SAID = {"judge": "to judge champions by"}
MEASURED = 1000  # pictures whose size is looked up
FEW = 16  # training rows of a label below which few-shot draws soon run out


@dataclass
class Findings:
    """What was found: the rows, facts in words, what may be mended, and whether most of the text is lost."""

    splits: Splits
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lost: bool = False


def named(what: str, plan_name: str | None = None) -> list[Task]:
    """Tasks that a user means by NAME (catalogue), FILE.yaml (blocks, or `own_tasks:`) or PLAN:NAME.

    Args:
        plan_name: NAME may also be one of its own tasks.

    Raises:
        InputError: no such task, plan or file; a block that is no task.
    """
    if Path(what).suffix in (".yaml", ".yml"):
        return _of_file(expanded(what))
    before, colon, name = what.rpartition(":")
    if not colon and plan_name is None:
        return [get_task(what)]
    plan = load_plan(before if colon else str(plan_name))
    own = {task.name: task for task in plan.own_tasks}
    known = ({} if colon else catalogue()) | own | plan.resolve_tasks()
    if name not in known:
        raise InputError(f"plan {plan.name}: no task {name!r}{near(name, known)}")
    return [known[name].with_verbalizer(plan.verbalizer)]


def check_task(task: Task, tokens: int | None = None, backbone: str | None = None) -> Findings:
    """Read a task's rows and look at sizes, labels, repeated rows, leaks and lengths.

    Args:
        tokens: the adapter's s, answer and all; None: the usual one.
        backbone: whose tokenizer counts tokens; None: words are counted, of which each is at least one token.

    Raises:
        InputError: rows that cannot be used, with file and line (see `tasks.splits.load_splits`); a backbone whose
            tokenizer cannot be loaded.
    """
    splits = load_splits(task)
    found = Findings(splits)
    parts = {name: part for name, part in splits.parts().items() if part}
    rows = [row for part in parts.values() for row in part]
    found.lines.append("rows: " + ", ".join(f"{len(part):,} {SAID.get(name, name)}" for name, part in parts.items()))
    _repeats(splits, rows, found)
    _pictures(task, rows, found)
    if task.strata > 1:
        _labels(task, parts, found)
    elif task.grid:
        values = [row.value for row in rows if row.value is not None]
        low, high = min(values), max(values)
        found.lines.append(f"numbers: {low:g} to {high:g}, mean {statistics.fmean(values):g}; grid {_ends(task)}")
    else:
        _answers(task, rows, found)
    lengths = check_lengths(task, splits, tokens, backbone)
    found.lines += lengths.lines
    found.warnings += lengths.warnings
    if backbone is not None:
        from dept.backbones.describe import describe

        found.warnings += read_as_letters([task], describe(backbone))
    found.lost = lengths.lost
    return found


def _of_file(path: Path) -> list[Task]:
    body = read_yaml(path)
    if not isinstance(body, dict) or "own_tasks" not in body:
        return list(read_tasks(path).values())
    blocks = body["own_tasks"]
    if isinstance(blocks, list) and all(isinstance(block, dict) for block in blocks):
        blocks = {block.get("name"): {k: v for k, v in block.items() if k != "name"} for block in blocks}
    if not isinstance(blocks, dict) or not blocks:
        raise InputError(f"{path}: own_tasks holds no task; write blocks of `task-name:` below it")
    return [Task.build(name, block, str(path)).rooted(path.parent) for name, block in blocks.items()]


def _repeats(splits: Splits, rows: Sequence[Example], found: Findings) -> None:
    dropped = ", ".join(f"{number:,} {cause}" for cause, number in splits.dropped.items() if number)
    found.lines.append(f"left out: {dropped or 'none'}")
    again = len(rows) - len({(row.key, row.label, row.target) for row in rows})
    if again:
        found.warnings.append(f"{again:,} rows stand there more than once; shots are drawn from distinct rows")
    _, shared = guard(splits.validation, splits.test)
    if shared:
        found.warnings.append(f"{shared:,} validation rows also stand in the test split, as the data set has them")


def _pictures(task: Task, rows: Sequence[Example], found: Findings) -> None:
    distinct = {row.picture.sha256: row.picture for row in rows if row.picture}
    if not distinct:
        return
    some = [distinct[name] for name in sorted(distinct)[:MEASURED]]
    sizes = [size_of(payload_of(picture), picture.path) for picture in some]
    widths, heights = zip(*sizes, strict=True)
    span = " to ".join(dict.fromkeys((f"{min(widths)} x {min(heights)}", f"{max(widths)} x {max(heights)}")))
    hidden = "" if task.sees else "; hidden from the backbone"
    found.lines.append(
        f"pictures: {len(distinct):,} of {span} pixels, {len(rows) / len(distinct):.1f} rows each{hidden}"
    )


def _labels(task: Task, parts: dict[str, tuple[Example, ...]], found: Findings) -> None:
    counts = {name: Counter(row.label for row in part) for name, part in parts.items()}
    for index, (label, word) in enumerate(task.verbalizer):
        numbers = ", ".join(f"{count[index]:,} {name}" for name, count in counts.items())
        found.lines.append(f"label {label!r} (answer {word!r}): {numbers}")
    rare = [label for index, label in enumerate(task.labels) if counts["train"][index] < FEW]
    if rare:
        found.warnings.append(f"fewer than {FEW} training rows: {', '.join(map(repr, rare))}")


def _answers(task: Task, rows: Sequence[Example], found: Findings) -> None:
    several = sum(len(row.answers) > 1 for row in rows)
    words = statistics.median(len(row.target.split()) for row in rows)
    line = f"answers: {words:g} words in the median, {several:,} rows with several right ones"
    if task.kind == "qa":
        inside = sum(any(answer.casefold() in row.text.casefold() for answer in row.answers) for row in rows)
        line += f", {100 * inside / len(rows):.0f} % found in the text"
    found.lines.append(line)


def _ends(task: Task) -> str:
    return f"{task.words[0]} to {task.words[-1]}, {len(task.words)} points"
