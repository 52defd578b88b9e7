"""Every command that takes a run takes its name, its id and how an id begins, by one rule."""

import json

import pytest

from flows.reporting.html import write_report
from infra.settings import home
from registry.ledger import Ledger
from tests.flows.test_cli import dept, refused, result_of, trial

PAGES = {"first": "aa" * 16, "second": "ab" * 16, "third": "cd" * 16}  # MLflow's ids


@pytest.fixture
def runs():
    """Two runs called `mine`, one called `other`, each with a report; and a report that the ledger knows nothing of."""
    ledger, found = Ledger.open(), {}
    for seed, (key, page) in enumerate(PAGES.items()):
        name = "other" if key == "third" else "mine"
        found[key] = ledger.begin_run(name, {"name": name}, mlflow_run_id=page)
        ledger.add([trial(seed)], found[key])
        write_report(home() / "reports" / page, name, {"name": name}, [result_of(trial(seed), 70.0)])
    write_report(home() / "reports" / "ef01", "dept-transfer: lone", {"name": "lone"}, [result_of(trial(9), 70.0)])
    return found


def reported(asked):
    result = dept("report", asked, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["run"]


def listed(asked):
    result = dept("trials", "--run", asked, "--json")
    assert result.exit_code == 0, result.output
    return [line["fingerprint"] for line in json.loads(result.stdout)["trials"]]


def test_a_run_is_found_in_the_same_ways(runs):
    for asked in ("other", runs["third"], PAGES["third"], runs["third"][:12], PAGES["third"][:8]):
        assert reported(asked) == PAGES["third"], asked
        assert listed(asked) == [trial(2).fingerprint], asked
    assert dept("trials", "retry", "--run", "other").exit_code == 0


def test_several_are_named_with_their_names(runs):
    several = (runs["first"][:12], runs["second"][:12])
    for words in (("report",), ("trials", "--run"), ("trials", "retry", "--run"), ("work", "--run")):
        refused(dept(*words, "mine"), "2 runs are called 'mine'", *several, "Remedy: more digits of one's id")
        refused(dept(*words, "a"), "runs begin with 'a'", *several, "(mine, ")
        refused(dept(*words, "othr"), "no run 'othr'; did you mean other?", runs["third"][:12])
        refused(dept(*words, "../" + PAGES["third"]), "no run '../")


def test_what_one_side_alone_knows_is_said(runs):
    assert reported("lone") == "ef01"
    refused(dept("trials", "--run", "ef01"), "run ef01 (lone) is not in this ledger. Remedy: `dept report`")
    run_id = Ledger.open().begin_run("killed", {}, mlflow_run_id="99" * 16)
    refused(dept("report", "killed"), f"run {run_id[:12]} (killed) has none on this machine. Remedy: `dept run`")
