"""What a parent process and its ranks say to each other: a folder of files, each written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from dept.adapters.adapter import Adapter
from dept.batches.tokenise import Row
from dept.config import EngineOptions, TrainConfig
from dept.engine.state import Result, State, Trial

JOB, PROGRESS, ERROR, LOG = "job.json", "progress.json", "error.json", "ranks.log"


@dataclass(frozen=True)
class Settings:
    """How to train a job's trials; see `dept.engine.train.train` and `dept.distributed.launch.train_sharded`.

    `owner` and `owner_started` name the process whose death ends the ranks.
    """

    backbone: str
    dtype: str
    ranks: int
    options: EngineOptions
    owner: int
    owner_started: float


def started(pid: int) -> float | None:
    """When a living process began, seconds since the epoch; None where there is none of that id."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def write_json(file: Path, body: Any) -> None:
    """Write a small file that a reader sees whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(body), encoding="utf-8")
    temporary.replace(file)


def write(folder: Path, settings: Settings, trials: Sequence[Trial]) -> None:
    """Lay a job out in an empty folder.

    Raises:
        InputError: a start adapter cannot be written.
        OSError: nor can the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("starts", "results", "ranks"):
        (folder / name).mkdir(exist_ok=True)
    words: dict[tuple[tuple[int, ...], ...], int] = {}
    tables: dict[int, int] = {}
    rows: list[list[Any]] = []
    body: list[dict[str, Any]] = []

    def table(given: Sequence[Row]) -> int:
        if id(given) not in tables:  # trials of one task share their rows: written once
            tables[id(given)] = len(rows)
            rows.append([[r.source, words.setdefault(r.candidates, len(words)), r.gold, r.first, r.cut] for r in given])
        return tables[id(given)]

    for index, trial in enumerate(trials):
        trial.start.save(folder / "starts" / str(index))
        body.append(
            {
                "key": trial.key,
                "config": trial.config.model_dump(),
                "rows": table(trial.rows),
                "validation": table(trial.validation),
                "seed": trial.seed,
            }
        )
    told = asdict(settings) | {"options": settings.options.model_dump(mode="json")}
    write_json(folder / JOB, {"settings": told, "trials": body, "rows": rows, "words": list(words)})


def read_settings(folder: Path) -> Settings:
    """The settings of a job."""
    told = json.loads((folder / JOB).read_text(encoding="utf-8"))["settings"]
    return Settings(**{**told, "options": EngineOptions(**told["options"])})


def read_trials(folder: Path) -> list[Trial]:
    """The trials of a job, in the order in which they were given.

    Raises:
        InputError: a start adapter is damaged.
    """
    body = json.loads((folder / JOB).read_text(encoding="utf-8"))
    words = [tuple(tuple(word) for word in candidates) for candidates in body["words"]]
    rows = [
        [Row(tuple(source), words[at], gold, first, cut) for source, at, gold, first, cut in table]
        for table in body["rows"]
    ]
    return [
        Trial(
            t["key"],
            Adapter.load(folder / "starts" / str(index)),
            TrainConfig(**t["config"]),
            rows[t["rows"]],
            rows[t["validation"]],
            t["seed"],
        )
        for index, t in enumerate(body["trials"])
    ]


def write_result(folder: Path, index: int, result: Result) -> None:
    """Write a trained adapter and then, as the sign that it is whole, what the trial reached.

    Raises:
        InputError: the adapter cannot be written.
        OSError: nor can the rest.
    """
    result.adapter.save(folder / "results" / str(index))
    write_json(
        folder / "results" / f"{index}.json", {"state": asdict(result.state), "peak_memory_mib": result.peak_memory_mib}
    )


def read_results(folder: Path, keys: Sequence[str], known: Iterable[str]) -> list[Result]:
    """Results that are there and not yet known, in the order in which they came.

    Raises:
        InputError: an adapter is damaged.
    """
    seen = set(known)
    fresh = [file for file in (folder / "results").glob("[0-9]*.json") if keys[int(file.stem)] not in seen]
    results = []
    for file in sorted(fresh, key=lambda f: (f.stat().st_mtime_ns, int(f.stem))):
        body = json.loads(file.read_text(encoding="utf-8"))
        results.append(
            Result(
                keys[int(file.stem)],
                Adapter.load(folder / "results" / file.stem),
                State.of(body["state"]),
                body["peak_memory_mib"],
            )
        )
    return results


def clear(folder: Path) -> None:
    """Remove what a finished job needs no more; its log and the ranks' reports stay."""
    for name in ("starts", "results"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (JOB, PROGRESS):
        (folder / name).unlink(missing_ok=True)
