"""No row that a target is tested or validated on may train one of its sources. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from infra.errors import InputError
from tasks.draws import few_shot
from tasks.leakage import guard
from tasks.splits import Splits

if TYPE_CHECKING:
    from flows.planning.plan import Plan


def guarded(plan: Plan, splits: Mapping[str, Splits]) -> dict[str, Splits]:
    """The splits of a plan, its sources without rows held out for a target; counted in `dropped["leaked"]`.

    Held out are a target's test and validation rows and the validation rows of each of its draws. The hash of a
    source's rows changes with what was dropped, so a guarded source is another trial.

    Raises:
        InputError: nothing is left of a source.
    """
    tasks = plan.resolve_tasks()
    held_out = []
    for name in plan.targets:
        held_out += [*splits[name].test, *splits[name].judge, *splits[name].validation]
        for k in filter(None, plan.counted):
            for seed in plan.seeds:
                held_out += few_shot(splits[name], k, seed, tasks[name].strata, plan.per_class)[1]
    clean = dict(splits)
    for name in plan.sources:
        rows = splits[name]
        train, dropped = guard(rows.train, held_out)
        validation, more = guard(rows.validation, held_out)
        if not train or not validation:
            raise InputError(
                f"sources: all rows of {name} stand among the held-out rows of the targets. Remedy: another source"
            )
        if dropped or more:
            left = "\n".join(row.id for row in (*train, *validation))
            clean[name] = replace(
                rows,
                train=tuple(train),
                validation=tuple(validation),
                data_hash=hashlib.sha256(f"{rows.data_hash}\n{left}".encode()).hexdigest(),
                dropped={**rows.dropped, "leaked": rows.dropped.get("leaked", 0) + dropped + more},
            )
    return clean
