"""The rows of the comparison: MetaMathQA, GSM8K and texts of Wikipedia, of the hub or of local copies. No torch here.

Source: https://github.com/huggingface/peft/blob/main/method_comparison/MetaMathQA/data.py, and BucketIterator of
utils.py beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flows.studies.peft_comparison.protocol import BUCKET, TEMPLATE, Settings
from infra.errors import InputError
from infra.settings import settings as of_environment
from tasks.sources.readers import read_jsonl, read_parquet


class Source(NamedTuple):
    """A data set of the hub: repository, configuration, revision; None: the newest."""

    repo: str
    config: str | None = None
    revision: str | None = None


SOURCES = {
    "metamath": Source("meta-math/MetaMathQA", None, "aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18"),
    "gsm8k": Source("openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866"),
    "finewiki": Source("HuggingFaceFW/finewiki"),
}


@dataclass(frozen=True)
class Question:
    """A question as the backbone reads it, and how it is answered."""

    text: str
    response: str


@dataclass(frozen=True)
class Rows:
    """What is learned from, in the order of the data set, and what is answered."""

    train: list[Question]
    validation: list[Question]
    test: list[Question]
    wiki: list[str]


def read_rows(settings: Settings) -> Rows:
    """All rows of a run.

    Raises:
        InputError: the hub is out of reach, a file or column is missing, or there are fewer rows than a run needs.
    """
    wanted = settings.training.steps * settings.training.batch_size
    asked = (_question(row, "query", "response", place) for place, row in _lines("metamath", "train"))
    short = (one for one, characters in asked if characters <= settings.longest_row)
    train = list(itertools.islice(short, wanted))
    known = [_question(row, "question", "answer", place)[0] for place, row in _lines("gsm8k", "train")]
    test = [_question(row, "question", "answer", place)[0] for place, row in _lines("gsm8k", "test")]
    wiki = [str(row.get("text", "")) for _, row in itertools.islice(_lines("finewiki", "train"), settings.wiki_rows)]
    for what, there, least in (
        ("metamath", len(train), wanted),
        ("gsm8k train", len(known), settings.validation_rows),
        ("gsm8k test", len(test), 1),
        ("finewiki", sum(map(bool, wiki)), 1),
    ):
        if there < least:
            raise InputError(
                f"{what}: {there:,} rows of use, but a run needs {least:,}. Remedy: more rows, or fewer steps"
            )
    return Rows(train, _drawn(known, settings.validation_rows), test, [text for text in wiki if text])


def in_buckets(lengths: Sequence[int], batch: int) -> list[int]:
    """The order in which rows are learned: within each bucket of some batches the longest first."""
    size = batch * BUCKET
    places = range(len(lengths))
    return [i for at in places[::size] for i in sorted(places[at : at + size], key=lambda i: -lengths[i])]


def _drawn(rows: list[Question], n: int) -> list[Question]:
    """The first n of the order that numpy's old generator draws with seed 0."""
    import numpy

    order = numpy.arange(len(rows))
    numpy.random.RandomState(0).shuffle(order)
    return [rows[i] for i in order[:n]]


def _question(row: dict[str, Any], query: str, response: str, place: str) -> tuple[Question, int]:
    """A question and its length in characters, with its answer."""
    try:
        asked, said = str(row[query]), str(row[response])
    except KeyError as error:
        raise InputError(f"{place}: no column {error}. Remedy: rows with {query} and {response}") from error
    return Question(TEMPLATE.format(query=asked), said), len(asked) + 1 + len(said)


def _lines(name: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a data set: $DEPT_DATA/<name>/<split>.jsonl or .parquet where there is one, else of the hub."""
    folder = root / name if (root := of_environment().data) else None
    for ending, read in (("jsonl", read_jsonl), ("parquet", read_parquet)):
        if folder is not None and (path := folder / f"{split}.{ending}").is_file():
            yield from read(path)
            return
    source = SOURCES[name]
    try:
        from datasets import load_dataset

        # In a stream, since of the largest set some twentieth is read, and of Wikipedia a hundred texts.
        rows = load_dataset(source.repo, source.config, revision=source.revision, split=split, streaming=True)
        yield from ((f"{source.repo} {split}, row {number}", row) for number, row in enumerate(rows, start=1))
    except Exception as error:  # the hub's client raises many kinds: no network, no such repository
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source.repo} ({split}): cannot be read of the hub: {reason}. Remedy: the hub in reach, or set DEPT_DATA "
            f"to a folder that holds {name}/{split}.jsonl or .parquet"
        ) from error
