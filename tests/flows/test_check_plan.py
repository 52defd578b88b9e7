"""`dept tasks check`: the plan says which tokenizer counts, how much room there is, and in which words is answered."""

import pytest
import yaml

from tests.flows.test_cli import dept, refused
from tests.flows.test_cli_tasks import write

OWN = {"template": "{text}", "verbalizer": {"a": "x", "b": "y"}, "source": {"kind": "file", "path": "mine.jsonl"}}


@pytest.fixture
def files(tmp_path, tiny_folders):
    """Rows of one word of six bytes, which a tiny backbone reads as six tokens; a plan; its tasks alone."""
    write(tmp_path / "mine.jsonl", [{"text": f"zzzz{i}", "label": "ab"[i % 2]} for i in range(10, 40)])
    plan = {"backbone": str(tiny_folders["llama"]), "own_tasks": {"mine": OWN}, "targets": ["mine"]}
    plan |= {"strategies": ["scratch"], "adapter": {"m": 4, "r": 2, "s": 4}}

    def written(name, **changes):
        body = {key: value for key, value in (plan | changes).items() if value is not None}
        (tmp_path / name).write_text(yaml.safe_dump(body))
        return str(tmp_path / name)

    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"mine": OWN}))
    return written, str(tmp_path / "tasks.yaml")


def checked(*words):
    result = dept("tasks", "check", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_plans_backbone_counts(files):
    written, tasks = files
    plan = written("plan.yaml")
    unfinished = written("unfinished.yaml", targets=["nobody"])
    block = written("block.yaml", targets=None)
    ways = ([plan], [f"{plan}:mine"], ["mine", "--plan", plan], [tasks, "--plan", plan], [unfinished], [block])
    for words in ways:
        shown = checked(*words)
        assert "6 tokens in the median" in shown, words
        assert "room: s = 4, of which 2 are kept for the answer: 2 tokens of text" in shown, words


def test_what_is_given_goes_before_the_plan(files, tiny_folders):
    written, tasks = files
    plan = written("plan.yaml")
    assert "room: s = 9" in checked(plan, "--tokens", "9")
    other = written("other.yaml", backbone="someone/not-here")
    shown = checked(other)
    assert "1 words in the median" in shown
    assert "note: backbone someone/not-here of the plan is not on this machine, so words are counted" in shown
    shown = checked(other, "--backbone", str(tiny_folders["llama"]))
    assert "6 tokens in the median" in shown
    assert "someone/not-here" not in shown
    assert "6 tokens in the median" in checked(other, "--plan", plan)
    assert "1 words in the median" in checked(tasks)


def test_the_plans_words_answer(files):
    written, tasks = files
    paper = written("paper.yaml", verbalizer="paper")
    for words in ([paper], [f"{paper}:mine"], [tasks, "--plan", paper]):
        assert "(answer: '0')" in checked(*words), words
    assert "(answer: 'x')" in checked(tasks)


def test_a_task_that_the_plan_does_not_know(files):
    written, _ = files
    plan = written("plan.yaml")
    refused(dept("tasks", "check", "mime", "--plan", plan), "no task 'mime'; did you mean mine?")
    refused(dept("tasks", "check", "mine", "--plan", "dmo"), "did you mean demo?")
