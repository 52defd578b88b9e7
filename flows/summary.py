"""What a run found: test scores over seeds, per target, k and start, and what transfer was worth."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dept.trial import Init, TrialOutcome

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


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread} (n={len(values)})"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _shots(rows: Sequence[Row]) -> str:
    return "k = " + ", ".join(str(k) for k in sorted({row.shots for row in rows}))


def _seeds(rows: Sequence[Row]) -> str:
    most = max(len(row.gains) for row in rows)
    least = min(len(row.gains) for row in rows)
    return _count(most, "seed") if most == least else f"{least} to {most} seeds"
