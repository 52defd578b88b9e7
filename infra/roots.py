"""Which files a plan may read that came through the API: those below the folders that the settings name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from infra.errors import InputError

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_MANY = 100_000  # entries of a folder that are looked at; more than any model or data set has


def check_below_roots(paths: Mapping[str, str | Path], roots: Iterable[str | Path]) -> None:
    """Refuse paths that lead out of the allowed folders. Opens no file, and does not say whether one exists.

    Args:
        paths: the path by the key of the plan that holds it, for the error.
        roots: allowed folders; none: no path is allowed, only names of catalogue and hub.

    Raises:
        InputError: a path, or what it links to, lies outside; or it is an URL.
    """
    allowed = [Path(root).expanduser().resolve() for root in roots]
    for key, path in paths.items():
        text = str(path)
        if _SCHEME.match(text) or "\0" in text or "::" in text:
            raise InputError(
                f"{key}: a plan that comes through the API reads plain files only, no URL. Remedy: a path "
                "below a folder of DEPT_PLAN_ROOTS on the worker, or a data set of the hub"
            )
        try:
            place = Path(text).expanduser().resolve()
            inside = _below(place, allowed) and all(_below(one, allowed) for one in _linked(place))
        except (OSError, RuntimeError):  # a loop of links, an unknown ~user, a name that is too long
            inside = False
        if not inside:
            raise InputError(
                f"{key}: outside the folders that a plan from the API may read. Remedy: put it below a folder of the "
                "worker's DEPT_PLAN_ROOTS"
            )


def _below(place: Path, roots: Iterable[Path]) -> bool:
    return any(place.is_relative_to(root) for root in roots)


def _linked(folder: Path) -> Iterable[Path]:
    """Where the links inside a folder lead."""
    seen = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            seen += 1
            if seen > _MANY:
                raise OSError("too many files")
            path = Path(parent, name)
            if path.is_symlink():
                yield path.resolve()
