"""The report of a study: many variants, the choice on validation, other metrics, search trials."""

import json
import struct
from dataclasses import replace

import pytest

from dept.config import TrainConfig
from flows.cli.report import numbers
from flows.planning.plan import Plan
from flows.reporting.headline import headline
from flows.reporting.html import markdown, terminal_table, write_report
from flows.reporting.matrix_figure import matrix_panels
from flows.reporting.study_table import write_study
from flows.reporting.summary import means, shown, summary_rows
from tests.flows.report_helpers import no_plots, outcome, two_targets  # noqa: F401
from tests.flows.test_report import Page


def trial(variant, test, *, validation=None, loss=1.0, task="movie-polarity", seed=0, metric="accuracy", **changes):
    method, init, source = "dept", variant, None
    if variant in ("prompt-tuning", "lora", "lora-r8", "full", "in-context", "probe", "tfidf"):
        method, init = variant, "scratch"
    elif variant.startswith("source:"):
        init, source = "source", variant.partition(":")[2]
    elif variant == "best-source":
        source = "amazon-polarity"
    measured = (
        {"score": test, metric: test} if metric != "accuracy" else {"score": test, metric: test, "macro_f1": test}
    )
    checked = {"score": test if validation is None else validation, "loss": loss}
    given = {"test": measured, "validation": checked, "extra": {"metric": metric}}
    return outcome(task, init, test, seed=seed, method=method, source=source, **(given | changes))


def study(tasks=("movie-polarity", "tweet-polarity"), ks=(4, 16)):
    """Every variant on each target, k and seed; scores are all different."""
    variants = (
        "in-context",
        "scratch",
        "best-source",
        "multitask",
        "source:nyt-polarity",
        "prompt-tuning",
        "lora",
        "full",
    )
    return [outcome(task, "untrained", 50.0 + place) for place, task in enumerate(tasks)] + [
        trial(variant, 60.0 + order + 10 * place + 2 * seed + (k == 16), task=task, seed=seed, k=k)
        for place, task in enumerate(tasks)
        for k in ks
        for seed in (0, 1)
        for order, variant in enumerate(variants)
    ]


def test_strategy_is_chosen_on_validation_never_on_test():
    trials = [
        trial("scratch", 60.0),
        trial("best-source", 90.0, validation=90.0, loss=0.5),  # best on test and by score, must not be taken
        trial("multitask", 65.0, validation=80.0, loss=0.4),
        trial("scratch", 60.0, seed=1),
        trial("best-source", 70.0, validation=80.0, loss=0.5, seed=1),
        trial("multitask", 88.0, validation=70.0, loss=0.5, seed=1),  # a tie: the better score wins
        trial("scratch", 60.0, seed=2),
        trial("best-source", 61.0, validation=75.0, seed=2),
        trial("multitask", 95.0, validation=99.0, loss=float("nan"), seed=2),
        trial("lora", 99.0, validation=99.0, seed=2),  # a baseline transfers nothing
    ]
    for order in (trials, trials[::-1]):
        (row,) = summary_rows(order)
        assert row.cells["transfer"].variants == ("multitask", "best-source", "best-source")
        assert row.cells["transfer"].scores == (65.0, 70.0, 61.0)
        assert row.gains == (5.0, 10.0, 1.0)
        assert "lowest validation loss" in headline([row]).detail


def test_a_tie_in_all_goes_to_the_first_strategy():
    trials = [
        trial("multitask", 70.0),
        trial("source:a", 72.0, validation=70.0),
        trial("best-source", 71.0, validation=70.0),
    ]
    assert summary_rows(trials)[0].cells["transfer"].variants == ("best-source",)


def test_variants_come_in_one_order_however_trials_come():
    wanted = [
        *("untrained", "in-context", "scratch", "best-source", "multitask", "source:nyt-polarity", "transfer"),
        *("prompt-tuning", "lora", "full"),
    ]
    for trials in (study(), study()[::-1]):
        rows = summary_rows(trials)
        assert shown(rows) == wanted
        assert all(list(row.cells) == wanted for row in rows)
    assert shown(summary_rows(two_targets())) == ["untrained", "scratch", "transfer"]


def test_means_are_over_targets_that_all_variants_share():
    found = means(summary_rows(study()))
    assert found[4][0] == 2
    assert found[4][1]["scratch"] == pytest.approx((62 + 72) / 2)  # order 1, seeds 0 and 2, the other target 10 more
    assert found[16][1]["full"] == pytest.approx(67 + 1 + 1 + 5)  # order 7, seeds 0 and 2, k, half of 10
    lonely = [o for o in study() if (o.spec.task, o.spec.shots, o.spec.variant) != ("tweet-polarity", 4, "lora")]
    found = means(summary_rows(lonely))
    assert (found[4][0], found[16][0]) == (1, 2)
    assert found[4][1]["scratch"] == pytest.approx(62.0)


def test_a_failed_trial_makes_no_other_draw_count():
    """Where one variant lacks a seed, the means are over the seeds that all have."""
    lone = [o for o in study() if not (o.spec.variant == "lora" and o.spec.shots == 4 and o.spec.seed == 1)]
    found = means(summary_rows(lone))[4][1]
    assert found["scratch"] == pytest.approx((61 + 71) / 2)  # order 1, seed 0 alone
    assert found["lora"] == pytest.approx((66 + 76) / 2)
    assert found["untrained"] == pytest.approx(50.5)
    auto = [trial("auto", 60.0), trial("probe", 70.0), trial("probe", 20.0, seed=1)]
    assert "probe 70.0" in headline(summary_rows(auto)).detail


def test_headline_compares_with_prompt_tuning_by_seed():
    trials = [
        trial("scratch", 60.0),
        trial("prompt-tuning", 57.0),
        trial("scratch", 80.0, seed=1),  # no partner: left out
    ]
    answer = headline(summary_rows(trials))
    assert answer.gain is None
    assert "DePT is 3.0 points ahead of prompt-tuning on average over 1 target." in answer.detail
    trials[1] = trial("prompt-tuning", 64.0)
    assert "DePT is 4.0 points behind prompt-tuning" in headline(summary_rows(trials)).detail
    trials[1] = trial("prompt-tuning", 60.0)
    assert "DePT is level with prompt-tuning" in headline(summary_rows(trials)).detail


def test_score_is_the_first_metric_and_old_outcomes_have_accuracy():
    cola = trial("scratch", 40.0, task="cola", metric="matthews")
    cola.test["accuracy"] = 80.0
    old = outcome("movie-polarity", "scratch", 75.0)
    rows = summary_rows([cola, old])
    assert [row.cells["scratch"].mean for row in rows] == [40.0, 75.0]
    assert rows[0].cells["scratch"].macro_f1_text is None
    assert "Test score (each task's first metric)" in markdown("x", [cola, old])
    assert "Test accuracy in percent" in markdown("x", [old])
    better = trial("best-source", 45.0, task="cola", metric="matthews")
    assert "+5.0 points of test score" in headline(summary_rows([cola, better])).text


def printed(outcomes, width=80):
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(terminal_table(outcomes))
    return console.export_text()


def test_table_of_few_variants_is_the_short_one():
    head = next(line for line in printed(two_targets()).splitlines() if "Target" in line)
    assert head.split() == ["Target", "k", "Untrained", "Scratch", "Transfer", "Gain", "From"]
    baselines = [trial("scratch", 60.0), trial("prompt-tuning", 58.0), trial("lora", 55.0)]
    head = next(line for line in printed(baselines).splitlines() if "Target" in line)
    assert head.split() == ["Target", "k", "Scratch", "Prompt-tuning", "Lora", "Gain", "From"]


def test_probe_and_tfidf_stand_beside_what_transfer_is_worth():
    """In one line per target, within 80 columns; fitted on all rows of a draw they are told below."""
    few = {"extra": {"metric": "accuracy", "refit": {"score": 75.0}}}
    simple = [trial(v, 60.0 + 4 * seed, seed=seed, **few) for v in ("probe", "tfidf") for seed in (0, 1)]
    said = printed([*two_targets(), *simple])
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    head, line = (next(line for line in said.splitlines() if name in line) for name in ("Target", "movie-polarity"))
    assert head.split() == ["Target", "k", "Untrained", "Tfidf", "Probe", "Scratch", "Transfer", "Gain"]
    assert line.split()[3:5] == ["62.0", "62.0"]
    told = " ".join(said.split())
    assert "Transfer started from amazon-polarity" in told
    assert "Fitted on shots and validation rows together, k = 16: tfidf 75.0, probe 75.0 on the mean." in told
    assert "| Untrained | Tfidf | Probe | Scratch |" in markdown("a", [*two_targets(), *simple])


def test_table_of_many_variants_fits_80_columns_and_loses_nothing():
    said = printed(study())
    lines = said.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in said
    assert sum("source:nyt-polarity" in line for line in lines) == 6  # whole, not folded
    assert said.count("amazon-pola") == 4
    long = [
        replace(o, spec=o.spec.model_copy(update={"task": o.spec.task + "-of-a-long-name-indeed"})) for o in study()
    ]
    folded = printed(long)
    assert max(map(len, folded.splitlines())) <= 80
    assert all(number in folded for number in ("66.0 ± 1.4 (n=2)", "+4.0"))
    assert "…" not in folded
    body = [line for line in lines if "(n=" in line]
    assert len(body) == 2 * 2 * 10
    assert any("prompt-tuning" in line and "66.0 ± 1.4 (n=2)" in line and "+4.0" in line for line in body)
    last = [line for line in lines if line.strip().startswith("mean, 2 targets")]
    assert len(last) == 2  # one block for each k
    text = markdown("study", study())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 40 + 20
    assert {line.count("|") for line in rows} == {7}
    assert "| movie-polarity | 4 | prompt-tuning | 66.0 ± 1.4 (n=2) | +4.0 | – |" in rows


@pytest.mark.usefixtures("no_plots")
def test_search_trials_are_counted_and_nowhere_else(tmp_path):
    searched = trial("lora", 77.7, task="sms-spam", role="search", seconds=40.0)
    zero = trial("source:nyt-polarity", 33.3, task="tweet-polarity", k=16, spec={"training": TrainConfig(steps=0)})
    given = [*two_targets(), searched, zero]
    assert summary_rows(given) == summary_rows(two_targets())
    page = write_report(tmp_path, "x", {}, given)
    said = Page(page.read_text(encoding="utf-8")).text
    assert "sms-spam" not in page.read_text(encoding="utf-8")
    assert "1 more trial chose starts, rates and recipes, by shots and validation rows alone (40 s)" in said


def test_page_of_a_study(tmp_path):
    context = {"leaked": {"trec-coarse": 1234, "nyt-polarity": 1}, "rates": {"lora": [2e-4], "dept": [0.3, 5e-4]}}
    page = write_report(tmp_path, "study", {}, study(), context)
    said = Page(page.read_text(encoding="utf-8")).text
    assert "lora 67.0 ± 1.4 (n=2)" in said
    assert "trec-coarse 1 234 rows" in said
    assert "nyt-polarity 1 row " in said
    assert "lora 0.0002" in said
    assert "dept 0.3, A and B 0.0005" in said
    assert "movie-polarity k=4: untrained 50.0 (n=1), in-context" in page.read_text(encoding="utf-8")
    width, height = struct.unpack(">II", (tmp_path / "accuracy.png").read_bytes()[16:24])
    assert 600 < width < 2400
    assert 300 < height < 6000
    bare = Page(write_report(tmp_path, "study", {}, two_targets()).read_text(encoding="utf-8")).text
    assert "leakage guard" not in bare
    assert "Learning rates" not in bare


def test_page_of_negative_scores(tmp_path):
    low = trial("scratch", -12.5, task="cola", metric="matthews")
    said = Page(
        write_report(tmp_path, "low", {}, [low, replace(low, spec=low.spec.model_copy(update={"seed": 1}))]).read_text()
    ).text
    assert "cola matthews 16" in said
    assert "-12.5 ± 0.0 (n=2)" in said


def all_rows(variant, test, seed=0, **changes):
    """A target trained on all its rows, as `shots: [all]` plans it."""
    return trial(variant, test, seed=seed, k=None, **changes)


def test_trials_on_all_rows_are_a_row_of_their_own():
    untrained = outcome("movie-polarity", "untrained", 30.0)
    few = [trial("scratch", 50.0), trial("best-source", 60.0)]
    every = [all_rows("scratch", 90.0), all_rows("best-source", 94.0), all_rows("scratch", 88.0, seed=1)]
    sixteen, whole = summary_rows([untrained, *few, *every])
    assert (sixteen.k, sixteen.cells["scratch"].scores, sixteen.gain) == (16, (50.0,), 10.0)
    assert (whole.k, whole.cells["scratch"].scores, whole.gain) == ("all", (90.0, 88.0), 4.0)
    assert whole.cells["untrained"].scores == sixteen.cells["untrained"].scores == (30.0,)
    (alone,) = summary_rows([untrained, *every])
    assert alone.k == "all"
    assert alone.gain == 4.0
    assert "k = all" in headline([alone]).text
    assert list(means([whole, sixteen])) == [16, None]


def test_a_report_and_a_study_of_all_rows(tmp_path):
    found = [all_rows("scratch", 90.0), all_rows("best-source", 94.0), trial("scratch", 50.0)]
    assert {line["k"] for line in numbers(found)["lines"]} == {"all", 16}
    text = markdown("All", found)
    assert "| movie-polarity | all |" in text
    assert "k = 16, all" not in text
    assert "(k = all, 1 seed)" in text
    page = write_report(tmp_path, "All", {}, found, {}).read_text(encoding="utf-8")
    assert "k = all, seed 0, scratch" in page
    assert "movie-polarity k=all: " in page
    table, _ = write_study(
        tmp_path, Plan(name="all", targets=["movie-polarity"], strategies=["scratch"]), found, {"commit": "c"}
    )
    assert {(line["k"], line["mean"]) for line in json.loads(table.read_text())["rows"]} >= {("all", 94.0), (16, 50.0)}


def test_a_matrix_on_all_rows_stands_beside_the_zero_shot_one():
    zero = outcome("movie-polarity", "source", 70.0, k=None, source="a", spec={"training": TrainConfig(steps=0)})
    found = [all_rows("source:a", 94.0), all_rows("scratch", 90.0), zero, outcome("movie-polarity", "untrained", 60.0)]
    whole, free = matrix_panels(found)
    assert whole.title == "k = all (gain over scratch)"
    assert whole.gains == {("a", "movie-polarity"): 4.0}
    assert free.title.startswith("zero-shot")
    assert free.gains == {("a", "movie-polarity"): 10.0}
