"""The record of the services that `up` started, so that `down` stops and removes exactly those."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from infra.errors import InputError
from infra.files import write_text
from infra.processes import Record
from infra.settings import home

TOML_HEAD = "# Written by `make up`, removed by `make down`: the Prefect CLI finds the server from this folder.\n"
Say = Callable[[str], None]


@dataclass
class ServiceRecords:
    """services.json. `ready`: pools, deployments and automation are in place; `toml`: the prefect.toml we wrote."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    ready: bool = False
    toml: str | None = None
    records: dict[str, Record] = field(default_factory=dict)

    @classmethod
    def read(cls) -> ServiceRecords:
        """The records of this home; empty ones if nothing was started.

        Raises:
            InputError: the file is damaged.
        """
        file = path()
        if not file.exists():
            return cls()
        try:
            body = json.loads(file.read_text(encoding="utf-8"))
            records = {name: Record(**record) for name, record in body["records"].items()}
            return cls(body["token"], body["ready"], body["toml"], records)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file} is damaged or of another version, so it is not known what `up` started. "
                "Remedy: end the processes by hand (ps), then delete that file"
            ) from error

    def write(self) -> None:
        """Replace the file in one step."""
        write_text(path(), json.dumps(asdict(self), indent=1))


def path() -> Path:
    """Where the records are kept."""
    return home() / "services.json"


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One `up` or `down` at a time for this home."""
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / "services.lock"):
        yield


def write_toml(records: ServiceRecords, root: Path, api: str, say: Say) -> None:
    """Let the Prefect CLI find the server from `root`, unless the user has a prefect.toml there."""
    file = root / "prefect.toml"
    if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(TOML_HEAD):
        say(f"{file} is yours and stays as it is; for the Prefect CLI: export PREFECT_API_URL={api}")
        return
    file.write_text(f'{TOML_HEAD}[api]\nurl = "{api}"\n', encoding="utf-8")
    records.toml = str(file)


def forget_toml(records: ServiceRecords) -> None:
    """Remove the prefect.toml that `up` wrote."""
    file = Path(records.toml) if records.toml else None
    if file and file.exists() and file.read_text(encoding="utf-8", errors="replace").startswith(TOML_HEAD):
        file.unlink()
    records.toml = None
