"""Several that answer as one, adapters and linear baselines, by `dept.readout.mean_answers`: their folder."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from dept.adapters.adapter import Adapter
from dept.baselines.single import Single, load_single
from infra.errors import InputError
from infra.files import new_folder

MANIFEST = "ensemble.json"
MEMBERS = "members.json"  # sha256 of each member, in order, and weights; its own sha256 is the ensemble's
FORMAT = 2  # of adapters alone it is 1: older versions read those
MOST = 64  # members


class Ensemble:
    """Several of one task that answer together; adapters may differ in shape, start and readout.

    Args:
        members: at least two; adapters of one width.
        weights: of each in the mean; None: all alike.

    Attributes:
        metadata: as of an adapter. sha256: of the file that names the members; None before it is saved or loaded.

    Raises:
        InputError: too few or too many members, of several widths, or weights that are not theirs.
    """

    def __init__(self, members: Sequence[Single], weights: Sequence[float] | None = None) -> None:
        if not 2 <= len(members) <= MOST:
            raise InputError(f"ensemble: {len(members)} members; it takes 2 to {MOST}")
        if len({member.d for member in members if isinstance(member, Adapter)}) > 1:
            raise InputError("ensemble: its adapters are of several widths, so of several backbones")
        if weights and (len(weights) != len(members) or not all(0 < weight < math.inf for weight in weights)):
            raise InputError(f"ensemble: weights {list(weights)} for {len(members)} members; each needs one above 0")
        self.members = tuple(members)
        self.weights = tuple(map(float, weights)) if weights else None
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
                    other = copy.copy(member)  # saving notes a sha256: a member that is in use stays as it is
                    kept.append(other.save(temporary / str(place)))
                told_of = kept if self.weights is None else {"members": kept, "weights": list(self.weights)}
                payload = json.dumps(told_of, indent=1).encode()
                digest = hashlib.sha256(payload).hexdigest()
                (temporary / MEMBERS).write_bytes(payload)
                plain = self.weights is None and all(isinstance(member, Adapter) for member in self.members)
                manifest = {"format": 1 if plain else FORMAT, "sha256": digest, "members": len(kept), "metadata": told}
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
            listed = json.loads(payload)
            listed = listed if isinstance(listed, dict) else {"members": listed}
            wanted, weights = [str(digest) for digest in listed["members"]], listed.get("weights")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"ensemble {folder}: {MANIFEST} or {MEMBERS} is missing or damaged ({error})") from error
        if known not in (1, FORMAT):
            raise InputError(
                f"ensemble {folder}: format {known} is not {FORMAT}, which this version reads. Remedy: a newer version "
                "of dept-transfer"
            )
        members = [load_single(folder / str(place)) for place in range(len(wanted))]
        if hashlib.sha256(payload).hexdigest() != expected or [member.sha256 for member in members] != wanted:
            raise InputError(f"ensemble {folder}: its members are not those of {MANIFEST}. Remedy: restore the folder")
        found = cls(members, weights)
        found.metadata, found.sha256 = metadata, expected
        return found
