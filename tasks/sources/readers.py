"""File -> rows, for each format. Every fault is an InputError with file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from infra.errors import InputError
from tasks.sources.cells import Row, missing

Lines = Iterator[tuple[str, Row]]  # where the row stands (file and line), the row


def decode(path: Path) -> str:
    """The file's text, without a byte order mark. Raises InputError for a file that is empty or not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    return text


def read_csv(path: Path, wanted: list[str], delimiter: str = ",") -> Lines:
    """Rows of a csv file with a header and quotes."""
    reader = csv.reader(io.StringIO(decode(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                _check_header(header, wanted, f"{path}, line {start}")
            else:
                yield _zip(header, cells, path, start)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise InputError(
                f"{path}, line {line}: a quote opened in this row is never closed; the file may have been cut short"
            ) from error
        raise InputError(f"{path}, line {line}: not valid CSV ({error}); mend the quotes of this row") from error


def read_tsv(path: Path, wanted: list[str]) -> Lines:
    """Rows of a file with a header, tabs and no quotes."""
    lines = [line.removesuffix("\r").split("\t") for line in decode(path).split("\n")]
    _check_header(lines[0], wanted, f"{path}, line 1")
    for number, cells in enumerate(lines[1:], start=2):
        if cells != [""]:
            yield _zip(lines[0], cells, path, number)


def read_label_first(path: Path, label: str, text: str) -> Lines:
    """Rows of a file of 'LABEL the text' lines, as columns `label` and `text`."""
    for number, line in enumerate(decode(path).split("\n"), start=1):
        name, _, rest = line.strip().partition(" ")
        if name:
            yield f"{path}, line {number}", {label: name, text: rest}


def read_folders(path: Path, label: str, text: str) -> Lines:
    """Rows of folder/LABEL/*.txt, one text a file; column `id` is LABEL/name."""
    for file in sorted(path.glob("*/*.txt")):
        raw = file.read_bytes()
        try:
            body = raw.decode("utf-8")
        except UnicodeDecodeError:  # old corpora hold single files of Western Windows (pound signs)
            body = raw.decode("cp1252", errors="replace")
        name = f"{file.parent.name}/{file.stem}"
        yield str(file), {label: file.parent.name, text: body, "id": name}


def read_jsonl(path: Path) -> Lines:
    """Rows of a file of JSON objects, one a line."""
    for number, line in enumerate(decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where}: not valid JSON ({error.msg}, column {error.colno}); write one object a line"
            ) from error
        except RecursionError as error:
            raise InputError(f"{where}: JSON nested too deep; write one flat object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object; write {{...}} with one key per column")
        yield where, row


def read_parquet(path: Path) -> Lines:
    """Rows of a parquet file; counted from 1."""
    from pyarrow import ArrowException, parquet  # takes half a second: only where it is needed

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from error


def _check_header(header: list[str], wanted: list[str], where: str) -> None:
    for name in wanted:
        if name not in header:
            raise missing(name, header, where)
        if header.count(name) > 1:
            raise InputError(f"{where}: column {name!r} stands there twice; rename one")


def _zip(header: list[str], cells: list[str], path: Path, line: int) -> tuple[str, Row]:
    if len(cells) != len(header):
        raise InputError(
            f"{path}, line {line}: {len(cells)} fields where the header has {len(header)}; "
            "put quotes around text that holds the delimiter"
        )
    return f"{path}, line {line}", dict(zip(header, cells, strict=True))
