"""What came of what: tasks, source adapters, target adapters, champions, as assets of Prefect and as a picture.

Prefect's asset view belongs to its cloud; the open server keeps the events. The picture is for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE

from dept.trial import TrialOutcome
from flows.artifacts import key
from flows.execution.context import RunContext
from flows.reporting.shots import k_of
from infra.flow_run import never_in_the_way, own_id, title
from infra.names import slug

MOST = 60  # assets of a run: a task run each
Decided = Mapping[str, Any]  # see `flows.execution.judge.told`


@dataclass
class Node:
    """One asset: its key, its name for people, the keys of what it came of, and what is known of it."""

    key: str
    name: str
    of: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


def nodes(backbone: str, outcomes: Iterable[TrialOutcome], champions: Sequence[Decided] = ()) -> list[Node]:
    """Assets in an order in which each comes after what it came of. Seeds of one variant are one asset.

    Args:
        outcomes: of sources and targets. champions: decisions; those that changed a champion count.
    """
    base, found, by_sha = f"dept://{slug(backbone)}", dict[str, Node](), dict[str, str]()
    by_label: dict[str, str] = {}
    for outcome in sorted(outcomes, key=lambda one: one.spec.role != "source"):
        spec = outcome.spec
        if not outcome.adapter_key:
            continue
        way = "source" if spec.role == "source" else f"k{k_of(spec.shots)}/{slug(spec.variant)}"
        place = f"{base}/adapters/{slug(spec.task)}/{way}"
        name = f"{spec.task}, source" if spec.role == "source" else f"{spec.task}, k={k_of(spec.shots)}, {spec.variant}"
        node = found.setdefault(place, Node(place, name, [f"dept://tasks/{slug(spec.task)}"]))
        node.of += [by_sha[sha] for sha in spec.needed if by_sha.get(sha, place) not in (place, *node.of)]
        seed = f"seed {spec.seed}"
        node.about[seed] = {"sha256": outcome.adapter_sha256, "test": outcome.test, "validation": outcome.validation}
        by_sha[outcome.adapter_sha256], by_label[spec.label] = place, place
    for row in champions:
        if str(row["decision"]).partition(":")[0] in ("first", "promoted") and row["trial"] in by_label:
            place = f"{base}/champions/{slug(str(row['task']))}"
            about = {"version": row["version"], "decision": row["decision"]}
            found[place] = Node(place, f"champion of {row['task']}", [by_label[str(row["trial"])]], about)
    return list(found.values())


def materialise(context: RunContext, name: str, outcomes: Sequence[TrialOutcome], champions: Sequence[Decided]) -> None:
    """Tell Prefect of the assets of a run, the most important first where there are too many."""
    if own_id() is None:
        return
    found = nodes(context.backbone_name.rpartition("/")[2], outcomes, champions)
    link = context.tracker.link(context.parent_run)
    with never_in_the_way("what came of what"):
        for node in found[-MOST:]:
            _one(node, link)
        if found:
            create_markdown_artifact(picture(found), key("lineage", name), f"What came of what in {name}")


def picture(found: Sequence[Node]) -> str:
    """Markdown with the graph, which Prefect's page draws."""
    kept = list(found)[-MOST:]
    names = {node.key: node.name for node in kept}
    number = {place: f"n{at}" for at, place in enumerate(dict.fromkeys([*names, *(o for n in kept for o in n.of)]))}
    lines = [f'    {number[place]}["{names.get(place, place.rpartition("/")[2])}"]' for place in number]
    lines += [f"    {number[before]} --> {number[node.key]}" for node in kept for before in node.of]
    return "\n".join(["## What came of what", "", "```mermaid", "graph LR", *lines, "```", ""])


def _one(node: Node, link: str | None) -> None:
    asset = Asset(key=node.key, properties=AssetProperties(name=node.name, **({"url": link} if link else {})))

    def made() -> None:
        asset.add_metadata(node.about)

    before = [Asset(key=place) for place in node.of]
    options: dict[str, Any] = {"task_run_name": title(node.name), "asset_deps": before}
    materialize(asset, by="dept-transfer", name="asset", cache_policy=NO_CACHE, **options)(made)()
