"""How long a task's texts and answers are beside the room they get, and what is lost of those that are too long."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dept.config import AdapterConfig
from tasks.cut import Places, answer_room, kept
from tasks.formatting import Example
from tasks.spec import Task
from tasks.splits import Splits

MEASURED = 20_000  # rows whose length is counted at most, evenly over the splits
Spans = list[tuple[int, int]]


@dataclass
class Lengths:
    """lines: facts in words. warnings: what a user may want to mend. lost: most rows lose most of their text."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lost: bool = False


@dataclass
class Counting:
    """How tokens are counted: by a backbone's tokenizer, or by words, of which each is at least one token."""

    causal: bool
    spans: Callable[[Sequence[str]], list[Spans]]
    answers: Callable[[Sequence[str]], list[int]]
    by_backbone: bool

    @property
    def unit(self) -> str:
        """What is counted, in words."""
        return "tokens" if self.by_backbone else "words"


def counting(task: Task, backbone: str | None) -> Counting:
    """Counts tokens with a backbone's tokenizer; None: words, as a causal backbone would cut them.

    Raises:
        InputError: a backbone whose tokenizer cannot be loaded.
    """
    if backbone is None:
        return Counting(
            True,
            lambda texts: [_words(t) for t in texts],
            lambda texts: [len(_words(t)) + (not task.scored) for t in texts],
            False,
        )
    from dept.backbones.chat import in_chat
    from dept.backbones.describe import describe

    tokens = describe(backbone).tokens
    tokens = in_chat(tokens) if task.chat else tokens
    words = tokens.encode_words if task.scored else lambda answers: tokens.encode_answers(answers, task.template[-1])
    return Counting(
        tokens.family != "seq2seq",
        lambda texts: [tokens.spans(text) for text in texts],
        lambda answers: list(map(len, words(tuple(answers)))),
        True,
    )


def check_lengths(task: Task, splits: Splits, s: int | None, backbone: str | None) -> Lengths:
    """Hold texts and answers against their room: s less what is kept for the answer, and the task's max_length.

    Args:
        s: of the adapter; None: the usual one.
    """
    found = Lengths()
    count = counting(task, backbone)
    parts = [part for part in splits.parts().values() if part]
    each = max(1, MEASURED // len(parts))
    rows = [row for part in parts for row in part[:each]]  # a split's rows stand in no order
    reserve = _reserve(task, splits, s or AdapterConfig().s, count)
    spans = count.spans([row.text for row in rows])
    sizes = sorted(map(len, spans))
    of = "" if len(rows) == sum(map(len, parts)) else f" (of {len(rows):,} rows looked at)"
    found.lines.append(f"length: {sizes[len(sizes) // 2]} {count.unit} in the median, {sizes[-1]} at most{of}")
    room = _room(task, s, reserve, count, found)
    cut = [(row, span) for row, span in zip(rows, spans, strict=True) if len(span) > room]
    share = f"({100 * len(cut) / len(rows):.1f} %)"
    least = "" if count.by_backbone else "at least "
    found.lines.append(f"longer than {room} tokens: {least}{len(cut):,} rows {share}")
    if cut:
        _losses(task, cut, len(rows), room, count, found)
    if not task.scored:
        _answers(rows, reserve if count.causal else _answer_room(task, splits, s), count, found)
    if not count.by_backbone:
        found.lines.append("each word is at least one token; --backbone NAME counts tokens")
    return found


def _room(task: Task, s: int | None, reserve: int, count: Counting, found: Lengths) -> int:
    usual = " (the usual one; the plan's adapter says)" if s is None else ""
    size = s or AdapterConfig().s
    room = max(1, size - reserve)
    beside = f", of which {reserve} are kept for the answer" if reserve else ""
    found.lines.append(f"room: s = {size}{usual}{beside}: {room} tokens of text")
    if size <= reserve:
        found.warnings.append(
            f"s = {size} leaves no room for text beside an answer of {reserve} tokens; a larger s does"
        )
    if task.max_length is not None and task.max_length < room:
        found.lines.append(f"max_length: {task.max_length} tokens of a text are kept")
        room = task.max_length
    return room


def _reserve(task: Task, splits: Splits, s: int, count: Counting) -> int:
    """Tokens of s that a causal backbone keeps for the answer."""
    if not count.causal:
        return 0
    if task.scored:
        return max(count.answers(task.words))
    return _answer_room(task, splits, s)


def _answer_room(task: Task, splits: Splits, s: int | None) -> int:
    return answer_room(task.answer_length, splits.answer_length, s or AdapterConfig().s)


def _losses(
    task: Task, cut: Sequence[tuple[Example, Spans]], rows: int, room: int, count: Counting, found: Lengths
) -> None:
    places = Places(task.template)
    lost: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    size: Counter[str] = Counter()
    tokens = []
    for row, spans in cut:
        fields = places.of(row.text)
        stay = _stay(task, spans, room, fields, count)
        tokens.append(len(spans) - len(stay))
        away = [span for i, span in enumerate(spans) if i not in stay and span[0] < span[1]]
        for name, (start, end) in fields.items():
            inside = [span for span in spans if start <= span[0] < span[1] <= end]
            missing = [span for span in away if start <= span[0] < span[1] <= end]
            size[name] += len(inside)
            lost[name] += bool(missing)
            gone[name] += bool(inside) and len(missing) == len(inside)
    tokens.sort()
    what = "; ".join(f"of {{{name}}} in {n:,} rows" for name, n in lost.most_common() if n)
    least = "" if count.by_backbone else "at least "
    found.warnings.append(
        f"{len(cut):,} rows will be cut: {least}{tokens[len(tokens) // 2]:,} {count.unit} are lost in the median, "
        f"{tokens[-1]:,} at most ({what or 'of the words around the fields'}); a larger "
        f"{'max_length' if room == task.max_length else 's'} keeps more"
    )
    most = 2 * tokens[len(tokens) // 2] > sum(len(spans) for _, spans in cut) / len(cut)
    found.lost = most and 2 * len(cut) > rows
    longest = max(size, key=size.__getitem__, default=None)  # what is meant to be cut, if anything is
    short = [name for name in task.fields if lost[name] and name != longest]
    if short:
        said = " and ".join(f"{{{name}}} is cut in {lost[name]:,} rows, whole in {gone[name]:,}" for name in short)
        found.warnings.append(f"{said}. Remedy: cut: {longest} in the task cuts that field alone")
    elif task.cut is None:
        side = "beginning" if count.causal else "end"
        other = "end (encoder-decoder)" if count.causal else "beginning (causal)"
        found.lines.append(
            f"cut: no key, so a text loses its {side}, with other backbones its {other}; cut: start, end or a field "
            "says which"
        )


def _stay(task: Task, spans: Spans, room: int, fields: dict[str, tuple[int, int]], count: Counting) -> set[int]:
    """Indices of the tokens that stay, as the batches of training have it."""
    if task.cut in fields or task.cut is None:
        return set(kept(spans, room, fields.get(task.cut or ""), count.causal))
    return set(kept(spans, room, None, task.cut == "start"))


def _answers(rows: Sequence[Example], room: int, count: Counting, found: Lengths) -> None:
    sizes = sorted(count.answers([row.target for row in rows]))
    longer = sum(size > room for size in sizes)
    found.lines.append(
        f"answers: {sizes[len(sizes) // 2]} {count.unit} in the median, {sizes[-1]} at most; {room} tokens are kept"
    )
    if longer:
        least = "" if count.by_backbone else "at least "
        found.warnings.append(
            f"{least}{longer:,} answers ({100 * longer / len(sizes):.1f} %) are longer than {room} tokens: their end "
            f"is neither learned nor written. Remedy: answer_length: {8 * -(-sizes[-1] // 8)} in the task, and an s "
            "that leaves room for text beside it"
        )


def _words(text: str) -> Spans:
    return [match.span() for match in re.finditer(r"\S+", text)]
