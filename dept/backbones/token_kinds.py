"""Text to token ids and back, one class a kind of backbone. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from dept.backbones.tokens import Cut, Family, Tokens
from infra.errors import InputError


class CausalTokens(Tokens):
    """Of a model that continues a text: the answer stands behind it, so nothing that ends a text may stand between."""

    family = "causal"
    cut = "start"  # the question stands at the end

    @property
    def begin(self) -> list[int]:
        """The special tokens that begin a text."""
        return self.around[0]

    def encode_texts(self, texts: Sequence[str], continues: bool = False) -> list[list[int]]:
        """See `Tokens`: what the tokenizer would put behind a text is left out."""
        begin = [] if continues or not texts else self.begin
        return [[*begin, *ids] for ids in self._ids(texts, False)]

    def encode_answers(self, answers: Sequence[str], after: str = ":") -> list[list[int]]:
        """See `Tokens`."""
        return [[*ids, self.end_id] for ids in self._following(answers, after)]

    def encode_words(self, words: tuple[str, ...], after: str = ":") -> tuple[tuple[int, ...], ...]:
        """See `Tokens`."""
        return self._told_apart(words, [tuple(ids) for ids in self._following(words, after)])

    def room(self, s: int, longest: int) -> int:
        """See `Tokens`: text and answer share the s positions."""
        return s - longest

    def first_row(self, length: int, longest: int, s: int, layout: str) -> int:
        """See `Tokens`. "paper" pads on the left to s, so that text and answer end at row s-1; "adjacent" starts at 0.

        The longest answer counts, so that a text keeps its rows whichever answer follows it.
        """
        return s - length - longest if layout == "paper" else 0

    def shorten(self, ids: list[int], room: int, cut: Cut) -> list[int]:
        """See `Tokens`: what begins a text stays."""
        if len(ids) <= room:
            return ids
        held = len(self.begin) if self.tokenizer is not None and ids[: len(self.begin)] == self.begin else 0
        held = held if held < room else 0
        return ids[:room] if cut == "end" else [*ids[:held], *ids[len(ids) - room + held :]]


class FramedTokens(Tokens):
    """Of a model with an encoder: what the tokenizer puts at both ends of a text stays there."""

    def encode_texts(self, texts: Sequence[str], continues: bool = False) -> list[list[int]]:
        """See `Tokens`."""
        return self._ids(texts, True)

    def first_row(self, length: int, longest: int, s: int, layout: str) -> int:
        """See `Tokens`: padding stands on the right in both layouts."""
        return 0

    def shorten(self, ids: list[int], room: int, cut: Cut) -> list[int]:
        """See `Tokens`: what begins and ends the text stays; where nothing is known to, its last token."""
        if len(ids) <= room:
            return ids
        begin, end = ([], []) if self.tokenizer is None else self.around
        first = len(begin) if ids[: len(begin)] == begin else 0
        last = len(end) if end and ids[-len(end) :] == end else 1
        if first + last >= room:
            first, last = 0, 1
        if cut == "end":
            return [*ids[: room - last], *ids[len(ids) - last :]]
        return [*ids[:first], *ids[len(ids) - room + first :]]


class EncoderDecoderTokens(FramedTokens):
    """Of a model whose decoder writes the answer: the text has the encoder, and its s positions, to itself."""

    family = "seq2seq"
    cut = "end"  # as the authors do

    def encode_answers(self, answers: Sequence[str], after: str = ":") -> list[list[int]]:
        """See `Tokens`."""
        found = self._ids(answers, True)
        return [ids if ids and ids[-1] in self.end_ids else [*ids, self.end_id] for ids in found]

    def encode_words(self, words: tuple[str, ...], after: str = ":") -> tuple[tuple[int, ...], ...]:
        """See `Tokens`."""
        return self._told_apart(words, [tuple(ids) for ids in self._ids(words, True)])

    def room(self, s: int, longest: int) -> int:
        """See `Tokens`."""
        return s


class EncoderTokens(FramedTokens):
    """Of a model that fills in masks: they stand behind the text, before what ends it, and take of its s positions.

    There are as many as the longest label word has tokens; a shorter one is told at the first of them, and what the
    model makes of the others is left out (Schick & Schütze 2021, arXiv 2009.07118, section 3.1).
    """

    family = "encoder"
    cut = "start"  # the question stands at the end
    masked = True

    @property
    def end_id(self) -> int:
        """What ends a text: it tells a word from one that begins with it.

        Raises:
            InputError: the tokenizer puts nothing behind a text.
        """
        if not self.around[1]:
            raise InputError(
                f"backbone {self.name}: its tokenizer puts no token behind a text, which could end a word. Remedy: "
                "words of which none begins another"
            )
        return self.around[1][0]

    @property
    def mask_id(self) -> int | None:
        """The token in whose place a word is told; None: the tokenizer has none."""
        found = getattr(self.tokenizer, "mask_token_id", None)
        return found if isinstance(found, int) else None

    def encode_answers(self, answers: Sequence[str], after: str = ":") -> list[list[int]]:
        """See `Tokens`: an encoder has none."""
        self.check_writes()
        return []

    def encode_words(self, words: tuple[str, ...], after: str = ":") -> tuple[tuple[int, ...], ...]:
        """See `Tokens`."""
        return self._told_apart(words, [tuple(ids) for ids in self._following(words, after)])

    def room(self, s: int, longest: int) -> int:
        """See `Tokens`: text and masks share the s positions."""
        return s - longest

    def with_masks(self, ids: list[int], count: int, at: int | None = None) -> tuple[list[int], tuple[int, ...]]:
        """See `Tokens`.

        Raises:
            InputError: the tokenizer has no mask.
        """
        if not count:
            return ids, ()
        mask, end = self.mask_id, self.around[1]
        if mask is None:
            raise InputError(
                f"backbone {self.name}: its tokenizer has no mask token, so no word can be told. Remedy: answers: head"
            )
        if at is None:
            at = len(ids) - (len(end) if end and ids[-len(end) :] == end else 0)
        return [*ids[:at], *[mask] * count, *ids[at:]], tuple(range(at, at + count))


KINDS: dict[Family, type[Tokens]] = {kind.family: kind for kind in (CausalTokens, EncoderDecoderTokens, EncoderTokens)}
