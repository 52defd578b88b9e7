"""A frozen language model: load, freeze, family. The only place that knows model classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from dept.backbones import cpu_linear as onednn
from dept.backbones import wheel as embedded
from dept.backbones.loading import DTYPES, load_model, load_tokenizer, pick_device, resolve, same_bits_twice
from dept.backbones.self_test import check_usable
from dept.batches.batching import IGNORE
from dept.engine import forward as stack
from dept.engine import memory as tuning
from infra.errors import InputError
from infra.settings import settings

if TYPE_CHECKING:
    from dept.adapters.adapter import Adapter

Family = Literal["causal", "seq2seq"]
_WEIGHTS = ("*.safetensors", "*.bin", "config.json", "tokenizer.json", "*.model", "vocab.*", "merges.txt")


@dataclass
class Output:
    """loss: scalar, mean nats per label token; logits: see `Backbone.forward`."""

    loss: Tensor | None
    logits: Tensor


class Backbone(nn.Module):
    """A causal or encoder-decoder language model that is never trained.

    Args:
        model: a transformers model with a language-modelling head.
        tokenizer: its tokenizer; None where only token ids are used.
        name: short name for people, runs and registered models.
        folder: where its files lie, for `weights_id`.

    Raises:
        InputError: a model that takes no input embeddings or positions, or has no language-modelling head.
    """

    sharded = False  # whether other processes hold parts of the weights

    def __init__(
        self, model: nn.Module, tokenizer: Any = None, name: str | None = None, folder: str | Path | None = None
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        config: Any = model.config
        self.config = config
        self.family: Family = "seq2seq" if config.is_encoder_decoder else "causal"
        self.name = name or str(config.model_type)
        self.folder = Path(folder) if folder else None
        model.requires_grad_(False)
        model.eval()
        check_usable(self)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        compile: bool = False,
    ) -> Self:
        """Load a backbone by catalogue name (`smollm2-135m`), local folder or hub id, and freeze it.

        Args:
            dtype: "float32", "bfloat16" or "float64"; default float32 on CPU and bfloat16 on CUDA.
            device: "cpu", "cuda", ...; default CUDA where there is one.
            compile: try torch.compile and keep it where it measures faster; $DEPT_COMPILE=1 asks for it as well.

        Raises:
            InputError: unknown name, unreachable hub, damaged files or a model that cannot be used.
        """
        place = pick_device(device)
        if dtype is None:
            dtype = "bfloat16" if place.type == "cuda" else "float32"
        if isinstance(dtype, str):
            if dtype not in DTYPES:
                raise InputError(f"backbone: unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
            dtype = DTYPES[dtype]
        folder = resolve(name_or_path)
        if place.type == "cuda":
            same_bits_twice()
        model, tokenizer = load_model(folder, dtype), load_tokenizer(folder)
        short = Path(name_or_path).name.lower() if "/" in name_or_path or Path(name_or_path).is_dir() else name_or_path
        made = cls(model.to(place), tokenizer, short, folder if Path(folder).is_dir() else None)
        onednn.pack(made.model)
        if compile or settings().compile:
            tuning.compile_where_faster(made)
        return made

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a frozen backbone has no dropout."""
        return super().train(False)

    @property
    def d(self) -> int:
        """Width of the input embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        found: torch.device = self.model.get_input_embeddings().weight.device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        found: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return found

    @property
    def positions(self) -> int | None:
        """Tokens it was made for; None where it sets no bound."""
        return getattr(self.config, "n_positions", None) or getattr(self.config, "max_position_embeddings", None)

    @property
    def packs(self) -> bool:
        """Whether several texts may lie in one row of a batch: positions are explicit and attention only looks back."""
        return self.family == "causal"

    @property
    def pad_id(self) -> int:
        """A token id for padding; what it is does not matter, since padding is masked."""
        for value in (getattr(self.tokenizer, "pad_token_id", None), getattr(self.config, "pad_token_id", None)):
            if isinstance(value, int):
                return value
        return 0

    @property
    def end_id(self) -> int:
        """The token that ends a text."""
        for value in (getattr(self.tokenizer, "eos_token_id", None), getattr(self.config, "eos_token_id", None)):
            if isinstance(value, int):
                return value
        raise InputError(f"backbone {self.name}: it has no end-of-sequence token, so it cannot stop generating")

    @cached_property
    def weights_id(self) -> str:
        """sha256 (hex) of weights, config, tokenizer and number type: the backbone's identity in a fingerprint."""
        digest = hashlib.sha256(str(self.dtype).encode())
        if self.folder is None:
            for key, value in self.model.state_dict().items():
                digest.update(key.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        elif (origin := self.folder / embedded.ORIGIN).is_file():
            digest.update(json.loads(origin.read_text())["sha256"].encode())
        else:
            for file in sorted({f for pattern in _WEIGHTS for f in self.folder.glob(pattern)}):
                digest.update(f"{file.name}:{embedded.file_sha256(file)}".encode())
        return digest.hexdigest()

    def forward(
        self,
        adapter: Adapter,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        all_positions: bool = True,
    ) -> Output:
        """Loss and logits of one adapter, as the authors' code computes them.

        Args:
            input_ids: [batch, length], padded on either side or not at all.
            attention_mask: [batch, length], 1 on text; default all text.
            labels: causal [batch, length] aligned with input_ids; encoder-decoder [batch, label length]; -100 ignored.
            all_positions: causal only: False computes logits at label positions alone, [label tokens, vocab].

        Returns:
            logits [batch, m + length, vocab] for causal models, [batch, label length, vocab] for encoder-decoders.

        Raises:
            InputError: wrong width, a text longer than s, labels missing where needed.
        """
        adapter.check_fits(self.name, self.weights_id if "backbone_id" in adapter.metadata else "", self.d)
        ids = input_ids.to(self.device)
        real = torch.ones_like(ids) if attention_mask is None else attention_mask.to(self.device)
        wanted = None if labels is None else labels.to(self.device)
        return Output(*stack.forward_one(self, adapter, ids, real.bool(), wanted, all_positions))

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., d] of token ids [...]."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab] of last hidden states [..., d] of a causal model."""
        logits: Tensor = self.model.get_output_embeddings()(hidden * getattr(self.config, "logit_scale", 1.0))
        logits = logits / getattr(self.config, "logits_scaling", 1.0)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def run_prefix(self, prompts: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Keys, values (per layer [N, heads, m, width]) and last hidden states [N, m, d] of prompts [N, m, d]."""
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
        """Last hidden states [R, T, d] of text behind what a cache holds; the cache then holds the text as well.

        Args:
            embeddings: [R, T, d].
            positions: [R, T].
            mask: bool [R, 1, T, held + T], True where a token may look.
            cache: what `cache_of` made.
        """
        hidden: Tensor = self.model.base_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            attention_mask=self._additive(mask),
        ).last_hidden_state
        return hidden

    def run_encoder(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Encoder states [R, m + T, d] of prompts and text; mask [R, m + T]."""
        encode: Any = self.model.get_encoder()
        states: Tensor = encode(inputs_embeds=embeddings, attention_mask=mask.long()).last_hidden_state
        return states

    def run_decoder(self, encoded: Tensor, mask: Tensor, inputs: Tensor) -> Tensor:
        """Logits [C, L, vocab] behind decoder inputs [C, L] over encoder states [C, m + T, d], mask [C, m + T]."""
        from transformers.modeling_outputs import BaseModelOutput

        logits: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=mask.long(),
            decoder_input_ids=inputs,
            use_cache=False,
        ).logits
        return logits

    def decoder_inputs(self, targets: Tensor) -> Tensor:
        """Decoder inputs [C, L] that teach targets [C, L] (-100 ignored): shifted by one behind the start token."""
        inputs: Tensor = self.model.prepare_decoder_input_ids_from_labels(labels=targets)
        return inputs.masked_fill(inputs == IGNORE, self.pad_id)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, with the special tokens that the tokenizer adds."""
        return self.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Token ids of free answers as they follow a text, with the token that ends them."""
        if not answers:
            return []
        if self.family == "seq2seq":
            return list(self.tokenizer(list(answers), verbose=False)["input_ids"])
        found = self.tokenizer([f" {answer}" for answer in answers], add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return [[*ids, self.end_id] for ids in found]

    def encode_words(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Token ids of label words as they follow a text; ended where one word begins another.

        Raises:
            InputError: two words of the same tokens.
        """
        if self.family == "seq2seq":
            branches = [tuple(self.tokenizer(word)["input_ids"]) for word in words]
        else:
            before = self.tokenizer("x:")["input_ids"]
            whole = [self.tokenizer(f"x: {word}")["input_ids"] for word in words]
            branches = [
                tuple(ids[len(before) :])
                if ids[: len(before)] == before
                else tuple(self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"])
                for ids, word in zip(whole, words, strict=True)
            ]
            if any(a != b and b[: len(a)] == a for a in branches for b in branches):
                branches = [(*branch, self.tokenizer.eos_token_id) for branch in branches]
        if len(set(branches)) < len(branches) or not all(branches):
            raise InputError(f"verbalizer: words {list(words)} are not told apart by the tokenizer of {self.name}")
        return tuple(branches)

    def check_room(self, m: int, s: int) -> None:
        """Refuse a prompt and text longer than the backbone's learned positions.

        Raises:
            InputError: m + s is more than the backbone has positions.
        """
        if self.family == "causal" and self.positions and m + s > self.positions:
            raise InputError(
                f"backbone {self.name} has {self.positions} positions; m + s = {m + s}. Remedy: a smaller s or m"
            )

    def _additive(self, allowed: Tensor) -> Tensor:
        return torch.zeros(allowed.shape, dtype=self.dtype, device=allowed.device).masked_fill(
            ~allowed, torch.finfo(self.dtype).min
        )
