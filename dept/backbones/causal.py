"""Models that continue a text: the prompt runs once and its keys and values are shared; the answer follows the text.

Where a model's own numbers cannot be had so (`ways`), each text runs by itself behind its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors, shift
from dept.backbones.base import IGNORE, Backbone, Output
from dept.backbones.chains import Chain, at_depths, chains_of, own_forward, run_known_chains
from dept.backbones.masks import behind_cache, behind_prompt, for_layers, see_prompt
from dept.backbones.measure_causal import CausalTest
from dept.backbones.vision import Scene
from infra.errors import InputError


class CausalBackbone(Backbone):
    """A causal (decoder-only) language model."""

    family = "causal"
    test = CausalTest

    @property
    def packs(self) -> bool:
        """See `Backbone`."""
        return self.way.fast

    def check_in_context(self) -> None:
        """See `Backbone`: every causal model continues what it has read."""

    def check_layout(self, layout: str) -> None:
        """See `Backbone`."""
        if layout == "paper" and not self.way.fast:
            raise InputError(
                f"backbone {self.name}: a {self.config.model_type} model is computed one text a row, without the gap "
                "that layout paper leaves behind the prompt. Remedy: layout adjacent"
            )

    @property
    def inner(self) -> Any:
        """The model without its language-modelling head."""
        found = self.model.base_model
        return self.model.get_decoder() if found is self.model else found

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab] of last hidden states [..., d]; those that the model has made itself as they are."""
        if self.way.whole:
            return hidden
        text = self.config.get_text_config()
        logits: Tensor = self.model.get_output_embeddings()(hidden * getattr(text, "logit_scale", 1.0))
        logits = logits / getattr(text, "logits_scaling", 1.0)
        cap = getattr(text, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def run_prefix(self, prompts: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor] | None:
        """See `Backbone`."""
        if not self.way.fast:
            return None
        from transformers import DynamicCache

        positions = torch.arange(prompts.shape[1], device=prompts.device)[None].expand(len(prompts), -1)
        causal = torch.ones(prompts.shape[1], prompts.shape[1], dtype=torch.bool, device=prompts.device).tril()
        cache = DynamicCache()
        out = self.inner(
            inputs_embeds=prompts,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            attention_mask=self._masks(causal.expand(len(prompts), 1, -1, -1), positions, positions),
        )
        layers: list[Any] = cache.layers
        return [layer.keys for layer in layers], [layer.values for layer in layers], out.last_hidden_state

    def cache_of(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Any:
        """A cache that text can be run behind: keys and values per layer [R, heads, m, width]."""
        from transformers import DynamicCache

        return DynamicCache(ddp_cache_data=list(zip(keys, values, strict=True)))

    def run_layers(
        self,
        embeddings: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: Any,
        places: Tensor,
        depths: Sequence[float] = (),
        turns: Tensor | None = None,
        both: Tensor | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Last hidden states [R, T, d] of text behind what a cache holds, and those at some depths.

        The cache then holds the text as well.

        Args:
            embeddings: [R, T, d].
            positions: [R, T].
            mask: bool [R, 1, T, held + T], True where a token may look, windows apart.
            cache: what `cache_of` made, or None.
            places: positions [R, held + T] of what the cache holds and of the text.
            depths: share of the layers, 1 the last.
            turns: [axes, R, T], by how much tokens are turned, where not by their positions. both: see `for_layers`.
            beside: other arguments of the text decoder.
        """
        found = self.inner(
            inputs_embeds=embeddings,
            position_ids=positions if turns is None else turns,
            cache=cache,
            use_cache=True,
            attention_mask=self._masks(mask, positions, places, both),
            output_hidden_states=bool(depths),
            **(beside or {}),
        )
        return found.last_hidden_state, at_depths(found.hidden_states, depths)

    def run_alone(
        self,
        embeddings: Tensor,
        real: Tensor,
        allowed: Tensor,
        front: Tensor,
        depths: Sequence[float] = (),
        scene: Scene | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """As `run_layers`, each sequence of the batch by itself behind its prompt (logits where the way is `whole`).

        Args:
            embeddings: [R, T, d]. real: bool [R, T]. allowed: bool [R, T, T].
            front: prompts [R, m, d]; m may be 0.
            scene: where pictures stand; None: there are none.
        """
        model = self.model if self.way.whole else self.inner

        def run(rows: Tensor, chains: list[Chain]) -> tuple[Tensor, list[Tensor]]:
            if scene is None:
                found = own_forward(model, rows, bool(depths))
            else:
                found = self._seen(rows, chains, scene, front.shape[1], bool(depths))
            states = at_depths(getattr(found, "hidden_states", None), depths)
            return found.logits if self.way.whole else found.last_hidden_state, states

        together = self.way.rows != "single" and (scene is None or self.way.pictures != "model")
        return run_known_chains(run, embeddings, front.to(embeddings.dtype), chains_of(allowed, real), together)

    def _seen(self, rows: Tensor, chains: list[Chain], scene: Scene, m: int, states: bool) -> Any:
        """What the model makes of sequences [K, m + n, d] that may hold pictures."""
        raise InputError(f"backbone {self.name}: it reads no pictures")

    def _answer(
        self, adapter: Adapter, ids: Tensor, real: Tensor, start: Tensor, labels: Tensor | None, all_positions: bool
    ) -> Output:
        tensors, m, s = Tensors.of([adapter], self.device), adapter.config.m, adapter.config.s
        first = [self.tokens.first_row(int(n), 0, s, adapter.layout) for n in real.sum(1)]
        index = torch.arange(ids.shape[1], device=ids.device)[None] - start
        rows = (index + torch.tensor(first, device=ids.device)[:, None]).clamp(0, s - 1)
        only = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        embeddings = shift(self.embed(ids), rows, only, tensors)
        if (ran := self.run_prefix(tensors.prompt.to(self.dtype))) is None:
            self.check_layout(adapter.config.layout)
            hidden = self._alone_with_prompt(embeddings, real, tensors.prompt[only])
        else:
            keys, values, prompt_hidden = ran
            cache = self.cache_of(*([t.index_select(0, only) for t in part] for part in (keys, values)))
            seen = see_prompt(causal & real[:, None, :], m)
            hidden, _ = self.run_layers(embeddings, m + rows, seen, cache, behind_prompt(m + rows, m))
            hidden = torch.cat([prompt_hidden.expand(len(ids), -1, -1), hidden], dim=1)
        if labels is None:
            return Output(None, self.head(hidden))
        following = functional.pad(labels.to(self.device), (m - 1, 1), value=IGNORE)
        counted = following != IGNORE
        picked = self.head(hidden[counted]).float()
        loss = functional.cross_entropy(picked, following[counted])
        return Output(loss, self.head(hidden) if all_positions else picked)

    def _alone_with_prompt(self, embeddings: Tensor, real: Tensor, prompts: Tensor) -> Tensor:
        """What `run_alone` gives, with the prompts' own states in front: [R, m + T, ...]."""
        m = prompts.shape[1]
        whole = torch.cat([prompts.to(embeddings.dtype), embeddings], dim=1)
        real = torch.cat([real.new_ones(len(real), m), real], dim=1)
        causal = torch.ones(whole.shape[1], whole.shape[1], dtype=torch.bool, device=whole.device).tril()
        return self.run_alone(whole, real, causal.expand(len(whole), -1, -1), whole[:, :0])[0]

    def _masks(self, allowed: Tensor, positions: Tensor, places: Tensor, both: Tensor | None = None) -> Any:
        if both is not None and self.way.sees == "within":
            allowed, both = allowed | behind_cache(both, allowed.shape[-1]), None
        return for_layers(self.way.masks, self.config, allowed, positions, places, self.dtype, both)
