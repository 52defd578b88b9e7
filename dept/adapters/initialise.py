"""How an adapter starts: P from vocabulary text, from sources or from the shots; A kaiming-uniform, B zero; a head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.adapter import CONTINUES, Adapter
from dept.adapters.head import Head
from dept.adapters.offset import Offset
from dept.adapters.picture_map import SeenBy
from dept.config import AdapterConfig
from dept.readout import Readout
from infra.errors import InputError


class Vocabulary(Protocol):
    """What a start needs of a backbone."""

    name: str

    @property
    def positions(self) -> int | None:
        """Tokens it was made for; None where it sets no bound."""

    @property
    def device(self) -> torch.device:
        """Where its embeddings lie."""

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., d] of token ids [...]."""

    def encode_texts(self, texts: Sequence[str], continues: bool = False) -> list[list[int]]:
        """Token ids of texts."""

    def check_in_context(self) -> None:
        """Refuse shots in the prompt where the model was not trained to continue them."""


class Talk(Protocol):
    """What makes a conversation of solved examples: `dept.backbones.chat.ChatTokens`."""

    def conversation(self, shots: Sequence[tuple[str, str]], s: int, room: float) -> list[int]:
        """Token ids of (text, answer) pairs, of those that fit into `room`; texts are cut to s tokens."""


def from_text(backbone: Vocabulary, config: AdapterConfig, text: str, seed: int) -> Adapter:
    """Adapter whose prompt is the embeddings of `text`, repeated or cut to m tokens (the authors' TEXT start).

    A ~ kaiming_uniform(a=sqrt(5)), drawn from `seed` on the CPU, so that every device starts alike; B = 0, so the
    low-rank pair starts at zero.

    Raises:
        InputError: a text without a token.
    """
    ids = backbone.encode_texts([text])[0]
    if not ids:
        raise InputError("prompt_text: holds no token. Remedy: a few words that name the task")
    ids = (ids * math.ceil(config.m / len(ids)))[: config.m]
    return _with_new_pair(_embedded(backbone, ids), config, seed)


def from_shots(
    backbone: Vocabulary, config: AdapterConfig, shots: Sequence[tuple[str, str]], chat: Talk | None = None
) -> Adapter:
    """In-context learning as an adapter: P holds the embeddings of the solved examples, the pair is empty.

    Nothing is trained. Since P is a prefix like any other, the engine runs the shots once for the whole test set.
    Examples that leave no room for a text of s tokens are left out, the first ones first.

    Args:
        shots: (text with the template applied, answer), in the order in which they are to be read.
        chat: they are turns of user and assistant; it makes token ids of such.

    Raises:
        InputError: an encoder-decoder, or not one example fits into the backbone's positions.
    """
    backbone.check_in_context()
    if chat is not None:
        room = backbone.positions - config.s if backbone.positions else math.inf
        return _told(backbone, config, chat.conversation(shots, config.s, room))
    begin = backbone.encode_texts([""])[0]
    room = (backbone.positions - config.s if backbone.positions else math.inf) - len(begin)
    ids: list[int] = []
    for text, answer in reversed(shots):
        blank = "" if text.endswith("\n") else " "
        shot, solved = backbone.encode_texts([text, f"{blank}{answer}\n\n"], continues=True)
        more = [*shot[-config.s :], *solved]  # a long text is cut as those to be answered, so that all are of use
        if len(ids) + len(more) > room:
            break
        ids = more + ids
    return _told(backbone, config, [*begin, *ids] if ids else [])  # it begins once, at the very beginning


def _told(backbone: Vocabulary, config: AdapterConfig, ids: Sequence[int]) -> Adapter:
    """An untrained adapter whose prompt holds what texts go on from."""
    if not ids:
        raise InputError(
            f"in-context: no shot fits beside s={config.s}; {backbone.name} has {backbone.positions} positions"
        )
    config = config.model_copy(update={"m": len(ids), "r": 0})
    made = _with_new_pair(_embedded(backbone, ids), config, 0)
    made.metadata = {CONTINUES: True}
    return made


def from_source(source: Adapter, config: AdapterConfig, seed: int = 0) -> Adapter:
    """Adapter that starts as a copy of a source adapter's P, A and B (paper section 3.4); a head is its task's own.

    Where the target asks for a map of pictures it is the source's as well, or new where the source has none.

    Raises:
        InputError: the source has another shape, layout or map of pictures than the target asks for.
    """
    if source.config.shape != config.shape:
        raise InputError(
            f"source adapter has {source.config}, the target asks for {config}. Remedy: the same m, r, s, "
            "alpha, layout and offset for both"
        )
    own = _sight(source, config, seed)
    copy = Adapter(source.prompt, source.a, source.b, source.alpha, source.layout, None, (), source.offset, own)
    copy.metadata = {"source_sha256": source.sha256}
    return copy


def from_prompt(source: Adapter, config: AdapterConfig, seed: int) -> Adapter:
    """Adapter that takes P, and a map of pictures, from a source; A and B are new (what a text's positions need).

    Raises:
        InputError: the source has another m or map of pictures than the target asks for.
    """
    if source.config.m != config.m:
        raise InputError(
            f"source adapter has m={source.config.m}, the target asks for m={config.m}; use one m for both"
        )
    copy = _with_new_pair(source.prompt, config, seed, _sight(source, config, seed))
    copy.metadata = {"source_sha256": source.sha256}
    return copy


def from_mixture(sources: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """One adapter out of several: convex combination of P and of the products A @ B, re-factored to rank r.

    ATTEMPT (https://arxiv.org/abs/2205.11961) mixes soft prompts by attention weights; here the weights are fixed
    numbers, so that what comes out is an adapter like any other. The best rank-r product in the least-squares sense
    is the truncated singular value decomposition; its singular values are split evenly between A and B.

    Args:
        sources: of one shape.
        weights: one per source, not negative, sum 1.

    Raises:
        InputError: sources of different shapes, or weights that are no convex combination.
    """
    first = sources[0]
    if len({source.config for source in sources}) > 1:
        raise InputError("mixture: the sources have different shapes; train them with one m, r, s, alpha and layout")
    if first.offset is not None or first.sees is not None:
        raise InputError(
            "mixture: maps of token embeddings and of pictures cannot be mixed. Remedy: sources without, or another "
            "strategy"
        )
    if len(weights) != len(sources) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-3:
        raise InputError(f"mixture: weights {list(weights)} must be one per source, not negative, with sum 1")
    with torch.no_grad():
        pairs = list(zip(sources, weights, strict=True))
        prompt = torch.stack([w * source.prompt for source, w in pairs]).sum(0)
        a, b = factored(torch.stack([w * source.a @ source.b for source, w in pairs]).sum(0), first.config.r)
    mixed = Adapter(prompt, a, b, alpha=first.alpha, layout=first.layout)
    mixed.metadata = {"mixture": [{"sha256": source.sha256, "weight": w} for source, w in pairs]}
    return mixed


def factored(product: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """A [s, r] and B [r, d] whose product is the nearest to `product` [s, d] of all of rank r (Eckart-Young)."""
    u, singular, v = torch.linalg.svd(product.double(), full_matrices=False)
    root, missing = singular[:r].sqrt(), max(0, r - len(singular))
    a, b = (u[:, :r] * root).float(), (root[:, None] * v[:r]).float()
    return functional.pad(a, (0, missing)), functional.pad(b, (0, 0, 0, missing))


def with_head(start: Adapter, head: Head, config: AdapterConfig) -> Adapter:
    """The same start with a head over `config.layers`; the head alone answers where `config.answers` says so."""
    p, a, b, layers = start.prompt, start.a, start.b, config.layers
    width = len(head.mean) // len(layers)
    made = Adapter(p, a, b, start.alpha, start.layout, head, layers, start.offset, start.pictures, width)
    made.metadata = dict(start.metadata)
    if config.answers == "head":
        made.readout = Readout(weight=1.0)
    return made


def _embedded(backbone: Vocabulary, ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return backbone.embed(torch.tensor(ids, device=backbone.device)).float().cpu()


def _sight(source: Adapter, config: AdapterConfig, seed: int) -> SeenBy | None:
    """The map of pictures that a target asks for, from its source where that has one."""
    if config.pictures is None:
        return None
    if source.sees is not None and source.sees.seen != config.pictures.seen:
        raise InputError(
            f"source adapter sees pictures by {source.sees}, the target asks for {config.pictures}. Remedy: the same "
            "adapter.pictures for both"
        )
    if source.pictures is None:
        return SeenBy.started(config.pictures, source.prompt.detach(), seed)
    return replace(source.pictures, config=config.pictures)  # whose encoder may lie elsewhere


def _with_new_pair(prompt: Tensor, config: AdapterConfig, seed: int, pictures: SeenBy | None = None) -> Adapter:
    bound = 1 / math.sqrt(config.r) if config.r else 0.0  # kaiming_uniform with a=sqrt(5) on [s, r]: fan_in = r
    a = torch.empty(config.s, config.r).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
    b = torch.zeros(config.r, prompt.shape[1])
    offset = Offset.started(prompt.shape[1], config.offset, seed) if config.offset else None
    if config.pictures is not None and pictures is None:
        pictures = SeenBy.started(config.pictures, prompt, seed)
    return Adapter(prompt, a, b, config.alpha, config.layout, offset=offset, pictures=pictures)
