"""A tokenizer read from tokenizer.json, so that a plan is checked without importing torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dept.backbones.files import content_of, json_of

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class PlainTokenizer:
    """The part of a transformers tokenizer that `Tokens` uses, read from tokenizer.json without torch."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import AddedToken, Tokenizer

        self._folder = folder
        self._inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._inner.no_truncation()
        self._inner.no_padding()
        config = {**json_of(folder / "special_tokens_map.json"), **json_of(folder / "tokenizer_config.json")}
        named = {key: content_of(config.get(key)) for key in _SPECIAL}
        listed = config.get("added_tokens_decoder", {})
        later = [content_of(listed[key]) for key in sorted(listed, key=int)]
        for content in (*later, *named.values()):
            if content is not None and self._inner.token_to_id(content) is None:
                self._inner.add_special_tokens([AddedToken(content, special=True, normalized=False)])
        self.eos_token_id, self.pad_token_id, self.mask_token_id = (
            None if (token := named[key]) is None else self._inner.token_to_id(token)
            for key in ("eos_token", "pad_token", "mask_token")
        )

    def __call__(
        self,
        texts: Sequence[str],
        add_special_tokens: bool = True,
        verbose: bool = False,
        return_offsets_mapping: bool = False,
    ) -> dict[str, list[list[Any]]]:
        """`input_ids` of texts, and their places in the texts where asked for, as transformers gives them."""
        found = self._inner.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        places = {"offset_mapping": [encoding.offsets for encoding in found]} if return_offsets_mapping else {}
        return {"input_ids": [encoding.ids for encoding in found], **places}

    def convert_ids_to_tokens(self, index: int) -> str | None:
        """The token of an id."""
        found: str | None = self._inner.id_to_token(index)
        return found

    @cached_property
    def _whole(self) -> Any:
        from transformers import AutoTokenizer  # imports torch: for chat templates alone

        return AutoTokenizer.from_pretrained(self._folder)

    @property
    def chat_template(self) -> Any:
        """As transformers has it; None where there is none."""
        return self._whole.chat_template

    def apply_chat_template(self, turns: Sequence[Mapping[str, str]], **options: Any) -> Any:
        """A conversation as the template of the tokenizer writes it."""
        return self._whole.apply_chat_template(turns, **options)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Text of ids."""
        return str(self._inner.decode(list(ids), skip_special_tokens=skip_special_tokens))
