"""One text a row behind its prompt, unpadded: the slow way, right for whatever a model does to its rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from infra.errors import InputError

Run = Callable[[Tensor], tuple[Tensor, list[Tensor]]]  # rows [K, n, d] -> their last states, and some before
Chain = tuple[int, Tensor]  # row of a batch, columns of a sequence's tokens in order
RunChains = Callable[[Tensor, list[Chain]], tuple[Tensor, list[Tensor]]]  # as Run, with what the rows are


def chains_of(allowed: Tensor, real: Tensor) -> list[tuple[int, Tensor]]:
    """The sequences that a batch of packed rows holds: (row, columns of its tokens in order).

    A token that none but itself looks at ends one; the tokens that it may look at are the sequence.

    Args:
        allowed: bool [R, T, T], which tokens of its row a token sees.
        real: bool [R, T], no padding.
    """
    allowed = allowed & real[:, :, None] & real[:, None, :]
    ends = (allowed.sum(1) == 1) & real
    return [(int(row), allowed[row, column].nonzero()[:, 0]) for row, column in ends.nonzero()]


def own_forward(model: Any, embeddings: Tensor, states: bool = False, **more: Any) -> Any:
    """A model's own forward pass over rows of embeddings [R, n, d], none padded, as anybody would call it.

    Args:
        states: ask for the hidden states of all layers as well.
        more: other arguments, for models that have them.
    """
    known = inspect.signature(model.forward).parameters
    takes_any = any(part.kind is part.VAR_KEYWORD for part in known.values())
    wanted: dict[str, Any] = {
        "attention_mask": torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    }
    wanted |= {"use_cache": False, "return_dict": True, **more}
    options = {
        name: value for name, value in wanted.items() if name in known or (takes_any and "input_ids" not in known)
    }
    if states:
        options["output_hidden_states"] = True
    return model(inputs_embeds=embeddings, **options)


def run_chains(
    run: Run, embeddings: Tensor, front: Tensor, chains: Sequence[tuple[int, Tensor]], together: bool
) -> tuple[Tensor, list[Tensor]]:
    """States [R, T, ...] of a batch of which each sequence is run by itself behind its prompt.

    Of a token that stands in several sequences (a text with several answers) the first one's counts. No pass holds more
    tokens than the batch, or one sequence: a row with many answers is many sequences.

    Args:
        embeddings: [R, T, d]. front: [R, m, d].
        together: sequences of one length share a batch.
    """
    return run_known_chains(lambda rows, _: run(rows), embeddings, front, chains, together)


def run_known_chains(
    run: RunChains, embeddings: Tensor, front: Tensor, chains: Sequence[Chain], together: bool
) -> tuple[Tensor, list[Tensor]]:
    """As `run_chains`, where what is done to a row hangs on which one it is."""
    groups: dict[int, list[tuple[int, Tensor]]] = {}
    for number, (row, columns) in enumerate(chains):
        groups.setdefault(len(columns) if together else -number - 1, []).append((row, columns))
    m, taken = front.shape[1], torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
    rows_of, columns_of, states_of = list[Tensor](), list[Tensor](), list[list[Tensor]]()
    most = embeddings.shape[0] * (m + embeddings.shape[1])
    for group in _of_size(groups.values(), m, most):
        rows = torch.tensor([row for row, _ in group], device=embeddings.device)
        columns = torch.stack([columns for _, columns in group])
        last, states = run(torch.cat([front[rows], embeddings[rows[:, None], columns]], dim=1), group)
        flat = rows[:, None].expand_as(columns).flatten(), columns.flatten()
        new = _first(flat, taken)
        rows_of.append(flat[0][new])
        columns_of.append(flat[1][new])
        states_of.append([state[:, m:].flatten(0, 1)[new] for state in (last, *states)])
    where = torch.cat(rows_of), torch.cat(columns_of)
    found = []
    for each in zip(*states_of, strict=True):
        parts = torch.cat(each)
        empty = parts.new_zeros(*embeddings.shape[:2], *parts.shape[1:])
        found.append(empty.index_put(where, parts))
    return found[0], found[1:]


def _of_size(groups: Iterable[list[tuple[int, Tensor]]], m: int, most: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Groups of sequences of one length in parts of at most `most` tokens, prompts of m counted, or one sequence."""
    for group in groups:
        each = max(1, most // (m + len(group[0][1])))
        yield from (group[at : at + each] for at in range(0, len(group), each))


def _first(flat: tuple[Tensor, Tensor], taken: Tensor) -> Tensor:
    """Which of these places nobody has had yet; they are then taken."""
    new = []
    for index, (row, column) in enumerate(zip(*(part.tolist() for part in flat), strict=True)):
        if not taken[row, column]:
            taken[row, column] = True
            new.append(index)
    return torch.tensor(new, dtype=torch.long, device=taken.device)


def at_depths(states: Sequence[Tensor] | None, depths: Sequence[float]) -> list[Tensor]:
    """Of a model's hidden states (embeddings first, the last layer's last) those at some depths, 0 to 1.

    Raises:
        InputError: depths are asked for, and the model tells no states.
    """
    if depths and not states:
        raise InputError("backbone: the model gives no hidden states of its layers. Remedy: answers: words")
    return [states[round(depth * (len(states) - 1))] for depth in depths] if states else []
