"""Read a plan from a YAML file, and say in one line what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flows.planning.explain import explained
from flows.planning.plan import Plan
from infra.errors import InputError
from infra.names import expanded
from infra.nearest import near
from tasks.yaml_file import parse_yaml, read_yaml

TRAININGS = ("source_training", "scratch_training", "transfer_training")
SHIPPED = Path(__file__).parents[1] / "plans"
M = TypeVar("M", bound=BaseModel)


def load_plan(name_or_path: str | Path) -> Plan:
    """Read a plan: a shipped name (`demo`) or the path of a YAML file.

    Raises:
        InputError: no such plan, not UTF-8, not YAML, an unknown key, a value out of bounds, an unknown task.
    """
    path = _find(str(name_or_path))
    body = read_yaml(path, f"plan {path}")
    if not isinstance(body, dict):
        raise InputError(f"plan {path}: expected keys and values such as 'targets: [movie-polarity]'")
    body.setdefault("name", path.stem)
    try:
        plan = Plan.model_validate(body)
        # A path in a plan counts from the plan's folder, wherever the command is started.
        own = [task.rooted(path.parent) for task in plan.own_tasks]
        found = {"own_tasks": own, "backbone": rooted(plan.backbone, path.parent)}
        plan = _encoders_rooted(plan, path.parent).model_copy(update=found)
        plan.resolve_tasks()
    except ValidationError as error:
        raise InputError(f"plan {path.name}: {explained(error, Plan, body)}") from error
    except InputError as error:
        raise InputError(f"plan {path.name}: {error}") from error
    return plan


def keys_that_differ(plan: Plan) -> dict[str, Any]:
    """What a plan says otherwise than the defaults: a plan of these keys is the same plan."""
    body: dict[str, Any] = plan.model_dump(mode="json", exclude_defaults=True)
    for name in TRAININGS:
        own = Plan.model_fields[name].default.model_dump(mode="json")
        if differs := {k: v for k, v in getattr(plan, name).model_dump(mode="json").items() if v != own[k]}:
            body[name] = differs
    return body


def encoders_in(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The maps of pictures that name an encoder, each with its key, among the keys and values of an order."""
    groups = {f"groups.{i}.adapter": group["adapter"] for i, group in enumerate(body.get("groups", ()))}
    for key, adapter in ({"adapter": body.get("adapter", {})} | groups).items():
        sight = adapter.get("pictures")
        if isinstance(sight, dict) and sight.get("encoder"):
            yield f"{key}.pictures", sight


def _encoders_rooted(plan: Plan, folder: Path) -> Plan:
    """The plan with picture encoders that are folders as absolute paths."""
    body = plan.model_dump()
    for _, sight in (found := list(encoders_in(body))):
        sight["encoder"] = rooted(sight["encoder"], folder)
    return Plan.model_validate(body) if found else plan


def rooted(model: str, folder: Path) -> str:
    """A model that is a folder, as an absolute path; a relative one counts from `folder`. Others as they are."""
    place = folder / expanded(model)
    if model.startswith((".", "~", "/")) or (place / "config.json").is_file():
        return str(place.absolute().resolve() if place.exists() else place.absolute())
    return model


def replaced(plan: Plan, **changes: Any) -> Plan:
    """The plan with some fields replaced and all checks run again (`model_copy` runs none).

    Raises:
        InputError: the change makes the plan invalid.
    """
    return validated(Plan, f"plan {plan.name}", **(plan.model_dump() | changes))


def with_settings(plan: Plan, settings: Sequence[str]) -> Plan:
    """The plan with keys set as on a command line: `shots=[4, 16]`, `scratch_training.steps=30`; values are YAML.

    Raises:
        InputError: no KEY=VALUE, an unknown key, or a value that makes the plan invalid.
    """
    body = plan.model_dump()
    body["own_tasks"] = {block["name"]: block for block in body["own_tasks"]}  # as a plan writes them
    for setting in settings:
        place, equals, text = setting.partition("=")
        keys = place.strip().split(".")
        value = parse_yaml(text, f"--set {setting}")
        if not equals or not all(keys):
            raise InputError(f"--set {setting}: expected KEY=VALUE, such as shots=[4,16]")
        inside = body
        for key in keys[:-1]:
            if key not in inside:
                raise InputError(f"--set {setting}: {key}: unknown key{near(key, inside)}")
            if not isinstance(inside[key], dict):
                raise InputError(f"--set {setting}: there are no keys within {key}; set it as a whole")
            inside = inside[key]
        inside[keys[-1]] = value
    changed = validated(Plan, f"plan {plan.name}", **body)
    if changed.backbone != plan.backbone:  # given on the command line: it counts from the working directory
        changed = changed.model_copy(update={"backbone": rooted(changed.backbone, Path.cwd())})
    if list(encoders_in(changed.model_dump())) != list(encoders_in(plan.model_dump())):  # likewise
        changed = _encoders_rooted(changed, Path.cwd())
    changed.resolve_tasks()
    return changed


def validated(kind: type[M], what: str, **values: Any) -> M:
    """Make a plan or another order of a user's values.

    Raises:
        InputError: one line that names the field and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{what}: {explained(error, kind, values)}") from error


def shipped_plans() -> list[str]:
    """Names of the plans that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _find(name: str) -> Path:
    path = expanded(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        what = "is a folder; give the path of a file" if path.is_dir() else "no such file"
        raise InputError(f"plan {name}: {what}. Shipped plans: {', '.join(shipped_plans())}")
    if name in shipped_plans():
        return SHIPPED / f"{name}.yaml"
    hint = " (a plan file must end in .yaml)." if path.exists() else near(name, shipped_plans(), list_all=False)
    raise InputError(
        f"plan {name}: unknown{hint or '.'} Shipped plans: {', '.join(shipped_plans())}; "
        "or give the path of a .yaml file"
    )
