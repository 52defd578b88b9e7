"""What a backbone is, from its files alone: for controllers and planners, which load no weights and no torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

from dept.backbones.family import family_of, fills_in
from dept.backbones.files import cannot_load, folder_of, json_of, legacy_ids, reads_pictures, short_name, weights_id
from dept.backbones.plain_tokenizer import PlainTokenizer
from dept.backbones.processor import Processor
from dept.backbones.quantised import check_files, check_quantised
from dept.backbones.sizes import answer_room_of, check_answers, check_room, hidden_of, room_of, text_of, width_of
from dept.backbones.token_kinds import KINDS, EncoderTokens
from dept.backbones.tokens import Family, Tokens
from dept.config import Dtype
from infra.errors import InputError

DTYPES = get_args(Dtype)
_OTHER_WINDOWS = ("attention_chunk_size", "local_attention", "attention_window_size", "sliding_window_size")


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone without loading it.

    Attributes:
        name: short, for people.
        backbone_id: sha256 (hex) of weights and tokenizer, without number type.
        dtype: number type of its weights in memory.
        d: width of the input embeddings.
        positions: tokens of prompt and text together; None: no end.
        vocab: rows of the embedding table.
        family: "causal", "seq2seq" or "encoder".
        folder: where its files lie on this machine.
        config: its config.json.
        answer_positions: of an encoder-decoder: tokens of an answer; None: no end.
        reads_pictures: whether it sees pictures by itself.
        hidden: width of its hidden states, which heads read; None: not known.
        fills_in: its weights were saved with a masked-LM head.
    """

    name: str
    backbone_id: str
    dtype: Dtype
    d: int
    positions: int | None
    vocab: int
    family: Family
    folder: Path
    config: Mapping[str, Any]
    answer_positions: int | None = None
    reads_pictures: bool = False
    hidden: int | None = None
    fills_in: bool = False

    @cached_property
    def tokens(self) -> Tokens:
        """Text to token ids, as the loaded backbone's `tokens` has it.

        Without torch where the folder holds tokenizer.json; else transformers is asked, which imports it.

        Raises:
            InputError: a tokenizer that is missing, damaged or does not fit the model.
        """
        try:
            if (self.folder / "tokenizer.json").is_file():
                tokenizer: Any = PlainTokenizer(self.folder)
            else:
                from transformers import AutoTokenizer

                tokenizer = AutoTokenizer.from_pretrained(self.folder)
        except Exception as error:  # each library raises its own
            raise cannot_load(str(self.folder), error) from error
        ends = [json_of(self.folder / "generation_config.json").get("eos_token_id"), self.config.get("eos_token_id")]
        made = KINDS[self.family](
            tokenizer,
            self.name,
            self.vocab,
            (tokenizer.pad_token_id, self.config.get("pad_token_id")),
            (tokenizer.eos_token_id, *ends),
        )
        if self.reads_pictures:
            made.eyes = lambda: Processor.load(self.folder)
        made.check()
        return made

    @property
    def tells_words(self) -> bool:
        """Whether words can tell labels: not of an encoder without a masked-LM head, or a mask; heads alone read it.

        Raises:
            InputError: of an encoder, see `tokens`.
        """
        if self.family != "encoder":
            return True
        assert isinstance(self.tokens, EncoderTokens)
        return self.fills_in and self.tokens.mask_id is not None

    def legacy_ids(self) -> set[str]:
        """The ids that older versions may have given this backbone; those of 0.1.0 held the number type."""
        return legacy_ids(self.folder)

    @property
    def computed(self) -> str | None:
        """What of its arithmetic has changed since trials on it could be run; None where nothing has.

        Until version 0.2.0 every layer of a causal model saw the whole text, whatever windows it has, and
        encoder-decoders lost the scale of their embeddings.
        """
        if self.family == "encoder":
            return None
        if self.family == "seq2seq":
            return "scale" if self.config.get("scale_embedding") else None
        kinds = set(self.config.get("layer_types") or ()) | {str(self.config.get("attention_types") or "")}
        windows = self.config.get("sliding_window") if self.config.get("use_sliding_window", True) else None
        windows = windows or any(self.config.get(key) for key in _OTHER_WINDOWS)
        local = any("sliding" in kind or "chunked" in kind or "local" in kind for kind in kinds)
        return "windows" if windows or local else None

    def check_room(self, m: int, s: int) -> None:
        """Refuse a prompt of m and texts of s tokens that the backbone has no positions for.

        Raises:
            InputError: m + s is more than the backbone has positions.
        """
        check_room(self.name, self.positions, m, s)

    def check_answers(self, longest: int) -> None:
        """Refuse answers of so many tokens that an encoder-decoder has no positions for.

        Raises:
            InputError: so it is.
        """
        check_answers(self.name, self.answer_positions, longest)


def describe(name_or_path: str, dtype: str | None = None, device: str | None = None) -> BackboneInfo:
    """What a backbone is, by catalogue name (`smollm2-135m`), local folder or hub id; weights are hashed, not loaded.

    Args:
        dtype: "float32", "bfloat16" or "float64", on CUDA also "int8", "nf4" or "int8-torchao"; default float32, on
            CUDA bfloat16.
        device: where it will run ("cpu", "cuda"); default CUDA where this machine has it.

    Raises:
        InputError: unknown name, unreachable hub, damaged files.

    Example:
        >>> info = describe("smollm2-135m", dtype="float32")
        >>> info.family, info.d
        ('causal', 576)
        >>> len(info.tokens.encode_texts(["a good film"])[0])
        3
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"backbone: unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if dtype is not None and device is not None:
        check_quantised(dtype, device)
    folder = folder_of(name_or_path)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        check_files(short_name(name_or_path), config, dtype, device)
        sees = reads_pictures(folder)
        if "vocab_size" not in config and "num_channels" in config and not sees:
            raise InputError(
                f"backbone {name_or_path}: it reads pictures and writes no text. Remedy: adapter.pictures.encoder: "
                f"{name_or_path}, before a language model"
            )
        config = _filled(folder, config) if sees else config
        inner = text_of(config)
        d, vocab, positions, written = (
            width_of(inner),
            int(inner["vocab_size"]),
            room_of(config),
            answer_room_of(config),
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise cannot_load(str(name_or_path), error) from error
    if d is None:
        raise InputError(f"backbone {name_or_path}: its config.json names no width (hidden_size)")
    family = family_of(config)
    return BackboneInfo(
        short_name(name_or_path),
        weights_id(folder),
        cast(Dtype, dtype) if dtype else default_dtype(device),
        d,
        positions,
        vocab,
        family,
        folder,
        inner,
        written if family == "seq2seq" else None,
        sees,
        hidden=hidden_of(inner),
        fills_in=fills_in(config),
    )


def _filled(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of its parts, which files of models that read pictures leave out."""
    from transformers import AutoConfig  # imports torch

    filled: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    return filled


def default_dtype(device: str | None = None) -> Dtype:
    """Number type of weights where none is asked for: bfloat16 on CUDA, float32 elsewhere. The one rule for all.

    A controller asks it once, for its own machine, and writes the answer into specs; workers load what those say. Where
    controller and workers differ, a plan names its `dtype`.

    Args:
        device: where it will run; default CUDA where this machine has it and torch is built for it.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles")
    there = Path("/dev/nvidia0").exists() or any(Path("/dev").glob("nvidia[0-9]*"))
    cuda = device.startswith("cuda") if device else there and not hidden and _torch_has_cuda()
    return "bfloat16" if cuda else "float32"


def told_dtype(asked: str | None, device: str | None = None) -> str:
    """A line about a number type that nobody asked for, by `default_dtype`; "" where one was asked for."""
    if asked is not None:
        return ""
    found = default_dtype(device)
    if device is not None:
        return f"dtype {found} (the usual one of device {device}; the key dtype sets another)"
    there, other, where = ("no", "bfloat16", "of GPUs") if found == "float32" else ("a", "float32", "without GPUs")
    return f"dtype {found} (this machine has {there} GPU; set dtype: {other} for a pool {where})"


def _torch_has_cuda() -> bool:
    """Whether torch is a CUDA build, read from its files: to import it takes seconds."""
    torch = find_spec("torch")
    try:
        text = Path(str(torch and torch.origin)).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return True
    return re.search(r"^cuda\b.*=\s*None", text, re.MULTILINE) is None
