"""How an encoder-decoder is measured: see `self_test`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dept.backbones.chains import own_forward
from dept.backbones.self_test import Test, alike, cause, near, not_usable, scales, some_ids
from dept.backbones.ways import Way

_M, _LENGTHS, _ANSWERS = 5, (24, 9, 30), (1, 4, 3)


class EncoderDecoderTest(Test):
    """Of models whose encoder reads prompt and text, and whose decoder writes the answer."""

    def confirms(self, model: Any, way: Way) -> bool:
        """See `Test`: the first ids stand for a prompt, the others for a text beside which a longer one lies."""
        ids, answer = some_ids(model, 9), some_ids(model, 3)[None]
        with torch.no_grad():
            made = self.make(model, way)
            embedded = made.embed(ids[None])[0]
            texts = torch.stack([embedded[3:], embedded[3:]])
            texts = torch.cat([texts, texts[:, :2]], dim=1)
            real = torch.ones(texts.shape[:2], dtype=torch.bool, device=texts.device)
            real[0, 6:] = False
            encoded, mask, _ = made.encode_text(texts, real, embedded[None, :3].expand(2, -1, -1))
            found = made.run_decoder(encoded, mask, answer.expand(2, -1))[0]
            return alike(found, model(input_ids=ids[None], decoder_input_ids=answer, use_cache=False).logits[0])

    def own(self, model: Any) -> Tensor:
        """See `Test`."""
        with torch.no_grad():
            ids = some_ids(model, 9)[None]
            found: Tensor = model(input_ids=ids, decoder_input_ids=ids[:, :3], use_cache=False).logits[0]
        if not found.isfinite().all():
            raise ValueError("logits that are not finite")
        return found

    def _measured(self, model: Any, about: Any, far: bool) -> Way:
        """See `Test`."""
        try:
            scale = self._scale(model, about)
            truth = _Truth(model)
        except Exception as error:  # whatever its code raises at what it is asked
            if getattr(error, "told", False) or type(error).__name__ == "InputError":
                raise
            raise not_usable(self.name, about, f"cannot be run on input embeddings ({cause(error)})") from error
        why = "nothing"
        for rows in ("packed", "equal", "single"):
            way = Way(rows, "one", scale)
            try:
                if truth.agrees(self.make(model, way)):
                    return way
                why = "other numbers than its own"
            except Exception as error:  # a way that its code does not know
                why = cause(error)
        raise not_usable(self.name, about, f"gives {why} on [P; text] in every way that is known here")

    def _scale(self, model: Any, about: Any) -> float:
        """What the encoder multiplies embeddings of ids by where it makes them itself."""
        ids = some_ids(model, 9)[None]
        answer = ids[:, :3]
        with torch.no_grad():
            truth = self.own(model)[None]
            if not near(truth, self.own(model)[None]):
                raise not_usable(self.name, about, "gives other numbers each time it is asked")
            if not near(model(input_ids=ids, decoder_input_ids=answer[:, :2], use_cache=False).logits, truth[:, :2]):
                raise not_usable(self.name, about, "has a decoder whose tokens see what follows them")
            embedded = model.get_input_embeddings()(ids)
            for scale in scales(model.config, embedded.shape[-1]):
                given = embedded * scale if scale != 1 else embedded
                if near(own_forward(model, given, decoder_input_ids=answer).logits, truth):
                    return scale
        raise not_usable(
            self.name, about, "makes more of a token id than an input embedding, which a prompt of vectors has not"
        )


class _Truth:
    """What an encoder-decoder itself makes of [P; text] and of an answer, and whether a way of computing it agrees."""

    def __init__(self, model: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        table = model.get_input_embeddings().weight
        d, spread = table.shape[1], float(table.detach().float().std())
        sizes = (_M, *_LENGTHS)
        made = [torch.randn(n, d, generator=generator).to(table.device, table.dtype) * spread for n in sizes]
        self.prompt, self.texts = made[0], made[1:]
        self.answers = [some_ids(model, n) for n in _ANSWERS]
        leaves = [part.detach().requires_grad_() for part in (self.prompt, *self.texts)]
        with torch.enable_grad():
            found = [
                own_forward(model, torch.cat([leaves[0], text])[None], decoder_input_ids=answer[None]).logits[0]
                for text, answer in zip(leaves[1:], self.answers, strict=True)
            ]
            self.wanted, self.gradients = _with_gradients(found, leaves)

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
            found, gradients = _with_gradients([row[:n] for row, n in zip(logits, _ANSWERS, strict=True)], leaves)
        made.decoder_inputs(inputs)
        return all(map(near, found, self.wanted)) and all(map(near, gradients, self.gradients))


def _with_gradients(found: list[Tensor], leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    total = torch.stack([one.float().log_softmax(-1)[:, 7].sum() for one in found]).sum()
    return [one.detach() for one in found], list(torch.autograd.grad(total, leaves))
