"""The files of a baseline: whatever holds its numbers, and a manifest that names each with its sha256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.errors import InputError
from infra.files import new_folder

MANIFEST = "baseline.json"
FORMAT = 1


def write_baseline(folder: str | Path, write: Callable[[Path], None], manifest: Mapping[str, Any]) -> str:
    """Write a baseline durably; the folder appears whole or not at all.

    Args:
        write: puts the baseline's own files into a folder.

    Returns:
        sha256 (hex) of the manifest, which holds the sha256 of each file.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    try:
        with new_folder(Path(folder)) as temporary:
            write(temporary)
            files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in temporary.iterdir()}
            body = {"format": FORMAT, **manifest, "files": dict(sorted(files.items()))}
            payload = json.dumps(body, indent=1, ensure_ascii=False).encode()
            (temporary / MANIFEST).write_bytes(payload)
    except OSError as error:
        raise InputError(
            f"baseline: cannot write {folder} ({error}). Remedy: free space or choose another DEPT_HOME; the next "
            "run goes on from here"
        ) from error
    return hashlib.sha256(payload).hexdigest()


def read_baseline(folder: str | Path) -> tuple[dict[str, Any], str]:
    """The manifest of a baseline, whose files are those that were written, and its sha256 (hex).

    Raises:
        InputError: not there, damaged, of another format, or a file that is missing or altered.
    """
    folder = Path(folder)
    try:
        payload = (folder / MANIFEST).read_bytes()
        manifest: dict[str, Any] = json.loads(payload)
        found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
        good = manifest["format"] == FORMAT and found == manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"baseline {folder}: missing or damaged ({error}). Remedy: train the trial again") from error
    if not good:
        raise InputError(f"baseline {folder}: altered, or of another format. Remedy: train the trial again")
    return manifest, hashlib.sha256(payload).hexdigest()
