"""What the processor beside a model makes of a picture: token ids by its size, and pixels. No torch at import.

A processor of transformers writes its image token out as the ids of a picture's block: one for each vector that the
model puts in, and the markup around them (tiles, ends of rows).
https://huggingface.co/docs/transformers/main_classes/processors
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dept.backbones.files import cannot_load, json_of

if TYPE_CHECKING:
    from PIL import Image

_TEXT = "first question"
_NOT_PIXELS = ("input_ids", "attention_mask", "labels", "text_replacement_offsets")
_ALONG = ("token_type_ids", "mm_token_type_ids", "cross_attention_mask")  # something for each token of a row
_NAMES = re.compile(r"_(token|token_id|token_index|patch_id)$")
_SIZES = 4096  # of pictures, whose blocks are kept


class Processor:
    """The image processor and tokenizer of an image-text-to-text model, for rows of one picture each.

    Pillow resizes pictures, whether torchvision is installed or not: the two give different pixels.

    Args:
        made: a processor of transformers.
        config: of the model, whose fields name tokens that stand for pictures and sounds.

    Attributes:
        token_id: of the tokens in whose place the model puts vectors.
        special: ids of tokens that mean something to the model.
    """

    def __init__(self, made: Any, config: Mapping[str, Any]) -> None:
        self.made, self.token_id = made, token_of(config)
        self.special = tokens_of(config)
        self.block_ids, self.place = lru_cache(_SIZES)(self._block_ids), lru_cache(2)(self._place)
        self._piece = self._in_template(made.image_token) or str(made.image_token)

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Any = None) -> Processor:
        """The processor of a folder.

        Args:
            tokenizer: of the same folder, where it is loaded already; processors add tokens, so a copy is used.

        Raises:
            InputError: there is none, or it needs what is not installed.
        """
        from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(folder)
            words = AutoTokenizer.from_pretrained(folder) if tokenizer is None else copy.deepcopy(tokenizer)
            kind = _stills(_class_of(config, Path(folder)))
            parts = {
                "tokenizer": words,
                "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil"),
            }
            about, options = kind.get_processor_dict(folder)
            made = kind.from_args_and_dict([parts.get(part) for part in kind.get_attributes()], about, **options)
            return cls(made, config.to_dict())
        except Exception as error:  # each library raises its own
            raise cannot_load(str(folder), error) from error

    def inputs(self, picture: Image.Image) -> dict[str, Any]:
        """What the model is given beside token ids (tensors, by name) for a row of one picture.

        What has something for each token of a row (`token_type_ids`, `cross_attention_mask`) is that of the block,
        [1, n, ...].

        Raises:
            ValueError: a picture that it does not take.
        """
        found = self._run(picture)
        ids, block = found["input_ids"][0].tolist(), self.block_ids(picture.size)
        at = next((i for i in range(len(ids)) if tuple(ids[i : i + len(block)]) == block), None)
        if at is None:
            raise ValueError("what it writes for a picture hangs on what stands around it")
        return {
            key: value[:, at : at + len(block)] if key in _ALONG else value
            for key, value in found.items()
            if key not in _NOT_PIXELS
        }

    def _place(self, begin: tuple[int, ...]) -> int:
        """Where the processor puts the block: 0 in front of the ids that begin a text, or behind all of these."""
        ids = self._run(_blank((64, 64)))["input_ids"][0].tolist()
        return len(begin) if begin and ids[: len(begin)] == list(begin) else 0

    def _block_ids(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Ids of the block of a picture of so many pixels (width, height)."""
        found = self._run(_blank(size))
        if "text_replacement_offsets" in found:
            offsets = found["text_replacement_offsets"][0][0]
            whole = self._piece.replace(offsets["text"], offsets["replacement"])
            return tuple(self.made.tokenizer(whole, add_special_tokens=False)["input_ids"])
        ids, around = found["input_ids"][0].tolist(), set(self.made.tokenizer("")["input_ids"])
        inside = [i for i, one in enumerate(ids) if one not in around]
        return tuple(ids[inside[0] : inside[-1] + 1])

    def _run(self, picture: Image.Image) -> Mapping[str, Any]:
        asked = {"images": [[picture]], "text": [self._piece], "return_tensors": "pt"}
        given: Mapping[str, Any]
        try:
            given = self.made(**asked, return_text_replacement_offsets=True)
        except TypeError:  # one that does not know where it writes
            given = self.made(**asked)
        return given

    def _in_template(self, token: str) -> str | None:
        """What the chat template writes for a picture in front of a user's words; None where it knows of none.

        Where it writes other words before a picture than before a text (SmolVLM: "User:" and "User: ") the token alone.
        """
        with_picture, without = self._before_words({"type": "image"}), self._before_words()
        found = with_picture.removeprefix(without)
        return found if found != with_picture and found.count(token) == 1 else None

    def _before_words(self, *first: Mapping[str, str]) -> str:
        """What the chat template writes before the user's words, whose message begins with these parts; "" without."""
        content = [*first, {"type": "text", "text": _TEXT}]
        try:
            said = self.made.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=getattr(self.made, "chat_template", None),
                tokenize=False,
            )
        except Exception:  # no template, or one that takes words alone
            return ""
        return str(said).split(_TEXT)[0]

    @property
    def head(self) -> str | None:
        """What a chat template writes before a picture that begins a user's message; None: as before words, or none."""
        before, found, _ = self._before_words({"type": "image"}).partition(self._piece)
        return before if found else None


def token_of(config: Mapping[str, Any]) -> int:
    """The id of the tokens in whose place an image-text-to-text model puts vectors.

    Raises:
        ValueError: its configuration names none.
    """
    named = (config.get(key) for key in ("image_token_id", "image_token_index", "image_patch_id", "media_token_id"))
    if (found := next((one for one in named if isinstance(one, int)), None)) is None:
        raise ValueError("its configuration names no token that stands for pictures")
    return found


def tokens_of(config: Mapping[str, Any]) -> dict[str, int]:
    """The token ids that a configuration names, by field."""
    return {key: value for key, value in config.items() if _NAMES.search(key) and type(value) is int}


def _class_of(config: Any, folder: Path) -> Any:
    """The class of a folder's processor."""
    import transformers
    from transformers import PROCESSOR_MAPPING

    files = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
    named = (json_of(folder / name).get("processor_class") for name in files)
    own = next((found for name in named if name and (found := getattr(transformers, str(name), None))), None)
    return own or PROCESSOR_MAPPING[type(config)]


def _stills(kind: Any) -> Any:
    """The class of a processor that may be without the parts for sound and moving pictures (which need torchvision)."""
    module = sys.modules[kind.__module__]
    if getattr(module, "num2words", module) is None:  # a package that smolvlm asks for, to name lengths of videos
        module.num2words = str  # type: ignore[attr-defined]

    class Stills(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    Stills.__name__ = kind.__name__
    return Stills


def _blank(size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    return Image.new("RGB", size, "grey")
