"""What is computed once a picture and kept: bounded, by the content of the picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from tasks.pictures import Picture


class Sized(Protocol):
    """What says how many bytes it takes, as tensors do."""

    @property
    def nbytes(self) -> int:
        """Bytes."""


T = TypeVar("T", bound=Sized)


class Kept(Generic[T]):
    """Tensors, or what holds some, by picture; those that were asked for longest ago give way.

    Args:
        most: bytes of all together.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._found: OrderedDict[str, T] = OrderedDict()

    def of(self, pictures: Sequence[Picture], make: Callable[[Sequence[Picture]], Sequence[T]]) -> list[T]:
        """One a picture, in their order.

        Args:
            make: gives those of distinct pictures that are not kept.
        """
        there = {p.sha256: self._found[p.sha256] for p in pictures if p.sha256 in self._found}
        missing = {p.sha256: p for p in pictures if p.sha256 not in there}
        fresh = dict(zip(missing, make(list(missing.values())), strict=True)) if missing else {}
        there |= fresh
        for digest, tensor in there.items():
            self.held += tensor.nbytes if digest in fresh else 0
            self._found[digest] = tensor
            self._found.move_to_end(digest)
        while self.held > self.most and self._found:
            self.held -= self._found.popitem(last=False)[1].nbytes
        return [there[p.sha256] for p in pictures]
