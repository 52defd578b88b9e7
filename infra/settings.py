"""Every setting of the product: one class, read from the environment and from dept.toml.

The environment comes first, then ./dept.toml, then dept.toml in the home folder, then the default. Relative paths of
a file count from its folder, those of the environment from the working directory. Nothing is created.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from infra.errors import InputError
from infra.names import expanded
from infra.nearest import near
from infra.secrets import masked
from infra.setting_fields import FOLDERS, PREFIX, Settings

FILE = "dept.toml"


_NAMES = {field: str(f.validation_alias or PREFIX + field.upper()) for field, f in Settings.model_fields.items()}


def settings() -> Settings:
    """The settings as environment and files are now.

    Raises:
        InputError: a value that cannot be used, an unknown key in dept.toml, or a dept.toml that cannot be read.
    """
    return read()[0]


def home() -> Path:
    """Absolute folder of ledger, MLflow store, adapters and reports: $DEPT_HOME, else ./.dept. Creates nothing."""
    return settings().home


def name_of(field: str) -> str:
    """The environment variable of a field: DEPT_HOME of home."""
    return _NAMES[field]


def exported() -> dict[str, str]:
    """What is not default, as environment variables: for processes that start in another folder."""
    found = read()[0]
    given = {field: getattr(found, field) for field in Settings.model_fields if field in found.model_fields_set}
    return {name_of(field): plain(value) for field, value in given.items() if value is not None}


def read() -> tuple[Settings, dict[str, Path]]:
    """`settings()`, and for each field that a file gives, that file. The same environment and files are read once."""
    global _known
    names = tuple(map(os.environ.get, _NAMES.values()))
    local = Path.cwd() / FILE
    key = (names, local, _stamp(local))
    if _known is not None and _known[0] == key and _known[1] == tuple(map(_stamp, _known[2])):
        return _known[3], _known[4]
    values, origin = _of_file(local)
    base = _validated({k: v for k, v in values.items() if k == "home"}, origin).home
    files = [local, base / FILE] if base / FILE != local else [local]
    if len(files) == 2:
        below, _ = _of_file(files[1])
        if "home" in below:
            raise InputError(f"{files[1]}: home cannot be set in the home folder itself. Remedy: set DEPT_HOME")
        origin = dict.fromkeys(below, files[1]) | origin
        values = below | values
    made = _validated(values, origin)
    _known = (key, tuple(map(_stamp, files)), files, made, origin)
    return made, origin


_known: tuple[Any, Any, list[Path], Settings, dict[str, Path]] | None = None


def _of_file(file: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Values of a dept.toml by field, with relative paths counted from its folder; nothing where there is no file."""
    try:
        body = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}, {}
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}). Remedy: mend it or take it away") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8. Remedy: save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{file}: not valid TOML ({error}). Remedy: write lines such as home = '/data/dept'"
        ) from error
    fields = {name: field for field, name in _NAMES.items()} | {field: field for field in _NAMES}
    found = {}
    for key, value in body.items():
        field = fields.get(key) or fields.get(key.lower())
        if field is None:
            raise InputError(f"{file}: {key}: unknown setting{near(key, list(Settings.model_fields))}")
        try:
            found[field] = _from(file.parent, field, value)
        except InputError as error:  # ~name of nobody
            raise InputError(f"{file}: {key}: {error}") from error
    return found, dict.fromkeys(found, file)


def _from(folder: Path, field: str, value: Any) -> Any:
    place = field in FOLDERS or (field == "store" and "://" not in str(value))
    if place and isinstance(value, str):
        return str(folder / expanded(Path(value)))
    if field == "plan_roots" and isinstance(value, list):
        return [folder / expanded(Path(str(path))) for path in value]
    return value


def _validated(values: dict[str, Any], origin: dict[str, Path]) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        raise InputError(_explained(error, origin)) from None  # pydantic's own text would quote a password


def _explained(error: ValidationError, origin: dict[str, Path]) -> str:
    """The first fault in words."""
    fault = error.errors(include_url=False)[0]
    place = str(fault["loc"][0])
    field = next(f for f in Settings.model_fields if place in (f, name_of(f)))
    where = "" if os.environ.get(name_of(field)) else f" in {origin.get(field, FILE)}"
    bounds = fault.get("ctx") or {}
    kind = fault["type"]
    if field.endswith("_port"):
        what = "not a port; give a number from 1024 to 65535"
    elif kind == "literal_error":
        what = f"unknown; give {bounds['expected'].replace(chr(39), '')}"
    elif kind.startswith(("greater_than", "less_than")):
        low, high = _bounds(field)
        what = f"out of bounds; give a number from {low:g} to {high:g}"
    elif kind.startswith(("bool", "float", "int")):
        what = f"not a {'yes or no; give 1 or 0' if kind.startswith('bool') else 'number'}"
    elif kind == "value_error":
        what = str(bounds["error"])
    else:
        what = f"cannot be used ({fault['msg'].lower()})"
    return f"{name_of(field)}={masked(str(fault['input']))}{where}: {what}"


def _bounds(field: str) -> tuple[float, float]:
    limits: dict[str, float] = {}
    for rule in Settings.model_fields[field].metadata:
        limits |= {name: value for name in ("ge", "le") if (value := getattr(rule, name, None)) is not None}
    return limits["ge"], limits["le"]


def plain(value: Any) -> str:
    """A value as the environment takes it."""
    if isinstance(value, tuple):
        return os.pathsep.join(map(str, value))
    return str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
