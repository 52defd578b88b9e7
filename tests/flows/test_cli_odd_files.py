"""Whatever a file holds, `dept tasks new` and `check` end in one line or in a result, never in a traceback."""

import gzip
import os
import random
import struct
import zipfile

import pytest

from tests.flows.test_cli import dept

GOOD = "text,label\n" + "".join(f"row number {i} is {'good' if i % 2 else 'bad'},{'ab'[i % 2]}\n" for i in range(40))
JSON = "".join(f'{{"text": "row number {i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(40))
NOISE = random.Random(0).randbytes(5000)


def parquet(columns, names):
    import pyarrow
    from pyarrow import parquet as writer

    sink = pyarrow.BufferOutputStream()
    writer.write_table(pyarrow.Table.from_arrays([pyarrow.array(c) for c in columns], names=names), sink)
    return sink.getvalue().to_pybytes()


FILES = {
    "empty.csv": b"",
    "blank.csv": b"\n\n \n",
    "bom.csv": b"\xef\xbb\xbf",
    "header.csv": b"text,label\n",
    "header-quoted.csv": b'"text","label"',
    "open.csv": b'"text,label\n',
    "binary.csv": NOISE,
    "nul.csv": b"\x00" * 1000,
    "gz.csv": gzip.compress(GOOD.encode()),
    "utf16.csv": GOOD.encode("utf-16"),
    "utf16be.csv": GOOD.encode("utf-16-be"),
    "utf32.csv": GOOD.encode("utf-32"),
    "latin.csv": GOOD.replace("good", "caf\xe9").encode("latin-1"),
    "twice.csv": GOOD.replace("text,label", "label,label").encode(),
    "twice-text.csv": b"text,text,label\n" + b"a b c,d e f,1\n" * 9,
    "no-name.csv": GOOD.replace("text,label", ",").encode(),
    "wide.csv": ",".join(map(str, range(100_000))).encode() + b"\n" + b"," * 99_999 + b"\n",
    "mac.csv": GOOD.replace("\n", "\r").encode(),
    "dos.csv": GOOD.replace("\n", "\r\n").encode(),
    "ragged.csv": GOOD.encode() + b"a,b,c\n",
    "cut.csv": GOOD.encode() + b'"never closed,a\n',
    "stray.csv": GOOD.encode() + b'"a" b,a\n',
    "long.csv": GOOD.encode() + b'"' + b"word " * 60_000 + b'",a\n',
    "one.csv": b"text,label\na b c,x\n",
    "column.csv": b"text\n" + b"only words here\n" * 20,
    "same.csv": b"text,label\n" + b"always the same,x\n" * 20,
    "surrogate.jsonl": b'{"text": "\\ud800", "label": "a"}\n' * 3,
    "deep.jsonl": b"[" * 100_000,
    "number.jsonl": b'{"text": "a", "label": ' + b"9" * 6000 + b"}\n",
    "infinite.jsonl": b'{"text": "a b c", "label": Infinity}\n' * 9 + b'{"text": "a b d", "label": 1e999}\n',
    "nan.jsonl": b'{"text": "a b c", "label": NaN}\n' * 9,
    "mixed.jsonl": b'{"text": "a", "label": "a"}\n{"text": ["b"], "label": {"c": 1}}\n{"text": 5}\n[1]\n',
    "null.jsonl": b"null\n",
    "empty-objects.jsonl": b"{}\n" * 5,
    "empty-key.jsonl": b'{"": "a b c", "label": "x"}\n' * 5,
    "lists.jsonl": b'{"text": ["a"], "label": [["x"]]}\n' * 5,
    "cut.jsonl": JSON.encode()[:-5],
    "list.jsonl": b"[1, 2]\n",
    "text.parquet": GOOD.encode(),
    "cut.parquet": parquet([["a b c"] * 9, ["x", "y", "z"] * 3], ["text", "label"])[:-20],
    "none.parquet": parquet([[], []], ["text", "label"]),
    "twice.parquet": parquet([["a b c"] * 9, ["a b d"] * 9, ["x", "y", "z"] * 3], ["text", "text", "label"]),
    "bytes.parquet": parquet([[b"\xff\xfe bytes"] * 9, [b"x", b"y", b"\xff"] * 3], ["text", "label"]),
    "nulls.parquet": parquet([[None] * 9, [None] * 9], ["text", "label"]),
    "structs.parquet": parquet([[{"a": [{"b": 1}]}] * 9, [[1, None]] * 9], ["text", "label"]),
    "zip.parquet": b"PK\x03\x04" + NOISE,
    "sheet.csv": b"PK\x03\x04" + struct.pack("<I", 5) + NOISE,
    "odd.csv": "té\u0301xt\u200b,la bel\n".encode() + b"a b c,x\n" * 9,
}


def block(path, extra=""):
    return f"mine:\n  verbalizer: {{a: good, b: bad}}\n  source: {{kind: file, path: '{path}'{extra}}}\n"


def told(result, *said):
    """A result, or one line that says what is wrong."""
    assert result.exit_code in (0, 2), (result.exception, result.output)
    if result.exit_code:
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("Error: ")
        assert len(lines[0]) < 1500
    for words in said:
        assert words in result.output


@pytest.mark.parametrize("name", FILES)
def test_odd_files(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    told(dept("tasks", "new", str(path)))
    (tmp_path / "own.yaml").write_text(block(name))
    told(dept("tasks", "check", str(tmp_path / "own.yaml")))
    for extra in (", quotes: false", ", quotes: true", ", delimiter: ';'") if name.endswith(".csv") else ():
        (tmp_path / "own.yaml").write_text(block(name, extra))
        told(dept("tasks", "check", str(tmp_path / "own.yaml")))


def test_odd_places(tmp_path):
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    long = "x" * 5000 + ".csv"
    for name, said in (
        ("loop.csv", ""),
        ("gone.csv", "no such file"),
        ("folder.csv", "a folder"),
        ("pipe.csv", ""),
        (long, ""),
        ("~nobody-of-that-name/a.csv", ""),
        ("/dev/null", ""),
        ("/proc/self/mem", ""),
    ):
        (tmp_path / "own.yaml").write_text(block(name))
        result = dept("tasks", "check", str(tmp_path / "own.yaml"))
        assert result.exit_code == 2
        told(result, said)
        path = name if name.startswith("/") else str(tmp_path / name)
        result = dept("tasks", "new", path)
        assert result.exit_code == 2, (path, result.exception)
        told(result)


def test_odd_blocks(tmp_path):
    (tmp_path / "rows.csv").write_text(GOOD)
    (tmp_path / "archive.yaml").write_bytes(gzip.compress(b"a: 1"))
    with zipfile.ZipFile(tmp_path / "zip.yaml", "w") as archive:
        archive.writestr("a", "b")
    for name, text in {
        "tab.yaml": "a:\n\tb: 1\n",
        "anchor.yaml": "a: &x [*x]\n",
        "bomb.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "date.yaml": "a: 2026-13-45\n",
        "key.yaml": "? [a, b]\n: c\n",
        "deep.yaml": "[" * 5000,
        "many.yaml": "--- \na: 1\n--- \nb: 2\n",
        "python.yaml": "a: !!python/object:os.system ls\n",
        "nul.yaml": "a: \x00\n",
        "list.yaml": "own_tasks: [1, 2]\n",
        "none.yaml": "own_tasks:\n",
        "name.yaml": "own_tasks: [{template: x}]\n",
    }.items():
        (tmp_path / name).write_text(text)
    for path in sorted(tmp_path.glob("*.yaml")):
        result = dept("tasks", "check", str(path))
        assert result.exit_code == 2, path
        told(result)


def test_errors_quote_little_of_a_file(tmp_path):
    secret = "root:x:0:0:" + "s3cret" * 50
    (tmp_path / "rows.csv").write_text(f"{secret}\nline two of the secret\n")
    (tmp_path / "own.yaml").write_text(block("rows.csv"))
    result = dept("tasks", "check", str(tmp_path / "own.yaml"))
    assert result.exit_code == 2
    assert "s3cret" * 8 not in result.output
    assert "line two" not in result.output
    (tmp_path / "rows.csv").write_text(f"text,label\na,{secret}\n")
    result = dept("tasks", "check", str(tmp_path / "own.yaml"))
    assert result.exit_code == 2
    assert "s3cret" * 8 not in result.output
    (tmp_path / "own.yaml").write_text(f"{secret}: [\n{secret}\n")
    assert "s3cret" * 8 not in dept("tasks", "check", str(tmp_path / "own.yaml")).output
