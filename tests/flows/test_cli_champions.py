"""`dept champions`, `dept promote`, `dept rollback`."""

import json

import pytest

from dept.backbones.describe import describe
from registry.promotion.lookup import backbones_of
from tests.flows.test_cli import dept, refused
from tests.registry.promotion_helpers import new_world
from tests.registry.registry_helpers import save_tiny_backbone
from tests.registry.test_older_champions import NAME, OLD, left_by_0_1_0


@pytest.fixture
def world():
    made = new_world()
    made.outcomes = [made.trial(seed) for seed in range(3)]
    made.fight(made.outcomes[0], lambda i: True, lambda i: True)
    made.fight(made.outcomes[1], lambda i: i % 2 == 0, lambda i: True)
    return made


def listed():
    result = dept("champions", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["champions"]


def test_the_list(world):
    (fact,) = listed()
    assert (fact["task"], fact["version"], fact["shots"]) == ("mood", "2", 16)
    assert fact["fingerprint"] == world.outcomes[1].spec.fingerprint
    assert fact["decision"]["decision"] == "promoted"
    assert fact["decision"]["rows"] > 300
    assert fact["age_days"] < 1
    lines = dept("champions").stdout.splitlines()
    assert lines[0].split("\t")[0] == "Task"
    assert lines[1].split("\t")[:3] == ["mood", "tiny", "2"]
    assert "promoted" in lines[1]


def test_back_and_forth(world):
    result = dept("rollback", "mood")
    assert result.exit_code == 0, result.output
    assert "version 1 answers" in result.stdout
    assert listed()[0]["decision"]["by"] != "rule"
    refused(dept("rollback", "mood"), "no earlier champion")
    assert dept("promote", "mood", "--fingerprint", world.outcomes[2].spec.fingerprint[:12]).exit_code == 0
    assert listed()[0]["fingerprint"] == world.outcomes[2].spec.fingerprint
    assert dept("promote", "mood", "--version", "2").exit_code == 0
    assert listed()[0]["version"] == "2"


def test_what_is_refused(world):
    refused(dept("promote", "mood"), "either --version or --fingerprint")
    refused(dept("promote", "mood", "--version", "9"), "has no version 9")
    refused(dept("promote", "mood", "--fingerprint", "zzz"), "no finished trial")
    refused(dept("rollback", "another"), "has no champion")
    for words in (("rollback",), ("promote", "--version", "1"), ("predict", "x", "--task")):
        refused(dept(*words, "it's"), "it's")  # a quote, of which MLflow makes another question


def test_the_trial_of_a_champion_is_not_forgotten_by_the_way(world):
    champion = world.outcomes[1].spec.fingerprint
    refused(dept("trials", "forget", champion, "--yes"), f"{champion[:12]} is the champion of mood")
    assert world.ledger.get(champion) is not None
    assert dept("trials", "forget", world.outcomes[2].spec.fingerprint, "--yes").exit_code == 0
    result = dept("trials", "forget", champion, "--yes", "--force")
    assert result.exit_code == 0, result.output
    assert "finished, the champion of mood" in result.stderr
    assert world.ledger.get(champion) is None
    (one,) = backbones_of(world.ledger, world.tracker, "mood").values()
    assert one == "tiny", "MLflow knows the backbone"
    shown = listed()[0]
    assert (shown["backbone"], shown["fingerprint"]) == ("tiny", champion)


def test_nothing_there_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("DEPT_LEDGER_URL", raising=False)
    assert json.loads(dept("champions", "--json").stdout) == {"champions": []}
    refused(dept("rollback", "mood"), "no ledger yet")
    assert not (tmp_path / "none").exists()


def test_a_home_of_0_1_0_before_any_new_run(tmp_path):
    world = new_world()
    info = describe(str(save_tiny_backbone(tmp_path / "backbones" / "tiny")))
    left_by_0_1_0(world, info)
    said = f"task mood has only its champion of version 0.1.0 ({NAME}, version 1), which goes on answering. Remedy: "
    refused(dept("rollback", "mood"), f"rollback: {said}`dept run` of its plan takes it over")
    refused(dept("promote", "mood", "--version", "1"), f"promote: {said}")
    refused(dept("promote", "mood", "--fingerprint", OLD[:8]), f"promote: {said}")
    (tmp_path / "backbones" / "tiny").rename(tmp_path / "backbones" / "moved")
    for words in (("rollback", "mood"), ("promote", "mood", "--version", "1")):
        refused(dept(*words), "its backbone", "is not on this machine. Remedy: --backbone with the folder")
    moved = ("--backbone", str(tmp_path / "backbones" / "moved"))
    refused(dept("rollback", "mood", *moved), said)
