"""The paths that a plan or an order of retraining names, and whether one that came through the API may read them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.planning.plan import Plan
from flows.planning.plan_file import encoders_in
from flows.planning.retraining import Retraining
from infra.errors import InputError
from infra.roots import check_below_roots
from infra.settings import settings
from tasks.spec import FileSource, PackageSource, Task

_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


def check_paths(order: Plan | Retraining) -> None:
    """Refuse an order that came through the API if it names a file outside the allowed folders (DEPT_PLAN_ROOTS).

    Raises:
        InputError: such a file; an URL; a package source that leaves its package.
    """
    check_below_roots(paths_of(order), settings().plan_roots)
    for task in _read(order):
        if isinstance(task.source, PackageSource):
            _check_package(task.name, task.source)


def paths_of(order: Plan | Retraining) -> dict[str, str | Path]:
    """Every path of the order by its key: own tasks' files; backbone, picture encoders, data sets if no hub names."""
    found: dict[str, str | Path] = {}
    if _is_path(order.backbone):
        found["backbone"] = order.backbone
    for key, sight in encoders_in(order.model_dump()):
        if _is_path(sight["encoder"]):
            found[f"{key}.encoder"] = sight["encoder"]
    for task in _read(order):
        found |= _paths_of_task(task)
    return found


def _read(order: Plan | Retraining) -> list[Task]:
    """Own tasks whose source is read: the rows of the others lie in the store."""
    stored = order.stored if isinstance(order, Plan) else {}
    return [task for task in order.own_tasks if task.name not in stored]


def _paths_of_task(task: Task) -> dict[str, str | Path]:
    found: dict[str, str | Path] = {}
    for key, value in _leaves(task.source, f"own_tasks.{task.name}.source"):
        named_on_hub = key.endswith(".repo") and not _is_path(str(value))
        if isinstance(value, Path) or (key.endswith(".repo") and not named_on_hub):
            found[key] = value
    if isinstance(task.source, FileSource) and task.source.picture is not None and task.source.pictures is None:
        for role, path in task.source.paths.items():  # pictures lie beside the rows: links among them are followed
            found[f"own_tasks.{task.name}.source.pictures ({role})"] = path.parent
    return found


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value inside models, mappings and lists, so that a field added to a source is seen here too."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), f"{key}.{name}")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}")
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{key}.{index}")
    else:
        yield key, value


def _is_path(name: str) -> bool:
    """Whether a loader could take the name of a model or data set for something on this machine."""
    return _HUB_NAME.match(name) is None or ".." in name or Path(name).exists()


def _check_package(task: str, source: PackageSource) -> None:
    """A package source reads inside its package: `..`, a link or an absolute path would lead out of it."""
    inside = [name for name in (source.path, source.test) if name is not None]
    spec = importlib.util.find_spec(source.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        root = Path(folder).resolve()
        if not all((root / name).resolve().is_relative_to(root) for name in inside):
            raise InputError(f"own_tasks.{task}.source.path: leads out of the package {source.package}")
