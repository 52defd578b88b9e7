"""What a parent process and its ranks say to each other: a folder of files, each written whole or not at all.

session.json  ranks/N.json  ranks.log  progress.json  error.json  stop
jobs/N/  job.json and what belongs to it, then the answer, then done.json
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dept.adapters.adapter import Adapter
from dept.batches.tokenise import Row, Seen
from dept.config import EngineOptions, TrainConfig
from dept.engine.state import Point, Result, State, Trial
from dept.readout import Readout
from infra.files import write_text
from tasks.pictures import Picture

SESSION, PROGRESS, ERROR, LOG, STOP = "session.json", "progress.json", "error.json", "ranks.log", "stop"
JOB, DONE, RESTORED, ANSWER, TENSOR = "job.json", "done.json", "restored.json", "answer.json", "answer.safetensors"
POINTS = "points.jsonl"  # grows while a job trains


@dataclass(frozen=True)
class Settings:
    """What the ranks of a session load; see `dept.distributed.launch.Session`.

    `owner` is the process (`infra.identity.process_id`) whose death ends the ranks.
    """

    backbone: str
    dtype: str
    ranks: int
    owner: str


def write_json(file: Path, body: Any) -> None:
    """Write a small file that a reader sees whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    write_text(file, json.dumps(body))


def read_json(file: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(file.read_text(encoding="utf-8"))


def open_session(folder: Path, settings: Settings) -> None:
    """Lay a session out in a new folder.

    Raises:
        OSError: it cannot be written.
    """
    for name in ("ranks", "jobs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(folder / SESSION, asdict(settings))


def read_settings(folder: Path) -> Settings:
    """The settings of a session."""
    return Settings(**read_json(folder / SESSION))


def folder_of(session: Path, number: int) -> Path:
    """Where a session's job lies; the first has number 0."""
    return session / "jobs" / str(number)


def kind_of(work: Path) -> str:
    """What a job asks for: train, search, score, features, generate, mixture or embed."""
    return str(read_json(work / JOB)["kind"])


class _Tables:
    """Rows as JSON: what several trials share is written once."""

    def __init__(self) -> None:
        self.words: dict[tuple[tuple[int, ...], ...], int] = {}
        self.places: dict[int, int] = {}
        self.tables: list[list[Any]] = []

    def add(self, rows: Sequence[Row]) -> int:
        if id(rows) not in self.places:
            self.places[id(rows)] = len(self.tables)
            known = self.words
            self.tables.append([[r.source, known.setdefault(r.candidates, len(known)), *_told(r)] for r in rows])
        return self.places[id(rows)]

    def body(self) -> dict[str, Any]:
        return {"rows": self.tables, "words": list(self.words)}


def _told(row: Row) -> list[Any]:
    return [row.gold, row.first, row.cut, row.soft, row.seen and asdict(row.seen)]


def _tables(body: dict[str, Any]) -> list[list[Row]]:
    words = [tuple(tuple(word) for word in candidates) for candidates in body["words"]]
    return [
        [
            Row(tuple(source), words[at], gold, first, cut, tuple(soft), _seen(seen))
            for source, at, gold, first, cut, soft, seen in table
        ]
        for table in body["rows"]
    ]


def _seen(told: dict[str, Any] | None) -> Seen | None:
    if told is None:
        return None
    return Seen(**{**told, "picture": Picture(**told["picture"]), "vectors": tuple(told["vectors"])})


def write_trials(work: Path, trials: Sequence[Trial], options: EngineOptions, kind: str = "train", **more: Any) -> None:
    """Lay out a job that trains or searches, in a new folder.

    Raises:
        InputError: a start adapter cannot be written.
        OSError: nor can the rest.
    """
    (work / "results").mkdir(parents=True, exist_ok=True)
    tables = _Tables()
    body: list[dict[str, Any]] = []
    for index, trial in enumerate(trials):
        trial.start.save(work / "adapters" / str(index))
        told = {"key": trial.key, "config": trial.config.model_dump(), "seed": trial.seed}
        told |= {"calibration": trial.calibration, "neutral": tables.add(trial.neutral)}
        told["readout"] = None if trial.readout is None else trial.readout.body
        body.append(told | {"rows": tables.add(trial.rows), "validation": tables.add(trial.validation)})
    told = {"kind": kind, "options": options.model_dump(mode="json"), "trials": body, **more}
    write_json(work / JOB, told | tables.body())


def read_trials(work: Path) -> tuple[EngineOptions, list[Trial]]:
    """The options and trials of a job, in the order in which they were given.

    Raises:
        InputError: a start adapter is damaged.
    """
    body = read_json(work / JOB)
    rows = _tables(body)
    trials = [
        Trial(
            t["key"],
            Adapter.load(work / "adapters" / str(index)),
            TrainConfig(**t["config"]),
            rows[t["rows"]],
            rows[t["validation"]],
            t["seed"],
            t["calibration"],
            rows[t["neutral"]],
            None if t["readout"] is None else Readout.of(t["readout"]),
        )
        for index, t in enumerate(body["trials"])
    ]
    return EngineOptions(**body["options"]), trials


def write_items(
    work: Path, kind: str, adapters: Sequence[Adapter], items: Sequence[tuple[int, Row]], **told: Any
) -> None:
    """Lay out a job that scores, reads, generates or mixes (adapter or target id, row) items, in a new folder.

    Raises:
        InputError: an adapter cannot be written.
        OSError: nor can the rest.
    """
    work.mkdir(parents=True, exist_ok=True)
    for index, adapter in enumerate(adapters):
        adapter.save(work / "adapters" / str(index))
    tables = _Tables()
    tables.add([row for _, row in items])
    body = {"kind": kind, "adapters": len(adapters), "of": [which for which, _ in items], **told}
    write_json(work / JOB, body | tables.body())


def read_items(work: Path) -> tuple[list[Adapter], list[tuple[int, Row]], dict[str, Any]]:
    """Adapters, items and what else a job says.

    Raises:
        InputError: an adapter is damaged.
    """
    body = read_json(work / JOB)
    adapters = [Adapter.load(work / "adapters" / str(index)) for index in range(body["adapters"])]
    return adapters, list(zip(body["of"], _tables(body)[0], strict=True)), body


def write_point(work: Path, point: Point) -> None:
    """Add a point of a curve; one that a full disk swallows is missed on a page, and nowhere else."""
    with contextlib.suppress(OSError), (work / POINTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(point) + "\n")


def read_points(work: Path, seen: int) -> tuple[list[Point], int]:
    """Points behind the first `seen` bytes, whole lines alone, and the bytes that are seen now."""
    try:
        with (work / POINTS).open("rb") as file:
            file.seek(seen)
            whole, _, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], seen
    lines = whole.splitlines()
    return [Point(*json.loads(line)) for line in lines], seen + (len(whole) + 1 if lines else 0)


def write_result(work: Path, index: int, result: Result) -> None:
    """Write a trained adapter and then, as the sign that it is whole, what the trial reached.

    Raises:
        InputError: the adapter cannot be written.
        OSError: nor can the rest.
    """
    result.adapter.save(work / "results" / str(index))
    told = {"state": asdict(result.state), "peak_memory_mib": result.peak_memory_mib}
    write_json(work / "results" / f"{index}.json", told)


def read_results(work: Path, keys: Sequence[str], known: Iterable[str]) -> list[Result]:
    """Results that are there and not yet known, in the order in which they came.

    Raises:
        InputError: an adapter is damaged.
    """
    seen = set(known)
    fresh = [file for file in (work / "results").glob("[0-9]*.json") if keys[int(file.stem)] not in seen]
    results = []
    for file in sorted(fresh, key=lambda f: (f.stat().st_mtime_ns, int(f.stem))):
        body = read_json(file)
        adapter, state = Adapter.load(work / "results" / file.stem), State.of(body["state"])
        results.append(Result(keys[int(file.stem)], adapter, state, body["peak_memory_mib"]))
    return results


def close_session(folder: Path) -> None:
    """Remove what a finished session needs no more; its log and the ranks' reports stay."""
    shutil.rmtree(folder / "jobs", ignore_errors=True)
    for name in (SESSION, PROGRESS, STOP):
        (folder / name).unlink(missing_ok=True)
