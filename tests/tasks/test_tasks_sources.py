"""A user's own files, good and bad."""

import json
import os
import random
import sys

import pytest

from infra.errors import InputError
from tasks.load import load_splits
from tasks.sources.read import read_source
from tasks.spec import Task

ROWS = [(f'Row {i}: good, "quoted"\nand on two lines' if i % 2 else f"row {i} béd", str(i % 2)) for i in range(30)]


def task(path, **source):
    return Task.model_validate(
        {
            "name": "mine",
            "verbalizer": {"0": "bad", "1": "good"},
            "source": {"kind": "file", "path": str(path), **source},
        }
    )


def as_csv(rows):
    return "text,label\n" + "".join('"{}",{}\n'.format(text.replace('"', '""'), label) for text, label in rows)


def as_jsonl(rows):
    return "".join(json.dumps({"text": text, "label": int(label)}) + "\n" for text, label in rows)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("ending", "write"), [("csv", as_csv), ("jsonl", as_jsonl)])
def test_good_files(tmp_path, ending, write, newline, bom):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(bom + write(ROWS).replace("\n", newline).encode())
    records = read_source(task(path))[0]
    assert [(record.fields["text"], record.label) for record in records] == [(" ".join(t.split()), k) for t, k in ROWS]


def test_format_delimiter_and_column_names(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("n;body;grade\n1;a, b;0\n\n2;c;1\n")
    records = read_source(task(path, format="csv", delimiter=";", text="body", label="grade"))[0]
    assert [(record.fields["text"], record.label) for record in records] == [("a, b", "0"), ("c", "1")]
    with pytest.raises(InputError, match=r"ending '\.txt'; set format"):
        read_source(task(path))[0]


def test_json_may_hold_line_separators_and_booleans(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a\u2028b", "label": true}\n\n{"text": "c", "label": false}\n', encoding="utf-8")
    own = Task.model_validate(
        {
            "name": "mine",
            "verbalizer": {"false": "no", "true": "yes"},
            "source": {"kind": "file", "path": str(path)},
        }
    )
    assert [(r.fields["text"], r.label) for r in read_source(own)[0]] == [("a b", "true"), ("c", "false")]


def test_order_of_the_file_does_not_matter(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(as_csv(ROWS), encoding="utf-8")
    before = load_splits(task(path))
    other = tmp_path / "other.csv"
    other.write_text(as_csv(random.Random(0).sample(ROWS, len(ROWS))), encoding="utf-8")
    assert load_splits(task(other)) == before


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(as_csv(ROWS), encoding="utf-8")
    before = load_splits(task(path))
    assert load_splits(task(path)) is before
    path.write_text(as_csv([*ROWS, ("one more", "1")]), encoding="utf-8")
    assert load_splits(task(path)).data_hash != before.data_hash


HEAD = b"text,label\ngood film,1\n"
BAD = {
    "empty.csv": (b"", "the file is empty"),
    "blank.csv": (b"\n \n\r\n", "the file is empty"),
    "bom-only.csv": (b"\xef\xbb\xbf", "the file is empty"),
    "header-only.csv": (b"text,label\n", "holds no rows"),
    "latin.csv": (HEAD + b"caf\xe9,1\n", "line 3: not UTF-8 (byte 0xe9)"),
    "utf16.csv": ("text,label\n".encode("utf-16"), "line 1: not UTF-8"),
    "column.csv": (b"body,grade\na,1\n", "line 1: no column 'text'; columns there: 'body', 'grade'"),
    "label-column.csv": (b"text,grade\na,1\n", "line 1: no column 'label'; columns there: 'text', 'grade'"),
    "twice.csv": (b"text,label,text\na,1,b\n", "line 1: column 'text' stands there twice"),
    "empty-text.csv": (HEAD + b'"  ",1\n', "line 3: the text ('text') is empty"),
    "no-label.csv": (HEAD + b"bad,\n", "line 3: the label ('label') is missing"),
    "label.csv": (HEAD + b"\nbad,2\n", "line 4: label '2' is not in the verbalizer of task mine (0, 1)"),
    "fields.csv": (HEAD + b"bad, very bad,0\n", "line 3: 3 fields where the header has 2"),
    "few.csv": (HEAD + b"bad\n", "line 3: 1 fields where the header has 2"),
    "cut.csv": (HEAD + b'"two\nlines",0\n"cut\nshort', "line 5: a quote opened in this row is never closed"),
    "quotes.csv": (HEAD + b'"bad" film,0\n', "line 3: not valid CSV"),
    "long.csv": (HEAD + b'"' + b"x" * 200_000, "line 3: a quote opened in this row is never closed"),
    "nul.csv": (HEAD + b"a\x00b,0\n", "line 3: "),
    "empty.jsonl": (b"", "the file is empty"),
    "invalid.jsonl": (b'{"text": "a", "label": 1}\n{"text": "b", "lab\n', "line 2: not valid JSON"),
    "list.jsonl": (b'["a", 1]\n', "line 1: not a JSON object"),
    "deep.jsonl": (b"[" * 200_000 + b"\n", "line 1: JSON nested too deep"),
    "key.jsonl": (b'{"text": "a", "label": 1}\n{"body": "b"}\n', "line 2: no column 'text'; columns there: 'body'"),
    "null-text.jsonl": (b'{"text": null, "label": 1}\n', "line 1: the text ('text') is empty"),
    "number-text.jsonl": (b'{"text": 5, "label": 1}\n', "line 1: 'text' is not text but 5"),
    "null-label.jsonl": (b'{"text": "a", "label": null}\n', "line 1: the label ('label') is missing"),
    "list-label.jsonl": (b'{"text": "a", "label": [1]}\n', "line 1: the label ('label') is not a string or number"),
    "label.jsonl": (b'{"text": "a", "label": "good"}\n', "line 1: label 'good' is not in the verbalizer"),
    "latin.jsonl": (b'{"text": "caf\xe9", "label": 1}\n', "line 1: not UTF-8"),
    "surrogate.jsonl": (b'{"text": "a\\ud800", "label": 1}\n', "line 1: the text holds"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_splits(task(path))
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_no_file_a_folder_and_no_right_to_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_splits(task(tmp_path / "none.csv"))
    with pytest.raises(InputError, match="a folder, but none that save_to_disk of `datasets` wrote; give a file"):
        load_splits(task(tmp_path))
    path = tmp_path / "locked.csv"
    path.write_text(as_csv(ROWS), encoding="utf-8")
    path.chmod(0)
    if sys.platform == "win32" or os.geteuid() == 0:
        pytest.skip("this user may read every file")
    with pytest.raises(InputError, match="cannot be read"):
        load_splits(task(path))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "1"), ("b", "1"), ("c", "1")], "label '0' has no usable rows"),
        ([("a", "1"), ("b", "1"), ("c", "1"), ("d", "0"), ("e", "0")], "label '0' has 2 usable rows"),
        ([("a", "1"), ("b", "1"), ("c", "1"), ("d", "0"), ("D ", "0"), (" d", "0")], "1 usable rows.*2 duplicate"),
        ([(t, "1") for t in "abc"] + [(t, "0") for t in "cde"], "2 usable rows.*2 conflicting"),
        ([("a", "1"), ("a", "0"), ("b", "1"), ("b", "0"), ("c", "1")], r"4 conf.*tells them apart.*source\.picture"),
    ],
)
def test_too_few_rows_of_a_class(tmp_path, rows, message):
    path = tmp_path / "rows.csv"
    path.write_text(as_csv(rows))
    with pytest.raises(InputError, match=message):
        load_splits(task(path))


def test_wheel_files_with_a_bad_rating(tmp_path, monkeypatch):
    folder = tmp_path / "a_wheel"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('a data wheel is never imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = {"kind": "package", "package": "a_wheel", "requirement": "a-wheel==1", "path": "d.tsv", "reader": "tsv"}
    source["threshold"] = {"at": 1, "below": "0", "above": "1"}
    own = Task.model_validate({"name": "w", "verbalizer": {"0": "bad", "1": "good"}, "source": source})
    (folder / "d.tsv").write_bytes(b'text\tlabel\r\na "film\t1\r\nb\t-1\r\nc\t0.99\r\n')
    assert [(r.id, r.fields["text"], r.label) for r in read_source(own)[0]] == [("2", 'a "film', "1"), ("3", "b", "0")]
    for value in ("nan", "much"):
        (folder / "d.tsv").write_text(f"text\tlabel\na\t{value}\n")
        with pytest.raises(InputError, match=f"line 2: '{value}' is not a number"):
            read_source(own)[0]


PAIRS = [
    {"a": f"first {i}", "b": f"second {i}", "kind": i % 2, "score": i % 11 / 2, "gold": [f"first {i}", "both"]}
    for i in range(30)
]


def own(path, **changes):
    source = {"kind": "file", "path": str(path), "columns": {"one": "a", "two": "b"}, **changes.pop("source", {})}
    return Task.model_validate({"name": "p", "template": "{one} / {two} :", "source": source, **changes})


def write_rows(path):
    from pyarrow import Table, parquet

    if path.suffix == ".parquet":
        parquet.write_table(Table.from_pylist(PAIRS), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    else:
        lines = [f"{r['a']},{r['b']},{r['kind']},{r['score']},{r['gold'][0]}" for r in PAIRS]
        path.write_text("\n".join(["a,b,kind,score,gold", *lines]))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_pairs_numbers_and_answers(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    write_rows(path)
    pairs = load_splits(own(path, verbalizer={"0": "even", "1": "odd"}, source={"label": "kind"}))
    assert (len(pairs.train), len(pairs.validation), len(pairs.test)) == (21, 3, 6)
    assert all(int(r.text.split()[1]) % 2 == r.label and r.target == ("even", "odd")[r.label] for r in pairs.train)
    grid = {"low": 0, "high": 5, "step": 1}
    number = load_splits(own(path, kind="regression", grid=grid, source={"label": "score"}))
    row = next(r for r in (*number.train, *number.validation, *number.test) if r.text == "first 7 / second 7 :")
    assert (row.value, row.target, row.label) == (3.5, "4", 4)
    for kind in ("qa", "generation"):
        said = load_splits(own(path, kind=kind, source={"label": "gold"}))
        row = next(r for r in (*said.train, *said.validation, *said.test) if r.text == "first 7 / second 7 :")
        assert row.target == "first 7"
        assert row.answers == (("first 7",) if ending == "csv" else ("first 7", "both"))


def test_data_hash_sees_answers_and_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    hashes = set()
    for gold, score in ((["x"], 1), (["x", "y"], 1), (["y", "x"], 1), (["x"], 1.25)):
        rows = [dict(row) for row in PAIRS]
        rows[3] |= {"gold": gold, "score": score}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        qa = load_splits(own(path, kind="qa", source={"label": "gold"})).data_hash
        grid = {"low": 0, "high": 5, "step": 1}
        number = load_splits(own(path, kind="regression", grid=grid, source={"label": "score"})).data_hash
        hashes.add((qa, number))
    assert len(hashes) == 4
    assert len({qa for qa, _ in hashes}) == 3
    assert len({number for _, number in hashes}) == 2
    wider = load_splits(own(path, kind="regression", grid=grid | {"high": 6}, source={"label": "score"})).data_hash
    assert wider != number  # one more number to answer with


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ({"a": "x"}, {"kind": "qa", "source": {"label": "gold"}}, "line 1: no column 'b'"),
        ({"a": "x", "b": " ", "gold": "y"}, {"kind": "qa", "source": {"label": "gold"}}, "the text ('b') is empty"),
        (
            {"a": "x", "b": "y", "gold": []},
            {"kind": "qa", "source": {"label": "gold"}},
            "the answer ('gold') is missing",
        ),
        ({"a": "x", "b": "y", "gold": [3]}, {"kind": "qa", "source": {"label": "gold"}}, "neither a string nor a list"),
        (
            {"a": "x", "b": "y", "label": "7"},
            {"kind": "regression", "grid": {"low": 0, "high": 5, "step": 1}},
            "line 1: '7' ('label') is not a number from 0 to 5",
        ),
        (
            {"a": "x", "b": "y", "label": "much"},
            {"kind": "regression", "grid": {"low": 0, "high": 5, "step": 1}},
            "'much' ('label') is not a number",
        ),
    ],
)
def test_bad_pairs_numbers_and_answers(tmp_path, row, changes, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError) as caught:
        load_splits(own(path, **changes))
    assert message in str(caught.value)


def test_a_damaged_parquet_file(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 cut")
    with pytest.raises(InputError, match=r"rows\.parquet: not a readable parquet file"):
        load_splits(task(path))
    write_rows(path)
    with pytest.raises(InputError, match=r"rows\.parquet, row 1: no column 'text'; columns there: 'a', 'b'"):
        load_splits(task(path))


def test_folders_of_a_wheel(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for label in "01":
        folder = tmp_path / "texts_wheel" / "data" / label
        folder.mkdir(parents=True)
        (folder / "b.txt").write_text(f"Second\n\nof {label}")
        (folder / "a.txt").write_bytes(b"costs \xa35")
    source = {"kind": "package", "package": "texts_wheel", "requirement": "w==1", "path": "data", "reader": "folders"}
    wheel = Task.model_validate({"name": "w", "verbalizer": {"0": "bad", "1": "good"}, "source": source})
    assert [(r.id, r.fields["text"], r.label) for r in read_source(wheel)[0]] == [
        ("0/a", "costs £5", "0"),
        ("0/b", "Second of 0", "0"),
        ("1/a", "costs £5", "1"),
        ("1/b", "Second of 1", "1"),
    ]
    narrow = wheel.model_copy(update={"verbalizer": (("0", "bad"), ("2", "good"))})
    with pytest.raises(InputError, match=r"1/a\.txt: label '1' is not in the verbalizer"):
        read_source(narrow)[0]
