"""`dept trials`, `dept status`, `dept tasks add`: what the ledger knows, on the command line."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from infra.identity import process_id
from infra.settings import home
from registry.ledger import Ledger
from registry.store import Store
from tests.flows.conftest import block, write_task
from tests.flows.test_cli import dept, refused, result_of, trial


@pytest.fixture
def ledger():
    """Trials: one trained, one failed, one pending; the first two belong to a run."""
    ledger = Ledger.open()
    run_id = ledger.begin_run("mine", {"name": "mine"})
    first, second, third = trial(0), trial(1), trial(2, task="sms-spam")
    ledger.add([first, second], run_id, "targets")
    claims = {claim.fingerprint: claim for claim in ledger.claim(process_id())}
    ledger.trained(claims[first.fingerprint], result_of(first, 81.25))
    ledger.fail(claims[second.fingerprint], "loss 99 is above max_loss")
    ledger.add([third])
    return ledger, run_id, (first, second, third)


def fingerprints(*words):
    return [line.split("\t")[0] for line in dept("trials", *words).stdout.splitlines()[1:]]


def test_trials_are_listed(ledger):
    _, _, (first, second, third) = ledger
    shown = dept("trials").stdout
    for words in ("movie-polarity/k16/s0/scratch", "\t81.2\t", "loss 99 is above max_loss", process_id()):
        assert words in shown
    body = json.loads(dept("trials", "--json").stdout)["trials"]
    assert [line["status"] for line in body] == ["trained", "failed", "pending"]
    assert body[0]["test"] == 81.25
    assert [line["fingerprint"] for line in body] == [first.fingerprint, second.fingerprint, third.fingerprint]


def test_trials_are_chosen(ledger):
    _, run_id, (first, second, third) = ledger
    assert fingerprints("--status", "failed") == [second.fingerprint]
    assert fingerprints("--task", "sms-spam") == [third.fingerprint]
    assert fingerprints("--run", run_id[:6]) == [first.fingerprint, second.fingerprint]
    assert fingerprints("--kind", "train", "--limit", "1") == [third.fingerprint]
    assert fingerprints("--since", "1h") == fingerprints()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert "No trial fits" in dept("trials", "--since", later).stderr
    refused(dept("trials", "--status", "finishd"), "unknown status 'finishd'; did you mean finished?")
    refused(dept("trials", "--kind", "trian"), "unknown kind 'trian'; did you mean train?")
    refused(dept("trials", "--since", "yesterday"), "give 30m, 12h, 7d, or a date")
    refused(dept("trials", "--run", "zz"), "no run 'zz'", run_id[:12])


def test_one_trial_is_shown_whole(ledger):
    _, _, (first, _, _) = ledger
    body = json.loads(dept("trials", "show", first.fingerprint[:8], "--json").stdout)
    assert body["spec"]["task"] == "movie-polarity"
    assert body["outcome"]["test"]["accuracy"] == 81.25
    assert yaml.safe_load(dept("trials", "show", first.fingerprint).stdout)["status"] == "trained"
    refused(dept("trials", "show", "0" * 64), "no trial begins with")
    refused(dept("trials", "show", "../../etc"), "is no fingerprint")


def test_failed_trials_are_tried_again_when_asked(ledger):
    known, run_id, (_, second, _) = ledger
    refused(dept("trials", "retry"), "give fingerprints, --run or --all")
    said = dept("trials", "retry", second.fingerprint[:10]).stdout
    assert said.startswith("1 trial will be tried again")
    assert known.get(second.fingerprint).status == "pending"
    assert dept("trials", "retry", "--run", run_id[:8]).stdout.startswith("0 trials")
    assert dept("trials", "retry", "--all").exit_code == 0


def test_trials_are_forgotten_after_a_question(ledger):
    known, _, (_, second, _) = ledger
    assert dept("trials", "forget", second.fingerprint, stdin="n\n").exit_code == 1
    assert known.get(second.fingerprint) is not None
    assert "Forgotten: 1 trial." in dept("trials", "forget", second.fingerprint, "--yes").stdout
    assert known.get(second.fingerprint) is None


def test_status_tells_running_from_orphaned(ledger, monkeypatch):
    known, run_id, (first, _, third) = ledger
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (claim,) = known.claim("elsewhere:boot:ns:1:2", lease_seconds=1000)
    assert claim.fingerprint == third.fingerprint
    body = json.loads(dept("status", "--json").stdout)
    assert {one["fingerprint"] for one in body["running"]} == {first.fingerprint, third.fingerprint}
    assert body["orphaned"] == []
    known.renew([claim], lease_seconds=-1)  # its lease is over
    body = json.loads(dept("status", "--json").stdout)
    assert [one["fingerprint"] for one in body["orphaned"]] == [third.fingerprint]
    assert body["trials"] == {"trained": 1, "failed": 1, "running": 1}
    (run,) = body["runs"]
    assert (run["run_id"], run["name"], run["trials"]) == (run_id, "mine", {"trained": 1, "failed": 1})
    shown = dept("status").stdout
    for words in ("prefect    not running", "none in reach", f"orphaned: {third.fingerprint[:12]}", "mine, running"):
        assert words in shown


def test_own_tasks_are_known_once_added(tmp_path):
    write_task(tmp_path / "film.csv", "film", 0)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"film": block(tmp_path / "film.csv")}, sort_keys=False))
    refused(dept("tasks", "film"), "unknown task 'film'")
    assert not home().exists()
    said = dept("tasks", "add", str(path))
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("Added: film (")
    row = Ledger.open().own_tasks()["film"]
    assert Store.open().exists(f"rows/{row.rows_sha256}")
    assert any(line.startswith("film\t") for line in dept("tasks").stdout.splitlines())
    assert "verbalizer:" in dept("tasks", "film").stdout
    refused(dept("tasks", "forget", "flim"), "no own task 'flim'; did you mean film?")
    assert dept("tasks", "forget", "film").stdout == "Forgotten: film\n"
    refused(dept("tasks", "film"), "unknown task 'film'")


def test_an_own_task_whose_file_is_damaged_does_not_end_the_list(tmp_path):
    for name in ("film", "book"):
        write_task(tmp_path / f"{name}.csv", name, 0)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({name: block(tmp_path / f"{name}.csv") for name in ("film", "book")}))
    assert dept("tasks", "add", str(path)).exit_code == 0
    (tmp_path / "book.csv").write_bytes(b"\xff\xfe\x00 no rows")
    listed = dept("tasks")
    assert listed.exit_code == 0, listed.output
    assert {line.split("\t")[0] for line in listed.stdout.splitlines()} >= {"film", "book", "sms-spam"}
    (reason,) = listed.stderr.strip().splitlines()
    assert reason.startswith("book: ")
    assert "book.csv" in reason
    found = {task["name"]: task for task in json.loads(dept("tasks", "--json").stdout)["tasks"]}
    assert found["book"]["reason"] in reason
    assert (found["book"]["train"], found["film"]["reason"]) == (None, None)


def test_a_task_of_the_catalogue_is_not_taken(tmp_path):
    write_task(tmp_path / "film.csv", "film", 0)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"sms-spam": block(tmp_path / "film.csv")}, sort_keys=False))
    refused(dept("tasks", "add", str(path)), "the catalogue already has a task sms-spam")
    refused(dept("tasks", "add", str(tmp_path / "no.yaml")), "no.yaml")


def test_work_without_a_run_makes_nothing():
    result = dept("work")
    assert result.exit_code == 0
    assert "no run has begun yet" in result.stdout
    assert not home().exists()


def test_a_dry_run_makes_nothing(make_plan, tmp_path, monkeypatch):
    path = make_plan()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = dept("run", str(path), "--dry-run")
    assert result.exit_code == 0, result.output
    heads = result.stdout.splitlines()[0].split("\t")
    assert heads[:4] == ["Stage", "Variant", "Trials", "Steps"]
    assert not home().exists()
    assert list((tmp_path / "here").iterdir()) == []
