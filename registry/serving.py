"""Answers from trained adapters, directly or as an MLflow pyfunc model. One backbone in a process serves every task."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dept.adapters.ensemble import mean_answers, members_of
from dept.backbones.backbone import Backbone
from dept.backbones.describe import describe
from dept.backbones.files import short_name
from dept.backbones.shared import shared_backbone
from dept.baselines.answering import Answering, load_answering, parts_of
from dept.baselines.regression import Regression
from dept.engine.evaluate import Request, score
from dept.engine.generate import ANSWER_TOKENS, Prompted, generate
from infra.errors import InputError
from infra.settings import home, settings
from registry.inputs import rows_of
from registry.ledger import Ledger
from registry.promotion.lookup import Champion, adapter_folder, backbones_of, champion
from registry.promotion.model import answer_columns
from registry.promotion.older import older_backbones, older_champion
from registry.store import Store
from registry.tracking import Tracker
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
        names = (name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None)
        self.fields = tuple(dict.fromkeys(names))
        if backbone is None and needs_backbone(adapter):
            backbone = shared_backbone(adapter.metadata["backbone"], adapter.metadata.get("dtype"))
        if backbone is not None:
            for part in parts_of(adapter):
                backbone.check_adapter(part)
        self.backbone = backbone
        self.backbone_name = backbone.name if backbone is not None else short_name(adapter.metadata["backbone"])
        self.name = found.name if found else ""
        self.version = found.version if found else None
        self.note = found.note if found else ""

    def answers(self, rows: Sequence[Mapping[str, str]]) -> list[Answer]:
        """Answer rows of the template's fields, in their order."""
        texts = [self.template.format(**{name: normalise(row[name]) for name in self.fields}) for row in rows]
        if self.words:
            scores = torch.tensor(self._scores(texts), dtype=torch.float64)
            return self._of_labels(scores.reshape(len(texts), len(self.words)).softmax(1))
        about = self.adapter.metadata  # of a task that is answered by writing
        longest = int(about.get("answer_length") or about.get("answer_room") or ANSWER_TOKENS)
        assert self.backbone is not None
        assert not isinstance(self.adapter, Regression)
        asked = [Prompted(text, 0) for text in texts]
        written = generate(self.backbone, members_of(self.adapter), asked, longest)
        return [Answer(text.strip(), text.strip()) for text in written]

    def _scores(self, texts: Sequence[str]) -> list[list[float]]:
        """Log-scores of the words of each text."""
        if isinstance(self.adapter, Regression):
            return self.adapter.answers(texts, self.backbone)
        assert self.backbone is not None
        members = members_of(self.adapter)
        asked = [Request(text, self.words, which) for which in range(len(members)) for text in texts]
        scores = score(self.backbone, members, asked)
        parts = [scores[at : at + len(texts)] for at in range(0, len(scores), len(texts))] if texts else [[]]
        return mean_answers(parts)

    def _of_labels(self, table: torch.Tensor) -> list[Answer]:
        """Answers of probabilities [texts, labels]."""
        best = table.argmax(1).tolist()
        lines = zip(best, table.tolist(), strict=True)
        return [Answer(self.labels[i], self.words[i], line[i], tuple(line)) for i, line in lines]

    def predict(self, inputs: Any) -> pd.DataFrame:
        """Answer texts.

        Args:
            inputs: a text, a sequence of texts, or rows (DataFrame, mapping of columns, list of mappings) that hold
                the fields of the template.

        Returns:
            One row per text: `label`, and the probability of each label in a column of its name (a class called
            `label` has `label_`); `label` alone, the answer, where it is written.

        Raises:
            InputError: a field is missing, or an input is no text.
        """
        answers = self.answers(rows_of(inputs, self.fields))
        columns: dict[str, Any] = {"label": pd.Series([answer.label for answer in answers], dtype="str")}
        for place, name in enumerate(answer_columns(self.labels).values()):
            columns[name] = pd.Series([answer.probabilities[place] for answer in answers], dtype="float64")
        return pd.DataFrame(columns)


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


def load_champion(task: str, backbone: str | None = None, tracker: Tracker | None = None) -> Predictor:
    """The champion of a task, ready to answer. Only reads: where there is no ledger and no MLflow, none is made.

    Args:
        task: task name.
        backbone: name or path; it is what is loaded, and its weights say whose champion answers, wherever they lay
            when the champion was trained. None: the one backbone that has a champion of this task.
        tracker: where to look; default the default store, if there is one.

    Raises:
        InputError: no champion, several backbones to choose from, or an adapter that is lost or damaged.
    """
    ledger, tracker, store = _ledger(), tracker or _tracker(), Store.open()
    known = backbones_of(ledger, tracker, task)
    if not known and tracker is not None:
        known = older_backbones(tracker, task)
    if backbone is None:
        if len(known) > 1:
            listed = ", ".join(f"{name} ({backbone_id[:8]})" for backbone_id, name in known.items())
            raise InputError(f"task {task} has champions on several backbones: {listed}. Remedy: --backbone")
        if not known:
            raise InputError(f"no champion of task {task} yet. Remedy: run a plan that has it")
        backbone_id, backbone = next(iter(known.items()))
    else:
        backbone_id = describe(backbone).backbone_id
    found = champion(ledger, tracker, task, backbone_id)
    if found is None and tracker is not None:
        found = older_champion(tracker, task, backbone, backbone_id)
    if found is None:
        others = f"; it has one on {', '.join(known.values())}" if known else ""
        raise InputError(
            f"no champion of task {task} on backbone {backbone} ({backbone_id[:8]}) yet{others}. Remedy: run a plan "
            "with this task and backbone, or name another backbone"
        )
    notes = [found.note] if found.note else []
    adapter = load_adapter(adapter_folder(found, store, tracker, notes.append), found.adapter_sha256)
    found = replace(found, note="; ".join(notes))
    dtype = found.dtype or adapter.metadata.get("dtype")
    return Predictor(adapter, shared_backbone(backbone, dtype) if needs_backbone(adapter) else None, found)


def needs_backbone(adapter: Answering) -> bool:
    """Whether it answers by a pass of its backbone."""
    return not isinstance(adapter, Regression) or adapter.needs_backbone


def _ledger() -> Ledger | None:
    here = settings().ledger_url is not None or (home() / "ledger.db").is_file()
    return Ledger.open() if here else None


def _tracker() -> Tracker | None:
    here = settings().mlflow_tracking_uri is not None or (home() / "mlflow.db").is_file()
    return Tracker() if here else None
