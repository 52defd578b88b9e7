"""How an encoder-decoder is measured: see `self_test`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from dept.backbones.chains import own_forward
from dept.backbones.questions import (
    IDS,
    beside_longer,
    embedded_ids,
    finite,
    random_vectors,
    shakes_of,
    some_ids,
    with_gradients,
)
from dept.backbones.rounding import alike, all_near, near
from dept.backbones.self_test import Test, not_usable
from dept.backbones.ways import Rows, Way

_M, _LENGTHS, _ANSWERS = 5, (24, 9, 24), (1, 4, 3)  # two texts of one length


class EncoderDecoderTest(Test):
    """Of models whose encoder reads prompt and text, and whose decoder writes the answer."""

    def confirms(self, model: Any, way: Way) -> bool:
        """See `Test`: the first ids stand for a prompt, the others for a text beside which a longer one lies."""
        ids, answer = some_ids(model, IDS), some_ids(model, 3)[None]
        with torch.no_grad():
            made = self.make(model, way)
            embedded = made.embed(ids[None])[0]
            texts, real = beside_longer(embedded[3:])
            encoded, mask, _ = made.encode_text(texts, real, embedded[None, :3].expand(2, -1, -1))
            found = made.run_decoder(encoded, mask, answer.expand(2, -1))[0]
            wanted = model(input_ids=ids[None], decoder_input_ids=answer, use_cache=False).logits[0]
            return alike(found, wanted, self.shakes(model, embedded[None]))

    def own(self, model: Any) -> Tensor:
        """See `Test`: of an answer of the first three ids."""
        ids = some_ids(model, IDS)[None]
        with torch.no_grad():
            return finite(model(input_ids=ids, decoder_input_ids=ids[:, :3], use_cache=False).logits[0])

    def of_embeddings(self, model: Any, embeddings: Tensor) -> Tensor:
        """See `Test`."""
        answer = some_ids(model, IDS)[None, :3]
        logits: Tensor = own_forward(model, embeddings, decoder_input_ids=answer).logits[0]
        return logits

    def truth(self, model: Any, about: Any, far: bool) -> Callable[[Any], bool]:
        """See `Test`."""
        ids = some_ids(model, IDS)[None]
        with torch.no_grad():
            shorter = model(input_ids=ids, decoder_input_ids=ids[:, :2], use_cache=False).logits[0]
            shakes = [shake[:2] for shake in self.shakes(model, embedded_ids(model))]
        if not near(shorter, self.own(model)[:2], shakes):
            raise not_usable(self.name, about, "has a decoder whose tokens see what follows them")
        return _Truth(model).agrees

    def ladder(self, model: Any, scale: float, far: bool) -> Iterator[Way]:
        """See `Test`."""
        return (Way(rows, "one", scale) for rows in get_args(Rows))


class _Truth:
    """What an encoder-decoder itself makes of [P; text] and of an answer, and whether a way of computing it agrees."""

    def __init__(self, model: Any) -> None:
        self.prompt, *self.texts = map(random_vectors(model), (_M, *_LENGTHS))
        self.answers = [some_ids(model, n) for n in _ANSWERS]
        parts = [self.prompt, *self.texts]
        self.wanted, self.gradients = self._own(model, parts)
        right = self.wanted, self.gradients
        self.shakes, self.shakes_of_gradients = shakes_of(model, parts, lambda off: self._own(model, off), right)

    def _own(self, model: Any, parts: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The model's own logits of each answer, and the gradients of a number made of them."""
        leaves = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            found = [
                own_forward(model, torch.cat([leaves[0], text])[None], decoder_input_ids=answer[None]).logits[0]
                for text, answer in zip(leaves[1:], self.answers, strict=True)
            ]
            return with_gradients(found, leaves)

    def agrees(self, made: Any) -> bool:
        """Whether logits and gradients of a backbone are the model's own; and whether it can be taught."""
        leaves = [part.detach().requires_grad_() for part in (self.prompt, *self.texts)]
        pad = torch.nn.utils.rnn.pad_sequence
        with torch.enable_grad():
            texts = pad(leaves[1:], batch_first=True)
            lengths = torch.tensor([len(text) for text in self.texts], device=texts.device)
            real = torch.arange(texts.shape[1], device=texts.device)[None] < lengths[:, None]
            encoded, mask, _ = made.encode_text(texts, real, leaves[0].expand(len(texts), -1, -1))
            inputs = pad(self.answers, batch_first=True, padding_value=made.pad_id)
            logits = made.run_decoder(encoded, mask, inputs)
            found, gradients = with_gradients([row[:n] for row, n in zip(logits, _ANSWERS, strict=True)], leaves)
        made.decoder_inputs(inputs)
        alright = all_near(found, self.wanted, self.shakes)
        return alright and all_near(gradients, self.gradients, self.shakes_of_gradients)
