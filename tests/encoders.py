"""Tiny random encoders with a tokenizer that has [CLS], [SEP] and [MASK], as folders that `from_pretrained` loads."""

from pathlib import Path

import torch

from tests.tiny import WORDS

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SIZES |= {"max_position_embeddings": 128, "initializer_range": 0.3}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
# Each names what makes its type special: positions behind the padding token's id, relative ones, a window of 8
# tokens, embeddings narrower than the layers.
OPTIONS = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "deberta-v2": {
        **_RELATIVE,
        "position_buckets": 8,
        "type_vocab_size": 0,
        "legacy": False,
        "max_relative_positions": -1,
    },
    "modernbert": {"local_attention": 8, "num_hidden_layers": 4},
    "electra": {"embedding_size": 24},
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def encoder_tokenizer():
    """Words and their letters, with what BERT puts around a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({letter for word in WORDS for letter in word.lower()} | set(":.,0123456789"))
    words = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *(word.lower() for word in WORDS)]
    raw = Tokenizer(models.WordPiece({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=raw, **named)


def save_encoder(folder: Path, family: str, seed: int = 0, words: bool = True) -> Path:
    """Write a tiny random encoder of `family` and its tokenizer; `words`: with a masked-LM head."""
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForMaskedLM

    tokenizer = encoder_tokenizer()
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": None, "eos_token_id": None}
    config = CONFIG_MAPPING[family](vocab_size=len(tokenizer), **_SIZES | OPTIONS[family], **ids)
    torch.manual_seed(seed)
    model = (AutoModelForMaskedLM if words else AutoModel).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():  # norms and biases that are plain would hide where they are left out
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight), alpha=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
