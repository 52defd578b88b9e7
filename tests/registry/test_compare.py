"""Decisions by simulation: equal adapters stay, better ones take over, few rows tell nothing."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from registry.promotion import resample
from registry.promotion.compare import compare, discordance, interval, needed, rows_hash, spent
from registry.promotion.resample import bootstrap, weighted
from tasks.formatting import Example
from tasks.metrics import INVALID, measure
from tasks.spec import Task

SOURCE = {"kind": "file", "path": "x.csv"}
HUB = {"kind": "hub", "repo": "a/b", "validation": "validation"}


def task(metric: str) -> Task:
    body = {"metrics": [metric], "source": SOURCE, "verbalizer": {"a": "no", "b": "yes"}}
    if metric in ("pearson", "spearman"):
        body = {"metrics": [metric], "source": SOURCE, "kind": "regression", "grid": {"low": 0, "high": 5, "step": 0.5}}
    elif metric.startswith("squad"):
        body = {"metrics": [metric], "source": SOURCE, "kind": "qa"}
    elif metric in ("vqa_accuracy", "cider_d", "bleu4"):
        body = {"metrics": [metric], "source": SOURCE, "kind": "generation"}
    elif metric.startswith("multirc"):
        body |= {"source": HUB, "rule": "small", "convert": "multirc"}
    elif metric in ("macro_f1", "matthews"):
        body["verbalizer"] = {"a": "no", "b": "yes", "c": "so"}
    return Task.build("t", body, "test")


def rows_of(labels) -> list[Example]:
    return [Example(str(i), f"text {i}", int(label), "yes") for i, label in enumerate(labels)]


def pair(generator, n: int, wins: float, losses: float, right: float = 0.8):
    """Rows, and the answers of two adapters: shares of rows that only the second, only the first has right."""
    truth = generator.integers(0, 2, n)
    kind = generator.random(n)
    both = generator.random(n) < right
    old = np.where(kind < wins, False, np.where(kind < wins + losses, True, both))
    new = np.where(kind < wins, True, np.where(kind < wins + losses, False, both))
    return rows_of(truth), *(np.where(part, truth, 1 - truth).tolist() for part in (old, new))


def test_equal_adapters_are_exchanged_in_at_most_5_percent_of_decisions():
    generator, accuracy, taken = np.random.default_rng(0), task("accuracy"), 0
    for _ in range(600):
        taken += compare(accuracy, *pair(generator, 200, 0.05, 0.05), margin=0.0).better
    assert taken / 600 <= 0.05
    assert taken > 0, "a test that never gives way tests nothing"


@pytest.mark.parametrize("n", [20, 200, 1000])
def test_equal_adapters_are_exchanged_in_at_most_5_percent_of_30_nights(n):
    """Each night other rows: the most chances that luck can have."""
    generator = np.random.default_rng(1)
    counts = generator.multinomial(n, [0.05, 0.05, 0.9], size=(4000, 30))
    wins, differing = counts[..., 0], counts[..., :2].sum(-1)
    p = binom.sf(wins - 1, differing, 0.5)
    assert p[0, 0] == pytest.approx(discordance(int(wins[0, 0]), int(differing[0, 0] - wins[0, 0])))
    levels = np.array([spent(0.95, night) for night in range(30)])
    assert (p <= levels).any(1).mean() <= 0.05
    assert (p <= 0.05).any(1).mean() > (0.05 if n > 20 else 0.0), "without spending the promise is broken"
    assert sum(spent(0.95, night) for night in range(100_000)) <= 0.05


def test_5_points_better_on_400_rows_takes_over_in_80_percent():
    generator, accuracy, taken = np.random.default_rng(2), task("accuracy"), 0
    for _ in range(300):
        taken += compare(accuracy, *pair(generator, 400, 0.075, 0.025), margin=1.0).better
    assert taken / 300 >= 0.8


@pytest.mark.parametrize(("metric", "n"), [("macro_f1", 200), ("f1", 60), ("matthews", 200), ("squad_f1", 60)])
def test_other_metrics_keep_the_same_promises(metric, n, monkeypatch):
    monkeypatch.setattr(resample, "DRAWS", 200)
    generator, of, taken = np.random.default_rng(3), task(metric), 0
    for _ in range(400):
        rows, old, new = _as(metric, *pair(generator, n, 0.06, 0.06))
        taken += compare(of, rows, old, new, margin=0.0).better
    assert taken / 400 <= 0.05
    taken = 0
    for _ in range(100):
        rows, old, new = _as(metric, *pair(generator, 400, 0.08, 0.02))
        taken += compare(of, rows, old, new, margin=1.0).better
    assert taken >= 80


def _as(metric, rows, old, new):
    if metric != "squad_f1":
        return rows, old, new
    written = [
        ["yes it is" if guess == row.label else "no" for guess, row in zip(part, rows, strict=True)]
        for part in (old, new)
    ]
    return [Example(row.id, row.text, 0, "yes it is", ("yes it is",)) for row in rows], *written


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlations(metric, monkeypatch):
    monkeypatch.setattr(resample, "DRAWS", 200)
    generator, of = np.random.default_rng(4), task(metric)

    def made(n, noise):
        values = generator.integers(0, 11, n) / 2
        rows = [Example(str(i), "x", int(2 * v), str(v), (), float(v)) for i, v in enumerate(values)]
        return rows, *(
            np.clip(np.round(2 * values + generator.normal(0, s, n)), 0, 10).astype(int).tolist() for s in noise
        )

    assert sum(compare(of, *made(60, (4, 4)), margin=0.0).better for _ in range(400)) / 400 <= 0.05
    assert sum(compare(of, *made(200, (4, 2)), margin=1.0).better for _ in range(50)) >= 45


@pytest.mark.parametrize("metric", ["macro_f1", "f1", "matthews", "pearson", "spearman", "squad_f1", "multirc_f1"])
def test_weighted_metrics_are_those_of_the_tasks(metric):
    """Also where a row stands there several times, as it does in a resample."""
    generator, of = np.random.default_rng(5), task(metric)
    n, classes = 60, len(of.labels) or 1
    labels = generator.integers(0, classes, n)
    rows = [
        Example(str(i), "x", int(v), of.words[v] if of.words else "", ("a b c",), v / 2, f"g{i // 3}")
        for i, v in enumerate(labels)
    ]
    answers = [
        ("a b" if v else "c d") if metric == "squad_f1" else int(v) if v else INVALID
        for v in generator.integers(0, max(2, classes), n)
    ]
    times = generator.multinomial(n, np.full(n, 1 / n), size=5)
    weights = np.vstack([np.ones(n), times]).astype(float)
    for line, found in zip(weights, weighted(of, rows, answers, weights), strict=True):
        again = [i for i in range(n) for _ in range(int(line[i]))]
        wanted = measure(of, [rows[i] for i in again], [answers[i] for i in again])["score"]
        assert found == pytest.approx(wanted, abs=1e-6)


def test_questions_are_resampled_whole():
    of = task("multirc_f1")
    rows = [Example(str(i), "x", i % 2, "yes", (), None, f"g{i // 10}") for i in range(100)]
    old, new = (
        [1 - row.label for row in rows],
        [row.label if row.group in ("g0", "g1") else 1 - row.label for row in rows],
    )
    whole = bootstrap(of, rows, old, new, 0.95).spread
    apart = [Example(row.id, row.text, row.label, row.target) for row in rows]
    assert whole > 2 * bootstrap(of, apart, old, new, 0.95).spread


def test_the_same_seed_gives_the_same_numbers():
    rows, old, new = pair(np.random.default_rng(6), 200, 0.1, 0.05)
    assert compare(task("f1"), rows, old, new, margin=1.0) == compare(task("f1"), rows, old, new, margin=1.0)


def test_numbers_of_a_decision():
    rows = rows_of([1] * 400)
    old = [0] * 30 + [1] * 10 + [1] * 360
    new = [1] * 30 + [0] * 10 + [1] * 360
    found = compare(task("accuracy"), rows, old, new, margin=1.0)
    assert (found.wins, found.losses, found.rows, found.test) == (30, 10, 400, "mcnemar")
    assert (found.champion, found.candidate, found.difference) == (92.5, 97.5, 5.0)
    assert found.p == pytest.approx(0.00111, abs=1e-5)  # of 40 fair tosses at least 30
    assert found.low == pytest.approx(2.0, abs=0.05)
    assert found.high == pytest.approx(8.31, abs=0.05)
    assert found.better
    assert found.told
    assert found.alpha == pytest.approx(0.0325)
    assert found.rows_hash == rows_hash(rows)
    assert compare(task("accuracy"), rows, old, new, margin=5.0).better is False
    assert compare(task("accuracy"), rows, old, new, margin=1.0, looks=6).better is False, (
        "a later look may spend less than p"
    )


def test_the_margin_is_asked_for_as_well():
    rows = rows_of([1] * 1000)
    old, new = [0] * 9 + [1] * 991, [1] * 1000
    found = compare(task("accuracy"), rows, old, new, margin=1.0)
    assert found.p < found.alpha
    assert not found.better
    assert "not more than 1 points better" in found.reason


def test_worse_for_sure_needs_no_more_rows():
    rows = rows_of([1] * 300)
    found = compare(task("accuracy"), rows, [1] * 300, [0] * 60 + [1] * 240, margin=1.0)
    assert (found.better, found.told, found.needed) == (False, True, None)
    assert "too few" not in found.reason


@pytest.mark.parametrize(
    ("n", "old", "new"),
    [(0, [], []), (3, [0, 0, 0], [1, 1, 1]), (4, [0] * 4, [1] * 4), (12, [1] * 12, [1] * 12)],
)
def test_too_few_rows_leave_the_champion_and_say_how_many_are_needed(n, old, new):
    found = compare(task("accuracy"), rows_of([1] * n), old, new, margin=1.0)
    assert not found.better
    assert not found.told
    assert found.needed > n
    assert str(found.needed) in found.reason


@pytest.mark.parametrize("metric", ["f1", "macro_f1", "squad_f1", "pearson"])
def test_too_few_rows_of_other_metrics(metric):
    of = task(metric)
    rows = [Example(str(i), "x", i % 2, "yes", ("yes",), i % 2) for i in range(4)]
    right = ["yes"] * 4 if metric == "squad_f1" else [2 * row.label if of.grid else row.label for row in rows]
    wrong = ["no"] * 4 if metric == "squad_f1" else right[::-1]
    found = compare(of, rows, wrong, right, margin=1.0)
    assert not found.better or found.p <= found.alpha
    none = compare(of, [], [], [], margin=1.0)
    assert (none.better, none.told) == (False, False)
    assert none.needed > 0


def test_twelve_rows_are_enough_for_an_adapter_that_is_far_better():
    found = compare(task("accuracy"), rows_of([1] * 12), [0] * 5 + [1] * 7, [1] * 12, margin=1.0)
    assert found.better
    assert not compare(task("accuracy"), rows_of([1] * 12), [0] * 4 + [1] * 8, [1] * 12, margin=1.0).better


def test_scores_that_are_not_finite():
    """No answer is a wrong answer: it never wins, and is beaten by a real comparison alone."""
    rows = rows_of([1] * 200)
    good, none = [1] * 200, [INVALID] * 200
    assert not compare(task("accuracy"), rows, good, none, margin=0.0).better
    assert not compare(task("accuracy"), rows, none, none, margin=0.0).better
    assert compare(task("accuracy"), rows, none, good, margin=1.0).better
    assert not compare(task("accuracy"), rows[:3], none[:3], good[:3], margin=1.0).better


def test_arguments_out_of_range():
    rows = rows_of([1, 0])
    for wrong in ({"margin": -1.0}, {"margin": math.nan}, {"margin": 0.0, "confidence": 1.0}):
        with pytest.raises(ValueError, match="margin"):
            compare(task("accuracy"), rows, [1, 1], [1, 1], **wrong)
    with pytest.raises(ValueError, match="answers"):
        compare(task("accuracy"), rows, [1], [1, 1], margin=0.0)


def test_the_interval_covers():
    generator = np.random.default_rng(7)
    counts = generator.multinomial(60, [0.12, 0.05, 0.83], size=600)
    inside = [low <= 7.0 <= high for low, high in (interval(int(a), int(b), 60, 0.95) for a, b, _ in counts)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)
    z2 = 1.959964**2
    assert interval(0, 0, 10, 0.95) == pytest.approx((-100 * z2 / (10 + z2), 100 * z2 / (10 + z2)), abs=1e-3)
    assert interval(3, 9, 50, 0.9) == pytest.approx(tuple(-end for end in reversed(interval(9, 3, 50, 0.9))))
    assert interval(10, 0, 10, 0.95)[1] == 100.0


def test_rows_that_are_needed_show_the_difference():
    n = needed(5.0, 0.1, 0.025)
    generator = np.random.default_rng(8)
    counts = generator.multinomial(n, [0.075, 0.025, 0.9], size=1000)
    power = np.mean([discordance(int(a), int(b)) <= 0.025 for a, b, _ in counts])
    assert power == pytest.approx(0.8, abs=0.06)
