"""What is computed once a picture and kept: bounded, by the content of the picture."""

from __future__ import annotations

import threading
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
    """Tensors, or what holds some, by picture; those that were asked for longest ago give way. Threads may share it.

    Args:
        most: bytes of all together.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._found: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, pictures: Sequence[Picture], make: Callable[[Sequence[Picture]], Sequence[T]]) -> list[T]:
        """One a picture, in their order.

        Args:
            make: gives those of distinct pictures that are not kept.
        """
        with self._lock:
            there = {p.sha256: self._found[p.sha256] for p in pictures if p.sha256 in self._found}
        missing = {p.sha256: p for p in pictures if p.sha256 not in there}
        there |= dict(zip(missing, make(list(missing.values())), strict=True)) if missing else {}
        with self._lock:  # another thread may have made the same, or given some up, meanwhile
            for digest, tensor in there.items():
                if digest not in self._found:
                    self._found[digest] = tensor
                    self.held += tensor.nbytes
                self._found.move_to_end(digest)
            while self.held > self.most and self._found:
                self.held -= self._found.popitem(last=False)[1].nbytes
        return [there[p.sha256] for p in pictures]
