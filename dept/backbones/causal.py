"""Models that continue a text: the prompt runs once and its keys and values are shared; the answer follows the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors, shift
from dept.backbones.base import IGNORE, Backbone, Output, at_depths
from dept.backbones.self_test import check_causal


class CausalBackbone(Backbone):
    """A causal (decoder-only) language model."""

    family = "causal"
    packs = True

    def check_kind(self) -> None:
        """See `Backbone`."""
        check_causal(self.name, self.model, self.head)

    def check_in_context(self) -> None:
        """See `Backbone`: every causal model continues what it has read."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab] of last hidden states [..., d]."""
        logits: Tensor = self.model.get_output_embeddings()(hidden * getattr(self.config, "logit_scale", 1.0))
        logits = logits / getattr(self.config, "logits_scaling", 1.0)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def run_prefix(self, prompts: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """See `Backbone`."""
        from transformers import DynamicCache

        positions = torch.arange(prompts.shape[1], device=prompts.device)[None].expand(len(prompts), -1)
        causal = torch.ones(prompts.shape[1], prompts.shape[1], dtype=torch.bool, device=prompts.device).tril()
        cache = DynamicCache()
        out = self.model.base_model(
            inputs_embeds=prompts,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            attention_mask=self._additive(causal.expand(len(prompts), 1, -1, -1)),
        )
        layers: list[Any] = cache.layers
        return [layer.keys for layer in layers], [layer.values for layer in layers], out.last_hidden_state

    def cache_of(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Any:
        """A cache that text can be run behind: keys and values per layer [R, heads, m, width]."""
        from transformers import DynamicCache

        return DynamicCache(ddp_cache_data=list(zip(keys, values, strict=True)))

    def run_text(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Last hidden states [R, T, d] of text behind what a cache holds; see `run_layers`."""
        return self.run_layers(embeddings, positions, mask, cache)[0]

    def run_layers(
        self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Any, depths: Sequence[float] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Last hidden states [R, T, d] of text behind what a cache holds, and those at some depths.

        The cache then holds the text as well.

        Args:
            embeddings: [R, T, d].
            positions: [R, T].
            mask: bool [R, 1, T, held + T], True where a token may look.
            cache: what `cache_of` made, or None.
            depths: share of the layers, 1 the last.
        """
        found = self.model.base_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            attention_mask=self._additive(mask),
            output_hidden_states=bool(depths),
        )
        return found.last_hidden_state, at_depths(found.hidden_states, depths)

    def _answer(
        self, adapter: Adapter, ids: Tensor, real: Tensor, start: Tensor, labels: Tensor | None, all_positions: bool
    ) -> Output:
        tensors, m, s = Tensors.of([adapter], self.device), adapter.config.m, adapter.config.s
        first = [self.tokens.first_row(int(n), 0, s, adapter.layout) for n in real.sum(1)]
        index = torch.arange(ids.shape[1], device=ids.device)[None] - start
        rows = (index + torch.tensor(first, device=ids.device)[:, None]).clamp(0, s - 1)
        only = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        keys, values, prompt_hidden = self.run_prefix(tensors.prompt.to(self.dtype))
        cache = self.cache_of(*([t.index_select(0, only) for t in part] for part in (keys, values)))
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        hidden = self.run_text(
            shift(self.embed(ids), rows, only, tensors), m + rows, see_prompt(causal & real[:, None, :], m), cache
        )
        hidden = torch.cat([prompt_hidden.expand(len(ids), -1, -1), hidden], dim=1)
        if labels is None:
            return Output(None, self.head(hidden))
        following = functional.pad(labels.to(self.device), (m - 1, 1), value=IGNORE)
        counted = following != IGNORE
        picked = self.head(hidden[counted]).float()
        loss = functional.cross_entropy(picked, following[counted])
        return Output(loss, self.head(hidden) if all_positions else picked)

    def _additive(self, allowed: Tensor) -> Tensor:
        return torch.zeros(allowed.shape, dtype=self.dtype, device=allowed.device).masked_fill(
            ~allowed, torch.finfo(self.dtype).min
        )


def see_prompt(allowed: Tensor, m: int) -> Tensor:
    """Attention mask [R, 1, T, m + T]: text tokens see all m prompt tokens and `allowed` [R, T, T] of the text."""
    return torch.cat([allowed.new_ones(*allowed.shape[:2], m), allowed], dim=2)[:, None]
