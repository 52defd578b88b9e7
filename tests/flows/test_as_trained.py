"""A champion is asked as it was trained, whatever has become of its task's template since."""

from dataclasses import dataclass, field

import pytest

from flows.execution.as_trained import as_today, as_trained
from flows.execution.rows import cut_of
from tasks.formatting import Example
from tasks.load import load_splits
from tasks.metrics import INVALID
from tasks.spec import Task
from tests.tasks.picture_cases import folder_of, task_of


@dataclass(frozen=True)
class Context:
    tasks: dict
    splits: dict = field(default_factory=dict)


def task(path, template="Review: {text} Mood:", words=("negative", "positive"), labels=("no", "yes")):
    body = {"template": template, "verbalizer": dict(zip(labels, words, strict=True))}
    return Task.build("mood", {**body, "source": {"kind": "file", "path": str(path)}}, "test")


@pytest.fixture
def file(tmp_path):
    lines = [f"film number {i} was {'good' if i % 2 else 'bad'},{'yes' if i % 2 else 'no'}" for i in range(80)]
    path = tmp_path / "mood.csv"
    path.write_text("\n".join(["text,label", *lines]))
    return path


def test_the_template_and_words_of_then(file):
    today, then = task(file), task(file, "{text}\nLabel:", ("bad", "good"))
    rows = load_splits(today).train[:5]
    about = {"template": then.template, "labels": list(then.labels), "words": list(then.words)}
    asked, changed = as_trained(Context({"mood": today}), "mood", about, rows)
    assert [row.id for row in changed] == [row.id for row in rows]
    assert all(row.text.endswith("\nLabel:") and not row.text.startswith("Review") for row in changed)
    assert [row.label for row in changed] == [row.label for row in rows]
    assert asked.tasks["mood"].words == ("bad", "good")


def test_nothing_changed(file):
    today = task(file)
    rows, context = load_splits(today).train[:5], Context({"mood": today})
    about = {"template": today.template, "labels": list(today.labels), "words": list(today.words)}
    assert as_trained(context, "mood", about, rows) == (context, rows)
    assert as_trained(context, "mood", {}, rows) == (context, rows)


def test_a_template_whose_fields_are_gone(file):
    today = task(file)
    rows, context = load_splits(today).train[:5], Context({"mood": today})
    assert as_trained(context, "mood", {"template": "{premise} {text}"}, rows) == (context, rows)


def test_labels_in_another_order_and_labels_that_are_gone(file):
    today, then = task(file), task(file, labels=("yes", "no"), words=("positive", "negative"))
    assert as_today(today, then, [0, 1, INVALID]) == [1, 0, INVALID]
    fewer = task(file, labels=("yes", "maybe"), words=("positive", "odd"))
    assert as_today(today, fewer, [0, 1]) == [1, INVALID]


def test_the_cut_and_lengths_of_then(file):
    """They change no rows, so that these need not be read again."""
    today = task(file).model_copy(update={"cut": "end", "max_length": 9})
    rows, context = load_splits(today).train[:5], Context({"mood": today})
    about = {"template": today.template, "labels": list(today.labels), "words": list(today.words)}
    then = {**about, "cut": "text", "max_length": None, "answer_length": None}
    file.unlink()
    asked, same = as_trained(context, "mood", then, rows)
    assert same is rows
    assert cut_of(asked.tasks["mood"]) == {"cut": "text", "template": today.template, "max_length": None}
    assert cut_of(as_trained(context, "mood", about, rows)[0].tasks["mood"])["max_length"] == 9, "older files say none"


def test_the_answers_of_then_in_their_length(file):
    body = {"kind": "generation", "source": {"kind": "file", "path": str(file)}, "answer_length": 6}
    today, rows = Task.build("mood", body, "test"), [Example("1", "a text", 0, "an answer")]
    about = {"template": today.template, "cut": None, "max_length": None, "answer_length": 21}
    asked, same = as_trained(Context({"mood": today}), "mood", about, rows)
    assert (asked.tasks["mood"].answer_length, same) == (21, rows)


def test_a_champion_sees_pictures_where_it_did_whatever_its_task_does_now(tmp_path):
    """One that was trained on the text alone is shown none, on a backbone that would see them too."""
    shown = task_of(folder_of(tmp_path, questions=1))
    hidden, rows = shown.model_copy(update={"picture": "hidden"}), load_splits(shown).train[:5]
    about = {"template": shown.template, "labels": list(shown.labels), "words": list(shown.words)}
    for today in (shown, hidden):
        context = Context({"mine": today})
        for saw, then in ((True, shown), (False, hidden)):
            asked, same = as_trained(context, "mine", about | {"picture": saw}, rows)
            assert (asked.tasks["mine"], same) == (then, rows)
            assert (asked is context) == (then == today)
