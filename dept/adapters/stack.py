"""The tensors of many adapters as one: what a forward pass reads, and what training keeps beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.adapter import Adapter
from dept.adapters.head import FIXED, TRAINED
from dept.adapters.offset import NAMES as OFFSET
from dept.adapters.offset import offsets
from dept.adapters.optimizer import AdamW
from dept.adapters.picture_map import NAMES as PICTURE
from dept.config import PictureMap
from dept.readout import Readout
from infra.errors import InputError

NAMES = ("prompt", "a", "b")  # what every adapter has
RATES = {"prompt": "lr_prompt", "a": "lr_low_rank", "b": "lr_low_rank", **dict.fromkeys(TRAINED, "lr_head")}
RATES |= dict.fromkeys(OFFSET, "lr_low_rank") | dict.fromkeys(PICTURE, "lr_pictures")
Shape = tuple[tuple[float, ...], tuple[object, ...] | None]


@dataclass
class Tensors:
    """The adapters of a stack: prompt [N, m, d], a [N, s, r], b [N, r, d], scale [N].

    With heads also head_weight [N, L, F], head_bias [N, L], head_mean and head_spread [N, F]; L is the most labels that
    one of them has, and the others' rows behind their own labels are never read. With ADePT's maps also those of
    `dept.adapters.offset.Stacked`, with maps of pictures those of `dept.adapters.picture_map.Stacked`; of adapters
    without a map they are zeros, which nothing reads.

    Attributes:
        layers: depths that the heads read; none: no heads.
        readouts: how each adapter's scores become answers; empty: as they are.
        pictures: what the maps of pictures read; None: no maps.
    """

    prompt: Tensor
    a: Tensor
    b: Tensor
    scale: Tensor
    head_weight: Tensor | None = None
    head_bias: Tensor | None = None
    head_mean: Tensor | None = None
    head_spread: Tensor | None = None
    offset_in: Tensor | None = None
    offset_in_bias: Tensor | None = None
    offset_out: Tensor | None = None
    offset_out_bias: Tensor | None = None
    picture_in: Tensor | None = None
    picture_out: Tensor | None = None
    picture_place: Tensor | None = None
    layers: tuple[float, ...] = ()
    readouts: Sequence[Readout | None] = ()
    pictures: PictureMap | None = None

    @classmethod
    def of(
        cls, adapters: Sequence[Adapter], device: torch.device, labels: int = 0, like: Adapter | None = None
    ) -> Tensors:
        """Stack adapters of equal shape, of which some may have no map of pictures.

        Args:
            labels: room for as many labels, where there are heads.
            like: room for a map of pictures as this one has.

        Raises:
            InputError: adapters of different (m, r, s), or with heads over different layers.
        """
        shapes = {shape_of(adapter) for adapter in adapters}
        if len({_joined(shape, shapes) for shape in shapes}) > 1:
            raise InputError(
                "stack: adapters of different (m, r, s, offset, layers of a head, pictures) do not fit in one stack"
            )
        parts: list[dict[str, Tensor]] = [dict(adapter.named_parameters()) for adapter in adapters]
        seeing = next((one for one in (like, *adapters) if one is not None and one.sees is not None), None)
        blank = {name: torch.zeros_like(seeing.parts[name]) for name in PICTURE} if seeing is not None else {}
        parts = [blank | part for part in parts]
        labels = max([labels, *(len(part["head_bias"]) for part in parts if "head_bias" in part)])
        named = {name: torch.stack([_room(name, part[name], labels) for part in parts]).to(device) for name in parts[0]}
        scale = torch.tensor([adapter.scale for adapter in adapters], device=device)
        readouts = [adapter.readout for adapter in adapters]
        told: dict[str, Any] = {"layers": adapters[0].layers, "pictures": None if seeing is None else seeing.sees}
        told |= named | {"scale": scale, "readouts": readouts if any(readouts) else ()}
        return cls(**told)


def shape_of(adapter: Adapter) -> Shape:
    """m, s, r, the width of its offset, the layers of its head, and its map of pictures: see `together`."""
    seen = None if adapter.sees is None else adapter.sees.seen
    return (adapter.prompt.shape[0], *adapter.a.shape, adapter.config.offset, *adapter.layers), seen


def together(shapes: Sequence[Shape]) -> dict[Shape, list[int]]:
    """Which of some adapters share a stack: those of one shape, and with them those that lack nothing but the map."""
    found: dict[Shape, list[int]] = {}
    for index, shape in enumerate(shapes):
        found.setdefault(_joined(shape, shapes), []).append(index)
    return found


def _joined(shape: Shape, others: Iterable[Shape]) -> Shape:
    """Of those that one without a map of pictures could join, the first that has one."""
    if shape[1] is not None:
        return shape
    return next((other for other in others if other[0] == shape[0] and other[1] is not None), shape)


def _room(name: str, tensor: Tensor, labels: int) -> Tensor:
    """A head's tensor with zeros behind its labels; others as they are."""
    if name not in TRAINED:
        return tensor
    return functional.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, labels - len(tensor)))


def shift(
    embeddings: Tensor, rows: Tensor, adapter_id: Tensor, tensors: Tensors, blank: Tensor | None = None
) -> Tensor:
    """E + scale * (A @ B)[row] for text embeddings [R, T, d], rows of A [R, T], adapters [R]: the only place of it.

    With ADePT's map what it makes of each embedding is added as well.

    Args:
        blank: bool [R, T], True where embeddings stay as they are: pictures.
    """
    if blank is not None:
        return torch.where(blank[..., None], embeddings, shift(embeddings, rows, adapter_id, tensors))
    if tensors.offset_in is not None:
        embeddings = embeddings + offsets(embeddings, adapter_id, tensors).to(embeddings.dtype)
    n, s, r = tensors.a.shape
    if not r:
        return embeddings
    # An embedding lookup, since its backward is the same bits every time; plain indexing's is not on CUDA.
    picked = functional.embedding(adapter_id[:, None] * s + rows, tensors.a.reshape(n * s, r))
    delta = torch.bmm(picked * tensors.scale[adapter_id][:, None, None], tensors.b.index_select(0, adapter_id))
    return embeddings + delta.to(embeddings.dtype)


class Training:
    """The trainable tensors of a stack, their means, best copies and optimizer state, one place per trial.

    Args:
        starts: what each trial starts as, by its key; of one shape. None has a place before it joins.
    """

    def __init__(self, starts: Mapping[str, Adapter], device: torch.device) -> None:
        self.starts = dict(starts)
        like = next((one for one in self.starts.values() if one.sees is not None), next(iter(self.starts.values())))
        most = max(len(start.head.bias) if start.head else 0 for start in self.starts.values())
        self.labels = 1 << (most - 1).bit_length() if most else 0  # so that other trials beside it change no shape
        whole = Tensors.of([like], device, self.labels)
        empty = {name: getattr(whole, name)[:0].clone() for name in like.parts}
        self.like, self.layers = like, like.layers
        self.keys: list[str] = []
        self.parameters = {n: v.requires_grad_() for n, v in empty.items() if n not in FIXED}
        self.kept = {n: v.detach().clone() for n, v in self.parameters.items()}
        self.mean = {n: v.detach().clone() for n, v in self.parameters.items()}
        self.fixed = {n: v for n, v in empty.items() if n in FIXED}
        self.scale = torch.zeros(0, device=device)
        self.optimizer = AdamW(self.parameters)

    @property
    def tensors(self) -> Tensors:
        """What a forward pass in training needs."""
        return self._with(self.parameters)

    @property
    def averaged(self) -> Tensors:
        """What a validation needs: the mean over the steps, see `TrainConfig.average`."""
        return self._with(self.mean)

    def _with(self, trained: Mapping[str, Tensor]) -> Tensors:
        readouts = [self.starts[key].readout for key in self.keys] if self.layers else ()
        told: dict[str, Any] = {**trained, **self.fixed, "scale": self.scale, "layers": self.layers}
        return Tensors(**told, readouts=readouts, pictures=self.like.sees)

    def gradients(self) -> dict[str, Tensor]:
        """Name -> [N, ...]; zeros where nothing flowed."""
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.parameters.items()}

    def join(self, keys: Sequence[str]) -> None:
        """Give each of these trials a place at the end of the stack."""
        if not keys:
            return
        fresh = Tensors.of([self.starts[key] for key in keys], self.scale.device, self.labels, self.like)
        new = {name: getattr(fresh, name).detach() for name in self.parameters}
        zeros = {name: torch.zeros_like(value) for name, value in new.items()}
        fixed = {name: getattr(fresh, name) for name in self.fixed}
        more = {"parameters": new, "kept": new, "mean": new, "first": zeros, "second": zeros, "fixed": fixed}
        self.load(
            {part: {n: torch.cat([t, more[part][n]]) for n, t in old.items()} for part, old in self.dump().items()},
            torch.cat([self.scale, fresh.scale]),
            functional.pad(self.optimizer.steps, (0, len(keys))),
            [*self.keys, *keys],
        )

    def leave(self, key: str) -> None:
        """Take a trial's place away; the others move up."""
        stay = torch.tensor(
            [i for i, k in enumerate(self.keys) if k != key], dtype=torch.long, device=self.scale.device
        )
        self.load(
            {part: {n: t[stay] for n, t in old.items()} for part, old in self.dump().items()},
            self.scale[stay],
            self.optimizer.steps[stay],
            [k for k in self.keys if k != key],
        )

    def keep(self, key: str) -> None:
        """Remember a trial's mean of now as its best."""
        adapter_id = self.keys.index(key)
        for name, kept in self.kept.items():
            kept[adapter_id] = self.mean[name][adapter_id]

    def best(self, key: str) -> Adapter:
        """The kept adapter of a trial."""
        adapter_id, start = self.keys.index(key), self.starts[key]
        kept = {name: value[adapter_id].cpu() for name, value in self.kept.items()}
        own = {name: value[: len(start.parts[name])] for name, value in kept.items() if name in start.parts}
        return start.with_parts({**start.parts, **own})

    def update(
        self, rates: Mapping[str, list[float]], weight_decay: list[float], clip: list[float], average: list[float]
    ) -> Tensor:
        """One optimizer step with each trial's own rates; returns gradient norms [N] and clears the gradients.

        Args:
            rates: of each kind of `RATES`, [N].
            average: what a step counts of the next in each trial's mean, [N].
        """
        of_kind = {kind: self.scale.new_tensor(values) for kind, values in rates.items()}
        norms = self.optimizer.step(
            self.parameters,
            self.gradients(),
            {name: of_kind[RATES[name]] for name in self.parameters},
            self.scale.new_tensor(weight_decay),
            self.scale.new_tensor(clip),
        )
        self._average(self.optimizer.steps.new_tensor(average))
        self.clear_gradients()
        return norms

    @torch.no_grad()
    def _average(self, average: Tensor) -> None:
        """Go on with sum(average^(t - i) * tensors of step i) / sum(average^(t - i)) over the steps i = 1 ... t."""
        steps = self.optimizer.steps
        share = torch.where(average < 1, (1 - average) / (1 - average**steps), 1 / steps).to(self.scale.dtype)
        for name, mean in self.mean.items():
            mean.lerp_(self.parameters[name], share.view((-1,) + (1,) * (mean.ndim - 1)))

    def clear_gradients(self) -> None:
        """Forget what has been added up."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def dump(self) -> dict[str, dict[str, Tensor]]:
        """Every per-trial tensor: part -> name -> [N, ...]."""
        return {
            "parameters": {n: p.detach() for n, p in self.parameters.items()},
            "kept": self.kept,
            "mean": self.mean,
            "first": self.optimizer.first,
            "second": self.optimizer.second,
            "fixed": self.fixed,
        }

    def load(self, state: dict[str, dict[str, Tensor]], scale: Tensor, steps: Tensor, keys: list[str]) -> None:
        """Set what `dump` gave, with scale [N] and update counts [N]."""
        self.parameters = {n: t.clone().requires_grad_() for n, t in state["parameters"].items()}
        self.kept = {n: t.clone() for n, t in state["kept"].items()}
        self.mean = {n: t.clone() for n, t in state["mean"].items()}
        self.fixed = dict(state["fixed"])
        self.optimizer.first, self.optimizer.second = dict(state["first"]), dict(state["second"])
        self.optimizer.steps, self.scale, self.keys = steps, scale, keys
