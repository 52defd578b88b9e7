"""Rows in a data set's own schema -> rows whose columns a template can name. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from tasks.formatting import Example

Row = dict[str, Any]


def convert(name: str | None, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows converted by the converter `name`; None leaves them as they are. Raises KeyError for a missing column."""
    return iter(rows) if name is None else map(CONVERTERS[name], rows)


def one_per_answer(examples: Iterable[Example]) -> Iterator[Example]:
    """Each example once per right answer, with that answer as target: how ReCoRD is trained.

    `answers` stays whole, so that a row may also be evaluated.
    """
    for example in examples:
        for number, answer in enumerate(example.answers):
            yield replace(example, id=f"{example.id}.{number}", target=answer)


def mark_spans(row: Row) -> Row:
    """WSC (columns text, span1_text, span1_index, span2_text, span2_index) with its spans marked in `text`.

    The first span is wrapped in `* *`, the second in `# #`, as T5 does (Raffel et al., 2020, section 2.4). An index
    counts words. Where a span's text does not stand at its index, the words there are marked.
    """
    text = row["text"]
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    marks = []
    for number, mark in ((1, "*"), (2, "#")):
        span, first = row[f"span{number}_text"], row[f"span{number}_index"]
        if not 0 <= first < len(starts):
            raise ValueError(f"span{number}_index {first} is outside the text of {len(starts)} words")
        begin = starts[first]
        end = begin + len(span)
        if text[begin:end].casefold() != span.casefold():
            end = ends[min(first + len(span.split()), len(ends)) - 1]
        marks += [(begin, f"{mark} "), (end, f" {mark}")]
    for place, mark in sorted(marks, reverse=True):  # from the right, so that the places before stay
        text = text[:place] + mark + text[place:]
    return {**row, "text": text}


def multirc(row: Row) -> Row:
    """MultiRC (columns paragraph, question, answer, idx) without HTML tags; `group` names the question."""
    clean = {name: _without_tags(row[name]) for name in ("paragraph", "question", "answer")}
    return {**row, **clean, "group": f"{row['idx']['paragraph']}-{row['idx']['question']}"}


def record(row: Row) -> Row:
    """ReCoRD (columns passage, query, entities, answers): highlights become sentences, entities one text.

    As T5 does it: `\\n@highlight\\n` after the end of a sentence or a quote becomes a blank, elsewhere a full stop.
    """
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", row["passage"])
    passage = re.sub(r"\n@highlight\n", ". ", passage)
    return {**row, "passage": passage, "entities": ", ".join(row["entities"])}


def _without_tags(text: str) -> str:
    text = re.sub(r"<br\s*/?>", " ", text, flags=re.IGNORECASE)
    return " ".join(re.sub(r"</?[a-zA-Z][a-zA-Z0-9]*\s*/?>", "", text).split())


CONVERTERS: dict[str, Callable[[Row], Row]] = {"mark-spans": mark_spans, "multirc": multirc, "record": record}
