"""Write the YAML block of a task by looking at its data. What is guessed is said in comments beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import yaml

from flows.planning.look_at_data import CSV, Column, Data, look_at_file, look_at_hub, share_found
from infra.errors import InputError
from tasks.spec import Kind, Task

LABELS = (
    *("label", "labels", "class", "category", "sentiment", "topic", "intent", "target", "score", "rating", "stars"),
    *("answer", "answers", "answers.text", "output", "summary", "response", "completion", "highlights", "y"),
)
TEXTS = (
    *("text", "sentence", "sentence1", "sentence2", "premise", "hypothesis", "question", "question1", "question2"),
    *("context", "passage", "paragraph", "document", "article", "title", "body", "content", "review", "comment"),
    *("message", "tweet", "query", "instruction", "input", "dialogue", "text1", "text2", "text_a", "text_b"),
)
CONTEXTS = ("context", "passage", "paragraph", "document", "article", "text")
MOST_LABELS, ROWS_PER_LABEL = 60, 3  # of a classification; a label needs a row in each split
MOST_INTEGERS = 12  # distinct whole numbers that still count as labels
MOST_POINTS = 41  # of a guessed grid
FOUND = 0.8  # share of the answers that stand in the text: question answering
LARGE = 10_000  # training rows from which validation rows are taken out of them


@dataclass
class Guess:
    """What the columns are taken for, and why."""

    texts: list[str]
    label: str
    kind: Kind
    why: str


def new_block(
    source: str,
    texts: Sequence[str] = (),
    label: str | None = None,
    kind: Kind | None = None,
    name: str | None = None,
    config: str | None = None,
    revision: str = "main",
    out: Path | None = None,
) -> str:
    """The YAML of `own_tasks:` with one task on a file, or on a hub data set `owner/name`.

    Args:
        texts, label, kind, name: None or empty: guessed.
        out: where the block will lie, which a relative path of the file counts from; None: the path as given.

    Raises:
        InputError: data that cannot be read, a column that is not there, or nothing to be guessed from.
    """
    path = Path(source).expanduser()
    on_hub = not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix.lower() not in FILES
    called = name or re.sub(r"[^a-z0-9.-]+", "-", path.stem.lower()).strip("-.") or "my-task"
    data = look_at_hub(source, called, config, revision) if on_hub else look_at_file(path)
    guess = guess_columns(data, texts, label, kind)
    comments = {"kind": guess.why}
    block: dict[str, Any] = {} if guess.kind == "classification" else {"kind": guess.kind}
    fields = _fields(guess.texts)
    block["template"] = _template(guess, list(fields))
    comments["template"] = f"what the model reads: {', '.join(guess.texts)}, of the columns {', '.join(data.names)}"
    _answers(data.column(guess.label), guess.kind, data.words.get(guess.label), block, comments)
    columns = {field: column for field, column in fields.items() if field != column}
    if on_hub:
        splits = data.labelled(guess.label)
        block["rule"], at = _rule(splits)
        comments["rule"] = f"rows of the hub with a label: {', '.join(f'{v:,} {k}' for k, v in splits.items())}"
        block["source"] = {"kind": "hub", "repo": source} | ({"config": config} if config else {})
        block["source"] |= {"revision": revision} | at
        comments["source"] = "pin the revision to a commit, so that the rows stay what they are"
    else:
        block["source"] = _file_source(path, out, data.delimiter)
        comments["source"] = "a relative path counts from the folder of this file"
    if "text" in columns and not on_hub:
        block["source"]["text"] = columns.pop("text")
    block["source"] |= ({"columns": columns} if columns else {}) | {"label": guess.label}
    Task.build(called, block, "tasks new")
    return _written(called, block, comments, _damages(data, guess))


def guess_columns(data: Data, texts: Sequence[str], label: str | None, kind: Kind | None) -> Guess:
    """What a user did not say, guessed. Raises InputError where nothing fits, naming the option that helps."""
    columns = {name: data.column(name) for name in data.names}
    for name in (*texts, *filter(None, [label])):
        data.column(name)
    if label in texts:
        raise InputError(f"tasks new: column {label!r} cannot be both --text and --label")
    answer = columns[label or _label(columns, texts)]
    picked = list(texts) or _texts(columns, answer, len(data.rows))
    found, why = _kind(answer, [columns[text] for text in picked])
    if kind is not None:
        return Guess(_ordered(picked, kind), answer.name, kind, f"as asked; answers stand in column {answer.name}")
    return Guess(_ordered(picked, found), answer.name, found, why)


def _label(columns: dict[str, Column], texts: Sequence[str]) -> str:
    left = [column for column in columns.values() if column.name not in texts and column.there]
    for wanted in LABELS:
        for column in left:
            if column.name.casefold() == wanted:
                return column.name
    candidates = [c for c in left if not c.names_rows and c.name.casefold() not in TEXTS]
    few = [c for c in candidates if 2 <= c.distinct <= min(MOST_LABELS, len(c.there) // ROWS_PER_LABEL) and not c.lists]
    numbers = [c for c in candidates if c.numbers and c.distinct > 1]
    lists = [c for c in candidates if c.lists]
    for group in (few, numbers, lists):
        if group:
            return min(group, key=lambda c: (c.words, c.distinct)).name  # fewer words and values: more like a label
    raise InputError(
        f"tasks new: no column looks like a label, number or answer; columns: {', '.join(columns)}. Name it: --label"
    )


def _texts(columns: dict[str, Column], answer: Column, rows: int) -> list[str]:
    strings = [c for c in columns.values() if c.text and c is not answer and (c.numbers is None)]
    known = [c for c in strings if c.name.casefold() in TEXTS]
    long = [c for c in strings if c.words >= 2 and not c.names_rows and c.distinct > min(5, rows // 2)]
    longest = max(long, key=lambda c: c.words, default=None)
    picked = known or ([longest] if longest else [])
    if not known:  # a second text of some length counts, a heading of two words does not
        picked += [c for c in long if c is not longest and c.words >= 4][:1]
    if not picked:
        raise InputError(f"tasks new: no column looks like text; columns: {', '.join(columns)}. Name it: --text")
    return [name for name in columns if name in {c.name for c in picked}]


def _kind(answer: Column, texts: Sequence[Column]) -> tuple[Kind, str]:
    """The kind that the answers' column speaks for, and why."""
    name, n = answer.name, len(answer.there)
    inside = max((share_found(answer.values, column.values) for column in texts), default=0.0)
    if answer.lists:
        kind: Kind = "qa" if inside >= FOUND else "generation"
        return kind, f"column {name} holds lists; {100 * inside:.0f} % of the answers stand in the text"
    numbers = answer.numbers
    if len(texts) > 1 and numbers is None and inside >= FOUND:  # question and context, however few the answers
        return "qa", f"{100 * inside:.0f} % of the answers in column {name} stand in the text"
    few = answer.distinct <= min(MOST_LABELS, max(2, n // ROWS_PER_LABEL))
    if numbers and not (all(x.is_integer() for x in numbers) and answer.distinct <= MOST_INTEGERS and few):
        return (
            "regression",
            f"column {name} holds {answer.distinct:,} numbers from {min(numbers):g} to {max(numbers):g}",
        )
    if few and answer.distinct > 1 and answer.words < 6:
        kinds = "pair classification: " if len(texts) > 1 else ""
        return "classification", f"{kinds}column {name} holds {answer.distinct} values in {n:,} rows"
    if inside >= FOUND:
        return "qa", f"{100 * inside:.0f} % of the answers in column {name} stand in the text"
    return (
        "generation",
        f"column {name} holds {answer.distinct:,} texts, {100 * inside:.0f} % of which stand in the text",
    )


def _ordered(texts: list[str], kind: Kind) -> list[str]:
    """Question before context, so that what is cut of a long text is the context (encoder-decoder backbones)."""
    if kind != "qa":
        return texts
    return sorted(texts, key=lambda name: name.rpartition(".")[2].casefold() in CONTEXTS)


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
    body = f"{{{fields[0]}}}" if len(fields) == 1 else "\n".join(f"{field}: {{{field}}}" for field in fields)
    return body + {"classification": "\nLabel:", "regression": "\nScore:"}.get(guess.kind, "\nAnswer:")


def _answers(
    column: Column, kind: Kind, names: list[str] | None, block: dict[str, Any], comments: dict[str, str]
) -> None:
    if kind == "classification":
        keys = sorted({_as_key(value) for value in column.there}, key=_number_first)
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


def _as_key(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


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


def _file_source(path: Path, out: Path | None, delimiter: str) -> dict[str, Any]:
    shown = path if out is None or path.is_absolute() else Path(os.path.relpath(path, out.parent))
    source: dict[str, Any] = {"kind": "file", "path": shown.as_posix()}
    if path.suffix.lower() in CSV:
        source |= {} if path.suffix.lower() == ".csv" else {"format": "csv"}
        source |= {} if delimiter == "," else {"delimiter": delimiter}
    return source


def _damages(data: Data, guess: Guess) -> list[str]:
    missing = {name: data.column(name).missing for name in (*guess.texts, guess.label)}
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


FILES = {*CSV, ".jsonl", ".ndjson", ".parquet"}
