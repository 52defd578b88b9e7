"""How a model that continues a text is measured: see `self_test`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from dept.backbones.chains import own_forward
from dept.backbones.masks import behind_prompt, see_prompt
from dept.backbones.questions import (
    IDS,
    embedded_ids,
    finite,
    random_vectors,
    shakes_of,
    some_ids,
    with_gradients,
)
from dept.backbones.rounding import alike, all_near, near
from dept.backbones.self_test import Test, not_usable
from dept.backbones.ways import Masks, Way

_M = 5


class CausalTest(Test):
    """Of models that continue a text."""

    def text(self, model: Any) -> Any:
        """See `Test`."""
        return model.config.get_text_config()

    def own(self, model: Any) -> Tensor:
        """See `Test`."""
        with torch.no_grad():
            return finite(model(input_ids=some_ids(model, IDS)[None]).logits[0])

    def of_embeddings(self, model: Any, embeddings: Tensor) -> Tensor:
        """See `Test`."""
        logits: Tensor = own_forward(model, embeddings).logits[0]
        return logits

    def truth(self, model: Any, about: Any, far: bool) -> Callable[[Any], bool]:
        """See `Test`."""
        ids = some_ids(model, IDS)[None]
        with torch.no_grad():
            shakes = [shake[:6] for shake in self.shakes(model, embedded_ids(model))]
            looks_back = near(model(input_ids=ids[:, :6]).logits[0], model(input_ids=ids).logits[0, :6], shakes)
        truth = _Truth(model, far)
        if not looks_back or not truth.looks_back:
            raise not_usable(self.name, about, "lets tokens see what follows them, so it continues no text")
        return truth.agrees

    def ladder(self, model: Any, scale: float, far: bool) -> Iterator[Way]:
        """See `Test`."""
        kinds = getattr(self.text(model), "layer_types", None)
        masks: list[Masks] = ["one", "window", *cast(list[Masks], ["types"] if kinds else [])]
        if far:
            yield from (Way("packed", one, scale) for one in masks)
        for whole in (False, True):
            yield from (Way(rows, "one", scale, whole) for rows in ("equal", "single"))

    def confirms(self, model: Any, way: Way) -> bool:
        """See `Test`: the first ids stand for a prompt, the others for a text beside which another lies."""
        ids = some_ids(model, IDS)
        with torch.no_grad():
            made = self.make(model, way)
            embedded = made.embed(ids[None])[0]
            front, texts = embedded[None, :3], [embedded[3:], embedded[5:8]]
            found = _runs(made, front, texts)[0]
            shakes = [shake[3:] for shake in self.shakes(model, embedded[None])]
            return alike(made.head(found), model(input_ids=ids[None]).logits[0, 3:], shakes)


class _Truth:
    """What a causal model itself makes of [P; text], and whether a way of computing it agrees.

    Two answers behind one text and two texts more; two of the four rows are of one length. Packed they are longer than
    a sibling has positions.
    """

    def __init__(self, model: Any, far: bool) -> None:
        vectors = random_vectors(model)
        lengths = (24, 2, 3, 26, 30) if far else (6, 2, 3, 8, 5)
        self.prompt = vectors(_M)
        text, first, second, third, fourth = (vectors(n) for n in lengths)
        self.shared = len(text)
        self.sequences = [torch.cat([text, first]), torch.cat([text, second]), third, fourth]

        def own(prompt: Tensor, texts: list[Tensor]) -> list[Tensor]:
            return [own_forward(model, torch.cat([prompt, one])[None]).logits[0, _M:] for one in texts]

        parts = [self.prompt, *self.sequences]
        self.wanted, self.gradients = self._of(own, parts)
        right = self.wanted, self.gradients
        self.shakes, self.shakes_of_gradients = shakes_of(model, parts, lambda off: self._of(own, off), right)

    @property
    def looks_back(self) -> bool:
        """Whether a text is read alike whatever follows it."""
        first, second = self.wanted[:2]
        return near(first[: self.shared], second[: self.shared], [one[0][: self.shared] for one in self.shakes])

    def _of(
        self, run: Callable[[Tensor, list[Tensor]], list[Tensor]], parts: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of the sequences, and the gradients of a number made of them; parts: the prompt, then these."""
        leaves = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            return with_gradients(run(leaves[0], leaves[1:]), leaves)

    def agrees(self, made: Any) -> bool:
        """Whether logits, gradients and the next tokens of a backbone are the model's own."""
        found, gradients = self._of(
            lambda prompt, texts: [made.head(one) for one in _runs(made, prompt[None], texts)],
            [self.prompt, *self.sequences],
        )
        if not all_near(found, self.wanted, self.shakes):
            return False
        if not all_near(gradients, self.gradients, self.shakes_of_gradients):
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
            wanted, *shakes = (
                torch.stack([one[len(one) - 3 + step] for one in rows]) for rows in (self.wanted, *self.shakes)
            )
            if not near(logits, wanted, shakes):
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
