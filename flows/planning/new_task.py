"""Write the YAML block of a task by looking at its data. What is guessed is said in comments beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import yaml

from flows.planning.guess import Guess, guess_columns
from flows.planning.look_at_data import (
    CSV,
    FILES,
    Column,
    Data,
    look_at_file,
    look_at_files,
    look_at_hub,
)
from flows.planning.picture_folder import Shown, Watch, check_all, guess_pictures, table_in, without
from infra.errors import InputError
from tasks.cut import usual_answer_length
from tasks.kinds import Kind
from tasks.spec import Task

MOST_POINTS = 41  # of a guessed grid
LONG = 16  # words of a field, on average, from which on it is the one to cut
LARGE = 10_000  # training rows from which validation rows are taken out of them


def new_block(
    source: str,
    texts: Sequence[str] = (),
    label: str | None = None,
    kind: Kind | None = None,
    name: str | None = None,
    config: str | None = None,
    revision: str = "main",
    out: Path | None = None,
    validation: Path | None = None,
    test: Path | None = None,
    picture: str | None = None,
    watch: Watch | None = None,
) -> str:
    """The YAML of `own_tasks:` with one task on a file, a saved data set, a folder of pictures with a table, or a hub
    data set `owner/name`. Every picture is decoded.

    Args:
        texts, label, kind, name: None or empty: guessed.
        validation, test: files of those rows, where `source` holds the training rows alone.
        out: where the block will lie, which a relative path of the file counts from; None: the path as given.
        picture: column that names pictures; None: guessed.
        watch: see `picture_folder.check_all`.

    Raises:
        InputError: data that cannot be read, a column that is not there, or nothing to be guessed from.
        BadPicturesError: pictures that cannot be read.
    """
    path = _path(Path(source))
    if path.is_dir() and not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        path = table_in(path)
    on_hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and not path.exists() and path.suffix.lower() not in FILES
    called = name or re.sub(r"[^a-z0-9.-]+", "-", Path(source).stem.lower()).strip("-.") or "my-task"
    given = {role: _path(file) for role, file in (("validation", validation), ("test", test)) if file}
    if on_hub and given:
        raise InputError("tasks new: --validation and --test go with a file, not with a data set of the hub")
    if on_hub:
        data = look_at_hub(source, called, config, revision)
    else:
        data = look_at_files({"train": path, **given}) if given else look_at_file(path)
    if on_hub and picture:
        raise InputError("tasks new: --picture goes with a file or a folder; of a hub data set write source.picture")
    shows = None if on_hub else guess_pictures(data, path, picture)
    pictured = {} if shows is None else {"picture": shows.column}
    every, columns_there = data, ", ".join(data.names)
    data = data if shows is None else without(data, shows)
    guess = guess_columns(data, texts, label, kind, shows is not None)
    seen = "" if shows is None else f"; {check_all(every, shows, path, watch):,} pictures, named by {shows.column}"
    comments = {"kind": guess.why}
    block: dict[str, Any] = {} if guess.kind == "classification" else {"kind": guess.kind}
    fields = _fields(guess.texts)
    block["template"] = _template(guess, list(fields))
    said = ", ".join(guess.texts) or "no column"
    comments["template"] = f"what the model reads: {said}, of the columns {columns_there}{seen}"
    if shows is not None and guess.kind == "generation" and not guess.texts:
        block["metrics"] = ["cider_d", "bleu4"]
    _answers(data.answers(guess.label), guess.kind, data.words.get(guess.label), block, comments)
    read_as = {**block, "source": {"kind": "file", "path": source, "label": guess.label} | pictured}
    labelled = data.labelled(Task.build(called, read_as, "tasks new"))
    _room(data, guess, fields, block, comments)
    columns = {field: column for field, column in fields.items() if field != column}
    if on_hub:
        block["rule"], at = _rule(labelled)
        comments["rule"] = f"rows of the hub with a label: {', '.join(f'{v:,} {k}' for k, v in labelled.items())}"
        block["source"] = {"kind": "hub", "repo": source} | ({"config": config} if config else {})
        block["source"] |= {"revision": revision} | at
        comments["source"] = "pin the revision to a commit, so that the rows stay what they are"
    else:
        paths = {role: place for role, place in data.paths.items() if role in labelled or role == "train"}
        block["source"] = _file_source(paths or {"train": path}, out, data.delimiter)
        comments["source"] = "a relative path counts from the folder of this file" + (
            f"; rows with a label: {', '.join(f'{v:,} {k}' for k, v in labelled.items())}" if len(paths) > 1 else ""
        )
    if "text" in columns and not on_hub:
        block["source"]["text"] = columns.pop("text")
    if shows is not None:
        block["source"] |= pictured | _pictures(shows, path, out)
    block["source"] |= ({"columns": columns} if columns else {}) | {"label": guess.label}
    Task.build(called, block, "tasks new")
    hidden = on_hub or path.is_dir()  # rows without a label are left out there, and no fault
    return _written(called, block, comments, _damages(data, [*guess.texts, *([] if hidden else [guess.label])]))


def _path(path: Path) -> Path:
    """The path with ~ replaced. Raises InputError for one that the system cannot look for."""
    try:
        found = path.expanduser()
        found.exists()
        if found.is_file() and not os.access(found, os.R_OK):
            raise InputError(f"tasks new: {found}: cannot be read (Permission denied); mend its permissions")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"tasks new: {str(path)[:200]}: cannot be read ({reason}); check the path") from error
    return found


def _fields(texts: Sequence[str]) -> dict[str, str]:
    """Field of the template -> column: `text` where there is one, else the column's name made an identifier."""
    if len(texts) == 1:
        return {"text": texts[0]}
    found: dict[str, str] = {}
    for column in texts:
        plain = re.sub(r"\W+", "_", column).strip("_") or "text"
        plain = plain if plain.isidentifier() else f"text_{plain}"
        while plain in found:
            plain += "_"
        found[plain] = column
    return found


def _template(guess: Guess, fields: list[str]) -> str:
    if not fields:  # a picture says it all
        return {"classification": "Label:", "regression": "Score:"}.get(guess.kind, "Caption:")
    body = f"{{{fields[0]}}}" if len(fields) == 1 else "\n".join(f"{field}: {{{field}}}" for field in fields)
    return body + {"classification": "\nLabel:", "regression": "\nScore:"}.get(guess.kind, "\nAnswer:")


def _answers(
    column: Column, kind: Kind, names: list[str] | None, block: dict[str, Any], comments: dict[str, str]
) -> None:
    if kind == "classification":
        keys = sorted(column.keys, key=_number_first)
        if not 2 <= len(keys) <= 1000:
            raise InputError(
                f"tasks new: column {column.name!r} holds {len(keys)} labels; choose another --label or --kind"
            )
        words = {key: _word(key, names) for key in keys}
        if len(set(words.values())) < len(words):
            words = {key: key for key in keys}
        block["verbalizer"] = words
        comments["verbalizer"] = "label in the data: word that the model answers with" + (
            "; natural words learn faster than numbers" if any(word.isdigit() for word in words.values()) else ""
        )
    elif kind == "regression":
        if not column.numbers:
            raise InputError(f"tasks new: column {column.name!r} holds no numbers; choose another --label or --kind")
        block["grid"] = guess_grid(column.numbers)
        comments["grid"] = "the numbers that can be answered; a value is trained as the nearest"


def guess_grid(numbers: Sequence[float]) -> dict[str, float]:
    """low, high and step of a grid that holds all numbers: the finest round step of at most 41 points."""
    low, high = Decimal(str(min(numbers))), Decimal(str(max(numbers)))
    whole = all(number.is_integer() for number in numbers)
    step = Decimal(1) if whole else Decimal(1).scaleb(min(0, (high - low).adjusted() - 3 if high > low else 0))
    factors = [Decimal("2"), Decimal("2.5"), Decimal("2")]  # 1, 2, 5, 10
    turn = 0
    while True:
        start = (low / step).to_integral_value(ROUND_FLOOR) * step
        end = max((high / step).to_integral_value(ROUND_CEILING) * step, start + step)
        if (end - start) / step + 1 <= MOST_POINTS:
            return {key: _plain(value) for key, value in (("low", start), ("high", end), ("step", step))}
        step *= factors[turn % 3]
        turn += 1


def _plain(value: Decimal) -> float:
    number = float(value)
    return int(number) if number.is_integer() else number


def _number_first(key: str) -> tuple[int, float, str]:
    try:
        return 0, float(key), key
    except ValueError:
        return 1, 0.0, key


def _word(key: str, names: list[str] | None) -> str:
    if names and key.isdigit() and int(key) < len(names):
        key = names[int(key)]
    plain = {"true": "yes", "false": "no"}.get(key.casefold(), key)
    return re.sub(r"[\s_-]+", " ", plain).strip().lower() or key


def _rule(splits: dict[str, int]) -> tuple[str, dict[str, str]]:
    """Rule of the splits, and the names of the hub's splits that it needs."""
    validation = next((name for name in splits if name.startswith(("valid", "dev"))), None)
    test = next((name for name in splits if name.startswith("test")), None)
    if validation and test:
        return "given", {"train": "train", "validation": validation, "test": test}
    if held := validation or test:
        return "large" if splits["train"] >= LARGE else "small", {"train": "train", "validation": held}
    return "hash", {"train": "train"}


def _file_source(paths: dict[str, Path], out: Path | None, delimiter: str | None) -> dict[str, Any]:
    source: dict[str, Any] = {"kind": "file"}
    for role, path in paths.items():
        source["path" if role == "train" else role] = _from(out, path)
    ending = paths["train"].suffix.lower()
    if ending in CSV and delimiter is not None:
        source |= {"format": "csv"} if ending == ".txt" else {}
        source |= {} if delimiter == ("\t" if ending == ".tsv" else ",") else {"delimiter": delimiter}
    return source


def _from(out: Path | None, path: Path) -> str:
    """A path as the block says it: from the folder of its file, where it is relative."""
    return (path if out is None or path.is_absolute() else Path(os.path.relpath(path, out.parent))).as_posix()


def _pictures(shows: Shown, table: Path, out: Path | None) -> dict[str, str]:
    """The key `pictures`, where they do not lie beside the table."""
    if shows.folder == (table if table.is_dir() else table.parent):
        return {}
    return {"pictures": _from(out, shows.folder)}


def _room(data: Data, guess: Guess, fields: dict[str, str], block: dict[str, Any], comments: dict[str, str]) -> None:
    """What a text too long for its room loses, and the room of a free answer."""
    columns = {field: data.column(column) for field, column in fields.items()}
    longest = max(columns, key=lambda field: columns[field].words, default="")
    free = guess.kind in ("qa", "generation")
    if columns and columns[longest].words >= LONG and (free or len(columns) > 1):
        block["cut"] = longest
        comments["cut"] = f"a text too long for the adapter's s loses the end of {longest}, and nothing else"
    if not free:
        return
    answers = [a for value in data.column(guess.label).there for a in (value if isinstance(value, list) else [value])]
    block["answer_length"] = usual_answer_length(str(answer) for answer in answers)
    sizes = sorted(sum(len(str(row.get(column) or "")) for column in fields.values()) for row in data.rows)
    s = block["answer_length"] + int(sizes[int(0.95 * (len(sizes) - 1))] / 3.5) + 16
    comments["answer_length"] = (
        "tokens kept for an answer; longer ones are cut. Beside it most texts fit whole into an adapter of s = "
        f"{32 * -(-s // 32)} (adapter: {{s: ...}} in the plan; dept tasks check FILE --backbone NAME counts)"
    )


def _damages(data: Data, names: Sequence[str]) -> list[str]:
    missing = {name: data.column(name).missing for name in names}
    return [
        f"{n:,} rows have nothing in column {name}: fill them in or take them out" for name, n in missing.items() if n
    ]


def _written(name: str, block: dict[str, Any], comments: dict[str, str], damages: list[str]) -> str:
    lines = [
        "# Written by `dept tasks new`: what follows was guessed from the data. Look it over, then",
        "#   dept tasks check FILE",
    ]
    lines += [f"# Mend first: {damage}" for damage in damages]
    if "kind" not in block:
        lines.append(f"# kind classification: {comments['kind']}")
    for line in yaml.safe_dump(
        {"own_tasks": {name: block}}, sort_keys=False, allow_unicode=True, width=100
    ).splitlines():
        key = re.match(r"    (\w+):", line)
        if key and key[1] in comments:
            lines.append(f"    # {' '.join(comments[key[1]].split())}")
        lines.append(line)
    return "\n".join(lines) + "\n"
