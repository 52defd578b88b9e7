"""The commit that this code is of."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

VARIABLE = "DEPT_COMMIT"  # set in images, which hold no checkout
_ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def source_commit() -> str:
    """sha1 (hex) of the commit, with `-dirty` where files were changed since; "" where nobody knows."""
    if told := os.environ.get(VARIABLE, "").strip():
        return told
    if not (_ROOT / ".git").exists():
        return ""  # an installed package may lie inside somebody else's checkout
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit


def _git(*words: str) -> str:
    try:
        command = ["git", "-C", str(_ROOT), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
