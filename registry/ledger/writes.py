"""What becomes of a trial: added, trained, finished, failed; healed, tried again, forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, bindparam, delete, select, update
from sqlalchemy.orm import Session

from dept.trial import TrialOutcome, TrialSpec
from infra.errors import InputError
from infra.secrets import masked
from registry.ledger.claims import Claim, chunks, is_of, is_readable
from registry.ledger.clock import now
from registry.ledger.connection import Connected
from registry.ledger.rows import outcome_columns, spec_columns
from registry.ledger.schema import HELD, RunRow, RunTrialRow, TrialRow

Provenance = Mapping[str, Any]
_FREE = {"owner": None, "lease_until": None}
_NO_RESULT = {"outcome": None, "adapter_key": None, "adapter_sha256": None, "mlflow_run_id": None, "finished_at": None}


class Writes(Connected):
    """The part of the ledger that changes trials. A write of an attempt that another has replaced changes nothing."""

    def add(self, specs: Iterable[TrialSpec], run_id: str | None = None, stage: str = "") -> int:
        """Make a pending row of each spec that has none; rows that exist stay as they are.

        Args:
            run_id: the run that asks for them, and stage: in which part of it; so it can claim, count and wait.

        Returns:
            How many are new.

        Raises:
            InputError: no such run.
        """
        rows: dict[str, dict[str, Any]] = {}
        members: dict[tuple[str, str], dict[str, Any]] = {}
        for position, spec in enumerate(specs):
            columns = spec_columns(spec)
            rows.setdefault(
                columns["fingerprint"], {**columns, "position": position, "status": "pending", "attempt": 0}
            )
            key = (columns["fingerprint"], spec.label)
            members.setdefault(key, dict(zip(("fingerprint", "label", "position"), (*key, position), strict=True)))

        def add(session: Session) -> int:
            if run_id is not None and session.get(RunRow, run_id) is None:
                raise InputError(f"ledger: no run {run_id[:32]}. Remedy: begin_run first")
            new = 0
            insert = self._insert(TrialRow).values(created_at=now(), updated_at=now())
            for part in chunks(rows.values()):
                known = set(
                    session.scalars(select(TrialRow.fingerprint).where(_named([r["fingerprint"] for r in part])))
                )
                if fresh := [row for row in part if row["fingerprint"] not in known]:
                    session.execute(insert.on_conflict_do_nothing(), fresh)
                    new += len(fresh)
            if run_id is not None:
                for part in chunks(members.values()):
                    values = [{**row, "run_id": run_id, "stage": stage} for row in part]
                    session.execute(self._insert(RunTrialRow).on_conflict_do_nothing(), values)
            return new

        return self._write(add) if rows else 0

    def enter(self, outcome: TrialOutcome) -> None:
        """Make a finished row of a result that came about elsewhere (0.1.0); a row that exists stays as it is."""
        columns = {**spec_columns(outcome.spec), **outcome_columns(outcome)}
        known = {"position": 0, "status": "finished", "attempt": 1, "finished_at": now()}
        insert = self._insert(TrialRow).values(created_at=now(), updated_at=now(), **columns, **known)
        self._write(lambda session: session.execute(insert.on_conflict_do_nothing()))

    def trained(self, claim: Claim, outcome: TrialOutcome, provenance: Provenance | None = None) -> bool:
        """Record that the adapter is durable, with the numbers so far; the claim is still held.

        Args:
            provenance: device, torch, commit, engine, ranks, host, token budget, packed: what had a part in the numbers
                and is no part of the question.

        Returns:
            False where another attempt holds the trial, or nobody does any more: nothing is written.

        Raises:
            InputError: the outcome is of another trial.
        """
        return bool(self.trained_many([(claim, outcome, provenance)]))

    def trained_many(self, done: Sequence[tuple[Claim, TrialOutcome, Provenance | None]]) -> set[str]:
        """`trained` for many; returns the fingerprints that were written."""
        return self._close(
            "trained",
            [
                (claim, {**_columns(claim, outcome), **({} if told is None else {"provenance": dict(told)})})
                for claim, outcome, told in done
            ],
            {"error": None},
        )

    def finish(self, claim: Claim, mlflow_run_id: str, outcome: TrialOutcome) -> bool:
        """Record that the MLflow run is closed: the trial is done and free. Result and errors as in `trained`."""
        return bool(self.finish_many([(claim, mlflow_run_id, outcome)]))

    def finish_many(self, done: Sequence[tuple[Claim, str, TrialOutcome]]) -> set[str]:
        """`finish` for many; returns the fingerprints that were written."""
        return self._close(
            "finished",
            [(claim, {**_columns(claim, outcome), "mlflow_run_id": run}) for claim, run, outcome in done],
            {**_FREE, "error": None, "finished_at": now()},
        )

    def logged_again(self, fingerprint: str, attempt: int, mlflow_run_id: str) -> None:
        """Note the MLflow run of a finished trial's attempt that took the place of one that was lost."""
        which = (TrialRow.fingerprint == fingerprint) & (TrialRow.attempt == attempt) & (TrialRow.status == "finished")
        query = update(TrialRow).where(which).values(mlflow_run_id=mlflow_run_id)
        self._write(lambda session: session.execute(query.execution_options(synchronize_session=False)) and None)

    def fail(self, claim: Claim, reason: str) -> bool:
        """Record why a trial has no result; it stays failed until `retry`. Result as in `trained`."""
        return bool(self._close("failed", [(claim, {"error": masked(reason)})], _FREE))

    def heal(self, fingerprint: str, reason: str, attempt: int | None = None, adapter_key: str | None = None) -> bool:
        """Send a trained or finished trial back to pending, since its file is missing or damaged; the reason is noted.

        Args:
            attempt: only if its result is still that of this attempt.
            adapter_key: only if its result is still the adapter at this place, the one that was looked at.

        Returns:
            False where there was nothing to heal.
        """
        which = (TrialRow.fingerprint == fingerprint) & TrialRow.status.in_(("trained", "finished"))
        if attempt is not None:
            which &= TrialRow.attempt == attempt
        if adapter_key is not None:
            which &= TrialRow.adapter_key == adapter_key
        return self._again(which & is_readable(), note=masked(reason)[:2000]) == 1

    def retry(self, fingerprints: Iterable[str] | None = None, *, run_id: str | None = None) -> int:
        """Let failed trials be claimed again: those named, those of a run, or, with neither, all.

        Returns:
            How many are pending now. Rows that this version cannot read stay failed.
        """
        which = (TrialRow.status == "failed") & is_readable()
        if run_id is not None:
            which &= TrialRow.fingerprint.in_(select(RunTrialRow.fingerprint).where(RunTrialRow.run_id == run_id))
        if fingerprints is None:
            return self._again(which)
        return sum(self._again(which & _named(part)) for part in chunks(fingerprints))

    def forget(self, fingerprints: Iterable[str]) -> None:
        """Delete trials; what a live worker of such a trial writes later is refused. Decisions and files stay."""
        for part in chunks(fingerprints):

            def forget(session: Session, part: list[str] = part) -> None:
                session.execute(delete(RunTrialRow).where(RunTrialRow.fingerprint.in_(part)))
                session.execute(delete(TrialRow).where(_named(part)).execution_options(synchronize_session=False))

            self._write(forget)

    def _close(
        self,
        status: Literal["trained", "finished", "failed"],
        done: Sequence[tuple[Claim, dict[str, Any]]],
        common: Mapping[str, Any],
    ) -> set[str]:
        """Compare-and-set: lock the rows that these attempts hold, then write those; says which."""
        written: set[str] = set()
        for part in chunks(done):
            query = (
                select(TrialRow.fingerprint, TrialRow.status, TrialRow.owner)
                .where(is_of([claim for claim, _ in part]))
                .order_by(TrialRow.fingerprint)  # one order for all, so that two writers never wait for each other
                .with_for_update()
            )

            def write(session: Session, part: Any = part, query: Any = query) -> set[str]:
                seen = {key: (state, owner) for key, state, owner in session.execute(query)}
                held = {key for key, (state, owner) in seen.items() if state in HELD and owner is not None}
                if values := [
                    {"key": claim.fingerprint, **columns} for claim, columns in part if claim.fingerprint in held
                ]:
                    changed: dict[str, Any] = {name: bindparam(name) for name in values[0] if name != "key"}
                    session.connection().execute(
                        update(TrialRow)
                        .where(TrialRow.fingerprint == bindparam("key"))
                        .values(status=status, updated_at=now(), **common, **changed),
                        values,
                    )
                # A second try after a lost answer meets what the first one wrote.
                return held | {key for key, (state, _) in seen.items() if state == status != "trained"}

            written |= self._write(write)
        return written

    def _again(self, which: ColumnElement[bool], **more: Any) -> int:
        query = (
            update(TrialRow)
            .where(which)
            .values(
                status="pending",
                attempt=TrialRow.attempt + 1,  # whatever a late worker of this trial still writes is refused
                token=None,
                error=None,
                updated_at=now(),
                **_FREE,
                **_NO_RESULT,
                **more,
            )
            .execution_options(synchronize_session=False)
        )
        return self._write(lambda session: int(session.execute(query).rowcount))  # type: ignore[attr-defined]


def _named(fingerprints: Sequence[str]) -> ColumnElement[bool]:
    return TrialRow.fingerprint.in_(fingerprints)


def _columns(claim: Claim, outcome: TrialOutcome) -> dict[str, Any]:
    if outcome.spec.fingerprint != claim.fingerprint:
        raise InputError(f"ledger: the outcome of {outcome.spec.label} is not of trial {claim.fingerprint[:12]}")
    return outcome_columns(outcome)
