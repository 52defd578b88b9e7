"""Several adapters that answer as one: their folder, and the mean of their log-probabilities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from dept.adapters.adapter import Adapter
from dept.readout import normalised
from infra.errors import InputError
from infra.files import new_folder

MANIFEST = "ensemble.json"
MEMBERS = "members.json"  # sha256 of each member, in order; its own sha256 is the ensemble's
FORMAT = 1
MOST = 64  # members


class Ensemble:
    """Adapters of one task that answer together; they may differ in shape, start and readout.

    Args:
        members: at least two, of one width.

    Attributes:
        metadata: as of an adapter. sha256: of the file that names the members; None before it is saved or loaded.

    Raises:
        InputError: too few or too many members, or of several widths.
    """

    def __init__(self, members: Sequence[Adapter]) -> None:
        if not 2 <= len(members) <= MOST:
            raise InputError(f"ensemble: {len(members)} adapters; it takes 2 to {MOST}")
        if len({member.d for member in members}) > 1:
            raise InputError("ensemble: its adapters are of several widths, so of several backbones")
        self.members = tuple(members)
        self.metadata: dict[str, Any] = {}
        self.sha256: str | None = None

    def save(self, folder: str | Path, **metadata: Any) -> str:
        """Write `ensemble.json`, `members.json` and a folder for each member, 0, 1, ...; whole or not at all.

        Returns:
            sha256 (hex) of members.json, which holds that of each member.

        Raises:
            InputError: the disk is full or the folder cannot be written.
        """
        folder, told = Path(folder), {**self.metadata, **metadata}
        try:
            with new_folder(folder) as temporary:
                kept = []
                for place, member in enumerate(self.members):
                    copy = member.with_parts(member.parts)  # so that a member that is in use stays as it is
                    kept.append(copy.save(temporary / str(place)))
                payload = json.dumps(kept, indent=1).encode()
                digest = hashlib.sha256(payload).hexdigest()
                (temporary / MEMBERS).write_bytes(payload)
                manifest = {"format": FORMAT, "sha256": digest, "members": len(kept), "metadata": told}
                text = json.dumps(manifest, indent=1, ensure_ascii=False)
                (temporary / MANIFEST).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"ensemble: cannot write {folder} ({error}). Remedy: free space, and run again") from error
        self.metadata, self.sha256 = told, digest
        return digest

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an ensemble that `save` wrote.

        Raises:
            InputError: not there, cut short or altered, or a member is.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            payload = (folder / MEMBERS).read_bytes()
            expected, known, metadata = manifest["sha256"], manifest["format"], dict(manifest["metadata"])
            wanted = [str(digest) for digest in json.loads(payload)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"ensemble {folder}: {MANIFEST} or {MEMBERS} is missing or damaged ({error})") from error
        if known != FORMAT:
            raise InputError(
                f"ensemble {folder}: format {known} is not {FORMAT}, which this version reads. Remedy: a newer version "
                "of dept-transfer"
            )
        members = [Adapter.load(folder / str(place)) for place in range(len(wanted))]
        if hashlib.sha256(payload).hexdigest() != expected or [member.sha256 for member in members] != wanted:
            raise InputError(f"ensemble {folder}: its members are not those of {MANIFEST}. Remedy: restore the folder")
        found = cls(members)
        found.metadata, found.sha256 = metadata, expected
        return found


def members_of(answering: Adapter | Ensemble) -> tuple[Adapter, ...]:
    """The adapters that answer: one, or several together."""
    return answering.members if isinstance(answering, Ensemble) else (answering,)


def mean_answers(parts: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Log-probabilities (nats) over the labels of each row, from those of each member: their mean, of sum 1 again.

    The mean of log-probabilities is a geometric mean of probabilities, whose loss on any row is at most the mean loss
    of the members (Hinton 2002, Training Products of Experts, https://doi.org/10.1162/089976602760128018).

    Args:
        parts: of each member, scores of every row; they need no sum.
    """
    if len(parts) == 1:
        return [list(line) for line in parts[0]]
    rows = zip(*([normalised(line) for line in part] for part in parts), strict=True)
    return [normalised([sum(column) / len(parts) for column in zip(*lines, strict=True)]) for lines in rows]
