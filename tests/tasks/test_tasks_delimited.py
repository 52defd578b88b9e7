"""csv and its relatives: quotes that are quotes and quotes that are letters, long fields, odd line ends."""

import csv
import threading

import pytest

from infra.errors import InputError
from tasks.load import load_splits
from tasks.sources.read import read_table
from tasks.spec import Task


def task(path, **source):
    body = {"name": "m", "verbalizer": {"a": "good", "b": "bad"}, "source": {"kind": "file", "path": path, **source}}
    return Task.model_validate(body)


def texts(path, **how):
    return [row["text"] for _, row in read_table(path, **how)]


def everything(splits):
    return [row for part in splits.parts().values() for row in part]


def lines(mark, odd=(), n=20, swapped=False):
    """A header and n rows; the odd ones hold quotes that do not pair as csv wants it."""
    rows = [("text", "label"), *((f"row number {i}", "ab"[i % 2]) for i in range(n))]
    for place, text in odd:
        rows[place] = (text, rows[place][1])
    return "".join(mark.join(reversed(row) if swapped else row) + "\n" for row in rows)


STRAY = ((5, '"The end'), (8, 'and so it goes"'))  # opens in one row, closes at the end of a field in a later one
ENDS = ["\n", "\r\n"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("source", [{}, {"format": "csv", "delimiter": "\t"}])
@pytest.mark.parametrize("odd", [STRAY, ((5, '"never closed'),), ((5, 'a "word" in it'), (6, '"first" word'))])
def test_a_quote_in_a_tsv_is_a_letter_where_quotes_do_not_pair(tmp_path, odd, source, bom, end):
    path = tmp_path / "rows.tsv"
    path.write_text(bom + lines("\t", odd), encoding="utf-8", newline=end)
    rows = everything(load_splits(task(path, **source)))
    assert len(rows) == 20
    assert {odd[0][1]} <= {row.text.removesuffix("\nLabel:") for row in rows}


def test_a_tsv_with_proper_quotes_is_read_with_them(tmp_path):
    path = tmp_path / "rows.tsv"
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows(
            [["text", "label"], *[[f'he said "{i}"\nand\tleft', "ab"[i % 2]] for i in range(20)]]
        )
    assert texts(path)[3] == 'he said "3"\nand\tleft'
    assert len(everything(load_splits(task(path)))) == 20
    with pytest.raises(InputError, match="line 2: 1 fields where the header has 2"):
        texts(path, quotes=False)


@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_quoted_field_that_swallows_rows_is_an_error(tmp_path, mark, swapped):
    path = tmp_path / "rows.csv"
    path.write_text(lines(mark, STRAY, swapped=swapped))
    if mark == "\t":
        assert len(everything(load_splits(task(path, delimiter=mark)))) == 20
    else:
        with pytest.raises(InputError, match=r"line 6: a quoted field of this row runs over line [67].*quotes: false"):
            load_splits(task(path, delimiter=mark))
    assert len(everything(load_splits(task(path, delimiter=mark, quotes=False)))) == 20
    assert len(texts(path, delimiter=mark, quotes=True)) == 17  # who asks for quotes gets them


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_swallowed_rows_are_seen_without_a_task(tmp_path, swapped, numbers):
    path = tmp_path / "rows.csv"
    body = lines(",", STRAY, swapped=swapped)
    if numbers:  # a text and the row's number
        body = "id,text\n" + "".join(f"{i},{dict(STRAY).get(i, 'row')} {i}\n" for i in range(20))
        body = body.replace('" 8', ' 8"')
    path.write_text(body)
    with pytest.raises(InputError, match=r"line [67]: a quoted field of this row runs over line [678]"):
        texts(path)


@pytest.mark.parametrize("mark", [",", ";", "|"])
@pytest.mark.parametrize("swapped", [False, True])
def test_texts_of_several_lines_are_no_error(tmp_path, mark, swapped):
    path = tmp_path / "rows.csv"
    texts_ = [f"One, two; three {i}\nfour, five; a\n, b\n" for i in range(20)]
    with path.open("w", newline="") as stream:
        rows = [["text", "label"], *[[text, "ab"[i % 2]] for i, text in enumerate(texts_)]]
        csv.writer(stream, delimiter=mark).writerows([row[::-1] for row in rows] if swapped else rows)
    assert len(everything(load_splits(task(path, delimiter=mark)))) == 20
    if mark != "|":
        assert len(texts(path, delimiter=mark)) == 20


def test_two_lines_swallowed(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"one,a\nthe other",b\n' + "more,a\n" * 3)
    with pytest.raises(InputError, match="line 2: a quoted field of this row runs over line 2"):
        load_splits(task(path))


@pytest.mark.parametrize("mark", [",", "\t", ";"])
@pytest.mark.parametrize("size", [131_073, 1_000_003])
def test_fields_of_any_length(tmp_path, mark, size):
    path = tmp_path / "rows.csv"
    before = csv.field_size_limit()
    path.write_text(lines(mark) + f'"{"w " * (size // 2)}"{mark}a\n')
    assert len(texts(path, delimiter=mark)[-1]) == size // 2 * 2
    assert csv.field_size_limit() == before
    (tmp_path / "rows.jsonl").write_text('{"text": "' + "w" * size + '", "label": "a"}\n')
    assert len(texts(tmp_path / "rows.jsonl")[0]) == size
    from pyarrow import Table, large_string, parquet, schema

    wide = Table.from_pylist([{"text": "w" * size}], schema=schema([("text", large_string())]))
    parquet.write_table(wide, tmp_path / "rows.parquet")
    assert len(texts(tmp_path / "rows.parquet")[0]) == size


def test_long_fields_in_threads(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + f"{'w' * 140_000},a\n" * 20)
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(texts(path)))) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [20] * 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('text,label\na,a\n"b" c,b\n', "line 3: not valid CSV .*mend the quotes of this row, or set quotes: false"),
        ('text,label\na,a\nb,"b\n', "line 3: a quote opened in this row is never closed"),
        ('text,label\r\na,a\r\n"b\r\nc', "line 3: a quote opened in this row is never closed"),
    ],
)
def test_unbalanced_quotes(tmp_path, text, said):
    path = tmp_path / "rows.csv"
    path.write_text(text, newline="")
    with pytest.raises(InputError, match=said):
        load_splits(task(path))


def test_delimiters_that_cannot_be(tmp_path):
    for mark in ('"', "\n", "\r"):
        with pytest.raises(ValueError, match="cannot part fields"):
            task(tmp_path / "x.csv", delimiter=mark)


def test_columns_in_other_code_points(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(
        "te\u0301xt,cafe\u0301\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(20)), encoding="utf-8"
    )
    splits = load_splits(task(path, text="t\u00e9xt", label="caf\u00e9"))
    assert len(everything(splits)) == 20
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"te\u0301xt": "row {i}", "in": {{"cafe\u0301": "{"ab"[i % 2]}"}}}}\n' for i in range(20)),
        encoding="utf-8",
    )
    splits = load_splits(task(tmp_path / "rows.jsonl", text="t\u00e9xt", label="in.caf\u00e9"))
    assert len(everything(splits)) == 20
