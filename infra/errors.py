"""Errors that a user can mend. The command line prints them as one line and exits with code 2."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from infra.secrets import masked

_NUMBER = re.compile(r"\[(Errno|WinError) -?\d+\] ")  # of the system's errors: the words behind it say the same


def of_hub(error: BaseException) -> str:
    """Why something of the hub could not be had, in one line without names of its client's classes and settings."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return "HF_HUB_OFFLINE is set, and its cache on this machine does not hold it"
    said = " ".join(str(error).split()) or "no reason is given"
    return re.sub(r" \(\w+(Error|Exception|Enabled)\)", "", said)[:300].rstrip(".")


class InputError(ValueError):
    """Something the user gave is wrong. The message names the cause and the remedy, and shows no credentials."""

    def __init__(self, message: object = "") -> None:
        super().__init__(_NUMBER.sub("", masked(message)))


@contextlib.contextmanager
def written(what: object) -> Iterator[None]:
    """Say in one line that `what` cannot be written, as where a disk is full.

    Raises:
        InputError: in place of the block's OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {what} ({error}). Remedy: free space, or another DEPT_HOME") from error


class WorkerDiedError(RuntimeError):
    """A process that worked for this one ended early. Nothing is lost: the same command goes on from here."""

    def __init__(self, message: object = "") -> None:
        super().__init__(masked(message))


_PASSING = ("EIO", "ETIMEDOUT", "ESTALE", "ENETUNREACH", "EHOSTUNREACH", "ENETDOWN")
# Of libraries that this room does not import: SQLAlchemy, httpx, requests, botocore.
_NAMES = re.compile(r"OperationalError|InterfaceError|\w*(Timeout|Connect\w*|Protocol|Network)Error|\w*Timeout")


def may_pass(error: BaseException) -> bool:
    """Whether a store or server was away: the same may succeed a little later. What a user must mend does not pass."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if isinstance(one, (ConnectionError, TimeoutError)) or _NAMES.fullmatch(type(one).__name__):
            return True
        if isinstance(one, OSError) and errno.errorcode.get(one.errno or 0) in _PASSING:
            return True
        one = one.__cause__ or one.__context__
    return False
