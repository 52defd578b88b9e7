"""A run from its beginning to its end, in the ledger and in MLflow: a controller ends its own run, never another's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from flows import artifacts
from flows.execution.context import RunContext
from flows.execution.progress import say
from flows.execution.stopping import ReplacedError, StoppedError, replaced
from flows.mlflow_page import open_parent
from flows.pages import shown_in, watched
from infra import flow_run
from infra.errors import InputError
from infra.identity import process_id
from registry.ledger.runs import RunKind


def _open_run(context: RunContext, name: str, kind: RunKind) -> None:
    """Begin a run; or go on with it, where its flow run was suspended or crashed and another process made it before."""
    order = context.order.model_dump(mode="json")
    run_id = flow_run.own_id()
    known = context.ledger.run(run_id) if run_id else None
    if run_id and known is not None and known.kind == kind:
        context.run_id, before = run_id, known.mlflow_run_id or ""
        context.parent_run = context.tracker.reopen_flow_run(before) or open_parent(context, name)
        context.ledger.resume_run(run_id, context.parent_run)
        say(f"Run {run_id[:12]} goes on: what it had finished is kept.")
        return
    context.parent_run = open_parent(context, name)
    context.run_id = context.ledger.begin_run(name, order, kind, mlflow_run_id=context.parent_run, run_id=run_id)


@contextlib.contextmanager
def begun(context: RunContext, name: str, kind: RunKind) -> Iterator[None]:
    """Begin a run in the ledger and in MLflow; end both, however the block ends."""
    _open_run(context, name, kind)
    shown_in(context)
    artifacts.link_to_mlflow(context, name)
    own, mine = process_id(), replaced(context.ledger, context.run_id)
    try:
        with watched(context.stopping), context.stopping.asking(mine):
            yield
    except BaseException as error:
        failed = isinstance(error, Exception) and not isinstance(error, StoppedError)
        context.hurry()
        context.close(clean=False)
        ours = not isinstance(error, ReplacedError)
        with contextlib.suppress(InputError):  # the first error is the one to show
            ours = context.ledger.end_run(context.run_id, "failed" if failed else "killed", own)
        with contextlib.suppress(Exception):
            if ours:
                context.tracker.close_flow_run(context.parent_run, "FAILED" if failed else "KILLED", {}, [])
        raise
    context.close()
    context.ledger.end_run(context.run_id, "finished", own)
