import json
from pathlib import Path

import pytest

from flows.reporting.html import markdown, write_report
from flows.reporting.published import compare, published
from tasks.catalogue import catalogue
from tests.flows.report_helpers import two_targets
from tests.flows.test_report import Page
from tests.flows.test_report_variants import printed, trial

RELEASED = Path(__file__).parents[3] / "shared" / "published"


def source(task, test, **changes):
    return trial("scratch", test, task=task, role="source", **changes)


def test_scores_of_the_tasks_give_back_the_averages_of_the_paper():
    known = published()
    for group, about in known["groups"].items():
        values = [entry["value"] for entry in known["tasks"].values() if entry["group"] == group]
        assert len(values) == about["tasks"]
        assert sum(values) / len(values) == pytest.approx(about["average"], abs=0.06)  # each was rounded to 0.1
    assert [about["average"] for about in known["groups"].values()] == [85.9, 76.5, 73.0, 86.3]


def test_published_tasks_and_metrics_are_those_of_the_catalogue():
    shipped = catalogue()
    for name, entry in published()["tasks"].items():
        assert shipped[name].metrics[0] == entry["metric"], name
        assert published()["cites"][entry["cite"]]


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the adapters that the authors released are not beside this checkout")
@pytest.mark.parametrize(
    ("task", "key"),
    [("cola", "test_matthews_correlation"), ("sst2", "test_accuracy"), ("superglue-wic", "test_accuracy")],
)
def test_scores_of_released_adapters_stand_in_their_files(task, key):
    released = json.loads((RELEASED / task / "test_results.json").read_text())[key]
    assert published()["tasks"][task]["value"] == pytest.approx(released, abs=0.005)


def test_nothing_is_compared_where_nothing_is_the_papers():
    assert compare(two_targets()) is None
    assert "published" not in markdown("x", two_targets())
    assert compare([]) is None
    assert compare([trial("lora", 60.0, task="cola", metric="matthews")]) is None  # the paper's numbers are DePT's


def test_ours_stand_beside_theirs_by_task_and_group():
    given = [
        trial("scratch", 30.0, task="cola", metric="matthews"),
        trial("scratch", 34.0, task="cola", metric="matthews", seed=1),
        trial("best-source", 50.0, task="cola", metric="matthews"),
        trial("lora", 99.0, task="cola", metric="matthews"),
        trial("scratch", 80.0, task="sst2"),
        source("rte", 71.0),
    ]
    compared = compare(given)
    lines = {(line.name, line.k): line for line in compared.lines}
    cola = lines["cola", "16"]
    assert (cola.paper, cola.metric) == (63.79, "matthews")
    assert cola.ours == {"scratch": "32.0 ± 2.8 (n=2)", "transfer": "50.0 (n=1)"}
    assert lines["rte", "all"].ours == {"scratch": "71.0 (n=1)"}
    few = lines["GLUE mean, 2 of 8", "16"]
    assert few.paper == pytest.approx((63.79 + 94.15) / 2)
    assert few.group == 85.9
    assert few.ours == {"scratch": "56.0"}  # sst2 has no transfer trial, so its mean would be of cola alone
    assert lines["GLUE mean, 1 of 8", "all"].paper == 79.1
    assert len(lines) == 5
    for words in ("smollm2-135m", "k = 16 shots", "at most 200 test rows", "ICLR 2024"):
        assert words in compared.note


def test_note_tells_the_metric_apart_and_the_right_backbone_passes():
    given = [source("cola", 80.0, spec={"backbone": "google-t5/t5-base", "train_rows": None})]
    compared = compare(given)
    assert "another metric for cola" in compared.note
    assert "backbone" not in compared.note
    assert "shots" not in compared.note
    assert compared.lines[0].ours["scratch"] == "80.0 (n=1) accuracy"
    capped = compare([source("cola", 80.0, metric="matthews", spec={"train_rows": 5000})])
    assert "5,000 rows at most" in capped.note
    assert "another metric" not in capped.note


def test_the_papers_backbone_alone_shows_its_averages():
    compared = compare([trial("scratch", 60.0, spec={"backbone": "t5-base"})])
    assert [line.group for line in compared.lines] == [85.9, 76.5, 73.0, 86.3]
    assert all(line.ours == {} for line in compared.lines)
    assert "none of the paper's tasks" in compared.note


def test_every_form_of_the_report_shows_them(tmp_path):
    given = [trial("scratch", 30.0, task="cola", metric="matthews"), trial("scratch", 70.0, task="superglue-cb")]
    page = Page(write_report(tmp_path, "x", {}, given).read_text(encoding="utf-8")).text
    for said in (printed(given), markdown("x", given), page):
        for words in ("63.8", "92.9", "85.9", "76.5", "GLUE mean, 1 of 8", "SuperGLUE mean, 1 of 5", "k = 16 shots"):
            assert words in " ".join(said.split())
    assert max(map(len, printed(given).splitlines())) <= 80
