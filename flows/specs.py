"""From a plan to its trials. Pure, as the plan is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dept.config import TrainConfig
from dept.trial import TrialSpec
from flows.plan import Plan
from tasks.errors import InputError
from tasks.spec import Task
from tasks.splits import Splits

SourceKey = tuple[str, int, int]  # target task, shots k, seed


def source_specs(
    plan: Plan, tasks: Mapping[str, Task], splits: Mapping[str, Splits], backbone_id: str
) -> list[TrialSpec]:
    """One trial per source task, with the first seed."""
    return [
        TrialSpec(
            role="source",
            init="scratch",
            shots=None,
            seed=plan.seeds[0],
            training=plan.source_training,
            train_rows=None if plan.source_rows is None else min(plan.source_rows, len(splits[name].train)),
            validation_rows=min(plan.source_validation_rows, len(splits[name].validation)),
            **_common(plan, tasks[name], splits[name], backbone_id),
        )
        for name in plan.sources
    ]


def target_specs(
    plan: Plan,
    tasks: Mapping[str, Task],
    splits: Mapping[str, Splits],
    backbone_id: str,
    sources: Mapping[SourceKey, tuple[str, str]],
) -> list[TrialSpec]:
    """Per target: one untrained trial, then shots x seeds x inits.

    Args:
        plan: what to train.
        tasks: by name, as `Plan.resolve_tasks` gives them.
        splits: by name, as `check` gives them.
        backbone_id: sha256 of the backbone's weights.
        sources: (target, k, seed) -> (source task, sha256 of its adapter); needed if the plan transfers.

    Raises:
        InputError: a transfer trial whose source is not given.
    """
    specs = []
    for name in plan.targets:
        common = _common(plan, tasks[name], splits[name], backbone_id)
        # Nothing is drawn or trained, so neither shots nor seed may make two trials of it.
        specs.append(
            TrialSpec(role="target", init="untrained", shots=None, seed=0, training=TrainConfig(steps=0), **common)
        )
        for k in plan.shots:
            for seed in plan.seeds:
                for init in plan.inits:
                    task, sha256 = None, None
                    if init == "transfer":
                        if (name, k, seed) not in sources:
                            raise InputError(
                                f"target {name}, k={k}, seed={seed}: no source adapter is known; "
                                "train the sources first"
                            )
                        task, sha256 = sources[name, k, seed]
                    training = plan.transfer_training if init == "transfer" else plan.scratch_training
                    specs.append(
                        TrialSpec(
                            role="target",
                            init=init,
                            shots=k,
                            seed=seed,
                            training=training,
                            source_task=task,
                            source_sha256=sha256,
                            **common,
                        )
                    )
    return specs


def _common(plan: Plan, task: Task, splits: Splits, backbone_id: str) -> dict[str, Any]:
    return {
        "backbone": plan.backbone,
        "backbone_id": backbone_id,
        "task": task.name,
        "task_version": task.version,
        "data_hash": splits.data_hash,
        "prompt_text": plan.prompt_text,
        "adapter": plan.adapter,
        # Asking for more rows than there are is the same trial as asking for all.
        "test_rows": min(plan.test_rows, len(splits.test)),
    }
