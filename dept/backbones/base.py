"""A frozen language model: what every kind of it has. The kinds: causal.py, encoder_decoder.py, encoder.py."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dept.adapters.adapter import Adapter
from dept.adapters.fits import Fits
from dept.backbones import files
from dept.backbones.family import family_of
from dept.backbones.loading import digest_of_tensors
from dept.backbones.opening import opened
from dept.backbones.self_test import Test, check_embeddings, check_head, way_of
from dept.backbones.sizes import answer_room_of, check_answers, check_room, room_of, text_of
from dept.backbones.token_kinds import KINDS
from dept.backbones.tokens import Family, Tokens
from dept.backbones.ways import Way
from infra.errors import InputError
from tasks.pictures import Picture

IGNORE = -100  # label value that no loss counts (the convention of transformers)


@dataclass
class Output:
    """loss: scalar, mean nats per label token; logits: see `Backbone.forward`."""

    loss: Tensor | None
    logits: Tensor


class Backbone(nn.Module):
    """A language model that is never trained. `from_pretrained` loads one; `of` takes a model that is in memory.

    Attributes:
        family: kind of model, "causal", "seq2seq" (encoder-decoder) or "encoder".
        name: short name for people, runs and registered models.
        folder: where its files lie, None for a model in memory.
        tokens: text to token ids and back.
        way: how its numbers are computed, as its `test` has found.
        reads_pictures: whether it sees pictures by itself, see `see`.
        blind: why it sees no pictures, where it might be taken to.
        packs: whether several texts may lie in one row of a batch: positions are explicit, attention looks back only.
        sharded: whether other processes hold parts of the weights.
        packed: whether linear layers run on packed weights (`cpu_linear`).
        compiled: whether torch.compile is in use.
        bits: `int8`, `nf4` or `int8-torchao` where its weights are quantised; dtype is then that of what is computed.

    Example:
        >>> from dept import AdapterConfig, Backbone, Request, score
        >>> from dept.adapters.initialise import from_text
        >>> backbone = Backbone.from_pretrained("smollm2-135m", device="cpu")
        >>> adapter = from_text(backbone, AdapterConfig(m=10, r=4, s=64), "Is this text negative or positive?", seed=0)
        >>> score(backbone, [adapter], [Request("A good film.", ("negative", "positive"), 0)])  # doctest: +SKIP
        [[-3.1, -2.4]]
    """

    family: ClassVar[Family]
    test: ClassVar[type[Test]]
    kinds: ClassVar[dict[str, type[Backbone]]] = {}  # by family; `pictures`: what reads them itself
    reads_pictures = False
    blind = ""
    sharded = False
    packed = False
    compiled = False
    bits = ""

    def __init_subclass__(cls, kind: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if name := kind or vars(cls).get("family"):
            Backbone.kinds[name] = cls

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        name: str | None = None,
        folder: str | Path | None = None,
        way: Way | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.config: Any = model.config
        self.name = name or str(self.config.model_type)
        self.folder = Path(folder) if folder else None
        model.requires_grad_(False)
        model.eval()
        if self.family != "encoder":  # which a trained head may read alone
            check_head(self.name, self.model)
        check_embeddings(self.name, self.model)
        self.tokens.check()
        self.way = way or way_of(self._tested(), model, self.weights_id if folder else None, not self.sharded)

    def _tested(self) -> Test:
        """What measures models of its kind."""
        kind = Backbone.kinds[self.family]
        return kind.test(self.name, lambda model, way: kind(model, None, self.name, None, way))

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any = None,
        name: str | None = None,
        folder: str | Path | None = None,
        processor: Any = None,
    ) -> Backbone:
        """The backbone of a model in memory, of the kind that its configuration says; the model is frozen.

        Args:
            model: a transformers model with a language-modelling head; of an encoder a masked-LM head, or none.
            tokenizer: its tokenizer; None where only token ids are used.
            name: short name; default the model's type.
            folder: where its files lie, for `weights_id`.
            processor: a `processor.Processor`, where it is to read pictures.

        Raises:
            InputError: a model without a language-modelling head, or whose own numbers cannot be had from a prompt of
                vectors in front of a text.
        """
        if processor is not None and not model.config.is_encoder_decoder:
            seeing: Callable[..., Backbone] = Backbone.kinds["pictures"]
            return seeing(model, tokenizer, name, folder, processor=processor)
        about = {**model.config.to_dict(), "architectures": [type(model).__name__]}
        return Backbone.kinds[family_of(about)](model, tokenizer, name, folder)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        compile: bool = False,
    ) -> Backbone:
        """Load a backbone by catalogue name (`smollm2-135m`), local folder or hub id, and freeze it.

        Args:
            dtype: "float32", "bfloat16" or "float64", on CUDA also "int8", "nf4" or "int8-torchao"; default float32 on
                CPU and bfloat16 on CUDA.
            device: "cpu", "cuda", ...; default CUDA where there is one.
            compile: use torch.compile for normalisation and feed-forward layers; $DEPT_COMPILE=1 asks for it as well.

        Raises:
            InputError: unknown name, unreachable hub, damaged files or a model that cannot be used.
        """
        return opened(cls.of, name_or_path, dtype, device, compile)

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
        return room_of(self.config.to_dict())

    @cached_property
    def tokens(self) -> Tokens:
        """Text to token ids; end and padding from tokenizer, generation settings and configuration, in this order."""
        generation = getattr(self.model, "generation_config", None)
        sources = (self.tokenizer, generation, self.config)
        table = self.model.get_input_embeddings()
        rows = int(table.num_embeddings if hasattr(table, "num_embeddings") else table.weight.shape[0])
        return KINDS[self.family](
            self.tokenizer,
            self.name,
            min(rows, text_of(self.config.to_dict()).get("vocab_size") or rows),  # some hold rows that no text has
            [getattr(self.tokenizer, "pad_token_id", None), getattr(self.config, "pad_token_id", None)],
            [getattr(source, "eos_token_id", None) for source in sources],
        )

    @property
    def pad_id(self) -> int:
        """A token id for padding; what it is does not matter, since padding is masked."""
        return self.tokens.pad_id

    @property
    def end_id(self) -> int:
        """The token that ends an answer.

        Raises:
            InputError: there is none.
        """
        return self.tokens.end_id

    @cached_property
    def weights_id(self) -> str:
        """sha256 (hex) of weights and tokenizer, without number type: the backbone's identity in a fingerprint."""
        return digest_of_tensors(self.model, b"") if self.folder is None else files.weights_id(self.folder)

    def legacy_ids(self) -> set[str]:
        """The ids that older versions may have given this backbone; those of 0.1.0 held the number type."""
        found = {digest_of_tensors(self.model, str(self.dtype).encode())}
        return found | (files.legacy_ids(self.folder) if self.folder else set())

    def check_adapter(self, adapter: Fits) -> None:
        """Refuse an adapter that was not trained on this backbone.

        Raises:
            InputError: another width or other weights.
        """
        known = self.weights_id if "backbone_id" in adapter.metadata else ""
        adapter.check_fits(self.name, known, self.d, self.legacy_ids)

    def check_room(self, m: int, s: int) -> None:
        """Refuse a prompt of m and texts of s tokens that there are no positions for.

        Raises:
            InputError: m + s is more than the backbone has positions.
        """
        check_room(self.name, self.positions, m, s)

    def check_answers(self, longest: int) -> None:
        """Refuse answers of so many tokens that the decoder of an encoder-decoder has no positions for.

        Raises:
            InputError: so it is.
        """
        written = answer_room_of(self.config.to_dict()) if self.family == "seq2seq" else None
        check_answers(self.name, written, longest)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., d] of token ids [...], as the model's first layer gets them."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded if self.way.scale == 1 else embedded * self.way.scale

    def see(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Vectors of each picture, [vectors of its `Tokens.picture_block`, d], as the model's first layer gets them.

        Raises:
            InputError: this backbone reads no pictures; or one that is gone, has changed, or cannot be read.
        """
        raise InputError(f"backbone {self.name}: it reads no pictures")

    def encode_texts(self, texts: Sequence[str], continues: bool = False) -> list[list[int]]:
        """See `Tokens.encode_texts`."""
        return self.tokens.encode_texts(texts, continues)

    @property
    @abstractmethod
    def packs(self) -> bool:
        """Whether several texts may lie in one row of a batch."""

    def check_layout(self, layout: str) -> None:
        """Refuse a layout of text and rows of A in which this backbone cannot be computed.

        Raises:
            InputError: so it is.
        """

    @abstractmethod
    def check_in_context(self) -> None:
        """Refuse solved examples in the prompt where the model was not trained to continue them.

        Raises:
            InputError: it was not.
        """

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
            labels: causal and encoder [batch, length], as input_ids; encoder-decoder [batch, label length]; -100
                ignored.
            all_positions: not of encoder-decoders: False computes logits at label positions alone: [labels, vocab].

        Returns:
            logits [batch, m + length, vocab] for causal models, [batch, label length, vocab] for encoder-decoders,
            [batch, length, vocab] for encoders, whose loss is that of the labels where they stand.

        Raises:
            InputError: wrong width, a text longer than s or than there are positions, labels missing where needed.
        """
        self.check_adapter(adapter)
        ids = input_ids.to(self.device)
        real = (
            torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.to(self.device).bool()
        )
        lengths, s = real.sum(1), adapter.config.s
        if lengths.max() > s or lengths.min() < 1:
            raise InputError(f"backbone: texts of {int(lengths.min())} to {int(lengths.max())} tokens; 1 to s={s} fit")
        self.check_room(adapter.config.m, s if adapter.layout == "paper" else int(lengths.max()))
        return self._answer(adapter, ids, real, real.int().argmax(1, keepdim=True), labels, all_positions)

    @abstractmethod
    def _answer(
        self, adapter: Adapter, ids: Tensor, real: Tensor, start: Tensor, labels: Tensor | None, all_positions: bool
    ) -> Output:
        """What `forward` gives, for ids [batch, length], real [batch, length] and the first real column [batch, 1]."""

    @abstractmethod
    def run_prefix(self, prompts: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor] | None:
        """Keys, values (per layer [N, heads, m, width]) and last hidden states [N, m, d] of prompts [N, m, d].

        None where a prompt cannot run alone: it sees the text behind it, or the model is computed row by row.
        """
