"""The data sets of a run as MLflow knows them: name, digest, where from, and the ids of the rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from dept.trial import TrialOutcome

DIGITS = 16  # of a digest, before the use; MLflow takes 36 in all
MOST_IDS = 2000  # of rows that are named; of more there stands the digest alone
LONGEST_TAG = 4000
_SOURCE = 60_000  # characters; MLflow takes 65,535
MANIFESTS = ("adapter.json", "ensemble.json", "baseline.json")  # of one adapter, several, or a linear baseline


@dataclass(frozen=True)
class Rows:
    """Rows that a run used.

    Attributes:
        task: the data set's name. use: training, validation, test or judge. ids: of the rows, in order; empty where
            they are not known, then `rows` says how many there are.
        digest: sha256 (hex) of the whole data set; "": of the ids. about: of the source: url, licence, kind.
    """

    task: str
    use: str
    ids: Sequence[str] = ()
    rows: int | None = None
    digest: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def entity(self) -> DatasetInput:
        """As MLflow takes it."""
        count = len(self.ids) or self.rows
        of_ids = hashlib.sha256("\n".join(self.ids).encode()).hexdigest() if self.ids else ""
        profile: dict[str, Any] = {"num_rows": count}
        if of_ids:
            profile["row_ids_sha256"] = of_ids
        if 0 < len(self.ids) <= MOST_IDS:
            profile["row_ids"] = list(self.ids)
        digest = f"{(self.digest or of_ids)[:DIGITS]}-{self.use}"  # of one digest MLflow keeps one use
        source = json.dumps({**self.about, "task": self.task})[:_SOURCE]
        dataset = Dataset(self.task, digest, "dept-transfer", source, profile=json.dumps(profile))
        return DatasetInput(dataset, [InputTag("mlflow.data.context", self.use)])


def of_trial(outcome: TrialOutcome, folder: Path | None) -> list[Rows]:
    """The rows of a trial: those that it drew, by its adapter's file, and the test rows.

    Args:
        folder: of the adapter; None where a trial leaves none.
    """
    spec, drawn = outcome.spec, _drawn(folder)
    if drawn:
        found = [
            Rows(spec.task, use, ids)
            for use, ids in (("training", drawn["shots"]), ("validation", drawn["validation"]))
        ]
    else:
        found = [Rows(spec.task, "training", rows=spec.train_rows, digest=spec.data_hash)]
    if outcome.test:
        found.append(Rows(spec.task, "test", rows=spec.test_rows, digest=spec.data_hash))
    return [rows for rows in found if rows.ids or rows.digest]


def tags_of(rows: Sequence[Rows]) -> dict[str, str]:
    """The same as tags, which cost no request: `rows.<use>` with the ids, of many their number and sha256."""
    tags = {}
    for one in rows:
        ids = ",".join(one.ids)
        digest = hashlib.sha256("\n".join(one.ids).encode()).hexdigest() if one.ids else one.digest
        count = len(one.ids) or one.rows or "all"
        tags[f"rows.{one.use}"] = ids if 0 < len(ids) <= LONGEST_TAG else f"{count} rows, sha256 {digest}"
    return tags


def _drawn(folder: Path | None) -> dict[str, list[str]]:
    for name in MANIFESTS if folder is not None else ():
        try:
            body = json.loads((Path(str(folder)) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        drawn = (body.get("metadata") or {}).get("drawn") or {}
        return {use: [str(one) for one in drawn.get(use) or ()] for use in ("shots", "validation")} if drawn else {}
    return {}
