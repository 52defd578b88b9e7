"""What a model is asked in a self-test, and what is made of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dept.backbones.rounding import DRAWS, is_short, shaken

IDS = 9  # token ids that a model is asked about
Answered = tuple[list[Tensor], list[Tensor]]  # logits of some rows, and gradients


def some_ids(model: Any, count: int) -> Tensor:
    """Some token ids, none of which pads."""
    table = model.get_input_embeddings().weight
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    return torch.tensor([i for i in range(4, 4 + count + 1) if i != pad][:count], device=table.device)


def embedded_ids(model: Any) -> Tensor:
    """What the table of embeddings holds for `some_ids`, [1, IDS, d]."""
    found: Tensor = model.get_input_embeddings()(some_ids(model, IDS)[None])
    return found


def of_some_ids(model: Any) -> Callable[[int], Tensor]:
    """Gives so many embeddings [n, d] of token ids at each call, others each time, the same for every model."""
    generator, some = torch.Generator().manual_seed(1), some_ids(model, 30)

    def vectors(n: int) -> Tensor:
        found: Tensor = model.get_input_embeddings()(some[torch.randint(len(some), (n,), generator=generator)])
        return found.detach()

    return vectors


def random_vectors(model: Any) -> Callable[[int], Tensor]:
    """As `of_some_ids`, of random vectors about as large as embeddings."""
    generator, table = torch.Generator().manual_seed(1), model.get_input_embeddings().weight
    spread = float(table.detach().float().std())

    def vectors(n: int) -> Tensor:
        return (torch.randn(n, table.shape[1], generator=generator) * spread).to(table.device, table.dtype)

    return vectors


def beside_longer(text: Tensor) -> tuple[Tensor, Tensor]:
    """A text [n, d] and a longer one: [2, n + 2, d], and bool [2, n + 2], which of it is text."""
    longer = torch.cat([text, text[:2]])
    real = torch.ones(2, len(longer), dtype=torch.bool, device=text.device)
    real[0, len(text) :] = False
    return torch.stack([longer, longer]), real


def finite(logits: Tensor) -> Tensor:
    """The logits, which are finite.

    Raises:
        ValueError: they are not.
    """
    if not logits.isfinite().all():
        raise ValueError("logits that are not finite")
    return logits


def with_gradients(found: Sequence[Tensor], leaves: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Logits [n, vocab] of some rows, detached, and the gradients of a number made of them."""
    total = torch.stack([one.float().log_softmax(-1)[:, 7].sum() for one in found]).sum()
    return [one.detach() for one in found], list(torch.autograd.grad(total, leaves))


def shakes_of(
    model: Any, parts: Sequence[Tensor], own: Callable[[Sequence[Tensor]], Answered], right: Answered
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Of a model of a short type by how much logits, and gradients, differ for shaken embeddings; see `rounding`.

    Args:
        own: what the model itself makes of embeddings; `right`: of these, `parts`.
    """
    draws = range(DRAWS) if is_short(model) else ()
    found = [own([shaken(part, 100 * draw + i) for i, part in enumerate(parts)]) for draw in draws]
    logits, gradients = (
        [[a - b for a, b in zip(one[kind], right[kind], strict=True)] for one in found] for kind in (0, 1)
    )
    return logits, gradients
