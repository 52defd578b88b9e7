"""Models whose encoder reads prompt and text, and whose decoder writes the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors, shift
from dept.backbones.base import IGNORE, Backbone, Output
from dept.backbones.chains import at_depths, run_chains
from dept.backbones.measure_encoder_decoder import EncoderDecoderTest
from infra.errors import InputError


class EncoderDecoderBackbone(Backbone):
    """An encoder-decoder (text-to-text) language model. Decoder inputs get neither prompt nor A @ B."""

    family = "seq2seq"
    test = EncoderDecoderTest

    @property
    def packs(self) -> bool:
        """See `Backbone`: each text stands right behind its prompt, which sees it."""
        return False

    def check_in_context(self) -> None:
        """See `Backbone`."""
        raise InputError("in-context: for causal backbones only; an encoder-decoder was not trained to continue shots")

    def run_prefix(self, prompts: Tensor) -> None:
        """See `Backbone`: the encoder sees both ways."""
        return

    def encoder_layers(
        self, embeddings: Tensor, mask: Tensor, depths: Sequence[float] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Encoder states [R, m + T, d] of prompts and text, mask [R, m + T], and those at some depths.

        Rows are padded, or where that changes numbers computed one by one.
        """
        if self.way.fast:
            return self._encoded(embeddings, mask.long(), depths)
        chains = [(row, mask[row].nonzero()[:, 0]) for row in range(len(mask))]

        def run(rows: Tensor) -> tuple[Tensor, list[Tensor]]:
            return self._encoded(rows, torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device), depths)

        return run_chains(run, embeddings, embeddings[:, :0], chains, self.way.rows == "equal")

    def _encoded(self, embeddings: Tensor, mask: Tensor, depths: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
        encode: Any = self.model.get_encoder()
        found = encode(
            inputs_embeds=embeddings, attention_mask=mask, output_hidden_states=bool(depths), return_dict=True
        )
        return found.last_hidden_state, at_depths(found.hidden_states, depths)

    def run_decoder(self, encoded: Tensor, mask: Tensor, inputs: Tensor) -> Tensor:
        """Logits [C, L, vocab] behind decoder inputs [C, L] over encoder states [C, m + T, d], mask [C, m + T]."""
        if self.way.fast:
            return self._decoded(encoded, mask, inputs)
        each = [(encoded[i][mask[i]][None], inputs[i][None]) for i in range(len(inputs))]
        return torch.cat([self._decoded(one, torch.ones_like(one[..., 0]), own) for one, own in each])

    def _decoded(self, encoded: Tensor, mask: Tensor, inputs: Tensor) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        states = BaseModelOutput(last_hidden_state=encoded)
        object.__setattr__(states, "router_logits", None)  # that models of several experts hand on
        logits: Tensor = self.model(
            encoder_outputs=states,
            attention_mask=mask.long(),
            decoder_input_ids=inputs,
            use_cache=False,
        ).logits
        return logits

    def decoder_inputs(self, targets: Tensor) -> Tensor:
        """Decoder inputs [C, L] that teach targets [C, L] (-100 ignored): shifted by one behind the start token."""
        if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            inputs: Tensor = self.model.prepare_decoder_input_ids_from_labels(labels=targets)
        else:
            inputs = functional.pad(targets[:, :-1], (1, 0), value=self._start)
        return inputs.masked_fill(inputs == IGNORE, self.pad_id)

    @property
    def _start(self) -> int:
        found = getattr(self.config, "decoder_start_token_id", None)
        if not isinstance(found, int):
            raise InputError(f"backbone {self.name}: its config.json names no decoder_start_token_id. Remedy: name it")
        return found

    def _answer(
        self, adapter: Adapter, ids: Tensor, real: Tensor, start: Tensor, labels: Tensor | None, all_positions: bool
    ) -> Output:
        if labels is None:
            raise InputError("backbone: an encoder-decoder needs labels [batch, label length]")
        labels = labels.to(self.device)
        tensors = Tensors.of([adapter], self.device)
        order = (torch.arange(ids.shape[1], device=ids.device)[None] + start) % ids.shape[1]
        ids, real = ids.gather(1, order), real.gather(1, order)
        rows = torch.arange(ids.shape[1], device=ids.device).clamp(max=adapter.config.s - 1).expand_as(ids)
        only = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        encoded, mask, _ = self.encode_text(shift(self.embed(ids), rows, only, tensors), real, tensors.prompt[only])
        logits = self.run_decoder(encoded, mask, self.decoder_inputs(labels))
        loss = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        return Output(loss, logits)

    def encode_text(
        self, embeddings: Tensor, real: Tensor, prompts: Tensor, depths: Sequence[float] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encoder states [R, m + T, d] of [P; text], their mask [R, m + T], and the text's states at some depths.

        Args:
            embeddings: [R, T, d], A @ B added.
            real: [R, T], True on text.
            prompts: [R, m, d].
            depths: share of the layers, 1 the last; their states are [R, T, d].
        """
        prompts = prompts.to(embeddings.dtype)
        mask = torch.cat([real.new_ones(len(real), prompts.shape[1]), real], dim=1)
        states, found = self.encoder_layers(torch.cat([prompts, embeddings], dim=1), mask, depths)
        return states, mask, [state[:, prompts.shape[1] :] for state in found]
