"""Does what was trained go with a backbone?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from infra.errors import InputError

Legacy = Callable[[], Collection[str]]  # the ids that older versions gave a backbone; asked for only where they differ


class Fits(Protocol):
    """What was trained on a backbone: an adapter, a probe."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What its file says beside its numbers."""

    def check_fits(self, backbone_name: str, backbone_id: str, d: int, legacy: Legacy = tuple) -> None:
        """Refuse a backbone of another width `d`, or of other weights."""


def check_weights(about: Mapping[str, Any], backbone_name: str, backbone_id: str, legacy: Legacy = tuple) -> None:
    """Refuse a backbone of other weights than metadata name.

    Raises:
        InputError: so it is.
    """
    trained_on = about.get("backbone_id")
    if trained_on is not None and trained_on != backbone_id and trained_on not in legacy():
        raise InputError(
            f"adapter was trained on other weights ({about.get('backbone')}, {trained_on[:12]}) than backbone "
            f"{backbone_name} ({backbone_id[:12]}). Remedy: use the backbone it was trained on"
        )
