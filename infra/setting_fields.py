"""The fields of the one class of settings, with their bounds; `infra.settings` reads them."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_cache_path
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from infra.names import expanded

PREFIX = "DEPT_"
FOLDERS = ("home", "cache", "data", "locks")  # relative ones count from the file that names them


class Settings(BaseSettings):
    """Where things lie and how workers behave. What decides a trial's numbers is in its plan, never here."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, populate_by_name=True
    )

    home: Path = Field(
        Path(".dept"), description="folder of ledger, store, MLflow's files, reports and logs of this machine"
    )
    cache: Path = Field(
        default_factory=lambda: user_cache_path("dept-transfer"),
        description="folder of converted backbones, and of pictures that data sets hold",
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
    devices: str | None = Field(
        None,
        description="devices that workers of this machine may take, one worker each, as CUDA_VISIBLE_DEVICES names "
        "them; cpu: none; default: all that the machine shows",
    )
    cpu_slots: int = Field(
        1, ge=1, le=1024, description="workers at a time on this machine where it has no CUDA device"
    )
    cpu_threads: int | None = Field(
        None, ge=1, le=1024, description="threads of each of them; default: the cores divided by the slots"
    )
    locks: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / "dept-locks",
        description="folder of the locks of this machine's devices, the same for all its users",
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
    mlflow_page: str | None = Field(
        None,
        description="address at which browsers reach MLflow's server, for links; default: MLFLOW_TRACKING_URI",
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

    @field_validator("mlflow_page")
    @classmethod
    def _a_page(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/@]+(/[^\s@]*)?", value):
            raise ValueError("no address of a page; give one such as https://mlflow.example.org")
        return value

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

    @field_validator(*FOLDERS, mode="after")
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
