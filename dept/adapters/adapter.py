"""One DePT adapter: soft prompt P, low-rank pair A and B, and their files."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from dept.adapters.fits import Legacy, check_weights
from dept.adapters.head import FIXED, TRAINED, Head
from dept.adapters.offset import Offset
from dept.adapters.picture_map import SeenBy
from dept.config import AdapterConfig, Layout, PictureMap
from dept.readout import Readout, header_of, readout_of
from infra.errors import InputError
from infra.files import new_folder

FORMAT = 3  # 2: no map of pictures; 1: P, A and B alone; both are still read and written
TENSORS = "adapter.safetensors"
MANIFEST = "adapter.json"
CONTINUES = "continues"  # metadata: the prompt holds text that the texts go on from, so they begin nothing anew
_PICKLE = (b"\x80", b"PK\x03\x04")


class Adapter(nn.Module):
    """P, A and B, where asked more: what adapts a frozen backbone (section 2.3, arXiv 2309.05173).

    Args:
        prompt: P [m, d], placed before the text.
        a: A [s, r]; row i belongs to text position i. r = 0 is plain prompt tuning.
        b: B [r, d]; text position i gets scale * (A @ B)[i].
        alpha: scale = alpha / sqrt(r).
        layout: where text and rows sit for causal backbones, "adjacent" or "paper" (`dept.backbones.tokens`).
        head: a linear head over pooled hidden states of the adapted pass; default none, the words alone answer.
        layers: the depths that the head reads, see `AdapterConfig`.
        width: of the hidden states that it reads; default d.
        offset: ADePT's map of each token's embedding; default none.
        pictures: its map of pictures to vectors before the text; default none.

    Attributes:
        readout: how scores become log-probabilities over the labels; None: they are the words' own.

    Raises:
        InputError: shapes that do not fit together or are empty, an unknown layout, an alpha that is not positive,
            numbers that are not finite or no floating-point numbers.

    Example:
        >>> from dept import Adapter
        >>> adapter = Adapter(torch.zeros(10, 576), torch.zeros(64, 4), torch.zeros(4, 576))
        >>> adapter.save("mine")  # doctest: +SKIP
        >>> Adapter.load("mine").config.m  # doctest: +SKIP
        10
    """

    def __init__(
        self,
        prompt: Tensor,
        a: Tensor,
        b: Tensor,
        alpha: float = 8.0,
        layout: Layout = "adjacent",
        head: Head | None = None,
        layers: Sequence[float] = (),
        offset: Offset | None = None,
        pictures: SeenBy | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        fit = prompt.ndim == a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and prompt.shape[1] == b.shape[1]
        if not fit or not prompt.numel() or not len(a):
            raise InputError(
                f"adapter: shapes do not fit: P {list(prompt.shape)} must be [m, d], A {list(a.shape)} "
                f"[s, r], B {list(b.shape)} [r, d]"
            )
        if layout not in get_args(Layout):
            raise InputError(f"adapter: unknown layout {layout!r}; known: {', '.join(get_args(Layout))}")
        if not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
            raise InputError(f"adapter: alpha must be a positive number, got {alpha!r}")
        self.width = width or prompt.shape[1]
        if head is not None and (not layers or len(head.mean) != len(layers) * self.width):
            raise InputError(f"adapter: a head over {len(head.mean)} features does not read {len(layers)} layers of it")
        if pictures is not None and pictures.place.shape[1] != prompt.shape[1]:
            raise InputError(f"adapter: P {list(prompt.shape)} beside places of pictures {list(pictures.place.shape)}")
        parts = [part.named() for part in (head, offset, pictures) if part is not None]
        more = {name: tensor for part in parts for name, tensor in part.items()}
        for name, tensor in (("P", prompt), ("A", a), ("B", b), *more.items()):
            if not tensor.is_floating_point():
                raise InputError(f"adapter: {name} must hold floating-point numbers, not {tensor.dtype}")
            if not torch.isfinite(tensor).all():
                raise InputError(f"adapter: {name} holds NaN or infinite numbers")
        self.prompt = nn.Parameter(prompt.detach().clone().float())
        self.a = nn.Parameter(a.detach().clone().float())
        self.b = nn.Parameter(b.detach().clone().float())
        for name, tensor in more.items():
            value = tensor.detach().clone().float()
            setattr(self, name, nn.Parameter(value, requires_grad=name not in FIXED))
        self.layers = tuple(layers) if head is not None else ()
        self.sees: PictureMap | None = None if pictures is None else pictures.config
        self.readout: Readout | None = Readout() if head is not None else None
        self.alpha = float(alpha)
        self.layout: Layout = layout
        self.metadata: dict[str, Any] = {}
        self.sha256: str | None = None

    @property
    def config(self) -> AdapterConfig:
        """Shape of this adapter."""
        m, (s, r) = self.prompt.shape[0], self.a.shape
        told: dict[str, Any] = {"m": m, "r": r, "s": s, "alpha": self.alpha, "layout": self.layout}
        if self.layers:
            whole = self.readout is not None and self.readout.weight == 1
            told |= {"answers": "head" if whole else "both", "layers": self.layers}
        told["offset"] = len(self.offset.inside_bias) if self.offset is not None else 0
        return AdapterConfig(**told, pictures=self.sees)

    @property
    def offset(self) -> Offset | None:
        """ADePT's map, or None."""
        return Offset.of(dict(self.named_parameters()))

    @property
    def pictures(self) -> SeenBy | None:
        """Its map of pictures, or None."""
        return SeenBy.of(dict(self.named_parameters()), self.sees)

    @property
    def head(self) -> Head | None:
        """Its head, or None."""
        return Head.of({name: getattr(self, name) for name in (*TRAINED, *FIXED)}) if self.layers else None

    @property
    def parts(self) -> dict[str, Tensor]:
        """Every tensor of it by name, those that are not trained as well."""
        return {name: value.detach() for name, value in self.named_parameters()}

    @property
    def d(self) -> int:
        """Width of the backbone it fits."""
        return self.prompt.shape[1]

    @property
    def scale(self) -> float:
        """Factor on A @ B."""
        return self.config.scale

    def save(self, folder: str | Path, **metadata: Any) -> str:
        """Write `adapter.safetensors` and `adapter.json` durably; the folder appears whole or not at all.

        Returns:
            sha256 (hex) of the tensor file.

        Raises:
            InputError: the disk is full or the folder cannot be written.
        """
        folder = Path(folder)
        tensors = {name: value.cpu().contiguous() for name, value in self.parts.items()}
        payload = save_bytes(tensors, header_of(self.readout))
        digest = hashlib.sha256(payload).hexdigest()
        more: dict[str, Any] = {"layers": list(self.layers)} if self.layers else {}
        if self.width != self.d:
            more["width"] = self.width
        if self.offset is not None:
            more["offset"] = self.config.offset
        if self.readout is not None:
            more["readout"] = self.readout.body
        if self.sees is not None:
            more["pictures"] = self.sees.model_dump(exclude_none=True)
        manifest = {
            "format": FORMAT if self.sees is not None else 2 if more else 1,
            **self.config.model_dump(include={"m", "r", "s", "alpha", "layout"}),
            **more,
            "d": self.d,
            "sha256": digest,
            "metadata": {**self.metadata, **metadata},
        }
        try:
            with new_folder(folder) as temporary:
                (temporary / TENSORS).write_bytes(payload)
                (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"adapter: cannot write {folder} ({error}). Remedy: free space or choose another "
                "DEPT_HOME; the next run goes on from here"
            ) from error
        self.metadata, self.sha256 = manifest["metadata"], digest
        return digest

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an adapter that `save` wrote.

        Raises:
            InputError: not there, cut short, altered (sha256), a pickle, or of another format.
        """
        folder = Path(folder)
        tensors, manifest_file = folder / TENSORS, folder / MANIFEST
        if not tensors.is_file() or not manifest_file.is_file():
            raise InputError(
                f"adapter {folder}: {TENSORS} and {MANIFEST} are expected there. Remedy: give the folder "
                "of a saved adapter (a published one is read by Adapter.from_published)"
            )
        try:
            manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
            expected, alpha, layout = manifest["sha256"], manifest["alpha"], manifest["layout"]
            sizes, metadata = {size: manifest[size] for size in ("m", "s", "r", "d")}, dict(manifest["metadata"])
            layers, readout, width = manifest.get("layers", ()), manifest.get("readout"), manifest.get("width")
            sees = None if manifest.get("pictures") is None else PictureMap.model_validate(manifest["pictures"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"adapter {folder}: {MANIFEST} is damaged ({error})") from error
        if manifest.get("format") not in range(1, FORMAT + 1):
            raise InputError(
                f"adapter {folder}: format {manifest.get('format')} is not 1 to {FORMAT}, which this version reads. "
                "Remedy: a newer version of dept-transfer"
            )
        payload = tensors.read_bytes()
        if payload.startswith(_PICKLE) and payload[8:9] != b"{":  # safetensors: 8 bytes of length, then JSON
            raise InputError(
                f"adapter {folder}: {TENSORS} is a pickle, which can run code and is never loaded. "
                "Remedy: convert it with Adapter.from_published and save it again"
            )
        if hashlib.sha256(payload).hexdigest() != expected:
            raise InputError(
                f"adapter {folder}: {TENSORS} does not match its sha256: cut short or altered. Remedy: "
                "restore the file, or delete the folder and train the trial again"
            )
        try:
            stored = load_bytes(payload)
            head = Head.of(stored) if layers else None
            of_tokens = Offset.of(stored)
            p, a, b = (stored[name] for name in ("prompt", "a", "b"))
            adapter = cls(p, a, b, alpha, layout, head, layers, of_tokens, SeenBy.of(stored, sees), width)
            adapter.readout = readout_of(payload, readout, len(head.bias) if head else 0)
        except InputError:
            raise
        except Exception as error:  # safetensors raises its own unrelated types
            raise InputError(f"adapter {folder}: {TENSORS} cannot be read ({error})") from error
        found = {**dict(zip("msr", (adapter.prompt.shape[0], *adapter.a.shape), strict=True)), "d": adapter.d}
        if found != sizes:
            raise InputError(f"adapter {folder}: {MANIFEST} says {sizes}, but {TENSORS} holds {found}")
        adapter.metadata, adapter.sha256 = metadata, expected
        return adapter

    def with_parts(self, parts: Mapping[str, Tensor]) -> Self:
        """The same adapter with other tensors, by the names that `parts` has for them."""
        head = Head.of(dict(parts)) if self.layers else None
        p, a, b = (parts[name] for name in ("prompt", "a", "b"))
        pictures = SeenBy.of(parts, self.sees)
        made = type(self)(p, a, b, self.alpha, self.layout, head, self.layers, Offset.of(parts), pictures, self.width)
        made.metadata, made.readout = dict(self.metadata), self.readout
        return made

    @classmethod
    def from_published(cls, folder: str | Path) -> Self:
        """Read an adapter in the authors' format (https://github.com/ZhengxiangShi/DePT).

        `adapter_model.bin` holds `prompt_embeddings`, `lora_embedding_A` and `lora_embedding_B`. Where the pair is
        missing the adapter has A = B = 0 and a warning says so.

        Raises:
            InputError: files missing or not of that format.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            stored = torch.load(folder / "adapter_model.bin", weights_only=True, map_location="cpu")
        except FileNotFoundError as error:
            raise InputError(f"published adapter {folder}: {error.filename} is missing") from error
        except Exception as error:  # torch.load raises pickle, zip and runtime errors alike
            raise InputError(f"published adapter {folder}: cannot be read ({error})") from error
        found = {
            part: value
            for part in ("prompt_embeddings", "lora_embedding_A", "lora_embedding_B")
            for key, value in stored.items()
            if part in key
        }
        if "prompt_embeddings" not in found:
            raise InputError(f"published adapter {folder}: no prompt_embeddings among {sorted(stored)}")
        prompt, rank = found["prompt_embeddings"], int(config["r"])
        if len(found) < 3:
            warnings.warn(
                f"published adapter {folder}: it holds the soft prompt only; A and B are set to 0, so it "
                "will not reproduce the published score",
                stacklevel=2,
            )
            a, b = torch.zeros(int(config["max_length"]), rank), torch.zeros(rank, prompt.shape[1])
        else:
            a, b = found["lora_embedding_A"], found["lora_embedding_B"]
        adapter = cls(prompt, a, b, alpha=config["lora_alpha"], layout="paper")
        adapter.metadata = {"published": config, "backbone": config.get("base_model_name_or_path")}
        return adapter

    def check_fits(self, backbone_name: str, backbone_id: str, d: int, legacy: Legacy = tuple) -> None:
        """Refuse a backbone that this adapter was not trained on.

        Args:
            legacy: the ids that older versions gave this backbone; asked for only where the id is not the same.

        Raises:
            InputError: another width or other weights.
        """
        if self.d != d:
            raise InputError(
                f"adapter of width {self.d} does not fit backbone {backbone_name} of width {d}. Remedy: "
                f"use the backbone it was trained on ({self.metadata.get('backbone', 'unknown')})"
            )
        check_weights(self.metadata, backbone_name, backbone_id, legacy)
