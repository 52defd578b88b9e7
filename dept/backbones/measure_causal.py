"""How a model that continues a text is measured: see `self_test`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from dept.backbones.chains import own_forward
from dept.backbones.masks import behind_prompt, see_prompt
from dept.backbones.self_test import Test, alike, cause, near, not_usable, scales, some_ids
from dept.backbones.ways import Masks, Way
from infra.errors import InputError

_M = 5
FORWARD = "lets tokens see what follows them, so it continues no text"


class CausalTest(Test):
    """Of models that continue a text."""

    def confirms(self, model: Any, way: Way) -> bool:
        """See `Test`: the first ids stand for a prompt, the others for a text beside which another lies."""
        ids = some_ids(model, 9)
        with torch.no_grad():
            made = self.make(model, way)
            embedded = made.embed(ids[None])[0]
            front, texts = embedded[None, :3], [embedded[3:], embedded[5:8]]
            found = _runs(made, front, texts)[0]
            return alike(made.head(found), model(input_ids=ids[None]).logits[0, 3:])

    def own(self, model: Any) -> Tensor:
        """See `Test`."""
        with torch.no_grad():
            found: Tensor = model(input_ids=some_ids(model, 9)[None]).logits[0]
        if not found.isfinite().all():
            raise ValueError("logits that are not finite")
        return found

    def _measured(self, model: Any, about: Any, far: bool) -> Way:
        """See `Test`."""
        try:
            scale = self._scale(model)
            self._check_causal(model)
            truth = Truth(model, far)
        except InputError:
            raise
        except Exception as error:  # whatever its code raises at what it is asked
            raise not_usable(self.name, about, f"cannot be run on input embeddings ({cause(error)})") from error
        if not truth.looks_back:
            raise not_usable(self.name, about, FORWARD)
        why = "nothing"
        for way in self._ladder(model, scale, far):
            try:
                if truth.agrees(self.make(model, way)):
                    return way
                why = "other numbers than its own"
            except Exception as error:  # a way that its code does not know
                why = cause(error)
        raise not_usable(self.name, about, f"gives {why} on [P; text] in every way that is known here")

    def _ladder(self, model: Any, scale: float, far: bool) -> Iterator[Way]:
        kinds = getattr(model.config.get_text_config(), "layer_types", None)
        masks: list[Masks] = ["one", "window", *cast(list[Masks], ["types"] if kinds else [])]
        if far:
            yield from (Way("packed", one, scale) for one in masks)
        for whole in (False, True):
            yield from (Way(rows, "one", scale, whole) for rows in ("equal", "single"))

    def _scale(self, model: Any) -> float:
        """What the model multiplies embeddings of ids by where it makes them itself."""
        ids, config = some_ids(model, 9)[None], model.config.get_text_config()
        with torch.no_grad():
            truth = model(input_ids=ids).logits
            if not torch.equal(truth, model(input_ids=ids).logits) and not near(truth, model(input_ids=ids).logits):
                raise not_usable(self.name, model, "gives other numbers each time it is asked")
            embedded = model.get_input_embeddings()(ids)
            for scale in scales(config, embedded.shape[-1]):
                if near(own_forward(model, embedded * scale if scale != 1 else embedded).logits, truth):
                    return scale
        raise not_usable(
            self.name,
            model,
            "makes more of a token id than an input embedding (per-layer or hashed embeddings), "
            "which a prompt of vectors has not",
        )

    def _check_causal(self, model: Any) -> None:
        ids = some_ids(model, 9)[None]
        with torch.no_grad():
            if not near(model(input_ids=ids[:, :6]).logits, model(input_ids=ids).logits[:, :6]):
                raise not_usable(self.name, model, FORWARD)


class Truth:
    """What a causal model itself makes of [P; text], and whether a way of computing it agrees.

    Two answers behind one text and two texts more; packed they are longer than a sibling has positions.
    """

    def __init__(self, model: Any, far: bool) -> None:
        generator = torch.Generator().manual_seed(1)
        table = model.get_input_embeddings().weight
        d, spread = table.shape[1], float(table.detach().float().std())

        def vectors(n: int) -> Tensor:
            return (torch.randn(n, d, generator=generator) * spread).to(table.device, table.dtype)

        lengths = (24, 2, 3, 21, 30) if far else (6, 2, 3, 4, 5)
        self.prompt = vectors(_M)
        text, first, second, third, fourth = (vectors(n) for n in lengths)
        self.shared = len(text)
        self.sequences = [torch.cat([text, first]), torch.cat([text, second]), third, fourth]
        self.wanted, self.gradients = self._of(
            lambda prompt, texts: [own_forward(model, torch.cat([prompt, one])[None]).logits[0, _M:] for one in texts]
        )
        self.model = model

    @property
    def looks_back(self) -> bool:
        """Whether a text is read alike whatever follows it."""
        first, second = self.wanted[:2]
        return near(first[: self.shared], second[: self.shared])

    def _of(self, run: Callable[[Tensor, list[Tensor]], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of the sequences, and the gradients of a number made of them."""
        leaves = [part.detach().requires_grad_() for part in (self.prompt, *self.sequences)]
        with torch.enable_grad():
            found = run(leaves[0], leaves[1:])
            total = torch.stack([one.float().log_softmax(-1)[:, 7].sum() for one in found]).sum()
            return [one.detach() for one in found], list(torch.autograd.grad(total, leaves))

    def agrees(self, made: Any) -> bool:
        """Whether logits, gradients and the next tokens of a backbone are the model's own."""
        found, gradients = self._of(lambda prompt, texts: [made.head(one) for one in _runs(made, prompt[None], texts)])
        if not all(map(near, found, self.wanted)) or not all(map(near, gradients, self.gradients)):
            return False
        return not made.way.fast or self._continues(made)

    @torch.no_grad()
    def _continues(self, made: Any) -> bool:
        """Whether three tokens more, one by one behind a cache, see what the whole row would."""
        texts = [one[:-3] for one in self.sequences]
        keys, values, _ = made.run_prefix(self.prompt[None])
        every = torch.zeros(len(texts), dtype=torch.long, device=self.prompt.device)
        cache = made.cache_of([k[every] for k in keys], [v[every] for v in values])
        longest = max(map(len, texts))
        padded = torch.stack([torch.cat([one, one[:1].expand(longest - len(one), -1)]) for one in texts])
        lengths = torch.tensor([len(one) for one in texts], device=padded.device)
        rows = torch.arange(longest, device=padded.device)[None].repeat(len(texts), 1)
        real = rows < lengths[:, None]
        rows = rows * real
        mask = see_prompt(
            real[:, None, :] & torch.ones(longest, longest, dtype=torch.bool, device=padded.device).tril(), _M
        )
        places = behind_prompt(_M + rows, _M)
        made.run_layers(padded, _M + rows, mask, cache, places)
        held = torch.cat([real.new_ones(len(texts), _M), real], dim=1)
        for step in range(3):
            at = (_M + lengths + step)[:, None]
            held, places = torch.cat([held, held.new_ones(len(texts), 1)], 1), torch.cat([places, at], 1)
            new = torch.stack([one[len(one) - 3 + step] for one in self.sequences])[:, None]
            hidden, _ = made.run_layers(new, at, held[:, None, None], cache, places)
            logits = made.head(hidden)[:, 0]
            wanted = torch.stack([one[len(one) - 3 + step] for one in self.wanted])
            if not near(logits, wanted):
                return False
        return True


def _runs(made: Any, front: Tensor, texts: list[Tensor]) -> list[Tensor]:
    """Last states of sequences [n, d], packed in one row behind the prompt front [1, m, d] as batches are."""
    m, whole = front.shape[1], torch.cat(texts)[None]
    rows = torch.cat([torch.arange(len(one)) for one in texts])[None].to(whole.device)
    owner = torch.cat([torch.full((len(one),), i) for i, one in enumerate(texts)]).to(whole.device)
    allowed = (
        (owner[:, None] == owner) & torch.ones(len(owner), len(owner), dtype=torch.bool, device=whole.device).tril()
    )[None]
    if (ran := made.run_prefix(front)) is None:
        last, _ = made.run_alone(whole, torch.ones_like(rows, dtype=torch.bool), allowed, front)
    else:
        cache = made.cache_of(ran[0], ran[1])
        seen = see_prompt(allowed, m)
        last, _ = made.run_layers(whole, m + rows, seen, cache, behind_prompt(m + rows, m))
    return list(last[0].split([len(one) for one in texts]))
