"""The answer's place in a text whose template names it: `{text} It was [MASK].` No torch."""

from __future__ import annotations

from typing import NamedTuple

from dept.backbones.token_kinds import EncoderTokens
from dept.backbones.tokens import Tokens
from tasks.cut import Places

MASK = "[MASK]"  # in a template, for whatever the tokenizer of an encoder has for a mask
Span = tuple[int, int]


class Unmasked(NamedTuple):
    """A text's ids without the template's mask, what characters they stand for, where it stood, what may be lost."""

    ids: list[int]
    spans: list[Span]
    at: int
    part: Span | None


def unmasked(tokens: Tokens, text: str, places: Places, cut: str | None) -> Unmasked | None:
    """A text without the mask that its template has outside its fields; None: a text of another template.

    Args:
        places: of the template. cut: the field that may be lost, if it is one.
    """
    assert isinstance(tokens, EncoderTokens)
    fields = places.of(text)
    starts = (i for i in range(len(text)) if text.startswith(MASK, i))
    start = next((i for i in starts if not any(a <= i < b for a, b in fields.values())), None)
    if start is None:
        return None
    if (mask := tokens.mask_id) is None:
        return None
    own = str(tokens.tokenizer.convert_ids_to_tokens(mask))
    whole, longer = f"{text[:start]}{own}{text[start + len(MASK) :]}", len(own) - len(MASK)
    (ids,), spans = tokens.encode_texts([whole]), tokens.spans(whole)
    at = next((i for i, (a, b) in enumerate(spans) if ids[i] == mask and a <= start < b), None)
    if at is None:  # a tokenizer that knows no places
        at = ids.index(mask)
    part = fields.get(cut or "")
    if part is not None and part[0] > start:
        part = part[0] + longer, part[1] + longer
    return Unmasked([*ids[:at], *ids[at + 1 :]], [*spans[:at], *spans[at + 1 :]], at, part)
