"""Which rows may judge: none that either adapter was trained, validated or chosen on, and none that a report tests on.

What an adapter has seen is kept in the store when it stands for champion, since its task's rows may have changed when
it is judged: records `seen/<fingerprint>/<sha256>`, of which all count, so that none of two writers is lost. Those that
it starts from have records of their own. Rows are known by digests of their text and of their fields, so that equal
rows of other tasks, and of other states of a file, count as seen.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dept.trial import LINEAR, TrialOutcome, TrialSpec
from infra.errors import InputError
from registry.ledger import Ledger
from registry.store import LostFileError, Store
from registry.tracking import Tracker
from tasks.draws import few_shot, rows_to_test, subset
from tasks.formatting import Example
from tasks.load import load_splits
from tasks.spec import Task
from tasks.splits import Splits

MOST_ROWS = 1000
_DIGITS = 8  # bytes of a digest: of a million rows two are alike by chance once in 10^7
_RECORD = re.compile("[0-9a-f]{64}|rows")  # "rows": the one record that there was before
_UNSURE = "unsure"  # beside the records of an adapter that has seen rows which nobody knows
_ROUNDS = 20  # of sources of sources


class Stores(Protocol):
    """What decisions need: the stores, tasks and their rows; `flows.execution.context.RunContext` is one."""

    # ruff: noqa: D102
    @property
    def ledger(self) -> Ledger: ...
    @property
    def store(self) -> Store: ...
    @property
    def tracker(self) -> Tracker: ...
    @property
    def tasks(self) -> Mapping[str, Task]: ...
    @property
    def splits(self) -> Mapping[str, Splits]: ...
    @property
    def run_id(self) -> str: ...
    @property
    def parent_run(self) -> str: ...


def judging_rows(stores: Stores, task: str, seen: set[bytes], most: int = MOST_ROWS) -> list[Example]:
    """At most `most` rows of a task that nobody in `seen` has seen, in a fixed order; of equal rows one."""
    splits, found = stores.splits[task], dict[bytes, Example]()
    for row in (*splits.judge, *splits.train, *splits.validation):
        marks = _marks(row)
        if not any(mark in seen for mark in marks):
            found.setdefault(marks[0], row)
    return list(subset(list(found.values()), most, 0)) if found else []


def seen_by(stores: Stores, outcome: TrialOutcome, considered: Iterable[TrialSpec]) -> set[bytes]:
    """Digests of all rows that an adapter has had to do with.

    Args:
        considered: the other trials of its task in its run: it was chosen among them, and its rates and its start by
            some of them, on their rows.

    Raises:
        InputError: a task's rows that cannot be read.
    """
    return _marks_of(stores, [outcome.spec, *considered])


def surely(stores: Stores, specs: Iterable[TrialSpec]) -> bool:
    """Whether it is known which rows the trials have seen that these start from: recorded, or still the same."""
    starts = {one.fingerprint: one for spec in specs for one in _sources(stores, spec)}
    return all(_same(stores, one) or _read(stores, key) is not None for key, one in starts.items())


def remember(stores: Stores, outcome: TrialOutcome, seen: set[bytes], sure: bool = True) -> None:
    """Keep what an adapter has seen, beside what was kept before, and the state of its task's rows.

    What those that it starts from have seen is kept too, while their rows are still there.

    Args:
        sure: `seen` is all that it has seen; see `surely`.

    Raises:
        InputError: the store cannot be written.
    """
    fingerprint, task = outcome.spec.fingerprint, outcome.spec.task
    for source in _sources(stores, outcome.spec):
        if _same(stores, source) and _read(stores, source.fingerprint) is None:
            _keep(stores, source.fingerprint, _marks_of(stores, [source]))
    if not seen <= (_read(stores, fingerprint) or set()):
        _keep(stores, fingerprint, seen)
    if not sure:
        _put(stores, f"seen/{fingerprint}/{_UNSURE}", b"some rows are not known")
    if not stores.store.exists(_state_key(fingerprint)):
        _put(stores, _state_key(fingerprint), _whole_hash(stores, task).encode())


def state_of(stores: Stores, spec: TrialSpec) -> str:
    """Hash of the rows of an adapter's task when it stood, before a plan left out those of its other tasks."""
    try:
        return stores.store.fetch(_state_key(spec.fingerprint)).read_text()
    except LostFileError:
        return spec.data_hash


def remembered(stores: Stores, outcome: TrialOutcome) -> tuple[set[bytes], bool]:
    """What a champion has seen, and whether that is known for sure.

    Of one that version 0.1.0 registered it is not kept: it is worked out anew where the task's rows are still the same.

    Raises:
        InputError: the store does not answer.
    """
    known = _read(stores, outcome.spec.fingerprint)
    if known is not None:
        return known, not stores.store.exists(f"seen/{outcome.spec.fingerprint}/{_UNSURE}")
    same = stores.splits[outcome.spec.task].data_hash == outcome.spec.data_hash
    return (seen_by(stores, outcome, ()), surely(stores, [outcome.spec])) if same else (set(), False)


def unseen_task(stores: Stores, spec: TrialSpec, task: str) -> bool:
    """Whether an adapter has never seen a task's rows: not as its own, a source, a member of several or of a mixture,
    nor under another task's name. Of one whose rows are not known for sure it is not said.

    Raises:
        InputError: rows of a task that cannot be read.
    """
    splits = stores.splits[task]
    theirs = {mark for part in (splits.train, splits.validation, splits.judge) for row in part for mark in _marks(row)}
    if any(task in (one.task, *one.members) for one in (spec, *_sources(stores, spec))):
        return False
    known = _read(stores, spec.fingerprint)
    if known is None:
        if not (_same(stores, spec) and surely(stores, [spec])):
            return False
        known = _marks_of(stores, [spec])
    return known.isdisjoint(theirs)


def _marks_of(stores: Stores, specs: Sequence[TrialSpec]) -> set[bytes]:
    """Digests of the rows of trials, and of what is recorded of those that they start from."""
    marks = {mark for row in _rows_of(stores, specs) for mark in _marks(row)}
    for start in {one.fingerprint for spec in specs for one in _sources(stores, spec)}:
        marks |= _read(stores, start) or set()
    return marks


def _same(stores: Stores, spec: TrialSpec) -> bool:
    """Whether the rows of a trial's task are still those that it had; of several tasks, whether they can be read."""
    splits = {name: _splits(stores, name) for name in spec.members or (spec.task,)}
    if spec.members:
        return all(one is not None for one in splits.values())
    return all(one is not None and one.data_hash == spec.data_hash for one in splits.values())


def _rows_of(stores: Stores, specs: Sequence[TrialSpec]) -> Iterator[Example]:
    """Rows that trials, and those that they start from, learned from, were validated and tested on."""
    done: set[tuple[object, ...]] = set()
    for spec in (part for given in specs for part in (given, *_sources(stores, given))):
        for name in spec.members or (spec.task,):
            drawn = (spec.shots, spec.seed, spec.per_class, spec.train_rows, spec.validation_rows, spec.test_rows)
            what = (name, spec.data_hash, *drawn)
            if what not in done and spec.kind != "evaluate":
                done.add(what)
                yield from _drawn(stores, spec, name)


def _drawn(stores: Stores, spec: TrialSpec, name: str) -> Iterator[Example]:
    splits = _splits(stores, name)
    if splits is None:
        return
    if spec.shots is None:
        if spec.training.steps or spec.kind != "train" or spec.method in ("calibrated", *LINEAR):
            yield from (*splits.train, *splits.validation)  # a source may have had fewer: it cannot hurt
    else:
        strata, own = stores.tasks[name].strata if name in stores.tasks else 1, spec.validation_rows is None
        try:
            shots, validation = few_shot(splits, spec.shots, spec.seed, strata, spec.per_class, checks=own)
        except InputError:  # fewer rows today than were drawn then
            shots, validation = splits.train, splits.validation
        yield from (*shots, *validation)
        if spec.validation_rows:
            yield from splits.validation
    yield from rows_to_test(splits, spec.test_rows, spec.tested_on == "reserve")


def _sources(stores: Stores, spec: TrialSpec) -> list[TrialSpec]:
    """Trials whose adapters one starts from, and theirs."""
    found: dict[str, TrialSpec] = {}
    wanted = [spec]
    for _ in range(_ROUNDS):
        names = {sha for one in wanted for sha in one.needed if sha not in found}
        rows = {sha: row for sha in sorted(names) if (row := stores.ledger.by_sha256(sha)) is not None}
        wanted = [row.trial_spec for row in rows.values()]
        found |= dict(zip(rows, wanted, strict=True))
        if not wanted:
            break
    return list(found.values())


def _splits(stores: Stores, name: str) -> Splits | None:
    if name in stores.splits:
        return stores.splits[name]
    try:
        return load_splits(stores.tasks[name]) if name in stores.tasks else None
    except InputError:  # a source whose file is gone: its rows are not these
        return None


def _marks(row: Example) -> tuple[bytes, bytes]:
    text = hashlib.sha256(row.content.encode()).digest()[:_DIGITS]
    return text, (bytes.fromhex(row.key[: 2 * _DIGITS]) if row.key else text)


def _read(stores: Stores, fingerprint: str) -> set[bytes] | None:
    """All records of an adapter; None where there is none, or one is damaged."""
    names = [name for name in stores.store.names(f"seen/{fingerprint}") if _RECORD.fullmatch(name)]
    try:
        payloads = [stores.store.fetch(f"seen/{fingerprint}/{name}").read_bytes() for name in names]
    except LostFileError:
        return None
    marks = {payload[i : i + _DIGITS] for payload in payloads for i in range(0, len(payload), _DIGITS)}
    return marks if names else None


def _keep(stores: Stores, fingerprint: str, seen: set[bytes]) -> None:
    payload = b"".join(sorted(seen))
    _put(stores, f"seen/{fingerprint}/{hashlib.sha256(payload).hexdigest()}", payload)


def _put(stores: Stores, key: str, payload: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "payload"
        file.write_bytes(payload)
        stores.store.put_file(file, key)


def _whole_hash(stores: Stores, task: str) -> str:
    try:
        return load_splits(stores.tasks[task]).data_hash
    except InputError:  # rows that are no longer where they were, read from the store for this run
        return stores.splits[task].data_hash


def _state_key(fingerprint: str) -> str:
    return f"seen/{fingerprint}/state"
