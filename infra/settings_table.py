"""The settings as a table: as they are now (`dept settings`), and as infra/README.md has them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from infra.nearest import near
from infra.secrets import masked, masked_address
from infra.setting_fields import PREFIX, Settings
from infra.settings import name_of, plain, read

_MADE = {"cache": "the user's cache", "locks": "dept-locks, in the folder for temporary files"}
# Set by the product for its own processes and benchmarks, or by Kubernetes for a service called dept-...
_NO_SETTING = re.compile(r"DEPT_(SERVICE|COMMIT|BENCH_\w+|\w+_SERVICE_(HOST|PORT)(_\w+)?|\w+_PORT_\d+_(TCP|UDP)\w*)")


@dataclass(frozen=True)
class Told:
    """One setting as it is now. `value` is masked; `origin` is default, environment, or the path of a file."""

    name: str
    value: str
    origin: str
    default: str
    meaning: str


def told() -> list[Told]:
    """Every setting with its value, its origin and its meaning; secrets are masked.

    Raises:
        InputError: see `settings`.
    """
    found, files = read()
    rows = []
    for field, about in Settings.model_fields.items():
        name = name_of(field)
        origin = "environment" if os.environ.get(name) else str(files.get(field, "default"))
        value = getattr(found, field)
        if field == "ledger_url" and value:
            value = masked_address(value)
        rows.append(Told(name, shown(value), origin, _default(field), about.description or ""))
    return rows


def strays() -> list[str]:
    """Variables that look like settings and are none, each with the nearest right one."""
    known = [name_of(field) for field in Settings.model_fields]
    given = [name for name in sorted(os.environ) if name.startswith(PREFIX) and name not in known]
    lost = [name for name in given if not _NO_SETTING.fullmatch(name) and not os.environ[name].startswith("tcp://")]
    return [f"{name} is set, but there is no such setting{near(name, known, list_all=False)}" for name in lost]


def shown(value: Any) -> str:
    """A value for people; passwords in URLs are masked."""
    return "–" if value is None or value == () else masked(plain(value))


def markdown() -> str:
    """The table of infra/README.md."""
    lines = ["| Setting | Default | Meaning |", "| --- | --- | --- |"]
    for field, about in Settings.model_fields.items():
        default, meaning = _default(field), (about.description or "").replace("|", r"\|")
        lines.append(f"| `{name_of(field)}` | {f'`{default}`' if default != '–' else '–'} | {meaning} |")
    return "\n".join(lines)


def _default(field: str) -> str:
    about = Settings.model_fields[field]
    return _MADE[field] if about.default_factory else shown(about.default)


if __name__ == "__main__":
    print(markdown())
