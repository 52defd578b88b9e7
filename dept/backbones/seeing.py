"""Models that continue a text and read pictures (image-text-to-text): vectors of pictures stand among those of tokens.

A picture's vectors are those that the model itself hands to its text decoder, made once and kept. What else hangs on a
picture (turns of M-RoPE, who sees whom) follows from what the decoder is given; `measure_seeing` holds it all against
the model's own pass over token ids and pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.adapter import Adapter
from dept.adapters.picture_cache import Kept
from dept.backbones.base import Output
from dept.backbones.causal import CausalBackbone
from dept.backbones.chains import Chain
from dept.backbones.measure_seeing import SeeingTest
from dept.backbones.tokens import Tokens
from dept.backbones.vision import Look, Scene, Vision, embedding, on, row_of
from dept.backbones.ways import Way
from infra.errors import InputError
from tasks.picture_reader import not_taken, read_picture
from tasks.pictures import Picture

_KEPT = 1 << 30  # bytes of what is known of pictures
_PREPARED = 1 << 28  # bytes of pixels of pictures
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """What a processor gives for a picture."""

    given: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(value.nbytes for value in self.given.values() if isinstance(value, Tensor))


class SeeingBackbone(CausalBackbone, kind="pictures"):
    """An image-text-to-text model.

    Args:
        processor: `processor.Processor` of the same folder, or what does as it does.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        name: str | None = None,
        folder: str | Path | None = None,
        way: Way | None = None,
        processor: Any = None,
    ) -> None:
        self.vision = Vision(model, processor)
        self._kept: Kept[Look] = Kept(_KEPT)
        self._pixels: Kept[Prepared] = Kept(_PREPARED)
        super().__init__(model, tokenizer, name, folder, way)
        self.reads_pictures, self.blind = self.way.pictures != "none", self.way.blind

    def _tested(self) -> SeeingTest:
        kind = type(self)
        return SeeingTest(
            self.name,
            lambda model, way, processor: kind(model, None, self.name, None, way, processor),
            self.vision.processor,
        )

    @property
    def inner(self) -> Any:
        """The text decoder."""
        return self.model.get_decoder()

    @cached_property
    def tokens(self) -> Tokens:
        """See `Backbone`; it makes blocks of pictures as well."""
        made = super().tokens
        made.eyes = self._eyes
        return made

    def _eyes(self) -> Any:
        if not self.reads_pictures:
            raise self._blind_to()
        return self.vision.processor

    def _blind_to(self) -> InputError:
        return InputError(
            f"backbone {self.name}: it reads no pictures: {self.blind}. Remedy: another backbone, adapter.pictures (a "
            "trained map of them), or picture: hidden in the task"
        )

    def embed(self, ids: Tensor) -> Tensor:
        """See `Backbone`; tokens that stand for pictures may lie outside the table."""
        return super().embed(ids.clamp(max=self.tokens.vocab - 1))

    def see(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """See `Backbone`; zeros where the model's own pass makes them anew (`Way.pictures`: model)."""
        if self.way.pictures == "model":
            made = [self.tokens.picture_block(picture) for picture in pictures]
            return [torch.zeros(len(one.vectors), self.d, dtype=self.dtype, device=self.device) for one in made]
        return [look.vectors for look in self.look(pictures)]

    def look(self, pictures: Sequence[Picture]) -> list[Look]:
        """What is known of pictures, in their order.

        Raises:
            InputError: this backbone sees none; or one that is gone, has changed, or cannot be read.
        """
        if not self.reads_pictures:
            raise self._blind_to()
        return self._kept.of(pictures, self._looked)

    def scene(
        self,
        ids: Tensor,
        answers: Tensor,
        blocks: Sequence[tuple[int, int, int, int, int]] = (),
        pictures: Sequence[Picture] = (),
        vectors: Sequence[Sequence[int]] = (),
    ) -> Scene | None:
        """Where pictures stand, see `vision.Scene`; None where that makes no difference.

        Args:
            pictures: which the blocks name by their place among them.
        """
        if not blocks and self.way.sees != "prefix":
            return None
        which = sorted({block[-1] for block in blocks})
        looked = [] if self.way.pictures == "model" or not which else self.look([pictures[one] for one in which])
        looks = dict(zip(which, looked, strict=False))

        def inputs(one: int) -> Mapping[str, Any]:
            return self._pixels.of([pictures[one]], self._prepared)[0].given

        return Scene(ids, answers, blocks, looks, vectors, inputs, self.way.sees)

    def _looked(self, pictures: Sequence[Picture]) -> list[Look]:
        return [self._taken(picture, self.vision.look) for picture in pictures]

    def _prepared(self, pictures: Sequence[Picture]) -> list[Prepared]:
        return [Prepared(self._taken(one, self.vision.processor.inputs)) for one in pictures]

    @staticmethod
    def _taken(picture: Picture, ask: Callable[[Any], T]) -> T:
        """What is made of a picture.

        Raises:
            InputError: it is gone, cannot be read, or the processor does not take it.
        """
        opened = read_picture(picture)
        try:
            return ask(opened)
        except ValueError as error:  # as processors say that they do not take one
            raise not_taken(picture.path, error) from error

    def _answer(
        self, adapter: Adapter, ids: Tensor, real: Tensor, start: Tensor, labels: Tensor | None, all_positions: bool
    ) -> Output:
        if self.way.sees == "prefix":  # ids alone do not say where a text ends and its answer begins
            raise InputError(
                f"backbone {self.name}: a {self.config.model_type} model reads a text both ways up to its answer, and "
                "a call with ids does not say where that begins. Remedy: score, or generate"
            )
        return super()._answer(adapter, ids, real, start, labels, all_positions)

    def _seen(self, rows: Tensor, chains: list[Chain], scene: Scene, m: int, states: bool) -> Any:
        if self.way.pictures == "model":
            return self._by_model(rows, chains[0], scene, m, states)
        return self._by_decoder(rows, chains, scene, m, states)

    def _by_decoder(self, rows: Tensor, chains: list[Chain], scene: Scene, m: int, states: bool) -> Any:
        """The text decoder over sequences [K, m + n, d] of one length, vectors of pictures among them."""
        length = rows.shape[1]
        positions = torch.arange(length, device=rows.device).expand(len(rows), -1)
        columns = torch.stack([columns for _, columns in chains])
        at = torch.tensor([row for row, _ in chains], device=rows.device)[:, None]
        index = torch.zeros_like(scene.ids)
        index[at, columns] = positions[:, m:]
        options: dict[str, Any] = {"position_ids": positions, "attention_mask": torch.ones_like(positions)}
        if (turned := scene.turned(index)) is not None:
            front = positions[:, :m].expand(len(turned), -1, -1)
            options["position_ids"] = torch.cat([front, turned[:, at, columns]], dim=2)
        if (both := scene.both()) is not None:
            inside = both[at[:, :, None], columns[:, :, None], columns[:, None, :]]
            if scene.sees == "prefix":  # the prompt stands in it
                told = functional.pad(~scene.answers[at, columns], (m, 0), value=True)
                inside = told[:, :, None] & told[:, None, :]
            else:
                inside = functional.pad(inside, (m, 0, m, 0))
            causal = (
                torch.ones(length, length, dtype=torch.bool, device=rows.device).tril().expand(len(rows), 1, -1, -1)
            )
            options["attention_mask"] = self._masks(causal, positions, positions, inside)
        options |= scene.beside(chains, m)
        return self.inner(inputs_embeds=rows, use_cache=False, output_hidden_states=states, **options)

    def _by_model(self, rows: Tensor, chain: Chain, scene: Scene, m: int, states: bool) -> Any:
        """The model's own pass over the ids of one sequence and its picture, with vectors [1, m + n, d] for the ids."""
        row, columns = chain
        ids, held = scene.ids[row, columns].tolist(), columns.tolist()
        block = next((one for one in scene.blocks if one[0] == row and one[1] in held), None)
        if block is None:
            given = row_of((), {}, [self.vision.filler] * (m + len(ids)), ())
            first = size = 0
        else:
            _, first, size, _, which = block
            first = held.index(first)
            # Their vectors are handed out whatever the ids; those of a text might stand for pictures.
            before, behind = ([self.vision.filler] * n for n in (m + first, len(ids) - first - size))
            answer = int(scene.answers[row, columns].sum())
            given = row_of(ids[first : first + size], scene.inputs(which), before, behind, answer)
        kept = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        kept[:, m + first : m + first + size] = True
        found: list[Any] = []
        handle = self.inner.register_forward_hook(lambda _, __, out: found.append(out))
        try:
            with embedding(self.model, rows / self.way.scale, kept):
                whole = self.model(**on(given, rows.device), use_cache=False, output_hidden_states=states)
        finally:
            handle.remove()
        return whole if self.way.whole else found[0]
