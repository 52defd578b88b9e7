"""`dept predict`: what may be given, what comes out, and how faults are told. The champion is a small stand-in."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

from flows.cli import predict
from infra.settings import home
from registry.serving import Answer
from tasks.pictures import Picture
from tests.flows.test_cli import dept, refused
from tests.tasks.picture_cases import png


class Champion:
    """Answers by the length of the text; counts what it is asked."""

    name, version, note, backbone_name = "dept-tiny-t", "3", "", "tiny"

    def __init__(self, fields=("text",), labels=("neg", "pos"), words=("bad", "good"), sees=False):
        self.fields, self.labels, self.words, self.asked = fields, labels, words, []
        self.picture = "picture" if sees else None
        self.columns = (*fields, "picture") if sees else fields

    def answers(self, rows):
        self.asked.append(len(rows))
        made = []
        for row in rows:
            assert isinstance(row.get("picture"), Picture if self.picture else type(None))
            long = min(0.9, len("".join(row[name] for name in self.fields)) / 20)
            if self.labels:
                best = int(long > 0.5)
                made.append(Answer(self.labels[best], self.words[best], max(long, 1 - long), (1 - long, long)))
            else:
                made.append(Answer("written: " + row["text"], "written: " + row["text"]))
        return made


@pytest.fixture
def champion(monkeypatch):
    def stand_in(**changes):
        made = Champion(**changes)
        monkeypatch.setattr(predict, "_champion", lambda task, backbone: made)
        return made

    return stand_in


def answer(*words, stdin=None):
    result = dept("predict", "--task", "t", *words, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_texts_and_lines(champion):
    champion()
    assert answer("fine", "a very long opinion") == "bad\t0.800\tfine\ngood\t0.900\ta very long opinion\n"
    assert answer(stdin="fine\r\na very long opinion\n") == answer("fine", "a very long opinion")
    assert answer(stdin=b"\xef\xbb\xbffine\n") == "bad\t0.800\tfine\n"  # a byte order mark is no text


def test_all_probabilities_and_json(champion):
    champion()
    assert answer("fine", "--all") == "answer\tprobability\tneg\tpos\ttext\nbad\t0.800\t0.800\t0.200\tfine\n"
    body = json.loads(answer("fine", "a very long opinion", "--json"))
    assert body["task"] == "t"
    assert (body["backbone"], body["model"], body["version"]) == ("tiny", "dept-tiny-t", "3")
    assert body["labels"] == ["neg", "pos"]
    assert body["answers"][0] == {
        "where": "text 1",
        "label": "neg",
        "answer": "bad",
        "probability": 0.8,
        "probabilities": {"neg": 0.8, "pos": 0.2},
        "input": {"text": "fine"},
    }


def test_written_answers_have_no_probability(champion):
    champion(labels=(), words=())
    assert answer("fine") == "written: fine\t\tfine\n"
    assert json.loads(answer("fine", "--json"))["answers"][0]["probability"] is None


def test_tabs_and_line_ends_stay_in_their_cell(champion):
    champion()
    assert answer("a\tb\nc\\") == "bad\t0.700\ta\\tb\\nc\\\\\n"


def test_a_class_may_be_called_label(champion):
    champion(labels=("label", "text"), words=("bad", "good"))
    assert answer("fine", "--all").splitlines()[0] == "answer\tprobability\tlabel\ttext\ttext"
    assert json.loads(answer("fine", "--json"))["answers"][0]["probabilities"] == {"label": 0.8, "text": 0.2}


def test_several_columns(champion):
    champion(fields=("premise", "hypothesis"))
    assert answer("it rains\tit is wet") == "good\t0.850\tit rains\tit is wet\n"
    told = "1 value, but the task reads 2. Remedy: divide premise, hypothesis by tabs"
    refused(dept("predict", "--task", "t", stdin="it rains\tit is wet\nalone\n"), "standard input, line 2: " + told)
    refused(dept("predict", "--task", "t", "a\t "), "text 1: hypothesis is empty")


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_files_in_and_out(champion, tmp_path, ending):
    made = champion()
    rows = [{"review": f"an opinion, number {n}", "stars": n} for n in range(600)]
    path, out = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    table = pd.DataFrame(rows)
    if ending == "jsonl":
        table.to_json(path, orient="records", lines=True)
    elif ending == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    said = answer("--file", str(path), "--column", "text=review", "--out", str(out))
    assert said == f"Answers: {out} (600 rows)\n"
    assert made.asked == [256, 256, 88]  # never all rows at once
    if ending == "jsonl":
        first = json.loads(out.read_text().splitlines()[0])
        assert (first["label"], first["input"]) == ("pos", {"text": "an opinion, number 0"})
    else:
        if ending == "parquet":
            found = parquet.read_table(out).to_pylist()
        else:
            found = list(csv.DictReader(io.StringIO(out.read_text()), delimiter="," if ending == "csv" else "\t"))
        assert len(found) == 600
        assert found[1]["text"] == "an opinion, number 1"
        assert found[1]["answer"] == "good"
        assert float(found[1]["p(pos)"]) == 0.9
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_a_file_from_a_pipe(champion):
    champion()
    body = '{"text": "fine"}\n{"text": "so good that it is"}\n'
    shown = answer("--file", "-", "--format", "jsonl", stdin=body)
    assert shown.splitlines()[1] == "good\t0.900\tso good that it is"
    refused(dept("predict", "--task", "t", "--file", "-", stdin=body), "standard input: which format?")
    refused(
        dept("predict", "--task", "t", "--file", "-", "--format", "jsonl", stdin=body + "{\n"),
        "standard input, line 3: not valid JSON",
    )


def test_other_encodings(champion, tmp_path):
    champion()
    latin = "caf\u00e9\n".encode("latin-1")
    told = ("standard input, line 2: not UTF-8 (byte 0xe9)", "Remedy: name the encoding, such as --encoding latin-1")
    refused(dept("predict", "--task", "t", stdin=b"fine\n" + latin), *told)
    assert "caf\u00e9" in answer("--encoding", "latin-1", stdin=latin)
    refused(dept("predict", "--task", "t", "--encoding", "klingon", stdin=latin), "unknown encoding 'klingon'")
    path = tmp_path / "in.csv"
    path.write_bytes(b"text\nfine\n" + latin)
    refused(dept("predict", "--task", "t", "--file", str(path)), f"{path}, line 3: not UTF-8")
    assert "caf\u00e9" in answer("--file", str(path), "--encoding", "latin-1")


def test_faults_come_before_the_first_answer(champion, tmp_path):
    made = champion()
    refused(dept("predict", "--task", "t", stdin="fine\n\n"), "standard input, line 2: a text is empty")
    path = tmp_path / "in.csv"
    path.write_text("review,stars\ngood,1\n,2\n")
    refused(
        dept("predict", "--task", "t", "--file", str(path)),
        f"{path}, line 2: no column 'text'; there are review, stars. Remedy: --column text=NAME",
    )
    refused(dept("predict", "--task", "t", "--file", str(path), "--column", "text=review"), f"{path}, line 3")
    refused(dept("predict", "--task", "t", "--file", str(path), "--column", "txt=review"), "did you mean text?")
    refused(dept("predict", "--task", "t", "--file", str(path), "--column", "review"), "expected FIELD=NAME")
    refused(dept("predict", "--task", "t", "--file", str(tmp_path / "no.csv")), "no such file")
    refused(dept("predict", "--task", "t", "--file", str(tmp_path / "x.xls")), "which format?")
    path.write_text("text\n")
    refused(dept("predict", "--task", "t", "--file", str(path)), "holds no rows")
    refused(dept("predict", "--task", "t", "fine", "--out", str(tmp_path / "out.xls")), "which format?")
    refused(dept("predict", "--task", "t", "fine", "--out", str(tmp_path / "no" / "out.csv")), "cannot be written")
    refused(dept("predict", "--task", "t", "fine", "--file", "x.csv"), "either texts or --file")
    assert made.asked in ([], [1])


def test_without_a_champion_nothing_is_made():
    refused(dept("predict", "--task", "sms-spam", "hello"), "no champion of task sms-spam yet", "Remedy")
    refused(dept("predict", "--task", "sms-spam", stdin=""), "no text")
    assert not home().exists()


def test_rows_within_a_quoted_field_are_not_swallowed(champion, tmp_path):
    champion()
    rows = [f"text {i},{'ab'[i % 2]}" for i in range(20)]
    rows[4], rows[8] = '"text 4,a', 'text 8",a'
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    result = dept("predict", "--task", "t", "--file", str(tmp_path / "rows.csv"))
    refused(result, "line 6: a quoted field of this row runs over line 6", "mend the quotes of this row")
    assert "quotes:" not in result.stderr


def test_standard_input_in_utf_16(champion):
    champion()
    wide = "fine\r\na very long opinion\n"
    for name in ("utf-16", "utf_16_le", "UTF-32"):
        assert answer("--encoding", name, stdin=wide.encode(name)) == answer(stdin=wide)
    refused(dept("predict", "--task", "t", stdin=wide.encode("utf-16")), "looks like UTF-16. Remedy: --encoding utf-16")


# --- pictures


@pytest.fixture
def photos(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return [str(tmp_path / f"{number}.png") for number in (1, 2)]


def test_a_picture_for_each_text_or_one_for_all(champion, photos):
    champion(sees=True)
    wanted = f"bad\t0.800\tfine\t{photos[0]}\nbad\t0.800\tgood\t{photos[0]}\n"
    assert answer("fine", "good", "--picture", photos[0]) == wanted
    assert answer("--picture", photos[0], stdin="fine\ngood\n") == wanted
    assert answer(f"fine\t{photos[0]}", f"good\t{photos[0]}") == wanted
    each = answer("fine", "good", "--picture", photos[0], "--picture", photos[1])
    assert [line.split("\t")[3] for line in each.splitlines()] == photos
    assert answer("fine", "--all", "--picture", photos[1]).splitlines()[0].endswith("neg\tpos\ttext\tpicture")
    body = json.loads(answer("fine", "--json", "--picture", photos[1]))
    assert body["answers"][0]["input"] == {"text": "fine", "picture": photos[1]}


def test_pictures_alone_where_the_template_has_no_field(champion, photos):
    champion(fields=(), sees=True)
    assert (
        answer("--picture", photos[0], "--picture", photos[1]) == f"bad\t1.000\t{photos[0]}\nbad\t1.000\t{photos[1]}\n"
    )
    assert answer(stdin="\n".join(photos)) == answer("--picture", photos[0], "--picture", photos[1])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_pictures_of_a_file_s_rows(champion, photos, tmp_path, monkeypatch, ending):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))
    champion(sees=True)
    path, out = tmp_path / f"rows.{ending}", tmp_path / f"out.{ending}"
    if ending == "csv":
        path.write_text("text,photo\nfine,1.png\nbad,2.png\n")
    else:
        pd.DataFrame({"text": ["fine", "bad"], "photo": [{"bytes": png(n), "path": "x"} for n in (1, 2)]}).to_parquet(
            path
        )
    answer("--file", str(path), "--column", "picture=photo", "--out", str(out))
    found = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    assert list(found.columns[:2]) == ["text", "picture"]
    assert [Path(name).read_bytes() for name in found["picture"]] == [png(1), png(2)]


def test_faults_of_pictures_come_before_the_first_answer(champion, photos, tmp_path):
    made = champion(sees=True)
    (tmp_path / "bad.png").write_bytes(png(1)[:-30])
    (tmp_path / "rows.csv").write_text("text,picture\nfine,1.png\nfine,bad.png\n")
    (tmp_path / "away.csv").write_text("text,picture\nfine,../x.png\n")
    for words, said in (
        (("a", "b", "c", *(f"--picture={one}" for one in photos)), "2 pictures for 3 texts. Remedy: --picture once"),
        (
            ("a",),
            "1 value, but the task reads 2. Remedy: divide text, picture by tabs, --picture FILE, or give a table",
        ),
        (("a", "--picture", str(tmp_path / "none.png")), "none.png: no such file; check the name"),
        (("a\t ",), "text 1: picture is empty"),
        (("a", "--picture", str(tmp_path / "bad.png")), "bad.png: a damaged or truncated picture"),
        (("--file", str(tmp_path / "rows.csv")), "rows.csv, line 3: "),
        (("--file", str(tmp_path / "away.csv")), "Remedy: names below that folder, or --picture FOLDER"),
        (
            ("--file", "x.csv", "--picture", "a", "--picture", "b"),
            "one folder for the rows of a --file. Remedy: give one",
        ),
    ):
        refused(dept("predict", "--task", "t", *words), said)
    refused(dept("predict", "--task", "t", "--picture", photos[0], stdin=""), "no text; give some beside the picture")
    champion()
    refused(
        dept("predict", "--task", "t", "a", "--picture", photos[0]),
        "this champion answers by the text alone. Remedy: leave the picture out",
    )
    assert not made.asked
