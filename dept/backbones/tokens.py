"""Text to token ids and back, as a kind of backbone reads and writes them. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

from infra.errors import InputError
from tasks.picture_reader import not_taken, upright_size
from tasks.pictures import HeldPicture, Picture, payload_of

Family = Literal["causal", "seq2seq", "encoder"]
Cut = Literal["start", "end"]


class Block(NamedTuple):
    """What stands for a picture among the tokens of a text.

    ids: placeholders, and what a model writes around them. vectors: indices of the placeholders in it, ascending, which
    vectors take the places of.
    """

    ids: tuple[int, ...]
    vectors: tuple[int, ...]


class Tokens(ABC):
    """What is to be known of a backbone to turn texts into rows of tokens.

    Args:
        tokenizer: of transformers or `plain_tokenizer.PlainTokenizer`; None where only token ids are used.
        name: of the backbone, for messages.
        vocab: ids that texts may have, 0 to vocab - 1: rows of the embedding table, without those that stand for none.
        pads: ids that may pad, the best first; one outside the table is left out.
        ends: ids that end a text, the one to be learned first; each a number, a list of such or None.

    Attributes:
        family: kind of backbone.
        cut: the side of a text that is too long which is cut off, where a task does not say.
        masked: a label word is told at masks within the text, not behind it.
        eyes: gives the processor of a backbone that reads pictures itself; None: it reads none.
    """

    family: ClassVar[Family]
    cut: ClassVar[Cut]
    masked: ClassVar[bool] = False

    def __init__(self, tokenizer: Any, name: str, vocab: int, pads: Sequence[Any], ends: Sequence[Any]) -> None:
        self.tokenizer, self.name, self.vocab = tokenizer, name, vocab
        self.eyes: Callable[[], Any] | None = None
        self.pad_id = next((pad for pad in pads if self._held(pad)), 0)  # any id does: padding is masked
        flat = [end for found in ends for end in (found if isinstance(found, (list, tuple)) else [found])]
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys(end for end in flat if self._held(end)))

    def _held(self, value: Any) -> bool:
        return isinstance(value, int) and 0 <= value < self.vocab

    @property
    def end_id(self) -> int:
        """The token that ends an answer.

        Raises:
            InputError: neither the tokenizer nor the model's configuration names one.
        """
        if not self.end_ids:
            raise InputError(
                f"backbone {self.name}: it has no end-of-sequence token, so it cannot stop generating. Remedy: set "
                "eos_token in tokenizer_config.json or eos_token_id in config.json, inside the embedding table"
            )
        return self.end_ids[0]

    @abstractmethod
    def encode_texts(self, texts: Sequence[str], continues: bool = False) -> list[list[int]]:
        """Token ids of texts, with the special tokens that belong there.

        Args:
            continues: what the prompt holds is text that these go on from, so nothing begins anew.

        Raises:
            InputError: a token outside the embedding table.
        """

    @abstractmethod
    def encode_answers(self, answers: Sequence[str], after: str = ":") -> list[list[int]]:
        """Token ids of free answers as they follow a text that ends in `after`, with the token that ends them."""

    @abstractmethod
    def encode_words(self, words: tuple[str, ...], after: str = ":") -> tuple[tuple[int, ...], ...]:
        """Token ids of label words as they follow a text that ends in `after`; ended where one word begins another.

        Raises:
            InputError: two words of the same tokens.
        """

    @abstractmethod
    def room(self, s: int, longest: int) -> int:
        """Tokens of a text that fit into s beside an answer of at most `longest` tokens."""

    @abstractmethod
    def first_row(self, length: int, longest: int, s: int, layout: str) -> int:
        """Row of A of the first of `length` tokens of a text that an answer of at most `longest` follows."""

    @abstractmethod
    def shorten(self, ids: list[int], room: int, cut: Cut) -> list[int]:
        """At most `room` of a text's ids, those at the side `cut` left out; what marks its ends stays."""

    def picture_block(self, picture: Picture) -> Block:
        """What stands for a picture, where the backbone reads pictures itself.

        Raises:
            InputError: it reads none; or the picture is gone or no picture.
        """
        if self.processor is not None:
            # What is kept by picture would keep the bytes of one that lies in no file.
            made = _block_of.__wrapped__ if isinstance(picture, HeldPicture) else _block_of
            return made(self.processor, picture)
        raise InputError(
            f"backbone {self.name}: it reads no pictures. Remedy: adapter.pictures, a trained map of them, or picture: "
            "hidden in the task, which leaves the text alone"
        )

    def picture_place(self, ids: Sequence[int], own: bool = False) -> int:
        """Where a picture stands among the ids of a text: behind the special tokens that begin it.

        Args:
            own: the backbone reads it itself, and may have it in front of these.
        """
        begin = [] if self.tokenizer is None else self.around[0]
        there = list(ids[: len(begin)]) == begin
        if there and begin and own and self.processor is not None:
            return int(self.processor.place(tuple(begin)))
        return len(begin) if there else 0

    @cached_property
    def processor(self) -> Any:
        """What makes blocks of pictures (`processor.Processor`); None where the backbone reads none itself.

        Raises:
            InputError: it cannot be loaded.
        """
        return None if self.eyes is None else self.eyes()

    def with_masks(self, ids: list[int], count: int, at: int | None = None) -> tuple[list[int], tuple[int, ...]]:
        """A text's ids with as many masks in the answer's place, and where these stand; see `masked`.

        Args:
            at: where that is; default behind the text, before what ends it.
        """
        return ids, ()

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts in front of a text, and behind it."""
        whole, bare = self._ids(["x"], True)[0], self._ids(["x"], False)[0]
        places = range(len(whole) - len(bare) + 1) if bare else range(0)
        at = next((i for i in places if whole[i : i + len(bare)] == bare), None)
        return ([], []) if at is None else (whole[:at], whole[at + len(bare) :])

    def spans(self, text: str, continues: bool = False) -> list[tuple[int, int]]:
        """Characters (start, end) that each id of `encode_texts([text], continues)` stands for; equal where for none.

        A tokenizer that knows no places is taken to have ids of even length.
        """
        ids = self.encode_texts([text], continues)[0]
        for special in (True, False):
            try:
                made = self.tokenizer([text], add_special_tokens=special, verbose=False, return_offsets_mapping=True)
            except (NotImplementedError, TypeError):  # a tokenizer without places, or one that takes no such wish
                break
            found, places = list(made["input_ids"][0]), made["offset_mapping"][0]
            before = len(ids) - len(found)
            if before >= 0 and ids[before:] == found:
                return [(0, 0)] * before + [(int(a), int(b)) for a, b in places]
        return [(i * len(text) // len(ids), (i + 1) * len(text) // len(ids)) for i in range(len(ids))]

    def checked(self, found: list[list[int]]) -> list[list[int]]:
        """The same ids.

        Raises:
            InputError: one of them lies outside the embedding table.
        """
        for ids in found:
            if ids and (max(ids) >= self.vocab or min(ids) < 0):
                bad = next(i for i in ids if not 0 <= i < self.vocab)
                raise InputError(
                    f"backbone {self.name}: token {self.tokenizer.convert_ids_to_tokens(bad)!r} has id {bad}, but the "
                    f"model knows {self.vocab} tokens. Remedy: take it out of the text, or resize the model's "
                    "embeddings to its tokenizer and save both"
                )
        return found

    def check_writes(self) -> None:
        """Refuse a backbone that writes no free answers.

        Raises:
            InputError: so it is.
        """
        if self.masked:
            raise InputError(
                f"backbone {self.name} is an encoder, which writes no answers. Remedy: a causal or encoder-decoder "
                "model, or a task of labels or numbers"
            )

    def check(self) -> None:
        """Refuse a tokenizer whose every text holds a token that the model does not know."""
        if self.tokenizer is not None:
            self.encode_texts(["x"])

    def _ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        found: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
        return self.checked(found)

    def _following(self, answers: Sequence[str], after: str) -> list[list[int]]:
        """Ids of answers in their place; a tokenizer that joins them to what stands before gives them alone."""
        if not answers:
            return []
        blank = "" if after.endswith("\n") else " "
        before = self._ids([f"x{after}"], False)[0]
        whole = self._ids([f"x{after}{blank}{answer}" for answer in answers], False)
        alone = self._ids([f"{blank}{answer}" for answer in answers], False)
        return [
            ids[len(before) :] if ids[: len(before)] == before else other
            for ids, other in zip(whole, alone, strict=True)
        ]

    def _told_apart(self, words: tuple[str, ...], found: list[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        if any(a != b and b[: len(a)] == a for a in found for b in found):
            found = [ids if ids[-1:] == (self.end_id,) else (*ids, self.end_id) for ids in found]
        if len(set(found)) < len(found) or not all(found):
            raise InputError(f"verbalizer: words {list(words)} are not told apart by the tokenizer of {self.name}")
        return tuple(found)


@lru_cache(1 << 16)  # a picture is asked about by many rows, and its bytes are hashed each time
def _block_of(processor: Any, picture: Picture) -> Block:
    size = upright_size(payload_of(picture), picture.path)
    try:
        ids = processor.block_ids(size)
    except ValueError as error:  # as processors say that they do not take a size
        raise not_taken(picture.path, error) from error
    except Exception as error:  # code of another library, which cannot be run here
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise InputError(
            f"{picture.path}: the backbone's processor cannot be run ({reason}). Remedy: adapter.pictures, a map of "
            "pictures, or another backbone"
        ) from error
    return Block(ids, tuple(i for i, one in enumerate(ids) if one == processor.token_id))
