"""Names of trials' runs. Pages show about 20 characters, so what tells trials apart stands in them. Pure."""

from __future__ import annotations

from dept.trial import DISTILLED, TOGETHER, TrialSpec

TASK_WIDTH = 9  # characters of a task's short name


def run_name(spec: TrialSpec) -> str:
    """`<task, short>/<k>/<seed>/<start or method>`: `movi-pola/16/0/best-source:amazon-polarity`.

    Sources have `all` for k; an ensemble begins with `e:`, what was distilled of one with `d:`, a search with `?`. The
    task in full is a parameter.
    """
    shots = "all" if spec.shots is None else spec.shots
    return f"{short_task(spec.task)}/{shots}/{spec.seed}/{_variant(spec)}"


def short_task(name: str) -> str:
    """A task's name in at most 9 characters: its longest words lose their ends."""
    parts = name.split("-")
    while len("-".join(parts)) > TASK_WIDTH:
        longest = max(range(len(parts)), key=lambda place: (len(parts[place]), place))
        if len(parts[longest]) == 1:
            return "-".join(parts)[:TASK_WIDTH]
        parts[longest] = parts[longest][:-1]
    return "-".join(parts)


def _variant(spec: TrialSpec) -> str:
    """What tells variants apart first: the source of `source:NAME`, the kind of what answers together."""
    name = spec.variant
    for long, short in ((TOGETHER, "e:"), (DISTILLED, "d:")):
        if name.startswith(long):
            name = short + name.removeprefix(long)
    name = name.replace("prompt-tuning", "tuning-of-P")  # else it begins as prompt-only does
    if name.startswith("source:"):
        name = f"<{name.removeprefix('source:')}"
    elif spec.source_task is not None and spec.init != "source":
        name = f"{name}:{spec.source_task}"
    if spec.role == "search" and spec.kind == "train":
        return f"try:{spec.training.lr_prompt:g} {name}" if spec.searched is None else f"part:{name}"
    return name if spec.kind in ("train", "ensemble") else f"?{name}"
