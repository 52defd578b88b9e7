"""The tensors of many adapters as one: what a forward pass reads, and what training keeps beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dept.adapters.adapter import Adapter
from dept.adapters.optimizer import AdamW
from infra.errors import InputError

NAMES = ("prompt", "a", "b")


@dataclass
class Tensors:
    """The adapters of a stack: prompt [N, m, d], a [N, s, r], b [N, r, d], scale [N]."""

    prompt: Tensor
    a: Tensor
    b: Tensor
    scale: Tensor

    @classmethod
    def of(cls, adapters: Sequence[Adapter], device: torch.device) -> Tensors:
        """Stack adapters of equal shape.

        Raises:
            InputError: adapters of different (m, r, s).
        """
        if len({tuple(getattr(x, n).shape for n in NAMES) for x in adapters}) > 1:
            raise InputError("stack: adapters of different (m, r, s) do not fit in one stack")
        prompt, a, b = (torch.stack([getattr(x, name) for x in adapters]).to(device) for name in NAMES)
        return cls(prompt, a, b, torch.tensor([x.scale for x in adapters], device=device))


def shift(embeddings: Tensor, rows: Tensor, adapter_id: Tensor, tensors: Tensors) -> Tensor:
    """E + scale * (A @ B)[row] for text embeddings [R, T, d], rows of A [R, T], adapters [R]: the only place of it."""
    n, s, r = tensors.a.shape
    if not r:
        return embeddings
    # An embedding lookup, since its backward is the same bits every time; plain indexing's is not on CUDA.
    picked = functional.embedding(adapter_id[:, None] * s + rows, tensors.a.reshape(n * s, r))
    delta = torch.bmm(picked * tensors.scale[adapter_id][:, None, None], tensors.b.index_select(0, adapter_id))
    return embeddings + delta.to(embeddings.dtype)


class Training:
    """The trainable tensors of a stack, their optimizer state and best copies, one place per trial."""

    def __init__(self, like: Adapter, device: torch.device) -> None:
        empty = {name: getattr(like, name).detach().new_zeros(0, *getattr(like, name).shape) for name in NAMES}
        self.keys: list[str] = []
        self.parameters = {name: value.to(device).requires_grad_() for name, value in empty.items()}
        self.kept = {name: value.detach().to(device, copy=True) for name, value in empty.items()}
        self.scale = torch.zeros(0, device=device)
        self.optimizer = AdamW(self.parameters)

    @property
    def tensors(self) -> Tensors:
        """What a forward pass needs."""
        return Tensors(**self.parameters, scale=self.scale)

    def gradients(self) -> dict[str, Tensor]:
        """Name -> [N, ...]; zeros where nothing flowed."""
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.parameters.items()}

    def join(self, starts: dict[str, Adapter]) -> None:
        """Give each new trial a place at the end of the stack."""
        if not starts:
            return
        fresh = Tensors.of(list(starts.values()), self.scale.device)
        zeros = {name: torch.zeros_like(getattr(fresh, name)) for name in NAMES}
        new = {name: getattr(fresh, name).detach() for name in NAMES}
        state = {"parameters": new, "kept": new, "first": zeros, "second": zeros}
        self.load(
            {part: {n: torch.cat([old[n], state[part][n]]) for n in NAMES} for part, old in self.dump().items()},
            torch.cat([self.scale, fresh.scale]),
            functional.pad(self.optimizer.steps, (0, len(starts))),
            [*self.keys, *starts],
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
        """Remember a trial's tensors of now as its best."""
        adapter_id = self.keys.index(key)
        for name in NAMES:
            self.kept[name][adapter_id] = self.parameters[name].detach()[adapter_id]

    def best(self, key: str, start: Adapter) -> Adapter:
        """The kept adapter of a trial."""
        adapter_id = self.keys.index(key)
        prompt, a, b = (self.kept[name][adapter_id].cpu() for name in NAMES)
        adapter = type(start)(prompt, a, b, alpha=start.alpha, layout=start.layout)
        adapter.metadata = dict(start.metadata)
        return adapter

    def update(
        self, lr_prompt: list[float], lr_low_rank: list[float], weight_decay: list[float], clip: list[float]
    ) -> Tensor:
        """One optimizer step with each trial's own rates; returns gradient norms [N] and clears the gradients."""
        low, high = self.scale.new_tensor(lr_low_rank), self.scale.new_tensor(lr_prompt)
        norms = self.optimizer.step(
            self.parameters,
            self.gradients(),
            {"prompt": high, "a": low, "b": low},
            self.scale.new_tensor(weight_decay),
            self.scale.new_tensor(clip),
        )
        self.clear_gradients()
        return norms

    def clear_gradients(self) -> None:
        """Forget what has been added up."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def dump(self) -> dict[str, dict[str, Tensor]]:
        """Every per-trial tensor: part -> name -> [N, ...]."""
        return {
            "parameters": {n: p.detach() for n, p in self.parameters.items()},
            "kept": self.kept,
            "first": self.optimizer.first,
            "second": self.optimizer.second,
        }

    def load(self, state: dict[str, dict[str, Tensor]], scale: Tensor, steps: Tensor, keys: list[str]) -> None:
        """Set what `dump` gave, with scale [N] and update counts [N]."""
        self.parameters = {n: t.clone().requires_grad_() for n, t in state["parameters"].items()}
        self.kept = {n: t.clone() for n, t in state["kept"].items()}
        self.optimizer.first, self.optimizer.second = dict(state["first"]), dict(state["second"])
        self.optimizer.steps, self.scale, self.keys = steps, scale, keys
