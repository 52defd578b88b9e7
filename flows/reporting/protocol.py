"""By which rows a run chose, and what its baselines were given: sentences beside the table. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from dept.constants import CONSTANTS
from dept.trial import LINEAR, PICTURES, TrialOutcome
from flows.reporting.summary import joins, trained

SHOTS = "True few-shot: steps, rates and starts were chosen on as many validation rows of a draw as it has shots."
REFIT = (
    "What a search found learned from the shots and the validation rows of its draw together, 2k rows; its recipe was "
    "chosen by cross-validation over these alone."
)
NAMED = 4  # tasks that a sentence names


def protocol(outcomes: Sequence[TrialOutcome]) -> list[str]:
    """What is to be known of a run to read its numbers: by which rows it chose, what LoRA trained, probe and TF-IDF."""
    targets = [outcome for outcome in outcomes if trained(outcome) and outcome.spec.role == "target"]
    chosen = [o.spec for o in (*targets, *filter(joins, outcomes)) if o.spec.training.steps or o.spec.searched]
    few = [spec for spec in chosen if spec.shots is not None]
    said = []
    if any(spec.validation_rows is None and not spec.refit for spec in few):
        said.append(SHOTS)
    if any(spec.refit for spec in few):
        said.append(REFIT)
    whole = {spec.task: rows for spec in few if (rows := spec.validation_rows)}
    if whole:
        named = ", ".join(f"{rows:,} of {task}" for task, rows in list(whole.items())[:NAMED])
        more = f" and {len(whole) - NAMED:,} tasks more" if len(whole) > NAMED else ""
        said.append(
            "Not true few-shot: k counts training rows alone; the whole validation split chose steps, rates and starts "
            f"({named}{more}), as in published few-shot tables."
        )
    return said + _seen(targets) + _lora(targets) + _linear(targets)


def _seen(targets: Iterable[TrialOutcome]) -> list[str]:
    """Which variants saw the pictures of tasks, where others had the texts alone, and by which encoder."""
    targets = list(targets)
    saw = [outcome for outcome in targets if outcome.extra.get(PICTURES)]
    tasks, maps = {outcome.spec.task for outcome in saw}, {outcome.spec.adapter.pictures for outcome in saw}
    seeing = sorted({outcome.spec.variant for outcome in saw})
    others = [one for one in targets if one.spec.task in tasks and not one.extra.get(PICTURES)]
    learned = {one.spec.variant for one in others if one.spec.init != "untrained"}
    blind = sorted({one.spec.variant for one in others if one.spec.adapter.pictures is None}) if learned else []
    eyes = sorted({f"{one.encoder} ({str(one.encoder_id)[:12]})" for one in maps if one is not None and one.encoder})
    named = ", ".join(sorted(tasks)[:NAMED])
    who = f"Pictures of {named} were seen by {', '.join(seeing)} alone"
    said = [f"{who}: {', '.join(blind)} read the texts without them."] if blind else []
    return said + [f"Pictures were read by the frozen encoder {eye}." for eye in eyes]


def _lora(targets: Iterable[TrialOutcome]) -> list[str]:
    """What LoRA trained beside DePT's numbers; ledgers of before it had its present recipe hold no rank."""
    found = [outcome for outcome in targets if outcome.spec.method in CONSTANTS and "rank" in outcome.extra]
    ours = max((o.trainable for o in targets if o.spec.method == "dept"), default=0)
    said = []
    for method in dict.fromkeys(outcome.spec.method for outcome in found):
        mine = [outcome for outcome in found if outcome.spec.method == method]
        ranks = sorted({int(outcome.extra["rank"]) for outcome in mine})
        numbers = max(outcome.trainable for outcome in mine)
        beside = f", DePT {ours:,}" if ours else ""
        least = "; rank 1 is the least there is" if method == "lora" and ranks == [1] and 0 < ours < numbers else ""
        rank = " to ".join(str(rank) for rank in dict.fromkeys((ranks[0], ranks[-1])))
        said.append(
            f"{method}: rank {rank} in all linear layers, {numbers:,} trainable numbers a trial{beside}{least}."
        )
    return said


def _linear(targets: Iterable[TrialOutcome]) -> list[str]:
    """What probe and TF-IDF reach where their choice is fitted on all rows of a draw."""
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    for outcome in targets:
        spec = outcome.spec
        if spec.method in LINEAR and "refit" in outcome.extra and spec.shots is not None:
            by_task = found.setdefault((spec.shots, spec.method), {})
            by_task.setdefault(spec.task, []).append(outcome.extra["refit"]["score"])
    said = []
    for k in sorted({k for k, _ in found}):
        means = ", ".join(
            f"{method} {statistics.fmean(map(statistics.fmean, found[k, method].values())):.1f}"
            for method in reversed(LINEAR)
            if (k, method) in found
        )
        said.append(f"Fitted on shots and validation rows together, k = {k}: {means} on the mean.")
    return said
