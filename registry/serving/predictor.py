"""Answers from trained adapters. One backbone in a process serves every task, rows of many tasks in one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dept.adapters.adapter import CONTINUES, Adapter
from dept.backbones.backbone import Backbone
from dept.backbones.chat import in_chat
from dept.backbones.files import short_name
from dept.backbones.shared import shared_backbone
from dept.baselines.answering import Answering, load_answering, members_of, seers_of, weights_of
from dept.baselines.probe import Probe
from dept.baselines.regression import Regression
from dept.baselines.single import Single
from dept.batches.tokenise import Row, encode, encode_open
from dept.engine.evaluate import Request, reading_of, score
from dept.engine.generate import ANSWER_TOKENS, Prompted, generate
from dept.readout import mean_answers
from infra.errors import InputError
from registry.promotion.lookup import Champion
from registry.promotion.model import answer_columns, fields_of, picture_column
from registry.serving.inputs import Given, columns_of, rows_of
from registry.serving.pictures import check_eyes, see
from tasks.pictures import Picture
from tasks.plain import normalise


@dataclass(frozen=True)
class Answer:
    """The answer to one row.

    Attributes:
        label: as it stands in the data; for tasks that are answered by writing, the text.
        word: what the backbone answered with.
        probability: of the label, softmax of the words' log-probabilities; None for written answers.
        probabilities: of all labels, in the order of `Predictor.labels`.
    """

    label: str
    word: str
    probability: float | None = None
    probabilities: tuple[float, ...] = ()


class Predictor:
    """An adapter, several together, or a linear baseline, with the template and the verbalizer of their task.

    Args:
        adapter: its metadata names template, labels and words.
        backbone: default the one the adapter was trained on, shared by the whole process. Where it needs none, as
            TF-IDF does, none is loaded.
        found: the champion that the adapter is of.

    Attributes:
        backbone: None where it needs none; `backbone_name`: short.
        fields: of the template, in its order. labels, words: of scored tasks; empty where answers are written.
        picture: the column of a row's picture; None: it answers by the text alone. columns: fields, and that.
        name, version: of the registered model; `note` is what is to be said about it, "" for nothing.

    Raises:
        InputError: metadata missing, or a backbone that the adapter does not fit.
    """

    def __init__(self, adapter: Answering, backbone: Backbone | None = None, found: Champion | None = None) -> None:
        needed = ("backbone", "template", "labels", "words", *(("s",) if isinstance(adapter, Regression) else ()))
        missing = [key for key in needed if key not in adapter.metadata]
        if missing:
            raise InputError(
                f"adapter: its metadata lack {', '.join(missing)}, so it cannot answer. Remedy: use an "
                "adapter that a trial wrote"
            )
        self.adapter = adapter
        self.template: str = adapter.metadata["template"]
        self.words = tuple(adapter.metadata["words"])
        self.labels = tuple(adapter.metadata["labels"]) if self.words else ()
        self.fields = fields_of(self.template)
        self.picture = picture_column(self.fields) if seers_of(adapter) else None
        self.columns = columns_of(self.fields, self.picture)
        if backbone is None and needs_backbone(adapter):
            backbone = shared_backbone(adapter.metadata["backbone"], adapter.metadata.get("dtype"))
        if backbone is not None:
            for part in members_of(adapter):
                backbone.check_adapter(part)
        check_eyes(adapter, backbone)
        self.backbone = backbone
        self.backbone_name = backbone.name if backbone is not None else short_name(adapter.metadata["backbone"])
        self.name = found.name if found else ""
        self.version = found.version if found else None
        self.note = found.note if found else ""

    def answers(self, rows: Sequence[Given]) -> list[Answer]:
        """Answer rows of `columns` in their order: texts, and a `tasks.pictures.Picture` where there are pictures."""
        return answer_rows([(self, row) for row in rows])

    def text_of(self, row: Given) -> str:
        """A row as the template says it."""
        return self.template.format(**{name: normalise(str(row[name])) for name in self.fields})

    def picture_of(self, row: Given) -> Picture | None:
        """The picture of a row; None where it answers by the text alone.

        Raises:
            InputError: another thing stands in its place.
        """
        found = row[self.picture] if self.picture is not None else None
        if found is not None and not isinstance(found, Picture):
            raise InputError(
                f"{self.picture} is {found!r:.60}, no picture. Remedy: `tasks.pictures.picture_at` of a file"
            )
        return found

    def see(self, row: Given) -> None:
        """Look at a row's picture as the answer will, which finds it done.

        Raises:
            InputError: a picture that cannot be read, that what sees it does not take, or that leaves no positions.
        """
        if self.backbone is None or self.picture is None:
            return
        for member in seers_of(self.adapter):
            see(member, self.backbone, self._encoded(member, row))

    def _encoded(self, member: Single, row: Given) -> Row:
        assert self.backbone is not None
        tokens, texts, pictures = self.backbone.tokens, [self.text_of(row)], [self.picture_of(row)]
        if isinstance(member, Probe):
            return member.rows(texts, self.backbone, pictures)[0]
        assert isinstance(member, Adapter)
        reading = reading_of(member)
        if self.words:
            return encode(tokens, texts, self.words, None, member.config, pictures, **reading)[0]
        found = encode_open(tokens, texts, member.config, self.room, pictures, **reading)[0]
        return replace(found, candidates=(found.candidates[0] * self.room,))  # as long as what may be written

    def reads(self, row: Given) -> bool:
        """Whether the backbone sees anything of a row: its text may be without a token."""
        return self.backbone is None or bool(self.lengths([row])[0])

    def lengths(self, rows: Sequence[Given], most: int | None = None) -> list[int]:
        """Tokens of rows as the template says them, uncut; of their first `most` characters. 0 without a backbone."""
        if self.backbone is None:
            return [0] * len(rows)
        texts = [self.text_of(row)[:most].rstrip(" \t") for row in rows]
        about = self.adapter.metadata
        tokens = in_chat(self.backbone.tokens) if about.get("chat") else self.backbone.tokens
        return list(map(len, tokens.encode_texts(texts, bool(about.get(CONTINUES, False)))))

    @property
    def room(self) -> int:
        """Tokens of a written answer."""
        about = self.adapter.metadata
        return int(about.get("answer_length") or about.get("answer_room") or ANSWER_TOKENS)

    def of_labels(self, scores: Sequence[Sequence[float]]) -> list[Answer]:
        """Answers of log-scores of the words, one line a text."""
        table = torch.tensor(scores, dtype=torch.float64).reshape(len(scores), len(self.words)).softmax(1)
        lines = zip(table.argmax(1).tolist(), table.tolist(), strict=True)
        return [Answer(self.labels[i], self.words[i], line[i], tuple(line)) for i, line in lines]

    def predict(self, inputs: Any) -> pd.DataFrame:
        """Answer texts.

        Args:
            inputs: a text, a sequence of texts, or rows (DataFrame, mapping of columns, list of mappings) that hold
                the fields of the template, and in the column `picture` a file's name, bytes, a picture of Pillow, or a
                data: URI; where the template has no field, one of these alone.

        Returns:
            One row per text: `label`, and the probability of each label in a column of its name (a class called
            `label` has `label_`); `label` alone, the answer, where it is written.

        Raises:
            InputError: a field is missing, an input is no text, or a picture cannot be read.
        """
        rows = rows_of(inputs, self.fields, self.picture)
        for number, row in enumerate(rows if self.picture is not None else []):
            try:
                self.see(row)
            except InputError as error:
                raise InputError(f"predict: row {number}: {error}") from None
        answers = self.answers(rows)
        columns: dict[str, Any] = {"label": pd.Series([answer.label for answer in answers], dtype="str")}
        for place, name in enumerate(answer_columns(self.labels).values()):
            columns[name] = pd.Series([answer.probabilities[place] for answer in answers], dtype="float64")
        return pd.DataFrame(columns)


def answer_rows(asked: Sequence[tuple[Predictor, Given]]) -> list[Answer]:
    """Answer rows of any tasks, each by its own predictor, in their order.

    Rows of all adapters on one backbone whose answers are scored run in mixed batches through the stack.
    """
    answers: dict[int, Answer] = {}
    scored: dict[int, list[int]] = defaultdict(list)  # by backbone
    for places in _by_predictor(asked):
        predictor = asked[places[0]][0]
        if predictor.words:
            scored[id(predictor.backbone)] += places
        else:
            answers |= dict(zip(places, _written(predictor, [asked[place][1] for place in places]), strict=True))
    for places in scored.values():
        answers |= dict(zip(places, _scored([asked[place] for place in places]), strict=True))
    return [answers[place] for place in range(len(asked))]


def _by_predictor(asked: Sequence[tuple[Predictor, Given]]) -> Iterable[list[int]]:
    """Places of the rows of each predictor."""
    found: dict[int, list[int]] = defaultdict(list)
    for place, (predictor, _) in enumerate(asked):
        found[id(predictor)].append(place)
    return found.values()


def _scored(asked: Sequence[tuple[Predictor, Given]]) -> list[Answer]:
    """Rows of one backbone: every adapter scores its rows, all in one call; linear baselines their own."""
    backbone = asked[0][0].backbone
    parts: list[list[list[float]]] = [[] for _ in asked]  # of each row the answers of its members, in their order
    adapters: list[Adapter] = []
    requests: list[Request] = []
    waiting: list[list[float]] = []  # where the answers to the requests go
    for places in _by_predictor(asked):
        predictor = asked[places[0]][0]
        rows = [asked[place][1] for place in places]
        texts, shown = [predictor.text_of(row) for row in rows], [predictor.picture_of(row) for row in rows]
        seeing = seers_of(predictor.adapter)
        for member in members_of(predictor.adapter):
            pictures = shown if member in seeing else [None] * len(rows)
            lines: list[list[float]] = [[] for _ in texts]
            if isinstance(member, Regression):
                lines = member.answers(texts, backbone, pictures)
            for place, line in zip(places, lines, strict=True):
                parts[place].append(line)
            if isinstance(member, Adapter):
                both = zip(texts, pictures, strict=True)
                requests += [Request(text, predictor.words, len(adapters), picture) for text, picture in both]
                waiting += lines
                adapters.append(member)
    if backbone is not None and requests:
        for line, found in zip(waiting, score(backbone, adapters, requests), strict=True):
            line += found  # it stands among the answers of its row
    said = []
    for (predictor, _), mine in zip(asked, parts, strict=True):
        said += predictor.of_labels(mean_answers([[line] for line in mine], weights_of(predictor.adapter)))
    return said


def _written(predictor: Predictor, rows: Sequence[Given]) -> list[Answer]:
    (adapter,) = members_of(predictor.adapter)
    assert predictor.backbone is not None
    assert isinstance(adapter, Adapter)
    asked = [Prompted(predictor.text_of(row), 0, predictor.picture_of(row)) for row in rows]
    written = generate(predictor.backbone, [adapter], asked, predictor.room)
    return [Answer(text.strip(), text.strip()) for text in written]


def load_adapter(folder: str | Path, sha256: str | None = None) -> Answering:
    """An adapter, several that answer together, or a linear baseline, from their folder.

    Args:
        sha256: what its tensor file, or a linear baseline's manifest, must have, where ledger or registry knows it.

    Raises:
        InputError: missing, cut short, altered, or another than was asked for.
    """
    adapter = load_answering(folder)
    if sha256 is not None and adapter.sha256 != sha256:
        raise InputError(
            f"adapter {folder}: its sha256 {str(adapter.sha256)[:12]} is not the one that was registered "
            f"({sha256[:12]}). Remedy: `dept run` of its plan makes it again"
        )
    return adapter


def needs_backbone(adapter: Answering) -> bool:
    """Whether it answers by a pass of its backbone."""
    return any(not isinstance(one, Regression) or one.needs_backbone for one in members_of(adapter))
