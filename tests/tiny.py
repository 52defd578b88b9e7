"""Tiny random backbones with a real tokenizer, saved as folders that `Backbone.from_pretrained` loads."""

from pathlib import Path

import torch

TEXT = (
    "the a film was good bad great awful plot acting is and of to it very not service food price slow quick happy sad "
    "negative positive ham spam Review Sentiment Text Label red green blue"
)
WORDS = TEXT.split()


def save_backbone(folder: Path, family: str, seed: int = 0, width: int = 32) -> Path:
    """Write a 2-layer random model of `family` (t5, gpt2, llama) and its tokenizer. `width`: of a llama, numbers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator([" ".join(WORDS), *(f" {w}: {w}" for w in WORDS)] * 3, trainer)
    if family == "t5":
        raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>")
    vocab = raw.get_vocab_size()
    torch.manual_seed(seed)
    if family == "t5":
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocab,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.1,
                decoder_start_token_id=0,
                initializer_factor=1.0,
            )
        )
    elif family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab,
                n_positions=256,
                n_embd=32,
                n_layer=2,
                n_head=4,
                initializer_range=0.2,
                bos_token_id=1,
                eos_token_id=1,
            )
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                initializer_range=0.2,
                tie_word_embeddings=True,
                bos_token_id=1,
                eos_token_id=1,
                pad_token_id=0,
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
