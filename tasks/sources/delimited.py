"""csv and its relatives -> rows, with quotes or without. Every fault is an InputError with file and line."""

from __future__ import annotations

import csv
import io
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.errors import InputError
from tasks.plain import composed, shown
from tasks.sources.cells import Row, missing
from tasks.sources.readers import Lines, decode

_LIMIT = threading.Lock()  # csv's limit of a field's length is one for the whole process
UNUSUAL = "\t|"  # delimiters that do not stand in prose
LETTER = ", or set quotes: false where a quote is a letter like others"
FIX = f"mend the quotes of this row{LETTER}"
RIGHT = "(quotes: true if the field is right)"


@dataclass
class Cells:
    """One row: the lines of the file that it stands on (from 1, the end not included), and its fields."""

    first: int
    end: int
    values: list[str]


def read_csv(
    path: Path,
    wanted: Sequence[str],
    delimiter: str = ",",
    quotes: bool | None = True,
    ends_row: tuple[str, Callable[[str], bool]] | None = None,
) -> Lines:
    """Rows of a file with a header.

    Args:
        wanted: columns that must be there.
        quotes: true: fields may stand in quotes; false: a quote is a letter like others; None: true, but an error where
            a quoted field has swallowed rows, and with tabs false where the quotes do not pair or have swallowed rows.
        ends_row: a column, and whether a cell of it is one that a row of its own would have (a label of the
            verbalizer): by that swallowed rows are known for what they are; None: by what the other rows hold.

    Raises:
        InputError: with file and line.
    """
    text = decode(path)
    if quotes is False:
        return _zipped(_unquoted(text, delimiter), wanted, path)
    lines = list(io.StringIO(text, newline=""))
    rows, fault = _quoted(lines, delimiter, path)
    swallowed = _swallowed(rows, lines, delimiter, ends_row) if quotes is None else None
    if quotes is None and delimiter == "\t" and (fault or swallowed):
        return _zipped(_unquoted(text, delimiter), wanted, path)
    if swallowed:
        first, inner = swallowed
        raise InputError(
            f"{path}, line {first}: a quoted field of this row runs over line {inner}, which looks like a row of its "
            f"own; {FIX} {RIGHT}"
        )
    return _zipped(rows, wanted, path, fault)


def read_tsv(path: Path, wanted: Sequence[str]) -> Lines:
    """Rows of a file with a header, tabs and no quotes."""
    return read_csv(path, wanted, "\t", quotes=False)


def _quoted(lines: list[str], delimiter: str, path: Path) -> tuple[list[Cells], InputError | None]:
    """The rows up to the first fault, and that fault."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows: list[Cells] = []
    line = 1
    with _LIMIT:
        before = csv.field_size_limit(sys.maxsize)  # a long text is a text; it is cut to tokens later
        try:
            for values in reader:
                start, line = line, reader.line_num + 1
                if values:
                    rows.append(Cells(start, line, values))
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                return rows, InputError(
                    f"{path}, line {line}: a quote opened in this row is never closed; the file may have been cut "
                    f"short, or {FIX}"
                )
            return rows, InputError(f"{path}, line {line}: not valid CSV ({error}); {FIX}")
        finally:
            csv.field_size_limit(before)
    return rows, None


def _unquoted(text: str, delimiter: str) -> list[Cells]:
    lines = [line.removesuffix("\r").split(delimiter) for line in text.split("\n")]
    return [Cells(number, number + 1, values) for number, values in enumerate(lines, start=1) if values != [""]]


def _swallowed(
    rows: list[Cells], lines: list[str], delimiter: str, ends_row: tuple[str, Callable[[str], bool]] | None
) -> tuple[int, int] | None:
    """The line of a row, and a line within it that looks like a row of its own; None where there is no such."""
    if not rows:
        return None
    header = [composed(name) for name in rows[0].values]
    n, place = len(header), None
    if ends_row is not None and ends_row[0] in header:
        place = header.index(ends_row[0])
    long = [(at, row) for at, row in enumerate(rows) if n > 1 and row.end - row.first > 1]
    labels = {} if place is not None or not long else _labels(rows, n)
    for at, row in long:
        several = [i for i, value in enumerate(row.values) if "\n" in value or "\r" in value]
        if not several:
            continue
        for number in range(row.first, row.end):
            cells = lines[number - 1].rstrip("\r\n").split(delimiter)
            if len(cells) != n:
                continue
            # The row's own fields stand on its first line before the long field, and on its last line behind it.
            first, last = number == row.first, number == row.end - 1
            known = (
                [place] if place is not None and ends_row is not None and ends_row[1](cells[place].strip('"')) else []
            )
            known += [
                i for i, words in labels.items() if cells[i].strip('"') in words or _between(rows, at, i, cells[i])
            ]
            own = all((first and i < several[0]) or (last and i > several[-1]) for i in known)
            edge = (first and several[0] == n - 1) or (last and several[-1] == 0)
            odd = delimiter in UNUSUAL and not edge
            alike = ends_row is None and n > 2 and delimiter not in (*UNUSUAL, ",") and not first and not last
            if (known and not own) or odd or alike:
                return row.first, number
    return None


def _labels(rows: list[Cells], n: int) -> dict[int, frozenset[str]]:
    """Column -> the values that rows of one line share, where most of them do: what labels look like."""
    plain = [row.values for row in rows[1:] if row.end - row.first == 1 and len(row.values) == n]
    found = {}
    for place in range(n):
        counts = Counter(values[place] for values in plain)
        shared = frozenset(value for value, count in counts.items() if count > 1 and value.strip())
        usual = 2 * sum(counts[value] for value in shared) > len(plain) and 2 * len(counts) <= len(plain)
        found[place] = shared if usual else frozenset()
    return found


def _between(rows: list[Cells], at: int, place: int, cell: str) -> bool:
    """Whether a cell is a row's number that is missing between a row and the next: 5 between 4 and 9."""
    around = [rows[i].values[place : place + 1] for i in (at, at + 1) if i < len(rows)]
    numbers = [value[0] for value in around if value and value[0].isdecimal()]
    return len(numbers) == 2 and cell.isdecimal() and int(numbers[0]) < int(cell) < int(numbers[1])


def _zipped(rows: list[Cells], wanted: Sequence[str], path: Path, fault: InputError | None = None) -> Lines:
    header: list[str] | None = None
    for row in rows:
        if header is None:
            header = [composed(name) for name in row.values]
            _check_header(header, wanted, f"{path}, line {row.first}")
            continue
        yield _zip(header, row.values, path, row.first)
    if fault:
        raise fault


def _check_header(header: list[str], wanted: Sequence[str], where: str) -> None:
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


def headers(path: Path, delimiters: str) -> dict[str, list[str]]:
    """Delimiter -> the names of a file's columns if it were that one. Raises InputError as `read_csv` does."""
    first = list(io.StringIO(decode(path).lstrip("\r\n"), newline=""))[:1]
    found = {mark: _quoted(first, mark, path)[0] or _unquoted(first[0], mark) for mark in delimiters}
    return {mark: rows[0].values if rows else [] for mark, rows in found.items()}


def check_columns(header: Sequence[str], most: int, where: str) -> None:
    """Raises InputError for a header no one can choose from: twice the same name, or more than `most` names."""
    if len(header) > most:
        raise InputError(f"{where}: {len(header):,} columns, of which {most:,} are looked at at most; take some out")
    seen: set[str] = set()
    for name in header:
        if name and name in seen:
            raise InputError(f"{where}: column {shown(name)} stands there twice; rename one")
        seen.add(name)
