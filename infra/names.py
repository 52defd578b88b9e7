"""Names that become a part of a path, and paths of people: checked, whoever gave them."""

from __future__ import annotations

import re
from pathlib import Path

from infra.errors import InputError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def safe_name(name: object, what: str) -> str:
    """The name as it is, if it can only ever be the name of one file or folder.

    Args:
        name: such as a run id, a fingerprint, a task or a tag read from MLflow.
        what: what it is, for the error.

    Raises:
        InputError: it holds a separator, begins with a dot, is empty or too long.
    """
    text = str(name)
    if _PLAIN.fullmatch(text) is None or text.endswith("."):
        raise InputError(
            f"{what} {text[:80]!r} cannot name a file: letters, digits, '.', '_' and '-' are allowed, a letter or "
            "digit first. Remedy: check where it comes from"
        )
    return text


def slug(text: str) -> str:
    """The text as a key of Prefect's: small letters, digits and single dashes; "x" where none of it is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100] or "x"


def expanded(path: str | Path) -> Path:
    """A path with the home folder for ~ or ~user.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{Path(path).parts[0]}: no such user on this machine. Remedy: give a full path") from None
