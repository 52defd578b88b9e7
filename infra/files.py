"""The one way to write a file or a folder: whole and durable, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_MARK = ".new-"
_ABANDONED_SECONDS = 86_400.0  # a temporary sibling this old belongs to a process that was killed


def write_bytes(path: str | Path, payload: bytes) -> None:
    """Write a file so that a reader, or a power cut, meets the old content or the new one, never a part.

    Missing parent folders are made. Two writers at once: the last one stands.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is as it was.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(payload)


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Fill a temporary sibling of `path`; at the end of the block it is made durable and takes the name.

    If the block raises, the old file is as it was, and nothing is left. See `write_bytes`.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Fill a temporary sibling of `path`; at the end of the block it is made durable and takes the name.

    If the block raises, nothing is left. A folder that has the name already is replaced; a power cut between the two
    renames leaves it beside, under a name that begins with a dot.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        if path.exists():
            old = _sibling(path)
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def sync(path: str | Path) -> None:
    """Make a file's content, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: str | Path) -> None:
    """Make every file below a folder durable, then the folders."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(root) / name)
        sync(root)


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}")


def _sweep(path: Path) -> None:
    now = time.time()
    for found in path.parent.iterdir():
        if found.name.startswith(f".{path.name}{_MARK}"):
            with contextlib.suppress(OSError):  # another process was quicker
                if now - found.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(found)
