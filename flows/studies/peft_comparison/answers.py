"""Which number a text ends in, and whether it is the right one. Pure.

Source: parse_answer, convert_to_decimal and get_accuracy of
https://github.com/huggingface/peft/blob/main/method_comparison/MetaMathQA/utils.py
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, DecimalException

from infra.errors import InputError

# What an answer follows, in the order in which they are looked for: MetaMathQA's ways to say it, then GSM8K's.
MARKS = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ")
AROUND = " .!?$%"


def said(text: str) -> str | None:
    """What a text gives as its answer: the rest of the line behind the last mark; None without a mark."""
    text = text.strip().rstrip(".!?")
    mark = next((mark for mark in MARKS if mark in text), None)
    if mark is None:
        return None
    return text.rpartition(mark)[2].strip().partition("\n")[0].strip(AROUND)


def value(answer: str) -> float | str:
    """An answer as a number where it is one, or a fraction of two (20/35); else the text itself."""
    try:
        numbers = [Decimal(part.strip()) for part in answer.split("/")]
        if len(numbers) > 2:
            return answer
        return float(numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0])
    except (DecimalException, ValueError, OverflowError):
        return answer


def accuracy(written: Sequence[str], responses: Sequence[str]) -> float:
    """Share (0 to 1) of texts that end in the answer of their response.

    Raises:
        InputError: a response without an answer.
    """
    right = 0
    for text, response in zip(written, responses, strict=True):
        wanted, found = said(response), said(text)
        if wanted is None:
            raise InputError(f"a response names no answer: {response[-80:]!r}. Remedy: rows that end in '#### NUMBER'")
        right += found is not None and value(found) == value(wanted)
    return right / len(written)
