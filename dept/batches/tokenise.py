"""Text -> rows of tokens: the one place where a text that is too long is cut. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict, TypeVar, Unpack

from dept.backbones.chat import in_chat
from dept.backbones.tokens import Block, Cut, Tokens
from dept.batches.unmask import MASK, unmasked
from dept.config import AdapterConfig
from infra.errors import InputError
from tasks.cut import Places, kept
from tasks.pictures import Picture

ANSWER_TOKENS = 32  # room for a free answer, in training and generation alike, where a task does not say


@dataclass(frozen=True)
class Seen:
    """A picture among the tokens of a text.

    Attributes:
        at: index in the row's source of the first id of its block. size: ids of the block; none of them has a row of A.
        vectors: indices in the block where vectors stand in place of embeddings.
        own: the vectors are the backbone's, not those of an adapter's map.
    """

    picture: Picture
    at: int
    size: int
    vectors: tuple[int, ...]
    own: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Row:
    """One text and the label words that may follow it.

    Attributes:
        source: token ids of the text, with the block of its picture.
        candidates: token ids of each candidate answer; training rows hold the right one alone.
        gold: index of the right one, -1 where unknown.
        first: row of A of the first token of the text, and position behind the prompt of the first of source.
        cut: the text was longer than the adapter's s.
        masks: where in `source` an answer's tokens are told; empty: behind it, or by an encoder-decoder's decoder.
        soft: probability of each candidate, of sum 1, that training aims at in place of `gold` alone; empty: none.
        seen: its picture; None: none.
    """

    source: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]
    gold: int
    first: int
    cut: bool = False
    soft: tuple[float, ...] = ()
    seen: Seen | None = field(default=None, repr=False)  # checkpoints know rows by their repr
    masks: tuple[int, ...] = field(default=(), repr=False)

    @property
    def length(self) -> int:
        """Tokens that enter the backbone: the text, and all but the last token of each candidate (causal)."""
        behind = 0 if self.masks else sum(len(candidate) - 1 for candidate in self.candidates)
        return len(self.source) + behind

    def only_gold(self) -> Row:
        """The same row with the right candidate alone, as training wants it."""
        return replace(self, candidates=(self.candidates[self.gold],), gold=0, soft=())


class Reading(TypedDict, total=False):
    """How a text that is too long is read.

    Attributes:
        cut: what a text longer than s loses first: a field of the template (its end), or the `start` or `end` of the
            whole; default the start for causal backbones and encoders, whose question stands at the end, and the end
            for encoder-decoders, as the authors do.
        template: by which the texts were made, where `cut` is one of its fields, or it holds `unmask.MASK`.
        max_length: tokens of a text that are kept at most; default as many as fit into s.
        continues: the prompt holds text that these go on from (`adapters.adapter.CONTINUES`).
        chat: a text is the user's message in the tokenizer's chat template (`dept.backbones.chat`).
    """

    cut: str | None
    template: str | None
    max_length: int | None
    continues: bool
    chat: bool


def encode(
    tokens: Tokens,
    texts: Sequence[str],
    words: Sequence[str],
    labels: Sequence[int] | None,
    config: AdapterConfig,
    pictures: Sequence[Picture | None] = (),
    **reading: Unpack[Reading],
) -> list[Row]:
    """Tokenise texts and label words for an adapter of shape `config`.

    Args:
        tokens: of a loaded backbone (`backbone.tokens`) or a described one (`info.tokens`).
        labels: index of each text's right word; None where unknown.
        pictures: of each text; empty: none has any. They take no part of s, and are never cut.
        reading: see `Reading`.

    Raises:
        InputError: a label word that leaves no room for text within s, two words of the same tokens, a text without a
            token, a token outside the embedding table, or a picture that cannot be read.
    """
    if _mixed(pictures, reading):
        return _apart(
            pictures,
            lambda some: encode(
                tokens, pick(texts, some), words, labels and pick(labels, some), config, pick(pictures, some), **reading
            ),
        )
    tokens = _framed(tokens, config, pictures, reading)
    texts = [text.rstrip(" \t") for text in texts]  # the blank before a word belongs to the word
    known = {after: tokens.encode_words(tuple(words), after) for after in sorted({_after(text) for text in texts})}
    longest = max((len(ids) for found in known.values() for ids in found), default=0)
    masks = longest if tokens.masked and config.answers != "head" else 0
    beside = f"a label word of {longest} tokens"
    made = _rows(tokens, texts, config, masks if tokens.masked else longest, beside, reading)
    gold = [-1] * len(texts) if labels is None else labels
    rows = []
    for text, (ids, first, was_cut, at), right in zip(texts, made, gold, strict=True):
        source, places = tokens.with_masks(list(ids), masks, at)
        rows.append(Row(tuple(source), known[_after(text)], right, first, was_cut, masks=places))
    return _with_pictures(tokens, rows, config, pictures)


def encode_answers(
    tokens: Tokens,
    texts: Sequence[str],
    answers: Sequence[str],
    config: AdapterConfig,
    longest: int = ANSWER_TOKENS,
    pictures: Sequence[Picture | None] = (),
    **reading: Unpack[Reading],
) -> list[Row]:
    """Tokenise texts and the answer that each is trained to be followed by, with the token that ends it.

    Args:
        longest: tokens kept free for an answer, whatever its length, so that generation finds the text where training
            had it; a longer answer is cut.
        tokens, pictures, reading: see `encode`.

    Raises:
        InputError: an s that leaves no room for text beside an answer, a text without a token, or a token outside the
            embedding table.
    """
    if _mixed(pictures, reading):
        return _apart(
            pictures,
            lambda some: encode_answers(
                tokens, pick(texts, some), pick(answers, some), config, longest, pick(pictures, some), **reading
            ),
        )
    tokens = _framed(tokens, config, pictures, reading)
    texts = [text.rstrip(" \t") for text in texts]
    places: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        places.setdefault(_after(text), []).append(index)
    ends: dict[int, list[int]] = {}
    for after, members in places.items():
        ends |= dict(zip(members, tokens.encode_answers([answers[i] for i in members], after), strict=True))
    made = _rows(tokens, texts, config, longest, f"an answer of {longest} tokens", reading)
    rows = [
        Row(ids, (tuple(ends[i][:longest]),), 0, first, was_cut or len(ends[i]) > longest)
        for i, (ids, first, was_cut, _) in enumerate(made)
    ]
    return _with_pictures(tokens, rows, config, pictures)


def encode_open(
    tokens: Tokens,
    texts: Sequence[str],
    config: AdapterConfig,
    longest: int = ANSWER_TOKENS,
    pictures: Sequence[Picture | None] = (),
    **reading: Unpack[Reading],
) -> list[Row]:
    """Tokenise texts whose answer, of at most `longest` tokens, is to be written; see `encode_answers`.

    Raises:
        InputError: see `encode_answers`.
    """
    if _mixed(pictures, reading):
        return _apart(
            pictures,
            lambda some: encode_open(tokens, pick(texts, some), config, longest, pick(pictures, some), **reading),
        )
    tokens = _framed(tokens, config, pictures, reading)
    tokens.check_writes()
    texts = [text.rstrip(" \t") for text in texts]
    made = _rows(tokens, texts, config, longest, f"{longest} new tokens", reading)
    rows = [Row(ids, ((tokens.end_id,),), -1, first, was_cut) for ids, first, was_cut, _ in made]
    return _with_pictures(tokens, rows, config, pictures)


def block_of(tokens: Tokens, config: AdapterConfig, picture: Picture) -> Block:
    """What stands for a picture: placeholders of the adapter's map, else what the backbone has.

    Raises:
        InputError: neither can see it.
    """
    if config.pictures is None:
        return tokens.picture_block(picture)
    places = range(config.pictures.positions)
    return Block(tuple(tokens.pad_id for _ in places), tuple(places))


T = TypeVar("T")


def pick(values: Sequence[T], some: Sequence[int]) -> list[T]:
    """Those at some places."""
    return [values[place] for place in some]


def _framed(tokens: Tokens, config: AdapterConfig, pictures: Sequence[Picture | None], reading: Reading) -> Tokens:
    """What makes ids of texts: in their chat template, which may begin otherwise before the backbone's own pictures."""
    if not reading.get("chat"):
        return tokens
    return in_chat(tokens, config.pictures is None and bool(pictures) and all(pictures))


def _mixed(pictures: Sequence[Picture | None], reading: Reading) -> bool:
    """Whether texts with and without a picture are to be made apart, see `_framed`."""
    return bool(reading.get("chat")) and any(pictures) and not all(pictures)


def _apart(pictures: Sequence[Picture | None], run: Callable[[list[int]], list[Row]]) -> list[Row]:
    """Rows of texts without a picture and of those with one, made apart, in their order."""
    found: dict[int, Row] = {}
    for bare in (True, False):
        some = [place for place, picture in enumerate(pictures) if (picture is None) == bare]
        found |= zip(some, run(some), strict=True)
    return [found[place] for place in range(len(pictures))]


def _with_pictures(
    tokens: Tokens, rows: list[Row], config: AdapterConfig, pictures: Sequence[Picture | None]
) -> list[Row]:
    """Rows with the blocks of their pictures put in: after any cut, so that none is lost."""
    own = config.pictures is None
    return [
        row if picture is None else _with_block(row, block_of(tokens, config, picture), tokens, picture, own)
        for row, picture in zip(rows, pictures or [None] * len(rows), strict=True)
    ]


def _with_block(row: Row, block: Block, tokens: Tokens, picture: Picture, own: bool) -> Row:
    at = tokens.picture_place(row.source, own)
    source = (*row.source[:at], *block.ids, *row.source[at:])
    masks = tuple(mask + len(block.ids) * (mask >= at) for mask in row.masks)
    return replace(row, source=source, masks=masks, seen=Seen(picture, at, len(block.ids), block.vectors, own))


def _rows(
    tokens: Tokens,
    texts: Sequence[str],
    config: AdapterConfig,
    longest: int,
    beside: str,
    reading: Reading,
) -> list[tuple[tuple[int, ...], int, bool, int | None]]:
    """Each text's ids within what is left of s, the row of A of the first, whether it was cut, where its mask stood."""
    room = tokens.room(config.s, longest)
    if room < 1:
        raise InputError(
            f"adapter: s={config.s} leaves no room for text beside {beside}. Remedy: a larger s or shorter answers"
        )
    room = min(room, reading.get("max_length") or room)
    key, template, continues = reading.get("cut"), reading.get("template"), reading.get("continues", False)
    places = None if template is None else Places(template)
    by_field = key is not None and places is not None and key in places.names
    side: Cut = "start" if key == "start" else "end" if key == "end" else tokens.cut

    masked = tokens.masked and template is not None and MASK in template

    def shorten(text: str, ids: list[int]) -> list[int]:
        part = places.of(text).get(key) if by_field and places is not None and key is not None else None
        if part is None:
            return tokens.shorten(ids, room, side)
        return [ids[i] for i in kept(tokens.spans(text, continues), room, part, tokens.cut == "start")]

    made = []
    for index, ids in enumerate(tokens.encode_texts(texts, continues)):
        if not ids:
            raise InputError(f"text {index + 1} of {len(texts)} holds no token: {texts[index]!r}")
        at = None
        if masked and places is not None and (found := unmasked(tokens, texts[index], places, key)) is not None:
            ids, spans, at, part = found
            left = kept(spans, room, part, side == "start")
            at, stay = sum(i < at for i in left), [ids[i] for i in left]
        else:
            stay = shorten(texts[index], ids) if len(ids) > room else ids
        first = tokens.first_row(len(stay), longest, config.s, config.layout)
        made.append((tuple(stay), first, len(ids) > room, at))
    return made


def _after(text: str) -> str:
    """What an answer follows: a line break, or anything else."""
    return "\n" if text.endswith("\n") else ":"
