import json

import pytest

from flows.planning.plan import Plan
from flows.reporting.study_table import write_study
from infra.errors import InputError
from tests.flows.test_report_variants import study, trial


@pytest.fixture
def plan():
    return Plan(name="suite", sources=["amazon-polarity"], targets=["movie-polarity", "tweet-polarity"], shots=[4, 16])


def test_table_holds_every_score_and_the_facts(tmp_path, plan):
    searched = trial("lora", 70.0, task="sms-spam", role="search")
    table, figure = write_study(
        tmp_path / "new", plan, [*study(), searched], {"commit": "abc123", "date": "2026-01-02"}
    )
    assert (table.name, figure.name) == ("suite.json", "suite.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
    body = json.loads(table.read_text(encoding="utf-8"))
    assert (body["commit"], body["date"]) == ("abc123", "2026-01-02")
    assert body["versions"]["torch"]
    assert body["machine"]["processors"]
    assert body["plan"]["targets"] == ["movie-polarity", "tweet-polarity"]
    assert (body["trials"], body["search_trials"]) == (len(study()), 1)
    assert len(body["rows"]) == 2 * 2 * 10
    rows = {(row["target"], row["k"], row["variant"]): row for row in body["rows"]}
    best = rows["tweet-polarity", 16, "best-source"]
    assert best["scores"] == [73.0, 75.0]
    assert best["seeds"] == [0, 1]
    assert (best["mean"], best["std"], best["n"]) == (74.0, 1.414, 2)
    assert best["started_from"] == ["amazon-polarity"] * 2
    assert best["gain_over_scratch"] == 1.0
    assert rows["movie-polarity", 4, "transfer"]["chosen"] == ["source:nyt-polarity"] * 2
    assert rows["movie-polarity", 4, "untrained"]["std"] is None
    assert "chosen" not in best
    means = {(mean["k"], mean["variant"]): (mean["targets"], mean["mean"]) for mean in body["means"]}
    assert means[4, "scratch"] == (2, 67.0)
    assert body["headline"]["gain_points"] == 3.0
    assert sorted(path.name for path in table.parent.iterdir()) == ["suite.json", "suite.png"]


def test_the_same_study_writes_the_same_table(tmp_path, plan):
    facts = {"commit": "abc", "date": "2026-01-02"}
    first = write_study(tmp_path, plan, study(), facts)[0].read_text()
    assert write_study(tmp_path, plan, study(), facts)[0].read_text() == first


def test_a_study_without_tests_is_refused(tmp_path, plan):
    with pytest.raises(InputError, match="suite: no target trial was tested"):
        write_study(tmp_path, plan, [], {})
    assert not list(tmp_path.iterdir())
