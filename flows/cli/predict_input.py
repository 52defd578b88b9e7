"""What is to be answered: texts of the command line, lines of standard input, rows of a file; and their pictures."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from infra.errors import InputError
from infra.nearest import near
from tasks.picture_reader import read_picture
from tasks.pictures import Finder, Picture, picture_at
from tasks.sources.cells import text as as_text
from tasks.sources.delimited import LETTER, RIGHT
from tasks.sources.read import read_table
from tasks.sources.readers import Lines

FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
Fields = dict[str, str | Picture]
BOM = "\ufeff"


class Inputs:
    """Rows to answer. Reading them a second time gives the same; nothing but a batch is kept of a file.

    Args:
        fields: of the task's template, in its order.
        columns: field -> column of the file; default: a column called like the field.
        picture: what a row's picture is called; None: rows have none.
        pictures: their files, one for each text or one for all; empty: each line ends with its own. Of rows of a file,
            the folder that names count from; empty: the file's.
    """

    def __init__(
        self,
        fields: Sequence[str],
        columns: Mapping[str, str],
        picture: str | None = None,
        pictures: Sequence[Path] = (),
    ) -> None:
        if pictures and picture is None:
            raise InputError(
                "predict: --picture: this champion answers by the text alone. Remedy: leave the picture out"
            )
        every = (*fields, picture) if picture is not None else tuple(fields)
        unknown = [name for name in columns if name not in every]
        if unknown:
            raise InputError(f"predict: --column {unknown[0]}: the task has no such field{near(unknown[0], every)}")
        self.fields, self.picture, self.pictures = tuple(fields), picture, tuple(pictures)
        self.columns = {field: columns.get(field, field) for field in every}
        self._lines: list[tuple[str, Fields]] = []
        self._file: tuple[Path, str] | None = None
        self._called = ""
        self._find: Callable[[object, str], Picture] = lambda cell, where: picture_at(str(cell), where)
        self._readable: set[str] = set()  # sha256

    def texts(self, texts: Sequence[str]) -> Inputs:
        """Arguments of the command line."""
        self._lines = [(f"text {number}", self._row(f"text {number}", text)) for number, text in enumerate(texts, 1)]
        return self._with_pictures()

    def pictures_alone(self) -> Inputs:
        """A row for each picture, where the task has no field beside it."""
        self._lines = [(f"picture {number}", {}) for number in range(1, len(self.pictures) + 1)]
        return self._with_pictures()

    def lines(self, lines: Sequence[bytes], encoding: str | None) -> Inputs:
        """Lines of standard input, each one text, or values divided by tabs in the order of the fields."""
        self._lines = []
        if _wide(encoding):  # line ends are not single bytes there
            text = decoded(b"".join(lines), encoding, "standard input")
            lines, encoding = text.encode().splitlines(keepends=True), None
        elif encoding is None and lines and lines[0].startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError("predict: standard input: looks like UTF-16. Remedy: --encoding utf-16")
        for number, raw in enumerate(lines, 1):
            where = f"standard input, line {number}"
            line = decoded(raw, encoding, where).rstrip("\r\n")
            self._lines.append((where, self._row(where, line.removeprefix(BOM) if number == 1 else line)))
        return self._with_pictures()

    def file(self, path: Path, form: str | None, encoding: str | None, scratch: Path) -> Inputs:
        """Rows of a file or of a saved data set, or of standard input where `path` is "-".

        Args:
            scratch: folder for a copy in UTF-8.
        """
        form = form or ("dataset" if path.is_dir() else FORMATS.get(path.suffix.lower()))
        if form is None:
            what = "standard input" if str(path) == "-" else f"{path}: its ending does not tell"
            raise InputError(f"predict: {what}: which format? Give --format csv, tsv, jsonl or parquet")
        self._called = "standard input" if str(path) == "-" else str(path)
        if len(self.pictures) > 1:
            raise InputError("predict: --picture names one folder for the rows of a --file. Remedy: give one")
        near_it = Path.cwd() if str(path) == "-" else path if form == "dataset" else path.parent
        self._find = Finder((self.pictures or (near_it,))[0].absolute())
        if str(path) == "-":
            copy = scratch / "standard-input"
            copy.write_bytes(sys.stdin.buffer.read())
            path = copy
        if not path.exists():
            raise InputError(f"predict: {path}: no such file")
        if encoding and form in ("parquet", "dataset"):
            raise InputError(f"predict: --encoding is for text; a {form} has its own")
        if encoding:
            path = _in_utf8(path, encoding, scratch)
        self._file = (path, form)
        return self

    def __iter__(self) -> Iterator[tuple[str, Fields]]:
        """Where a row stands, and its fields.

        Raises:
            InputError: what is wrong, with its line.
        """
        if self._file is None:
            yield from self._lines
            return
        for where, row in self._rows(*self._file):
            missing = [column for column in self.columns.values() if column not in row]
            if missing:
                field = next(name for name, column in self.columns.items() if column == missing[0])
                raise InputError(
                    f"predict: {where}: no column {missing[0]!r}; there are {', '.join(row) or 'none'}. "
                    f"Remedy: --column {field}=NAME"
                )
            yield where, {field: self._cell(field, row[column], where) for field, column in self.columns.items()}

    def _cell(self, field: str, value: object, where: str) -> str | Picture:
        if field == self.picture:
            return self._readable_picture(value, where)
        return _text(value, self.columns[field], where)

    def _readable_picture(self, cell: object, where: str) -> Picture:
        """The picture that a cell means, decoded once."""
        try:
            found = self._find(cell, where)
        except InputError as error:
            told = str(error).replace("another source.pictures", "--picture FOLDER").replace(" and source.pictures", "")
            raise InputError(f"predict: {told}") from error
        if found.sha256 not in self._readable:
            try:
                read_picture(found)
            except InputError as error:
                raise InputError(f"predict: {where}: {error}") from error
            self._readable.add(found.sha256)
        return found

    def _with_pictures(self) -> Inputs:
        """Its picture to each line, where files were named beside them."""
        if not self.pictures:
            return self
        assert self.picture is not None
        named = self.pictures * len(self._lines) if len(self.pictures) == 1 else self.pictures
        if len(named) != len(self._lines):
            raise InputError(
                f"predict: {len(named)} pictures for {len(self._lines)} texts. Remedy: --picture once for each text, "
                "or once for all"
            )
        for (where, fields), path in zip(self._lines, named, strict=True):
            fields[self.picture] = self._readable_picture(path, where)
        return self

    def _rows(self, path: Path, form: str) -> Lines:
        """Rows of the file, called by the name that the user gave."""
        try:
            delimiter = {"csv": ",", "tsv": "\t"}.get(form)
            lines = read_table(path, (), "csv" if delimiter else form, delimiter)
            for where, row in lines:
                yield where.replace(str(path), self._called), row
        except InputError as error:
            said = str(error).replace(str(path), self._called)
            said = said.replace(f"{LETTER} {RIGHT}", "; a field that is right can be given as .jsonl")
            said = said.replace(LETTER, "")  # keys of a task, which has no say here
            raise InputError(f"predict: {said}") from error

    def _row(self, where: str, line: str) -> Fields:
        beside = self.picture is not None and not self.pictures  # its picture ends the line
        wanted = tuple(self.columns) if beside else self.fields
        values = [unescaped(value) for value in line.split("\t")] if len(wanted) > 1 else [line]
        if len(values) != len(wanted):
            more = ", --picture FILE" if beside else ""
            raise InputError(
                f"predict: {where}: {len(values)} value{'s' if len(values) > 1 else ''}, but the task reads "
                f"{len(wanted)}. Remedy: divide {', '.join(wanted)} by tabs{more}, or give a table with --file"
            )
        for field, value in zip(wanted, values, strict=True):
            if not value.strip():
                raise InputError(f"predict: {where}: {'a text' if len(values) == 1 else field} is empty")
        found: Fields = dict(zip(wanted, values, strict=True))
        if beside and self.picture is not None:
            found[self.picture] = self._readable_picture(values[-1], where)
        return found


def _text(value: object, column: str, where: str) -> str:
    try:
        return as_text(value, column, where)
    except InputError as error:
        raise InputError(f"predict: {error}") from error


def decoded(raw: bytes, encoding: str | None, where: str) -> str:
    """Bytes as text.

    Raises:
        InputError: not of this encoding, or an encoding that Python does not know.
    """
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"predict: {where}: not {encoding or 'UTF-8'} (byte 0x{raw[error.start]:02x}). "
            "Remedy: name the encoding, such as --encoding latin-1"
        ) from error
    except LookupError as error:
        raise InputError(
            f"predict: unknown encoding {encoding!r}; usual ones: utf-8, latin-1, cp1252, utf-16"
        ) from error


def _wide(encoding: str | None) -> bool:
    """Whether a line end is more than one byte in an encoding."""
    name = (encoding or "").lower().replace("_", "").replace("-", "")
    return name.startswith(("utf16", "utf32", "u16", "u32"))


def unescaped(value: str) -> str:
    """Undo what the answers of `dept predict` do to tabs and line ends."""
    for short, long in (("\\\\", "\0"), ("\\t", "\t"), ("\\n", "\n"), ("\\r", "\r"), ("\0", "\\")):
        value = value.replace(short, long)
    return value


def _in_utf8(path: Path, encoding: str, scratch: Path) -> Path:
    copy = Path(tempfile.mkstemp(dir=scratch, suffix=path.suffix)[1])
    with copy.open("w", encoding="utf-8", newline="") as out:
        if _wide(encoding):  # line ends are not single bytes there
            out.write(decoded(path.read_bytes(), encoding, str(path)))
        else:
            with path.open("rb") as stream:
                for number, raw in enumerate(stream, 1):
                    out.write(decoded(raw, encoding, f"{path}, line {number}"))
    return copy
