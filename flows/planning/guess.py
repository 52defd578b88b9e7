"""What the columns of a user's data are taken for: text, label, and the kind of task. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.planning.look_at_data import Column, Data, share_found
from infra.errors import InputError
from tasks.kinds import Kind
from tasks.plain import listed

LABELS = (
    *("label", "labels", "class", "category", "sentiment", "topic", "intent", "target", "score", "rating", "stars"),
    *("answer", "answers", "answers.text", "output", "summary", "response", "completion", "highlights", "y"),
    *("caption", "captions"),
)
TEXTS = (
    *("text", "sentence", "sentence1", "sentence2", "premise", "hypothesis", "question", "question1", "question2"),
    *("context", "passage", "paragraph", "document", "article", "title", "body", "content", "review", "comment"),
    *("message", "tweet", "query", "instruction", "input", "dialogue", "text1", "text2", "text_a", "text_b"),
)
CONTEXTS = ("context", "passage", "paragraph", "document", "article", "text")
MOST_LABELS, ROWS_PER_LABEL = 60, 3  # of a classification; a label needs a row in each split
MOST_INTEGERS = 12  # distinct whole numbers that still count as labels
FOUND = 0.8  # share of the answers that stand in the text: question answering


@dataclass
class Guess:
    """What the columns are taken for, and why."""

    texts: list[str]
    label: str
    kind: Kind
    why: str


def guess_columns(
    data: Data, texts: Sequence[str], label: str | None, kind: Kind | None, pictured: bool = False
) -> Guess:
    """What a user did not say, guessed; rows with pictures need no text.

    Raises:
        InputError: nothing fits; names the option that helps.
    """
    columns = {name: data.column(name) for name in data.names}
    for name in (*texts, *filter(None, [label])):
        data.column(name)
    if label in texts:
        raise InputError(f"tasks new: column {label!r} cannot be both --text and --label")
    answer = columns[label or _label(columns, texts)]
    picked = list(texts) or _texts(columns, answer, len(data.rows), pictured)
    found, why = _kind(answer, [columns[text] for text in picked], data.answers(answer.name))
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
        f"tasks new: no column looks like a label, number or answer; columns: {listed(columns)}. Name it: --label"
    )


def _texts(columns: dict[str, Column], answer: Column, rows: int, pictured: bool) -> list[str]:
    strings = [c for c in columns.values() if c.text and c is not answer and (c.numbers is None)]
    known = [c for c in strings if c.name.casefold() in TEXTS]
    long = [c for c in strings if c.words >= 2 and not c.names_rows and c.distinct > min(5, rows // 2)]
    longest = max(long, key=lambda c: c.words, default=None)
    picked = known or ([longest] if longest else [])
    if not known:  # a second text of some length counts, a heading of two words does not
        picked += [c for c in long if c is not longest and c.words >= 4][:1]
    if not picked and not pictured:
        raise InputError(f"tasks new: no column looks like text; columns: {listed(columns)}. Name it: --text")
    return [name for name in columns if name in {c.name for c in picked}]


def _kind(answer: Column, texts: Sequence[Column], in_all: Column) -> tuple[Kind, str]:
    """The kind that the answers' column speaks for, and why. in_all: the same column of all splits."""
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
        return "classification", f"{kinds}column {name} holds {len(in_all.keys)} labels in {len(in_all.there):,} rows"
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
