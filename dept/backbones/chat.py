"""Texts as chat models read them: a user's words in the tokenizer's own template, answered by the assistant. No torch.

https://huggingface.co/docs/transformers/chat_templating. What stands around a text is found by asking the template, and
is part of the text: it gets rows of A as all tokens do, and stays where a text is cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dept.backbones.token_kinds import CausalTokens
from dept.backbones.tokens import Cut, Tokens
from infra.errors import InputError

_ASKED = ("first question", "second question")
_SAID = "an answer"
_PROBES = ("Q", "7", "the", "good", "A", "é", "(", "...")  # texts that begin and end differently


@dataclass(frozen=True)
class Frame:
    """What a template puts around words.

    Attributes:
        head: before what the user says first. tail: behind it, to where the assistant begins.
        header: behind `tail`, before a last answer, where the template asks for one without it: the empty thought of
            qwen3, or all of the header where it knows no `add_generation_prompt`.
        answered: between what the user said and what the assistant answered, in a conversation that goes on.
        joint: between an answer and what the user says then.
        blank: white space before the assistant's first word. end: behind the last.
    """

    head: str
    tail: str
    header: str
    answered: str
    joint: str
    blank: str
    end: str


@lru_cache(maxsize=4)
def in_chat(tokens: Tokens, seen: bool = False) -> ChatTokens:
    """The same tokens in the chat template of the tokenizer.

    Args:
        seen: a picture that the backbone reads itself stands before each text; some templates begin otherwise then.

    Raises:
        InputError: a backbone that continues no text, or whose tokenizer has no template that can be used.
    """
    if not isinstance(tokens, CausalTokens):
        raise InputError(f"chat: backbone {tokens.name} continues no text. Remedy: a causal chat model, or no chat")
    return ChatTokens(tokens, tokens.processor.head if seen and tokens.processor is not None else None)


def template_sha256(tokens: ChatTokens) -> str:
    """sha256 (hex) of a tokenizer's chat template, and of what is read of it behind what it asks for."""
    template = json.dumps(tokens.tokenizer.chat_template, sort_keys=True)
    return hashlib.sha256(f"{template}{tokens.frame.header}".encode()).hexdigest()


class ChatTokens(CausalTokens):
    """Of a causal model in its chat template: texts are a user's words, answers stand behind the assistant's header.

    Args:
        before: what stands before a picture that begins the user's message, where not what stands before words.

    Raises:
        InputError: see `in_chat`.
    """

    def __init__(self, plain: CausalTokens, before: str | None = None) -> None:
        self.before = before
        super().__init__(plain.tokenizer, plain.name, plain.vocab, [plain.pad_id], [list(plain.end_ids)])
        if not getattr(plain.tokenizer, "chat_template", None):
            raise InputError(
                f"chat: the tokenizer of backbone {plain.name} has no chat template. Remedy: a chat model, or no chat"
            )
        self.eyes = plain.eyes
        self._parts = False  # a message is a text; templates of models that read pictures may want a list of parts
        try:
            self.frame = self._frame()
        except InputError as error:  # says what is wrong with texts
            self._parts = True
            try:
                self.frame = self._frame()
            except InputError:
                raise error from None
        if (end := self._turn_end()) is not None:  # what the model was taught to end its turns with
            self.end_ids = tuple(dict.fromkeys((end, *self.end_ids)))
        self._around = [self._fixed(continues) for continues in (False, True)]

    def encode_texts(self, texts: Sequence[str], continues: bool = False) -> list[list[int]]:
        """See `Tokens`: each as the user's message, to where the assistant begins to answer."""
        return self._ids(self._told(texts, continues), False)

    def conversation(self, shots: Sequence[tuple[str, str]], s: int, room: float) -> list[int]:
        """Token ids of solved examples as turns of user and assistant, to the end of the last answer.

        Examples that do not fit are left out, the first ones first; a text of more than s tokens is cut.

        Args:
            shots: (text, answer) in their order.
            room: tokens that there may be.
        """
        answers = self._following([answer for _, answer in shots])
        found: list[int] = []
        later: list[int] = []  # the same, where another stands before them
        for (text, _), answer in zip(reversed(shots), reversed(answers), strict=True):
            first, again = (
                [*self.shorten(self._ids([self._asked(text, continues)], False)[0], s, self.cut), *answer]
                for continues in (False, True)
            )
            if len(first) + len(later) > room:
                break
            found, later = [*first, *later], [*again, *later]
        return found

    def shorten(self, ids: list[int], room: int, cut: Cut) -> list[int]:
        """See `Tokens`: the template stays.

        Raises:
            InputError: it leaves no room for a text.
        """
        if len(ids) <= room:
            return ids
        head, tail = max(((_alike(ids, one), _alike(ids[::-1], two[::-1])) for one, two in self._around), key=sum)
        if head + tail >= room:
            raise InputError(
                f"chat: the template of backbone {self.name} takes {head + tail} tokens of the {room} that a text may "
                "have. Remedy: a larger s (or max_length)"
            )
        stay, words = room - head - tail, ids[head : len(ids) - tail]
        return [*ids[:head], *(words[:stay] if cut == "end" else words[-stay:]), *ids[len(ids) - tail :]]

    def picture_place(self, ids: Sequence[int], own: bool = False) -> int:
        """See `Tokens`: before the user's words."""
        heads = [len(head) for head, _ in self._around if list(ids[: len(head)]) == head]
        return max(heads, default=0)

    def spans(self, text: str, continues: bool = False) -> list[tuple[int, int]]:
        """See `Tokens`: those of the template stand for no characters."""
        (told,) = self._told([text], continues)
        ids = self._ids([told], False)[0]
        said = self._said([text])[0]
        start, shift = len(self._head(continues)), text.find(said)
        try:
            made = self.tokenizer([told], add_special_tokens=False, verbose=False, return_offsets_mapping=True)
            places = [(int(a) - start, int(b) - start) for a, b in made["offset_mapping"][0]]
        except (NotImplementedError, TypeError):  # a tokenizer without places
            places = [
                (i * len(told) // len(ids) - start, (i + 1) * len(told) // len(ids) - start) for i in range(len(ids))
            ]
        inside = [(max(0, a), min(b, len(said))) for a, b in places]
        return [(a + shift, b + shift) if a < b else (0, 0) for a, b in inside]

    def _following(self, answers: Sequence[str], after: str = ":") -> list[list[int]]:
        """See `CausalTokens`: behind the assistant's header, whatever the text ends in."""
        if not answers:
            return []
        begin, blank = self._tail, self.frame.blank
        before = self._ids([begin], False)[0] if begin else []
        whole = self._ids([f"{begin}{blank}{answer}" for answer in answers], False)
        alone = self._ids([f"{blank}{answer}" for answer in answers], False)
        return [
            ids[len(before) :] if ids[: len(before)] == before else other
            for ids, other in zip(whole, alone, strict=True)
        ]

    def _told(self, texts: Sequence[str], continues: bool) -> list[str]:
        head = self._head(continues)
        return [f"{head}{said}{self._tail}" for said in self._said(texts)]

    def _asked(self, text: str, continues: bool) -> str:
        """A question that has been answered."""
        behind = self.frame.answered  # some templates leave out the header of answers that others follow
        for start in (self.frame.tail, self._tail):  # without the blank, where there is one: the answer has it
            behind = start if self.frame.answered.startswith(start) else behind
        return f"{self._head(continues)}{self._said([text])[0]}{behind}"

    @property
    def _tail(self) -> str:
        """Behind what the user says last, to where the answer begins."""
        return self.frame.tail + self.frame.header

    def _head(self, continues: bool) -> str:
        return self.frame.joint if continues else self.before or self.frame.head

    def _said(self, texts: Sequence[str]) -> list[str]:
        """Texts as the template writes a user's words: many take the blanks off their ends."""
        head, tail = self.frame.head, self.frame.tail
        whole = [self._render([text], True) for text in texts]
        if any(not one.startswith(head) or not one.endswith(tail) for one in whole):
            raise self._unusable("writes different messages differently")
        return [one[len(head) : len(one) - len(tail)] for one in whole]

    def _frame(self) -> Frame:
        first, second = _ASKED
        try:
            head, tail = self._render([first], True).split(first)
            done = self._render([first, _SAID], False)
            _, said = done.split(first)
            answered, end = said.split(_SAID)
            _, rest = self._render([first, _SAID, second], True).split(first)
            later, joined = rest.split(_SAID)
            joint, _ = joined.split(second)
        except ValueError as error:  # it leaves out what was said, or says it twice
            raise self._unusable("does not write each message once") from error
        between = answered[len(tail) :] if answered.startswith(tail) else ""
        header = between.rstrip(" ") if between.strip() else ""
        return Frame(head, tail, header, later, joint, between[len(header) :], end)

    def _render(self, said: Sequence[str], asks: bool) -> str:
        """A conversation, the user's words first; asks: the assistant is about to answer."""
        roles = ("user", "assistant")
        turns = [
            {"role": roles[i % 2], "content": [{"type": "text", "text": words}] if self._parts else words}
            for i, words in enumerate(said)
        ]
        try:
            found: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
        except Exception as error:  # jinja's own kinds, and ValueError of a template with a name
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise self._unusable(f"cannot be used ({reason})") from error
        return found

    def _unusable(self, why: str) -> InputError:
        return InputError(
            f"chat: the chat template of backbone {self.name} {why}. Remedy: another backbone, or no chat"
        )

    def _turn_end(self) -> int | None:
        """The special token that the template ends an answer with; None: another, or none."""
        end = self.frame.end.lstrip(" ")
        ids = self._ids([end], False)[0] if end else []
        token = self.tokenizer.convert_ids_to_tokens(ids[0]) if ids else None
        special = token and end.startswith(token) and token[0] + token[-1] in ("<>", "[]") and len(token) > 2
        return ids[0] if special else None

    def _fixed(self, continues: bool) -> tuple[list[int], list[int]]:
        """Token ids in front of, and behind, whatever the user says."""
        made = self._ids([f"{self._head(continues)}{text}{self._tail}" for text in _PROBES], False)
        head = min(_alike(made[0], one) for one in made[1:])
        tail = min(_alike(made[0][head:][::-1], one[head:][::-1]) for one in made[1:])
        return made[0][:head], made[0][len(made[0]) - tail :]


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many of the first are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
