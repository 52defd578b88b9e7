"""What a model that reads pictures makes of them: vectors in place of token embeddings, and where they stand.

A model of transformers puts a picture's vectors among the embeddings of a row, and hands all to its text decoder. What
the decoder is given is what is wanted here, whatever the parts in front of it are called; there the pass is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Look:
    """What is known of a picture.

    Attributes:
        vectors: [v, d], as the decoder gets them.
        turns: [axes, n], of each position of its block how far it is turned from the block's first, by axis (M-RoPE,
            Wang et al. 2024, arXiv 2409.12191); None: one axis, one step a position.
        advance: [axes], how far the token behind the block is turned from the block's first; None as `turns`.
        layers: vectors for deeper layers, each [v, d], by the name of the decoder's argument (DeepStack, Meng et al.
            2024, arXiv 2406.04334). marks: names of arguments that tell where vectors stand.
    """

    vectors: Tensor
    turns: Tensor | None = None
    advance: Tensor | None = None
    layers: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    marks: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        deeper = (one for each in self.layers.values() for one in each)
        return sum(one.nbytes for one in (self.vectors, self.turns, *deeper) if one is not None)


class Given:
    """What a text decoder was called with: `Given.by` runs a model up to there."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.embeddings: Tensor = arguments["inputs_embeds"]
        self.positions: Tensor | None = arguments.get("position_ids")
        self.masks = _masks(arguments.get("attention_mask"))
        self.lists = {
            key: list(value)
            for key, value in arguments.items()
            if isinstance(value, (list, tuple)) and value and all(isinstance(one, Tensor) for one in value)
        }
        self.marks = tuple(
            key
            for key, value in arguments.items()
            if isinstance(value, Tensor) and value.dtype == torch.bool and value.shape == self.embeddings.shape[:2]
        )

    @classmethod
    def by(cls, model: Any, arguments: Mapping[str, Any]) -> Given:
        """What the decoder of a model is given when the model is called with these arguments.

        Raises:
            NoEmbeddingsError: nothing that has embeddings.
        """
        found: list[dict[str, Any]] = []

        def leave(_: Any, __: Any, named: dict[str, Any]) -> None:
            found.append(named)
            raise _LeftError

        handle = model.get_decoder().register_forward_pre_hook(leave, with_kwargs=True)
        try:
            model(**arguments)
        except _LeftError:
            pass
        finally:
            handle.remove()
        if not found or not isinstance(found[0].get("inputs_embeds"), Tensor):
            raise NoEmbeddingsError("a text decoder that is not given embeddings")
        return cls(found[0])


def _masks(given: Any) -> list[Tensor]:
    """Which token sees which, bool [n, n] of the first row: of each mask that says more than what is padding."""
    each = list(given.values()) if isinstance(given, dict) else [given]
    found = [one[0, 0] for one in each if isinstance(one, Tensor) and one.ndim == 4]
    return [one if one.dtype == torch.bool else one == 0 for one in found]


class _LeftError(Exception):
    """The pass has come to the decoder."""


class NoEmbeddingsError(ValueError):
    """A text decoder is given token ids, so pictures are not among its embeddings."""


def row_of(
    block: Sequence[int],
    given: Mapping[str, Any],
    before: Sequence[int],
    behind: Sequence[int],
    answer: int = 0,
) -> dict[str, Any]:
    """What a model is called with for a row of one picture, and token ids around it.

    Args:
        block: ids of the picture's block. given: what `Processor.inputs` gives for the picture.
        answer: how many of the last ids are the model's own answer.
    """
    ids = torch.tensor([*before, *block, *behind])[None]
    found: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}
    for key in ("token_type_ids", "mm_token_type_ids"):
        if (own := given.get(key)) is None:
            continue
        found[key] = torch.zeros(ids.shape, dtype=own.dtype)
        found[key][:, len(before) : len(before) + len(block)] = own
        if answer and key == "token_type_ids" and not bool(own.any()):  # paligemma: prefix 0, answer 1
            found[key][:, ids.shape[1] - answer :] = 1
    if (seen := given.get("cross_attention_mask")) is not None:  # mllama: what stands behind a picture looks at it
        front, rear = seen.new_zeros(1, len(before), *seen.shape[2:]), seen[:, -1:].expand(-1, len(behind), -1, -1)
        found["cross_attention_mask"] = torch.cat([front, seen, rear], dim=1)
    return found


def text_alone(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `row_of` takes in place of what is given for a picture where there is none."""
    types = given.get("token_type_ids")
    prefix = types is not None and not bool(types.any())
    return {"token_type_ids": torch.zeros(1, 0, dtype=types.dtype)} if types is not None and prefix else {}


@contextmanager
def embedding(model: Any, vectors: Tensor, kept: Tensor) -> Any:
    """While this lasts the model's table of embeddings hands out vectors [R, n, d] for rows of n ids.

    Args:
        kept: bool [R, n], where the table's own stay.
    """

    def swap(_: Any, arguments: Any, found: Tensor) -> Tensor:
        return torch.where(kept[..., None], found, vectors.to(found.dtype)) if found.shape == vectors.shape else found

    handle = model.get_input_embeddings().register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


class Vision:
    """What a model makes of pictures, through its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        ids = (one for one in range(5, 1000) if one not in processor.special.values())
        self.filler = next(ids)  # a token that means nothing, where any will do

    def block(self, size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of the block of a picture of so many pixels, and which of them vectors take the places of."""
        ids = self.processor.block_ids(size)
        return ids, tuple(i for i, one in enumerate(ids) if one == self.processor.token_id)

    @torch.no_grad()
    def look(self, picture: Any) -> Look:
        """What is known of a picture (PIL, mode RGB). It is looked at alone: others would change its roundings."""
        block, vectors = self.block(picture.size)
        device = self.model.get_input_embeddings().weight.device
        row = row_of(block, self.processor.inputs(picture), [self.filler], [self.filler])
        given = Given.by(self.model, on(row, device))
        turns, advance = self._turned(given.positions, len(block))
        deeper = {key: tuple(part.clone() for part in parts) for key, parts in given.lists.items()}
        return Look(given.embeddings[0, 1:-1][list(vectors)], turns, advance, deeper, given.marks)

    @staticmethod
    def _turned(positions: Tensor | None, size: int) -> tuple[Tensor | None, Tensor | None]:
        if positions is None:
            return None, None
        by_axis = (positions if positions.ndim == 3 else positions[None])[:, 0]
        by_axis = by_axis - by_axis[:, :1] - 1
        if len(by_axis) == 1 and torch.equal(by_axis[0], torch.arange(-1, size + 1, device=positions.device)):
            return None, None
        return by_axis[:, 1:-1].clone(), by_axis[:, -1].clone()


def on(given: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The same arguments on a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in given.items()}


@dataclass(frozen=True)
class Scene:
    """Where pictures stand in a batch of R rows, T tokens wide.

    Attributes:
        ids: [R, T].
        answers: bool [R, T], tokens of answers.
        blocks: of each block (row, first column, columns, column behind its text's answers, its picture).
        looks: what is known of the blocks' pictures, by these.
        vectors: of each block, where in it vectors stand.
        inputs: what the processor makes of a picture.
        sees: `back`: tokens see what stands before them; `block`: vectors of a picture see each other as well, windows
            or not; `within`: so, as far as windows reach; `prefix`: as `block` all tokens up to the answer, the
            prompt's among them.
    """

    ids: Tensor
    answers: Tensor
    blocks: Sequence[tuple[int, int, int, int, int]]
    looks: Mapping[int, Look]
    vectors: Sequence[Sequence[int]]
    inputs: Callable[[int], Mapping[str, Any]]
    sees: str

    def turned(self, positions: Tensor) -> Tensor | None:
        """By how much tokens at `positions` [R, T] are turned: [axes, R, T]; None: by their positions."""
        axes = next((len(look.turns) for look in self.looks.values() if look.turns is not None), 0)
        if not axes:
            return None
        found = positions.expand(axes, -1, -1).clone()
        for row, first, size, stop, which in self.blocks:
            turns, advance = self.looks[which].turns, self.looks[which].advance
            assert turns is not None
            assert advance is not None
            found[:, row, first : first + size] = positions[row, first] + turns
            found[:, row, first + size : stop] += (advance - size)[:, None]
        return found

    def around(self, positions: Tensor) -> tuple[Tensor | None, Tensor | None, dict[str, Any]]:
        """What `CausalBackbone.run_layers` takes beside for a batch whose tokens are at `positions` [R, T]."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return self.turned(positions), self.both(), self.beside([(row, columns) for row in range(len(self.ids))], 0)

    def both(self) -> Tensor | None:
        """Which tokens see each other both ways: bool [R, T, T]; None: none.

        Of `prefix` all but answers, of rows of one text.
        """
        if self.sees == "prefix":
            return ~self.answers[:, :, None] & ~self.answers[:, None, :]
        if self.sees == "back" or not self.blocks:
            return None
        width = self.ids.shape[1]
        found = torch.zeros(len(self.ids), width, width, dtype=torch.bool, device=self.ids.device)
        for (row, first, *_), inside in zip(self.blocks, self.vectors, strict=True):
            columns = first + torch.tensor(inside, device=found.device)
            found[row, columns[:, None], columns] = True
        return found

    def beside(self, chains: Sequence[tuple[int, Tensor]], m: int) -> dict[str, Any]:
        """Other arguments of the decoder, for sequences of one length behind prompts of m: vectors for deeper layers.

        Args:
            chains: row of the batch, columns.
        """
        found: dict[str, list[list[Tensor]]] = {}
        named: tuple[str, ...] = ()
        marks = torch.zeros(len(chains), m + len(chains[0][1]), dtype=torch.bool, device=self.ids.device)
        for number, (row, columns) in enumerate(chains):
            held = columns.tolist()
            for (at, first, *_, which), inside in sorted(zip(self.blocks, self.vectors, strict=True)):
                if at != row or first not in held:
                    continue
                look, start = self.looks[which], m + held.index(first)
                marks[number, start + torch.tensor(inside, device=marks.device)] = True
                named = look.marks
                for key, parts in look.layers.items():
                    found.setdefault(key, []).append(list(parts))
        deeper = {key: [torch.cat(layer) for layer in zip(*each, strict=True)] for key, each in found.items()}
        return {**dict.fromkeys(named, marks), **deeper}

    def longer(self, ids: Tensor, new: Tensor) -> Scene:
        """The same with tokens of answers more.

        Args:
            ids: [R, wider]. new: bool, as ids, those that are new.
        """
        answers = torch.cat([self.answers, self.answers.new_zeros(len(ids), ids.shape[1] - self.ids.shape[1])], dim=1)
        blocks = [(row, first, size, ids.shape[1], which) for row, first, size, _, which in self.blocks]
        return replace(self, ids=ids, answers=answers | new, blocks=blocks)
