"""`dept tasks check` and `new` on texts and answers that are longer than their room."""

import pytest
import yaml

from dept.backbones.describe import describe
from dept.batches.tokenise import encode, encode_answers
from dept.config import AdapterConfig
from tasks.load import load_splits
from tasks.spec import Task
from tests.flows.test_cli_tasks import dept, write, written

GOOD, TALKS = "the film was good and " * 20, "was agreed after long talks " * 15


def qa(tmp_path, n=40):
    rows = [
        {
            "question": f"who is number {i}",
            "context": f"name{i} is it. " + "the film was good and " * 20,
            "answer": f"name{i}",
        }
        for i in range(n)
    ]
    return write(tmp_path / "qa.jsonl", rows)


def summaries(tmp_path, n=40):
    rows = [
        {
            "document": f"report {i} " + "and so it went on " * 9,
            "summary": f"point {i} " + "was agreed after long talks " * 15,
        }
        for i in range(n)
    ]
    return write(tmp_path / "sum.jsonl", rows)


def check(tmp_path, block, *arguments):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(block))
    result = dept("tasks", "check", str(tmp_path / "own.yaml"), *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_lost_question_is_told_with_the_key_that_keeps_it(tmp_path, tiny_folders):
    source = {"kind": "file", "path": str(qa(tmp_path)), "label": "answer"}
    template = "question: {question}\ncontext: {context}\nAnswer:"
    block = {"m": {"kind": "qa", "template": template, "source": source}}
    backbone = ("--tokens", "160", "--backbone", str(tiny_folders["llama"]))
    shown = check(tmp_path, block, *backbone)
    assert "room: s = 160, of which 32 are kept for the answer: 128 tokens of text" in shown
    assert "longer than 128 tokens: 40 rows (100.0 %)" in shown
    assert "40 rows will be cut" in shown
    assert "{question} is cut in 40 rows, whole in 0. Remedy: cut: context in the task" in shown
    assert "is cut in 40 rows, whole in 40." in check(tmp_path, block, "--tokens", "90", *backbone[2:])
    block["m"]["cut"] = "context"
    shown = check(tmp_path, block, *backbone)
    assert "{question}" not in shown
    assert "of {context} in 40 rows" in shown
    t5 = check(tmp_path, block, "--tokens", "160", "--backbone", str(tiny_folders["t5"]))
    assert "room: s = 160: 160 tokens of text" in t5  # the decoder writes the answer


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_the_counts_are_those_of_training(tmp_path, tiny_folders, kind):
    made, _ = written(qa(tmp_path))
    tokens = describe(str(tiny_folders[kind])).tokens
    rows = [row for part in load_splits(made).parts().values() for row in part]
    config = AdapterConfig(m=4, r=2, s=160)
    how = {"cut": made.cut, "template": made.template}
    trained = encode_answers(tokens, [r.text for r in rows], [r.target for r in rows], config, 32, **how)
    shown = check(tmp_path, {"m": made.block()}, "--tokens", "160", "--backbone", str(tiny_folders[kind]))
    cut = sum(row.cut for row in trained)
    assert f"longer than {tokens.room(160, 32)} tokens: {cut} rows" in shown
    words = {"verbalizer": {"a": "very good", "b": "bad"}, "template": "{text}\nLabel:"}
    own = Task.build("w", {**words, "source": {"kind": "file", "path": "x.csv"}}, "test")
    longest = max(map(len, tokens.encode_words(own.words, "\n")))
    write(tmp_path / "w.jsonl", [{"text": f"the film {i} " * 9, "label": "ab"[i % 2]} for i in range(40)])
    block = {"w": {**words, "source": {"kind": "file", "path": str(tmp_path / "w.jsonl")}}}
    shown = check(tmp_path, block, "--tokens", "40", "--backbone", str(tiny_folders[kind]))
    made = Task.build("w", block["w"], "test")
    texts = [row.text for part in load_splits(made).parts().values() for row in part]
    cut = sum(row.cut for row in encode(tokens, texts, made.words, None, AdapterConfig(m=4, r=2, s=40)))
    assert f": {cut} rows" in shown.split("longer than")[1]
    assert longest >= 1


def test_answers_that_are_cut_are_told(tmp_path, tiny_folders):
    source = {"kind": "file", "path": str(summaries(tmp_path)), "text": "document", "label": "summary"}
    block = {"m": {"kind": "generation", "answer_length": 32, "source": source}}
    shown = check(tmp_path, block, "--tokens", "200")
    assert "at least 40 answers (100.0 %) are longer than 32 tokens" in shown
    assert "Remedy: answer_length: 80 in the task" in shown
    shown = check(tmp_path, block, "--tokens", "200", "--backbone", str(tiny_folders["llama"]))
    assert "40 answers (100.0 %) are longer than 32 tokens: their end is neither learned nor written" in shown
    block["m"]["answer_length"] = 120
    assert "are longer than" not in check(tmp_path, block, "--tokens", "200")
    assert "m: good to use." in check(tmp_path, block, "--tokens", "200")
    shown = check(tmp_path, block, "--tokens", "100")
    assert "leaves no room for text beside an answer of 120" in shown
    assert "m: readable, but most of its text is cut away: see the notes." in shown


def test_new_writes_keys_that_keep_question_and_answers(tmp_path):
    made, said = written(qa(tmp_path))
    assert (made.cut, made.answer_length) == ("context", 32)
    assert "adapter: {s:" in said
    made, said = written(summaries(tmp_path))
    assert made.cut == "text"
    assert made.answer_length >= 100
    made, _ = written(write(tmp_path / "short.jsonl", [{"text": f"a b {i}", "label": "xy"[i % 2]} for i in range(20)]))
    assert (made.cut, made.answer_length) == (None, None)


def test_the_plan_says_how_long(tmp_path):
    write(tmp_path / "mine.jsonl", [{"text": f"one two three {i}", "label": "ab"[i % 2]} for i in range(30)])
    own = {"mine": {"verbalizer": {"a": "x", "b": "y"}, "source": {"kind": "file", "path": "mine.jsonl"}}}
    plan = {"own_tasks": own, "targets": ["mine"], "strategies": ["scratch"], "adapter": {"m": 4, "r": 2, "s": 5}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(plan))
    for what in (f"{tmp_path / 'p.yaml'}:mine", str(tmp_path / "p.yaml")):
        assert "room: s = 5, of which 1 are kept for the answer: 4 tokens" in dept("tasks", "check", what).stdout
    own["mine"]["max_length"] = 3
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(plan))
    shown = dept("tasks", "check", str(tmp_path / "p.yaml")).stdout
    assert "max_length: 3 tokens of a text are kept" in shown
    assert "30 rows" in shown.split("longer than 3 tokens:")[1]
    assert "a larger max_length keeps more" in shown


def test_cut_and_answer_length_of_a_block(tmp_path):
    source = {"kind": "file", "path": "x.csv"}
    for keys, said in (
        ({"cut": "middle"}, "cut: 'middle' is none of text, start, end"),
        ({"answer_length": 9}, "answer_length: kind classification answers with one of its words"),
        ({"answer_length": 0}, "answer_length"),
    ):
        (tmp_path / "own.yaml").write_text(
            yaml.safe_dump({"m": {"verbalizer": {"a": "x", "b": "y"}, "source": source, **keys}})
        )
        result = dept("tasks", "check", str(tmp_path / "own.yaml"))
        assert result.exit_code == 2
        assert said in result.stderr
