"""The models that MLflow serves: of one task, and of a backbone for all its tasks. A bad row spoils no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from dept.baselines.answering import members_of, seers_of
from dept.baselines.regression import Regression
from dept.baselines.single import Single
from infra.errors import InputError
from registry.promotion.model import ERROR, TASK, answer_columns
from registry.serving.gate import Gate, RefusedError
from registry.serving.inputs import SHOWN, Given, items_of, row_of, table_of
from registry.serving.pictures import cost_of_decoding, positions_of
from registry.serving.predictor import Answer, Predictor, answer_rows
from registry.serving.roster import Roster
from tasks.picture_reader import plain_picture

WARM_UP = 16  # rows that tell how fast this machine is
UNREAD = "the text holds no token that the backbone knows. Remedy: give a text"
_COUNTED = 256  # rows of a champion whose tokens are counted
_CHARACTERS = 16_384  # of a text that are looked at for that
MOST_CHARACTERS = 200_000  # of a text; what is longer would be cut to a small part, after seconds of reading
_WRITTEN = 4.0  # what a written token costs, in tokens that are read

Asked = tuple[Predictor, Given]
Found = Asked | InputError
_log = logging.getLogger(__name__)


class _UnreadError(InputError):
    """Rows, by place, that cannot be read, and why."""

    def __init__(self, why: Mapping[int, str]) -> None:
        super().__init__("; ".join(why.values()))
        self.why = why


class TaskModel:
    """Answers of one adapter, a table for a table.

    Args:
        predictor: of its task.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.gate = predictor, Gate()
        _warm_up(self.gate, [predictor])

    def table(self, inputs: Any) -> pd.DataFrame:
        """As `Predictor.predict`; where a row cannot be answered, a column `error` says why beside the others.

        Raises:
            RefusedError: no row can be answered, or there are too many.
        """
        rows = _rows(inputs, self.predictor.columns)
        self.gate.check_rows(len(rows))
        found = [_tried(_asked, self.predictor, row) for row in rows]
        said, errors = _answered(self.gate, found)
        kind = object if any(errors) else None
        columns: dict[str, Any] = {"label": pd.Series([one and one.label for one in said], dtype=kind or "str")}
        for place, name in enumerate(answer_columns(self.predictor.labels).values()):
            given = [one and one.probabilities[place] for one in said]
            columns[name] = pd.Series(given, dtype=kind or "float64")
        return pd.DataFrame(columns | ({ERROR: pd.Series(errors, dtype=object)} if any(errors) else {}))


class BackboneModel:
    """Answers of all champions on one backbone; each row names its task.

    Args:
        roster: the champions, kept up to date.
    """

    def __init__(self, roster: Roster) -> None:
        self.roster, self.gate = roster, Gate()
        _warm_up(self.gate, list(roster.champions().values())[:1])

    def table(self, inputs: Any) -> pd.DataFrame:
        """One row for each: `task`, `label`, its `probability`, `probabilities` of all labels, `model`, `error`.

        Raises:
            RefusedError: no row can be answered, or there are too many.
        """
        rows = _rows(inputs, (TASK,))
        self.gate.check_rows(len(rows))
        tasks = [row.get(TASK) if isinstance(row, Mapping) else None for row in rows]
        champions = self.roster.champions({task for task in tasks if isinstance(task, str)})

        def asked(task: Any, row: Any) -> Asked:
            if not isinstance(task, str):
                raise InputError(f"{TASK} is missing. Remedy: name a task; there are {_some(champions)}")
            if task not in champions:
                unknown = f"no champion of task {task[:SHOWN]!r}; there are {_some(champions)}"
                raise InputError(self.roster.why_not(task) or unknown)
            return _asked(champions[task], row)

        found = [_tried(asked, task, row) for task, row in zip(tasks, rows, strict=True)]
        said, errors = _answered(self.gate, found)
        body = [
            {TASK: task if isinstance(task, str) else None, **_of(one, champions.get(str(task))), ERROR: error}
            for task, one, error in zip(tasks, said, errors, strict=True)
        ]
        names = (TASK, "label", "probability", "probabilities", "model", ERROR)
        return pd.DataFrame({name: pd.Series([line[name] for line in body], dtype=object) for name in names})


def _of(answer: Answer | None, champion: Predictor | None) -> dict[str, Any]:
    if answer is None or champion is None:
        return dict.fromkeys(("label", "probability", "probabilities", "model"))
    all_of = dict(zip(champion.labels, answer.probabilities, strict=True)) if answer.probabilities else None
    model = f"{champion.name}/{champion.version}"
    return {"label": answer.label, "probability": answer.probability, "probabilities": all_of, "model": model}


def _rows(inputs: Any, fields: Sequence[str]) -> list[Any]:
    """One item a row.

    Raises:
        RefusedError: there are none in it.
    """
    try:
        if isinstance(inputs, pd.DataFrame):
            if not len(inputs.columns):  # MLflow leaves out what the signature does not name
                raise InputError(f"predict: none of the model's columns is there. Remedy: give {table_of(fields)}")
            if len(inputs) == 1 and all(isinstance(value, list) for value in inputs.iloc[0]):
                inputs = inputs.iloc[0].to_dict()  # columns of lists, as MLflow hands on a mapping
        return items_of(inputs, fields)
    except InputError as error:
        raise RefusedError(str(error)) from None


def _asked(predictor: Predictor, row: Any) -> Asked:
    """A row as the predictor takes it. No name of a file is followed: a request may be anybody's."""
    return predictor, row_of(row, predictor.fields, predictor.picture, files=False)


def _tried(made: Callable[..., Asked], *given: Any) -> Found:
    try:
        found = made(*given)
    except InputError as error:
        return error
    for name, value in found[1].items():
        if isinstance(value, str) and len(value) > MOST_CHARACTERS:
            return InputError(
                f"{name} has {len(value):,} characters, at most {MOST_CHARACTERS:,} are read. Remedy: cut it"
            )
    return found


def _answered(gate: Gate, found: Sequence[Found]) -> tuple[list[Answer | None], list[str | None]]:
    """Answers of the rows that can be answered, and what is wrong with the others.

    Raises:
        RefusedError: with all of them, or there are too many.
    """
    good = {place: one for place, one in enumerate(found) if isinstance(one, tuple)}
    errors = [str(one) if isinstance(one, InputError) else None for one in found]
    if found and not good:
        others = f" (and {len(found) - 1} rows more)" if len(found) > 1 else ""
        raise RefusedError(f"predict: row 0: {errors[0]}{others}")
    try:
        # What is seen of a picture is kept, so that a request may be faster than what it costs here tells.
        seen = any(predictor.picture is not None for predictor, _ in good.values())
        with gate.passing(len(found), cost_of(list(good.values())), teaches=not seen):
            _see(good)
            said = dict(zip(good, answer_rows(list(good.values())), strict=True))
    except InputError as error:  # found before the rows of its backbone are computed
        if isinstance(error, _UnreadError):
            unread = error.why
        else:
            unread = {at: UNREAD for at, (predictor, row) in good.items() if not predictor.reads(row)}
        if not unread:
            raise
        left = [InputError(unread[place]) if place in unread else one for place, one in enumerate(found)]
        return _answered(gate, left)
    return [said.get(place) for place in range(len(found))], errors


def _see(good: Mapping[int, Asked]) -> None:
    """Look at the pictures of rows, so that one that cannot be seen spoils no other.

    Raises:
        _UnreadError: with why, of each such row.
    """
    why = {}
    for place, (predictor, row) in good.items():
        if predictor.picture is not None:
            try:
                predictor.see(row)
            except InputError as error:
                why[place] = str(error) if predictor.reads(row) else UNREAD
    if why:
        raise _UnreadError(why)


def cost_of(asked: Sequence[Asked]) -> float:
    """About how many tokens rows cost: as their backbone's tokenizer has them, the template's own words with them.

    What is cut of a long text costs nothing. Of many rows of one champion a part is counted, and stands for all.
    """
    total = 0.0
    groups: dict[int, list[Asked]] = {}
    for one in asked:
        groups.setdefault(id(one[0]), []).append(one)
    for rows in groups.values():
        predictor, few = rows[0][0], rows[:: -(-len(rows) // _COUNTED)]
        lengths = predictor.lengths([row for _, row in few], _CHARACTERS)
        costs = (sum(_cost_of(one, predictor, length) for one in members_of(predictor.adapter)) for length in lengths)
        total += sum(costs) * len(rows) / len(few)
        if predictor.backbone is not None and predictor.picture is not None:
            seers = seers_of(predictor.adapter)
            total += sum(positions_of(one, predictor.backbone) for one in seers) * len(rows)
            shown = (predictor.picture_of(row) for _, row in rows)
            each = {picture.sha256: picture for picture in shown if picture is not None}
            total += sum(map(cost_of_decoding, each.values())) * len(seers)
    return total


def _cost_of(one: Single, predictor: Predictor, length: int) -> float:
    if isinstance(one, Regression):
        return float(min(length, one.shape.s) + 1) if one.needs_backbone else 1.0
    written = 0.0 if predictor.words else _WRITTEN * predictor.room
    return min(length, one.config.s) + len(predictor.words) + 1 + written


def _warm_up(gate: Gate, predictors: Sequence[Predictor]) -> None:
    """Answer a few rows, so that the first request is judged by this machine's speed."""
    for predictor in predictors:
        row: Given = dict.fromkeys(predictor.fields, "an example of a text that is neither short nor long " * 2)
        asked = [(predictor, row)] * WARM_UP
        if (column := predictor.picture) is not None:  # each another: what is seen of a picture is kept
            asked = [(predictor, {**row, column: plain_picture(shade)}) for shade in range(WARM_UP)]
        answer_rows(asked[:1])  # what is made once is not the speed
        with gate.passing(len(asked), cost_of(asked)):
            answer_rows(asked)
        _log.info("about %.0f tokens a second", gate.speed)


def _some(champions: Mapping[str, Predictor]) -> str:
    names = sorted(champions)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "none"
