"""No row that a target is tested or validated on may train one of its sources. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from flows.planning.plan import Plan
from infra.errors import InputError
from tasks.by_picture import halved
from tasks.draws import few_shot
from tasks.leakage import guard
from tasks.splits import Splits


def guarded(plan: Plan, splits: Mapping[str, Splits]) -> dict[str, Splits]:
    """The splits of a plan, its sources without rows held out for a target; counted in `dropped["leaked"]`.

    Held out are a target's test, judging and validation rows and those of its draws that validate: its shots too where
    recipes are searched by cross-validation. The hash of a source's rows changes with what was dropped, so a guarded
    source is another trial. One that would be validated on fewer rows than the plan asks for, because those of its
    split are held out, gets training rows for the rest, about a fifth of them at most.

    Raises:
        InputError: too little is left of a source.
    """
    tasks = plan.resolve_tasks()
    held_out = []
    for name in plan.targets:
        held_out += [*splits[name].test, *splits[name].judge, *splits[name].validation]
        for k in filter(None, plan.counted if plan.validation == "shots" else ()):
            for seed in plan.seeds:
                shots, validation = few_shot(splits[name], k, seed, tasks[name].strata, plan.per_class)
                held_out += (*shots, *validation) if plan.searches else validation  # each fold validates another
    rows = [row for name in plan.sources for row in (*splits[name].train, *splits[name].validation)]
    left = {id(row) for row in guard(rows, held_out)[0]}  # one pass over all sources
    clean = dict(splits)
    for name in plan.sources:
        old = splits[name]
        train, validation = (tuple(row for row in part if id(row) in left) for part in (old.train, old.validation))
        short = min(plan.source_validation_rows, len(old.validation)) - len(validation)
        if train and short > 0:
            taken = {id(row) for row in halved(train, min(short, len(train) // 5))[0]}
            validation += tuple(row for row in train if id(row) in taken)
            train = tuple(row for row in train if id(row) not in taken)
        if not train or not validation:
            there = f"{len(train):,} training and {len(validation):,} validation rows"
            raise InputError(
                f"sources: {name} is left with {there}; the others are held out for targets. Remedy: another source"
            )
        if dropped := len(old.train) + len(old.validation) - len(train) - len(validation):
            ids = "\n".join(row.id for row in (*train, *validation))
            ids += f"\n{len(validation)} validate" if short > 0 else ""  # which of them do hangs on the plan
            clean[name] = replace(
                old,
                train=train,
                validation=validation,
                data_hash=hashlib.sha256(f"{old.data_hash}\n{ids}".encode()).hexdigest(),
                dropped={**old.dropped, "leaked": old.dropped.get("leaked", 0) + dropped},
            )
    return clean
