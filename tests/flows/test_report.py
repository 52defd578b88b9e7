import json
import re
import struct
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dept.config import PictureMap
from flows.reporting.headline import headline
from flows.reporting.html import load_outcomes, load_report, markdown, terminal_table, write_report
from flows.reporting.summary import summary_rows
from infra.errors import InputError
from tests.flows.report_helpers import many, no_plots, outcome, two_targets  # noqa: F401


@pytest.fixture
def outcomes():
    return two_targets()


def test_rows_hold_mean_and_sample_spread_over_seeds(outcomes):
    movie, tweet = summary_rows(outcomes)
    assert (movie.target, movie.shots) == ("movie-polarity", 16)
    scratch = movie.cells["scratch"]
    assert scratch.n == 2
    assert scratch.mean == pytest.approx(73.0)
    assert scratch.std == pytest.approx(8**0.5)  # sample std of 75, 71: sqrt(2*2^2 / 1)
    assert scratch.text == "73.0 ± 2.8 (n=2)"
    assert movie.cells["untrained"].std is None
    assert movie.cells["untrained"].text == "54.0 (n=1)"
    assert movie.gains == pytest.approx((8.0, 14.0))
    assert tweet.sources == ("nyt-polarity", "amazon-polarity")


def test_order_of_trials_does_not_mix_seeds(outcomes):
    assert summary_rows(outcomes[::-1])[-1].cells == summary_rows(outcomes)[0].cells
    assert summary_rows([*outcomes, *outcomes]) == summary_rows(outcomes)  # the same trial twice is one trial


def test_untrained_stands_beside_every_k(outcomes):
    rows = summary_rows([*outcomes, outcome("movie-polarity", "scratch", 80.0, k=32)])
    assert [(row.target, row.shots) for row in rows] == [
        ("movie-polarity", 16),
        ("tweet-polarity", 16),
        ("movie-polarity", 32),
    ]
    assert rows[2].cells["untrained"].scores == (54.0,)
    assert rows[2].gain is None


def test_headline_weighs_targets_alike_and_pairs_by_seed(outcomes):
    answer = headline(summary_rows(outcomes))
    assert answer.gain == pytest.approx(12.0)  # movie (8 + 14) / 2, tweet (15 + 11) / 2
    assert answer.text == (
        "Transfer was worth +12.0 points of test accuracy on average over 2 targets (k = 16, 2 seeds)."
    )
    assert "+8.0 to +15.0" in answer.detail
    lonely = [o for o in outcomes if o.spec.label != "tweet-polarity/k16/s1/scratch"]
    # seed 1 of tweets has no partner now, so its transfer trial must not count: (11 + 15) / 2
    assert headline(summary_rows(lonely)).gain == pytest.approx(13.0)
    lonely = [o for o in outcomes if o.spec.label != "tweet-polarity/k16/s1/best-source:amazon-polarity"]
    assert headline(summary_rows(lonely)).gain == pytest.approx(13.0)
    # more k of one target must not outweigh the other target: movie (11 + 2) / 2, tweet 13
    more = [
        *outcomes,
        outcome("movie-polarity", "scratch", 80.0, k=32),
        outcome("movie-polarity", "best-source", 82.0, k=32, source="amazon-polarity"),
    ]
    assert headline(summary_rows(more)).gain == pytest.approx((6.5 + 13) / 2)


def test_headline_says_when_transfer_lost_or_is_unknown(outcomes):
    lost = [outcome("movie-polarity", "scratch", 80.0), outcome("movie-polarity", "best-source", 70.5, source="x")]
    answer = headline(summary_rows(lost))
    assert answer.text.startswith("Transfer lost 9.5 points")
    assert "(k = 16, 1 seed)" in answer.text
    assert "0 of 1 target." in answer.detail
    same = [lost[0], outcome("movie-polarity", "best-source", 80.0, source="x")]
    assert "no difference" in headline(summary_rows(same)).text
    assert headline(summary_rows(outcomes[:3])).gain is None
    assert headline([]).text.startswith("No answer yet")


class Page(HTMLParser):
    """Collects what a reader and a screen reader get."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_page_is_one_file_that_needs_nothing_else(tmp_path, outcomes):
    path = write_report(
        tmp_path / "run",
        "demo",
        {"name": "demo", "shots": [16]},
        outcomes,
        {
            "run_id": "abc",
            "reused": {outcomes[0].spec.fingerprint},
            "seconds": 400,
            "champions": [
                {
                    "model": "dept-smollm2-135m-movie-polarity",
                    "version": 1,
                    "validation": 93.75,
                    "trial": "movie-polarity/k16/s1/best-source:amazon-polarity",
                    "decision": "first champion",
                }
            ],
        },
    )
    assert path == tmp_path / "run" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe"), tag
        for name in ("src", "srcset"):
            assert name not in attrs or attrs[name].startswith("data:image/png;base64,")
    assert "@import" not in path.read_text(encoding="utf-8")
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 4
    assert all(len(attrs["alt"]) > 40 for attrs in images)
    assert "movie-polarity k=16: untrained 54.0 (n=1)" in images[0]["alt"]
    said = page.text
    assert "Transfer was worth +12.0 points" in said
    assert "73.0 ± 2.8 (n=2) macro-F1 72.5 ± 2.8 (n=2)" in said
    assert " 8 320 " in said  # 10*576 + (64+576)*4
    assert "= 14.4-token prompt" in said  # 8320 / 576
    assert "1 of 11 trials had been trained before" in said
    assert " training. 3 text rows were longer than s" in said
    assert "dept-smollm2-135m-movie-polarity" in said
    assert "93.8" in said


def test_plots_lie_beside_the_page(tmp_path, outcomes):
    write_report(tmp_path, "demo", {}, outcomes)
    sizes = {}
    for path in tmp_path.glob("*.png"):
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        sizes[path.stem] = struct.unpack(">II", head[16:])
    assert sizes.keys() == {"accuracy", "loss", "validation", "validation-loss"}
    assert all(600 < width < 3000 and 300 < height < 3000 for width, height in sizes.values())


def test_page_escapes_what_users_name(tmp_path, outcomes):
    path = write_report(tmp_path, "<script>alert(1)</script>", {"prompt_text": "<img src=x>"}, outcomes)
    tags = [tag for tag, _ in Page(path.read_text(encoding="utf-8")).tags]
    assert "script" not in tags
    assert tags.count("img") == 4


def test_page_of_a_run_without_tests_or_curves(tmp_path, outcomes):
    bare = [replace(o, test={}, loss_curve=[], validation_curve=[], validation_loss_curve=[]) for o in outcomes]
    said = Page(write_report(tmp_path, "bare", {}, bare).read_text(encoding="utf-8")).text
    assert "No target trial was tested" in said
    assert not list(tmp_path.glob("*.png"))
    empty = Page(write_report(tmp_path, "none", {}, []).read_text(encoding="utf-8")).text
    assert "No answer yet" in empty
    assert "test rows of a target" not in empty


def test_page_says_how_many_rows_a_score_is_of(tmp_path, outcomes):
    said = Page(write_report(tmp_path, "rows", {}, outcomes).read_text(encoding="utf-8")).text
    assert "at most 200 test rows of a target." in said


def test_many_groups_wrap(tmp_path):
    many = [
        outcome(f"task-{number}", init, 60.0 + number, k=k, seed=seed, source="s" if init == "best-source" else None)
        for number in range(4)
        for k in (4, 16)
        for seed in range(5)
        for init in ("scratch", "best-source")
    ]
    write_report(tmp_path, "many", {}, many)
    width, height = struct.unpack(">II", (tmp_path / "accuracy.png").read_bytes()[16:24])
    assert width < 2200
    assert height > 800


def test_page_says_what_a_map_of_pictures_is(tmp_path, outcomes):
    """Its numbers are no low-rank pair's: 119,360 of them were called an 8-token prompt."""
    shape = outcomes[0].spec.adapter.model_copy(update={"pictures": PictureMap(grid=2, pixels=8)})
    seeing = [replace(one, spec=one.spec.model_copy(update={"adapter": shape})) for one in outcomes]
    said = Page(write_report(tmp_path, "pictures", {}, seeing).read_text(encoding="utf-8")).text
    assert "a map of pictures to 4 positions" in said
    assert "token prompt" not in said


@pytest.mark.usefixtures("no_plots")
def test_outcomes_come_back_as_they_were_written(tmp_path, outcomes):
    write_report(tmp_path, "demo", {}, outcomes)
    assert load_outcomes(tmp_path) == outcomes
    assert not list(tmp_path.glob(".*"))  # temporary names are gone
    (tmp_path / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        load_outcomes(tmp_path)
    with pytest.raises(InputError, match="not there"):
        load_outcomes(tmp_path / "elsewhere")


@pytest.mark.usefixtures("no_plots")
def test_report_names_neither_host_nor_commit(tmp_path, outcomes):
    import platform

    path = write_report(tmp_path, "demo", {}, outcomes)
    body = json.loads((tmp_path / "report.json").read_text())
    assert body["context"]["versions"]["torch"]
    assert body["context"]["machine"]["processors"]
    visible = re.sub(r"data:image/png;base64,[^\"]+", "", path.read_text(encoding="utf-8"))
    assert not re.search(rf"\b{re.escape(platform.node())}\b", visible)


def test_terminal_and_markdown_say_the_same(outcomes):
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(terminal_table(outcomes))
    shown = console.export_text()
    said = markdown("demo", outcomes)
    for words in ("73.0 ± 2.8", "+11.0", "+12.0 points", " 54.0 ", "nyt-polarity, amazon-polarity"):
        assert words in shown
        assert words in said
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {line.count("|") for line in rows} == {8}


@pytest.mark.usefixtures("no_plots")
def test_kept_step_zero_is_said(tmp_path, outcomes):
    outcomes[2] = replace(outcomes[2], best_step=0)
    said = Page(write_report(tmp_path, "x", {}, outcomes).read_text(encoding="utf-8")).text
    assert "1 of 9 trained trials kept step 0" in said  # the untrained take no step
    assert "the adapter is its start and training added nothing (movie-polarity/k16/s0/scratch)" in said
    assert "15 0, its start" in said
    plain = Page(write_report(tmp_path, "x", {}, two_targets()).read_text(encoding="utf-8")).text
    assert "kept step 0" not in plain
    assert "15 10 19.5" in plain  # steps, kept step, seconds


def test_the_loss_that_chose_the_step_is_drawn(tmp_path, outcomes):
    page = write_report(tmp_path, "x", {}, outcomes).read_text(encoding="utf-8")
    said = Page(page).text
    assert "Validation loss A ring marks the step whose adapter was kept: the lowest loss chose it." in said
    assert "movie-polarity/k16/s0/scratch from 1.2 to 0.8" in page


@pytest.mark.parametrize("targets", [59, 295])
def test_a_large_report_stays_small(tmp_path, targets):
    """3,000 and 15,000 trials: below 3 MB and 30 s; what is left out is said, and report.json holds all."""
    given = many(targets)
    start = time.process_time()
    page = write_report(tmp_path, "large", {"name": "large"}, given)
    assert time.process_time() - start < 30
    assert page.stat().st_size < 3_000_000
    for plot in tmp_path.glob("*.png"):
        width, height = struct.unpack(">II", plot.read_bytes()[16:24])
        assert max(width, height) < 4000
    said = Page(page.read_text(encoding="utf-8")).text
    assert f"{2 * targets} pairs of target and k were tested; shown are the 42 of largest gain and loss." in said
    assert "All are in report.json ( dept report --json )." in said
    assert f"mean, {targets} targets 4 untrained 5" in said
    trials = f"{len(given):,}".replace(",", " ")
    assert f"{trials} trials, summed up; each one is in report.json" in said
    assert len(load_report(tmp_path)["outcomes"]) == len(given)
    assert len(markdown("large", given)) < 50_000
    assert page.read_text(encoding="utf-8").count("<tr>") < 1000


@pytest.mark.usefixtures("no_plots")
def test_of_many_targets_the_largest_gains_and_losses_are_shown(tmp_path):
    given = many(59)
    best = [o for o in given if o.spec.task == "customer-task-030" and o.spec.transfers and o.spec.shots == 16]
    for found in best:
        found.test["accuracy"] = 99.9
    said = Page(write_report(tmp_path, "large", {}, given).read_text(encoding="utf-8")).text
    assert "customer-task-030 16 untrained" in said
    assert "customer-task-030 4 untrained" not in said
