"""A backbone's files: where they lie, and the sha256 that names them. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from dept.backbones import wheel as embedded
from dept.config import QUANTISED, Dtype
from infra.errors import InputError, of_hub
from infra.files import write_text

# What decides a number: weights, shapes, and each file that turns text into ids. A chat template does where a task asks
# for it (`TrialSpec.chat`).
_LOADED = ("model.safetensors", "pytorch_model.bin")  # as transformers looks for them; each may be parts, by an index
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.gguf")
_OLDER_TOKENS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "spiece*",
)
# and what tokenizers of some models read beside: marian, qwen, phobert, mistral, clip's kin
_TOKENS = (
    *_OLDER_TOKENS,
    "*.spm",
    "*.tiktoken",
    "bpe.codes",
    "dict.txt",
    "tekken.json",
    "normalizer.json",
    "*.model.v*",
)
# and those of fewer: fsmt, marian of two vocabularies, luke, prophetnet, myt5, roc_bert, gpt_neox_japanese
_RARE = (
    "vocab-*.json",
    "target_vocab.json",
    "entity_vocab.json",
    "*.tokenizer",
    "byte_maps.json",
    "word_*.json",
    "emoji.json",
)
# and those that say what a picture becomes, of models that read pictures
PREPARES = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")
_PICTURES = (*PREPARES, "chat_template.jinja", "chat_template.json")
_LEGACY = ("*.safetensors", "*.bin", "config.json", "tokenizer.json", "*.model", "vocab.*", "merges.txt")  # of 0.1.0
_VERSION = b"dept weights 2"
_SETTLED = 2.0  # seconds; a file that changed later than this before it was hashed may change again unseen
_HEX = re.compile(r"[0-9a-f]{64}")


def resolve(name_or_path: str, what: str = "backbone") -> str:
    """Folder of a catalogue name or a local path; anything else is taken for a hub id.

    Args:
        what: it is, in errors.

    Raises:
        InputError: neither a known name nor a folder, and not of the form of a hub id.
    """
    if name_or_path in embedded.WHEELS:
        return str(embedded.converted(name_or_path))
    if Path(name_or_path).is_dir():
        if not (Path(name_or_path) / "config.json").is_file():
            raise InputError(f"{what} {name_or_path}: the folder holds no config.json")
        return name_or_path
    if name_or_path.startswith((".", "/", "~")):
        raise InputError(f"{what} {name_or_path}: no such folder")
    return name_or_path


def folder_of(name_or_path: str, what: str = "backbone") -> Path:
    """Folder of a model's files on this machine; those of a hub id are fetched into the hub's cache first.

    Args:
        what: it is, in errors.

    Raises:
        InputError: unknown, or not in reach.
    """
    found = resolve(name_or_path, what)
    if Path(found).is_dir():
        return Path(found)
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "vocab.*", "merges.txt", "*.jinja", *_TOKENS, *_RARE]
    try:
        folder = Path(snapshot_download(found, allow_patterns=[*wanted, "*.safetensors"]))
        if not _loaded(folder):
            folder = Path(snapshot_download(found, allow_patterns=[*wanted, "pytorch_model*.bin"]))
    except Exception as error:  # the hub's client raises several kinds
        raise _not_there(found, of_hub(error), what) from error
    if not (folder / "config.json").is_file():
        raise InputError(f"{what} {found!r}: its repository holds no config.json")
    return folder


def cannot_load(source: str, error: Exception, what: str = "backbone") -> InputError:
    """What is said of a model that cannot be loaded: one line with the cause and what to do."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return _not_there(source, reason, what)


def _not_there(source: str, reason: str, what: str) -> InputError:
    shipped = f"one of {', '.join(embedded.WHEELS)}, " if what == "backbone" else ""
    return InputError(
        f"{what} {source!r} cannot be loaded: {reason.rstrip('.')}. Remedy: {shipped}a folder with config.json and "
        "safetensors, or a hub id in reach"
    )


def short_name(name_or_path: str) -> str:
    """A backbone's name for people: the last part of a path or hub id, in small letters."""
    is_path = "/" in name_or_path or Path(name_or_path).is_dir()
    return Path(name_or_path).absolute().name.lower() if is_path else name_or_path


def weights_id(folder: Path) -> str:
    """sha256 (hex) of weights, config and tokenizer: the same for every path of the same files, and number type."""
    if origin := _origin(folder):
        return hashlib.sha256(_VERSION + origin.encode()).hexdigest()
    return _id_from(hashlib.sha256(_VERSION + _other_ends(folder)), folder)


def _id_from(digest: Any, folder: Path) -> str:
    pictures = _PICTURES if reads_pictures(folder) else ()
    others = (folder.glob(pattern) for pattern in (*_TOKENS, *_RARE, *pictures))
    return _digest_of(digest, weights_of(folder), [folder / "config.json"], *others)


def _other_ends(folder: Path) -> bytes:
    """Tokens that generation_config.json ends answers by, and neither config.json nor the tokenizer; else nothing."""
    ends, usual = (
        found if isinstance(found := json_of(folder / name).get("eos_token_id"), list) else [found]
        for name in ("generation_config.json", "config.json")
    )
    others = [end for end in ends if end is not None and end not in usual]
    if others:
        own = _ends_of_tokenizer(folder)
        others = [end for end in others if str(end) not in own]
    return f"ends {json.dumps(others)}".encode() if others else b""


def _ends_of_tokenizer(folder: Path) -> set[str]:
    """Ids of the token that a tokenizer's files call the end of a text."""
    about = json_of(folder / "tokenizer_config.json")
    listed = {token["id"]: token for token in json_of(folder / "tokenizer.json").get("added_tokens") or ()}
    listed |= about.get("added_tokens_decoder") or {}
    end = content_of(about.get("eos_token"))
    return {str(id_) for id_, token in listed.items() if end is not None and content_of(token) == end}


def picture_encoder_id(folder: Path) -> str:
    """sha256 (hex) of the weights and config of a picture encoder, and of what says how it is given pictures."""
    prepares = [folder / name for name in PREPARES]
    return _digest_of(hashlib.sha256(b"dept picture encoder 1"), weights_of(folder), [folder / "config.json"], prepares)


def reads_pictures(folder: Path) -> bool:
    """Whether a folder's files are those of a causal model that reads pictures, with what prepares them."""
    config = json_of(folder / "config.json")
    eyes = any(isinstance(value, dict) and re.match("vi(sion|sual|t)", key) for key, value in config.items())
    there = any((folder / name).is_file() for name in PREPARES)
    return eyes and there and not config.get("is_encoder_decoder")


def weights_of(folder: Path) -> list[Path]:
    """The files of weights that transformers loads from a folder; a clone of a hub repository may hold others beside.

    Of a folder from which it loads none the first kind of weights that is there.
    """
    return _loaded(folder) or _of_first_kind(folder)


def _of_first_kind(folder: Path) -> list[Path]:
    return next((found for kind in _WEIGHTS if (found := sorted(folder.glob(kind)))), [])


def _loaded(folder: Path) -> list[Path]:
    named = json_of(folder / "config.json").get("transformers_weights")
    for name in (*([named] if isinstance(named, str) else ()), *_LOADED):
        whole, index = folder / name, folder / (name if name.endswith(".json") else f"{name}.index.json")
        if whole.is_file() and whole.suffix != ".json":
            return [whole]
        if index.is_file():
            parts = json_of(index).get("weight_map")
            return sorted({folder / str(part) for part in parts.values()}) if isinstance(parts, dict) else []
    return []


def json_of(file: Path) -> dict[str, Any]:
    """What a JSON file holds; {} where it is missing, damaged or no mapping."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def content_of(token: Any) -> str | None:
    """The text of a token in a tokenizer's files: it stands there by itself, or with what else is known of it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def legacy_ids(folder: Path) -> set[str]:
    """All ids that older versions may have given a folder, where they are not today's."""
    found = {
        older_id(folder),
        _id_from(hashlib.sha256(_VERSION), folder),  # while the ends in generation_config.json did not count
        _text_id(folder),
        _text_id(folder, _other_ends(folder)),  # of a copy without what prepares pictures
        _first_kind_id(folder),
        *(legacy_id(folder, dtype) for dtype in get_args(Dtype) if dtype not in QUANTISED),
    }
    return found - {weights_id(folder)}


def _text_id(folder: Path, ends: bytes = b"") -> str:
    """The id that was given while what prepares pictures did not count; ends: see `_other_ends`."""
    others = (folder.glob(pattern) for pattern in (*_TOKENS, *_RARE))
    return _digest_of(hashlib.sha256(_VERSION + ends), weights_of(folder), [folder / "config.json"], *others)


def _first_kind_id(folder: Path) -> str:
    """The id that was given while all weights of the first kind that is there counted, loaded or not."""
    others = (folder.glob(pattern) for pattern in _TOKENS)
    return _digest_of(hashlib.sha256(_VERSION), _of_first_kind(folder), [folder / "config.json"], *others)


def older_id(folder: Path) -> str:
    """The id that was given while weights in every format counted, and only the commonest files of tokenizers."""
    kinds = (*_WEIGHTS, "config.json", *_OLDER_TOKENS)
    return _digest_of(hashlib.sha256(b"dept weights 2"), *(folder.glob(pattern) for pattern in kinds))


def _digest_of(digest: Any, *groups: Iterable[Path]) -> str:
    for file in _each_once(groups):
        digest.update(f"{file.name}:{hashed(file)}".encode())
    return str(digest.hexdigest())


def legacy_id(folder: Path, dtype: str) -> str:
    """The id that version 0.1.0 gave, which held the number type (`float32`)."""
    digest = hashlib.sha256(f"torch.{dtype}".encode())
    if origin := _origin(folder):
        digest.update(origin.encode())
        return digest.hexdigest()
    for file in _each_once(folder.glob(pattern) for pattern in _LEGACY):
        digest.update(f"{file.name}:{hashed(file)}".encode())
    return digest.hexdigest()


def hashed(file: Path) -> str:
    """sha256 (hex) of a file, from the cache where path, size, time and inode are those of when it was hashed.

    A cache that is torn, or cannot be read or written, costs a hashing, nothing else.
    """
    place = file.resolve()
    stat = place.stat()
    about = [str(place), stat.st_size, stat.st_mtime_ns, stat.st_ino]
    cached = embedded.cache_root().parent / "hashes" / f"{hashlib.sha256(str(place).encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(cached.read_text(encoding="utf-8"))
        if known["about"] == about and _HEX.fullmatch(known["sha256"]):
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = embedded.file_sha256(place)
    after = place.stat()
    if (after.st_size, after.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns) and time.time() - (
        stat.st_mtime_ns / 1e9
    ) > _SETTLED:
        _remember(cached, {"about": about, "sha256": found})
    return found


def _remember(cached: Path, body: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        write_text(cached, json.dumps(body))


def _origin(folder: Path) -> str | None:
    """Of a converted backbone the sha256 of what it was converted from."""
    file = folder / embedded.ORIGIN
    return str(json.loads(file.read_text(encoding="utf-8"))["sha256"]) if file.is_file() else None


def _each_once(groups: Iterable[Iterable[Path]]) -> list[Path]:
    return sorted({file for group in groups for file in group if file.is_file()})
