"""`dept plan`: a shipped plan, or every key that a plan may hold."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.terminal import Column, Json, document, piped, show, table
from infra.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from infra.explain import Parts


def plan(
    name: Annotated[str | None, typer.Argument(help="Shipped plan, or path of a .yaml file; none: list them.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Every key: meaning, default, what it may be.")] = False,
    as_json: Json = False,
) -> None:
    """Show a plan, list the shipped ones, or say which keys a plan may hold.

    Example: dept plan demo > mine.yaml
    """
    from flows.planning.plan import Plan
    from flows.planning.plan_file import SHIPPED, keys_that_differ, load_plan, shipped_plans

    if schema and name is not None:
        raise InputError("plan: give either a plan or --schema, not both")
    if schema:
        if as_json:
            document(Plan.model_json_schema())
        else:
            _show_keys()
    elif name is not None:
        loaded = load_plan(name)
        if as_json:
            document(loaded.model_dump(mode="json"))
        elif name in shipped_plans():
            typer.echo((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"), nl=False)
        else:
            import yaml

            body = keys_that_differ(loaded)
            body |= {"own_tasks": {task.name: task.block() for task in loaded.own_tasks}} if loaded.own_tasks else {}
            typer.echo(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), nl=False)
    else:
        rows = [(known, _about(known)) for known in shipped_plans()]
        if as_json:
            document({"plans": [{"name": known, "about": about} for known, about in rows]})
        else:
            table("Shipped plans", (Column("Plan", whole=True), Column("About")), rows)


def keys(model: type[BaseModel], parts: Parts, before: str = "", given: Any = None) -> list[dict[str, Any]]:
    """Every key that a user gives of a model and of the models within it: key, meaning, default, what it may be.

    given: a value of the model whose numbers are the defaults there, as a plan's own recipe is; None: the model's.
    """
    from infra.explain import asked_of, bounds, inner_models

    found = []
    for name, field in asked_of(model).items():
        key = f"{before}{field.alias or name}"
        part = parts.get((model.__name__, name))
        inner = [part] if part else inner_models(field)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        default = default if given is None else getattr(given, name)
        below = default if isinstance(default, tuple(inner)) else None
        found.append(
            {
                "key": key,
                "meaning": field.description or "",
                "default": _told(before, field.is_required(), default),
                "may_be": bounds(field),
            }
        )
        several = bounds(field).startswith("a list") or key == "own_tasks"
        for kind in inner:
            mine = keys(kind, parts, f"{key}{'[]' if several else ''}.", below if isinstance(below, kind) else None)
            found += [line for line in mine if line not in found]
    return found


def _told(before: str, required: bool, default: Any) -> str:
    if before.startswith("groups[].") and before.count(".") > 1:
        return "the plan's"  # a key that a group does not name
    return "required" if required else _written(default)


def _show_keys() -> None:
    from flows.planning.explain import PARTS
    from flows.planning.plan import Plan

    lines = keys(Plan, PARTS)
    if piped():
        columns = [Column(name) for name in ("Key", "Meaning", "Default", "May be")]
        table(
            "",
            columns,
            [(line["key"], line["meaning"], line["default"].replace("\\n", "\n"), line["may_be"]) for line in lines],
        )
        return
    from rich.padding import Padding
    from rich.text import Text

    for line in lines:
        show(Text(line["key"], style="bold").append(f" = {line['default']}", style="not bold"))
        about = f"{line['meaning']}{'. ' if line['meaning'] else ''}May be: {line['may_be']}"
        show(Padding(Text(about, style="dim"), (0, 0, 0, 4)))


def _written(value: Any) -> str:
    """A default as YAML in one line."""
    import yaml
    from pydantic import BaseModel

    if value == ():
        return "none"
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)  # YAML too; its plain style folds line ends
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip().replace("null", "none")


def _about(name: str) -> str:
    """The comment that heads a shipped plan."""
    from flows.planning.plan_file import SHIPPED

    head = re.match(r"(?:#.*\n)+", (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
    text = " ".join(line.lstrip("# ").strip() for line in head[0].splitlines()) if head else ""
    return re.split(r"(?<=\.)\s", text)[0].split(": ", 1)[-1]
