"""Models that read a text both ways and write nothing: label words are told at masks, or by a trained head alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors, shift
from dept.backbones.base import IGNORE, Backbone, Output
from dept.backbones.chains import at_depths, own_forward, run_chains
from dept.backbones.measure_encoder import EncoderTest
from infra.errors import InputError


class EncoderBackbone(Backbone):
    """An encoder: BERT and its kin. A text is read as [P; text], where masks stand in the place of the answer.

    One pass tells every label word: the sum of the log-probabilities of its tokens, each at its mask (Schick & Schütze
    2021, arXiv 2009.07118, section 3.1). A model without a masked-LM head is read by trained heads alone.
    """

    family = "encoder"
    test = EncoderTest

    @property
    def packs(self) -> bool:
        """See `Backbone`: each text stands right behind its prompt, which sees it."""
        return False

    @property
    def fills_in(self) -> bool:
        """Whether it has a masked-LM head."""
        return self.model.get_output_embeddings() is not None

    def check_in_context(self) -> None:
        """See `Backbone`."""
        raise InputError(f"in-context: backbone {self.name} is an encoder, which continues no shots")

    def check_words(self, tensors: Tensors | None) -> None:
        """Refuse adapters whose labels are told by words where there is no masked-LM head.

        Args:
            tensors: of a stack; None: the bare backbone, which has its words alone.

        Raises:
            InputError: so it is.
        """
        readouts = tensors.readouts if tensors is not None and tensors.layers else ()
        if not self.fills_in and not (readouts and all(one is not None and one.weight == 1 for one in readouts)):
            raise InputError(
                f"backbone {self.name} has no masked-LM head, so it tells no words. Remedy: answers: head, or a model "
                "saved with one (...ForMaskedLM)"
            )

    def run_prefix(self, prompts: Tensor) -> None:
        """See `Backbone`: a prompt sees the text."""
        return

    def encode_text(
        self, embeddings: Tensor, real: Tensor, prompts: Tensor, depths: Sequence[float] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Last states [R, T, ...] of texts behind their prompts (logits where the way is `whole`), and some before.

        Args:
            embeddings: [R, T, d], A @ B added.
            real: [R, T], True on text, which begins each row.
            prompts: [R, m, d].
            depths: share of the layers, 1 the last; their states are [R, T, width].
        """
        m, whole = prompts.shape[1], torch.cat([prompts.to(embeddings.dtype), embeddings], dim=1)
        mask = torch.cat([real.new_ones(len(real), m), real], dim=1)
        if self.way.fast:
            last, states = self._run(whole, mask, depths)
        else:
            chains = [(row, mask[row].nonzero()[:, 0]) for row in range(len(mask))]

            def run(rows: Tensor) -> tuple[Tensor, list[Tensor]]:
                return self._run(rows, mask.new_ones(rows.shape[:2]), depths)

            last, states = run_chains(run, whole, whole[:, :0], chains, self.way.rows == "equal")
        return last[:, m:], [state[:, m:] for state in states]

    def _run(self, embeddings: Tensor, mask: Tensor, depths: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
        model = self.model if self.way.whole else self.model.base_model
        found = own_forward(model, embeddings, bool(depths), attention_mask=mask.long())
        states = at_depths(getattr(found, "hidden_states", None), depths)
        return found.logits if self.way.whole else found.last_hidden_state, states

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocab] of last states [n, width]: the model's own forward pass with its layers left out."""
        if self.way.whole or not self.fills_in:
            return hidden
        alone = copy.copy(self.model)
        body = alone.base_model
        alone.__dict__["_modules"] = {**self.model._modules, alone.base_model_prefix: _Given(body)}
        logits: Tensor = alone(inputs_embeds=hidden[None]).logits
        return logits[0]

    def _answer(
        self, adapter: Adapter, ids: Tensor, real: Tensor, start: Tensor, labels: Tensor | None, all_positions: bool
    ) -> Output:
        if not self.fills_in:
            self.check_words(None)
        tensors, columns = Tensors.of([adapter], self.device), torch.arange(ids.shape[1], device=ids.device)[None]
        order, back = (columns + start) % ids.shape[1], (columns - start) % ids.shape[1]
        only = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        rows = columns.clamp(max=adapter.config.s - 1).expand_as(ids)
        embeddings = shift(self.embed(ids.gather(1, order)), rows, only, tensors)
        hidden, _ = self.encode_text(embeddings, real.gather(1, order), tensors.prompt[only])
        hidden = hidden.gather(1, back[..., None].expand_as(hidden))
        counted = None if labels is None else labels.to(self.device) != IGNORE
        if labels is None or counted is None:
            return Output(None, self._each(hidden))
        picked = self.head(hidden[counted]).float()
        loss = functional.cross_entropy(picked, labels.to(self.device)[counted])
        return Output(loss, self._each(hidden) if all_positions else picked)

    def _each(self, hidden: Tensor) -> Tensor:
        each: Tensor = self.head(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        return each


class _Given(nn.Module):
    """In the place of a model's layers: hands on what it is given; all else is theirs."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        object.__setattr__(self, "layers", layers)  # no submodule

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["layers"], name)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        """What layers give: last hidden states, here those that came in."""
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=inputs_embeds)
