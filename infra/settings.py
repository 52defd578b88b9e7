"""Every setting of the product: one class, read from the environment and from dept.toml.

The environment comes first, then ./dept.toml, then dept.toml in the home folder, then the default. Relative paths of
a file count from its folder, those of the environment from the working directory. Nothing is created.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_cache_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from infra.errors import InputError
from infra.names import expanded
from infra.nearest import near
from infra.secrets import masked

PREFIX, FILE = "DEPT_", "dept.toml"


class Settings(BaseSettings):
    """Where things lie and how workers behave. What decides a trial's numbers is in its plan, never here."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, populate_by_name=True
    )

    home: Path = Field(
        Path(".dept"), description="folder of ledger, store, MLflow's files, reports and logs of this machine"
    )
    cache: Path = Field(
        default_factory=lambda: user_cache_path("dept-transfer"), description="folder of converted backbones"
    )
    data: Path | None = Field(
        None, description="folder of local copies of hub data sets: <data>/<task>/<split>.jsonl or .parquet"
    )
    ledger_url: str | None = Field(
        None,
        repr=False,
        description="database URL of the ledger, such as postgresql+psycopg://user:password@host/dept; "
        "default: SQLite in the home folder",
    )
    store: str | None = Field(
        None,
        repr=False,
        description="folder or URL (s3://..., gs://...) of adapters and of the rows of own tasks; default: "
        "store in the home folder",
    )
    plan_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description=f"folders, divided by {os.pathsep!r}, whose files a plan may read that came through the Prefect "
        "API; default: none",
    )
    lease_seconds: float = Field(
        300.0,
        ge=1,
        le=86_400,
        description="seconds without progress after which another worker takes the trials over",
    )
    linger_seconds: float = Field(
        20.0,
        ge=0,
        le=31_536_000,
        description="seconds that a worker waits for more to do, while a run is under way, before it ends",
    )
    compile: bool = Field(False, description="use torch.compile for backbones")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="least level of log lines in the terminal: debug, info, warning or error"
    )
    ledger_patience: float = Field(
        900.0, ge=0, le=86_400, description="seconds that a call waits for a ledger's database that went away"
    )
    mlflow_tracking_uri: str | None = Field(
        None,
        validation_alias="MLFLOW_TRACKING_URI",
        repr=False,
        description="MLflow's server or database; default: SQLite in the home folder",
    )
    mlflow_patience: float = Field(
        600.0, ge=0, le=86_400, description="seconds that a run waits for an MLflow that went away to come back"
    )
    serve_rows: int = Field(
        10_000, ge=1, le=10_000_000, description="rows that a model served by MLflow takes in one request at most"
    )
    serve_poll: float = Field(
        15.0, ge=0.1, le=86_400, description="seconds after which a served backbone looks for new champions again"
    )
    prefect_port: int = Field(
        4200, ge=1, le=65535, validation_alias="PREFECT_PORT", description="port of the Prefect server of `dept up`"
    )
    mlflow_port: int = Field(
        5000, ge=1, le=65535, validation_alias="MLFLOW_PORT", description="port of the MLflow server of `dept up`"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before what the caller read from files."""
        return env_settings, init_settings

    @field_validator("plan_roots", mode="before")
    @classmethod
    def _divided(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @field_validator("prefect_port", "mlflow_port", mode="before")
    @classmethod
    def _not_a_link(cls, value: Any, info: Any) -> Any:
        """Kubernetes sets PREFECT_PORT=tcp://10.0.0.1:4200 where a service is called prefect: not meant for us."""
        linked = isinstance(value, str) and value.startswith("tcp://")
        return cls.model_fields[info.field_name].default if linked else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("home", "cache", "data", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else _folder(value)

    @field_validator("store", mode="after")
    @classmethod
    def _absolute_folder(cls, value: str | None) -> str | None:
        if value is None or "://" in value:
            return value
        if found := re.match(r"(\w[\w+.-]+):", value):
            raise ValueError(f"neither a folder nor an URL. Remedy: {found[1]}:// with two slashes, or ./{value}")
        return str(_folder(Path(value)))

    @field_validator("plan_roots", mode="after")
    @classmethod
    def _all_absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(expanded(path).absolute() for path in value)


def _folder(value: Path) -> Path:
    """The absolute path of a folder, which may not be there yet.

    Raises:
        ValueError: a file stands in its place, or above it.
    """
    path = expanded(value).absolute()
    for one in (path, *path.parents):
        if one.is_dir():
            break
        if one.is_file():
            what = "a file" if one == path else f"below the file {one}"
            raise ValueError(f"{what}. Remedy: give a folder")
    return path


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
    place = field in ("home", "cache", "data") or (field == "store" and "://" not in str(value))
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
