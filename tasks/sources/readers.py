"""File -> rows, for each format. Every fault is an InputError with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.errors import InputError
from tasks.plain import composed, shown
from tasks.sources.cells import Row

Lines = Iterator[tuple[str, Row]]  # where the row stands (file and line), the row

MAGIC = {  # how files begin that are no plain text
    b"\x1f\x8b": "a gzip file: unpack it",
    b"PK\x03\x04": "a zip file or a spreadsheet: unpack it, or save it as csv",
    b"PAR1": "a parquet file: set format: parquet, or let its name end in .parquet",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
    b"BZh": "a bzip2 file: unpack it",
    b"\xfd7zXZ": "an xz file: unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd file: unpack it",
}


def decode(path: Path) -> str:
    """The file's text, without a byte order mark. Raises InputError for a file that is empty or not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        known = [what for start, what in MAGIC.items() if raw.startswith(start)]
        remedy = f"it looks like {known[0]}" if known else "save the file as UTF-8"
        raise InputError(f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); {remedy}") from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    return text


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
        except ValueError as error:  # a number of thousands of digits
            raise InputError(f"{where}: not valid JSON ({_reason(error)}); write one object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object; write {{...}} with one key per column")
        yield where, row


def read_lists(path: Path) -> Lines:
    """Rows of a file of one JSON list of lists, counted from 1; columns are called 0, 1, 2."""
    try:
        rows = json.loads(decode(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid JSON ({_reason(error)}); write one list of lists") from error
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{path}: not a JSON list of lists; write one list for each row")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", {str(place): value for place, value in enumerate(row)}


def read_parquet(path: Path, wanted: Sequence[str] = ()) -> Lines:
    """Rows of a parquet file, counted from 1; with `wanted`, only the columns that hold those (a.b: key b of a)."""
    from pyarrow import parquet  # takes half a second: only where it is needed

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = _holding(names, wanted)
            for name in columns or names:
                if names.count(name) > 1:
                    raise InputError(f"{path}: column {shown(name)} stands there twice; rename one")
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many kinds: its own, OSError, ValueError, of time zones KeyError
        raise InputError(f"{path}: not a readable parquet file ({_reason(error)})") from error


def read_saved(folder: Path) -> Lines:
    """Rows of one data set that the library `datasets` has saved in a folder; counted from 1."""
    if (folder / "dataset_dict.json").is_file():
        parts = sorted(place.name for place in folder.iterdir() if place.is_dir())
        raise InputError(f"{folder}: holds several splits; name the folder of one: {', '.join(parts)}")
    try:
        from datasets import Dataset, Image

        rows = Dataset.load_from_disk(str(folder)).with_format(None)
        for name in [name for name, kind in rows.features.items() if isinstance(kind, Image)]:
            rows = rows.cast_column(name, Image(decode=False))  # bytes, no pixels
        number = 0
        for batch in rows.iter(batch_size=1000):
            names = list(batch)
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield f"{folder}, row {number}", dict(zip(names, values, strict=True))
    except InputError:
        raise
    except Exception as error:  # the library raises many kinds for what it did not write
        raise InputError(f"{folder}: not a folder that save_to_disk wrote ({_reason(error)})") from error


def _holding(names: list[str], wanted: Sequence[str]) -> list[str] | None:
    """The columns of a file that hold the wanted ones; None: all, where one is not found (the row's error names it)."""
    by = {composed(name): name for name in names}
    found = [by.get(name) or by.get(name.partition(".")[0]) for name in wanted]
    return [name for name in names if name in found] if found and all(found) else None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
