"""How an encoder is measured: see `self_test`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from dept.backbones.chains import own_forward
from dept.backbones.questions import IDS, beside_longer, finite, random_vectors, shakes_of, some_ids, with_gradients
from dept.backbones.rounding import alike, all_near
from dept.backbones.self_test import Test
from dept.backbones.ways import Rows, Way

_M = 5
_FAR, _NEAR = (24, 9, 24), (6, 4, 6)  # two texts of one length


class EncoderTest(Test):
    """Of models that read both ways: logits of a masked-LM head, or, where there is none, last hidden states."""

    def own(self, model: Any) -> Tensor:
        """See `Test`."""
        with torch.no_grad():
            return finite(_told(model(input_ids=some_ids(model, IDS)[None])))

    def of_embeddings(self, model: Any, embeddings: Tensor) -> Tensor:
        """See `Test`."""
        return _told(own_forward(model, embeddings))

    def truth(self, model: Any, about: Any, far: bool) -> Callable[[Any], bool]:
        """See `Test`."""
        return _Truth(model, _FAR if far else _NEAR).agrees

    def ladder(self, model: Any, scale: float, far: bool) -> Iterator[Way]:
        """See `Test`."""
        wholes = (False, True) if model.get_output_embeddings() is not None else (False,)
        return (Way(rows, "one", scale, whole) for rows in get_args(Rows) for whole in wholes)

    def confirms(self, model: Any, way: Way) -> bool:
        """See `Test`: the first ids stand for a prompt, the others for a text beside which a longer one lies."""
        ids = some_ids(model, IDS)
        with torch.no_grad():
            made = self.make(model, way)
            embedded = made.embed(ids[None])[0]
            texts, real = beside_longer(embedded[3:])
            found, _ = made.encode_text(texts, real, embedded[None, :3].expand(2, -1, -1))
            shakes = [shake[3:] for shake in self.shakes(model, embedded[None])]
            return alike(made.head(found[0, : IDS - 3]), _told(model(input_ids=ids[None]))[3:], shakes)


def _told(found: Any) -> Tensor:
    """What a model gives for its one row: [n, vocab], or [n, width] without a masked-LM head."""
    told: Tensor = found.logits if "logits" in found else found.last_hidden_state
    return told[0]


class _Truth:
    """What an encoder itself makes of [P; text], and whether a way of computing it agrees."""

    def __init__(self, model: Any, lengths: Sequence[int]) -> None:
        self.parts = list(map(random_vectors(model), (_M, *lengths)))

        def own(parts: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            return self._of(lambda prompt, texts: [_own(model, prompt, text) for text in texts], parts)

        self.wanted, self.gradients = right = own(self.parts)
        self.shakes, self.shakes_of_gradients = shakes_of(model, self.parts, own, right)

    def _of(
        self, run: Callable[[Tensor, list[Tensor]], list[Tensor]], parts: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What is told of the texts, and the gradients of a number made of it; parts: the prompt, then these."""
        leaves = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            return with_gradients(run(leaves[0], leaves[1:]), leaves)

    def agrees(self, made: Any) -> bool:
        """Whether logits and gradients of a backbone are the model's own."""

        def ours(prompt: Tensor, texts: list[Tensor]) -> list[Tensor]:
            lengths = torch.tensor([len(text) for text in texts], device=prompt.device)
            longest = int(lengths.max())  # padding is no zeros: what leaks from it is to be seen
            padded = torch.stack([torch.cat([text, text[:1].expand(longest - len(text), -1)]) for text in texts])
            real = torch.arange(padded.shape[1], device=padded.device)[None] < lengths[:, None]
            found, _ = made.encode_text(padded, real, prompt.expand(len(texts), -1, -1))
            return [made.head(row[:n]) for row, n in zip(found, lengths.tolist(), strict=True)]

        found, gradients = self._of(ours, self.parts)
        return all_near(found, self.wanted, self.shakes) and all_near(
            gradients, self.gradients, self.shakes_of_gradients
        )


def _own(model: Any, prompt: Tensor, text: Tensor) -> Tensor:
    return _told(own_forward(model, torch.cat([prompt, text])[None]))[len(prompt) :]
