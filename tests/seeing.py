"""Tiny random models that read pictures, with processors as small: in memory, and saved as folders that load.

And whether a backbone's numbers for texts with pictures are those of its model's own pass over token ids and pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as t
from PIL import Image

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.backbones.processor import Processor, _stills
from dept.backbones.seeing_sibling import random_seeing
from dept.backbones.vision import embedding, row_of, text_alone
from dept.batches.tokenise import encode, encode_open
from dept.engine.evaluate import score_rows
from dept.engine.generate import generate_ids
from dept.engine.gradients import accumulate
from tasks.picture_reader import read_picture
from tasks.pictures import picture_at
from tests.tiny import save_backbone

TEXTS = ("the film was good and slow", "bad acting", "it is not happy food", "great plot")
WORDS = ("good", "very good", "bad plot")
SIZES = ((40, 30), (30, 40), (40, 30))
M, S, R = 3, 24, 2
TEXT = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"intermediate_size": 64, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1},
    **{"eos_token_id": 1},
}
EYES = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"image_size": 16, "patch_size": 8},
}
TILES = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}


def llava(words):
    """Vectors of CLIP in front of llama."""
    (image,) = ids_of(words, "<image>")
    eyes, text = {"model_type": "clip_vision_model", **EYES}, {"model_type": "llama", **sized(words)}
    config = t.LlavaConfig(text_config=text, vision_config=eyes, image_token_id=image)
    pixels = t.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    made = processor(t.LlavaProcessor, pixels, words, patch_size=8, num_additional_image_tokens=1)
    made.vision_feature_select_strategy = "default"
    return t.LlavaForConditionalGeneration, config, made


def idefics3(words, kind="Idefics3"):
    """Tiles of large pictures, with markup around each."""
    image, *_ = ids_of(words, "<image>", "<fake_token_around_image>", "<global-img>", *TILES)
    config = getattr(t, f"{kind}Config")(
        text_config={"model_type": "llama", **sized(words)},
        vision_config=EYES,
        image_token_id=image,
        scale_factor=2,
        pad_token_id=0,
    )
    pixels = getattr(t, f"{kind}ImageProcessorPil")(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    return (
        getattr(t, f"{kind}ForConditionalGeneration"),
        config,
        processor(getattr(t, f"{kind}Processor"), pixels, words, image_seq_len=1),
    )


def smolvlm(words):
    """As idefics3."""
    return idefics3(words, "SmolVLM")


def paligemma(words):
    """Picture and text see each other up to the answer."""
    words.bos_token = "</s>"
    (image,) = ids_of(words, "<image>")
    pixels = t.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    pixels.image_seq_length = 4
    made = processor(t.PaliGemmaProcessor, pixels, words)
    text = {"model_type": "gemma", "head_dim": 16, **sized(words)}
    eyes = {"model_type": "siglip_vision_model", "projection_dim": 64, **EYES}
    config = t.PaliGemmaConfig(text_config=text, vision_config=eyes, image_token_id=image, projection_dim=64)
    return t.PaliGemmaForConditionalGeneration, config, made


def gemma3(words):
    """Windows in some layers, and vectors of a picture that see each other."""
    names = {"image": "<image_soft_token>", "boi": "<boi>", "eoi": "<eoi>"}
    image, boi, eoi = ids_of(words, *names.values())
    words.SPECIAL_TOKENS_ATTRIBUTES = [*words.SPECIAL_TOKENS_ATTRIBUTES, *(f"{name}_token" for name in names)]
    for name, token in names.items():
        setattr(words, f"{name}_token", token)
    text = {**sized(words), "head_dim": 16, "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}
    config = t.Gemma3Config(
        text_config=text,
        vision_config=EYES,
        image_token_id=image,
        boi_token_id=boi,
        eoi_token_id=eoi,
        mm_tokens_per_image=4,
    )
    pixels = t.Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    return t.Gemma3ForConditionalGeneration, config, processor(t.Gemma3Processor, pixels, words, image_seq_length=4)


def qwen2_vl(words, kind="Qwen2VL"):
    """Turned by time, height and width (M-RoPE), as many vectors as a picture is large."""
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    ids = dict(zip(names, ids_of(words, *(f"<|{name}|>" for name in names.values())), strict=True))
    eyes: dict[str, Any] = {"depth": 2, "num_heads": 4, "patch_size": 8}
    text = {**sized(words), "rope_parameters": dict(MROPE)}
    if kind == "Qwen2VL":
        eyes |= {"embed_dim": 32, "hidden_size": 64}
    else:
        eyes |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 32}
    if kind == "Qwen2_5_VL":
        eyes |= {"window_size": 32, "fullatt_block_indexes": [1]}
    if kind == "Qwen3VL":  # vectors are added in its first layers, too
        eyes |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
        text |= {"head_dim": 16, "rope_parameters": {**MROPE, "mrope_interleaved": True}}
    config = getattr(t, f"{kind}Config")(text_config=text, vision_config=eyes, **ids)
    pixels = t.Qwen2VLImageProcessorPil(patch_size=8, min_pixels=256, max_pixels=2048, merge_size=2)
    made = processor(getattr(t, f"{kind}Processor"), pixels, words)
    return getattr(t, f"{kind}ForConditionalGeneration"), config, made


def qwen2_5_vl(words):
    """As qwen2_vl, with windows in what reads pictures."""
    return qwen2_vl(words, "Qwen2_5_VL")


def qwen3_vl(words):
    """As qwen2_vl, with vectors for several layers."""
    return qwen2_vl(words, "Qwen3VL")


def mllama(words):
    """Layers look across at tiles of a picture, which stands beside the text."""
    from tokenizers.processors import TemplateProcessing

    words.bos_token = "</s>"
    begin = TemplateProcessing(single="</s> $A", special_tokens=[("</s>", words.bos_token_id)])
    words.backend_tokenizer.post_processor = begin
    (image,) = ids_of(words, "<|image|>")
    # The last id has a place in the table of embeddings, and none in the head.
    text = {**sized(words), "vocab_size": image, "num_hidden_layers": 3, "cross_attention_layers": [1]}
    eyes = {**EYES, "attention_heads": 4, "num_global_layers": 1, "intermediate_layers_indices": [0, 2]}
    eyes |= {"vision_output_dim": 3 * EYES["hidden_size"]}
    config = t.MllamaConfig(text_config=text, vision_config=eyes, image_token_index=image)
    pixels = t.MllamaImageProcessorPil(size={"height": 16, "width": 16}, max_image_tiles=4)
    return t.MllamaForConditionalGeneration, config, processor(t.MllamaProcessor, pixels, words)


KINDS = {
    make.__name__: make
    for make in (llava, idefics3, smolvlm, paligemma, gemma3, qwen2_vl, qwen2_5_vl, qwen3_vl, mllama)
}


def ids_of(words, *tokens: str) -> list[int]:
    """Ids of special tokens, which are added."""
    words.add_special_tokens({"additional_special_tokens": list(tokens)})
    return [words.convert_tokens_to_ids(token) for token in tokens]


def sized(words) -> dict[str, Any]:
    """The text part's sizes; some room for tokens that processors add."""
    return {**TEXT, "vocab_size": len(words) + (1200 if words.bos_token else 0)}


def processor(kind, pixels, words, **options):
    """A processor for pictures alone."""
    parts = {"image_processor": pixels, "tokenizer": words}
    kind = _stills(kind)
    return kind(*(parts.get(part) for part in kind.get_attributes()), **options)


def made(name: str, words) -> tuple[Any, Processor]:
    """Model and processor of a kind, in memory."""
    kind, config, whole = KINDS[name](words)
    return random_seeing(kind, config), Processor(whole, config.to_dict())


def save_seeing(folder: Path, name: str, template: str | None = None) -> Path:
    """Write a tiny model of a kind, its tokenizer and image processor into a folder."""
    words = t.AutoTokenizer.from_pretrained(save_backbone(folder, "llama"))
    model, found = made(name, words)
    model.save_pretrained(folder)
    words = found.made.tokenizer
    words.chat_template = template
    words.save_pretrained(folder)
    body = found.made.image_processor
    body.save_pretrained(folder)
    options = {"processor_class": type(found.made).__name__}
    for key in ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy", "image_seq_len"):
        if hasattr(found.made, key):
            options[key] = getattr(found.made, key)
    if hasattr(found.made, "image_seq_length") and name == "gemma3":
        options["image_seq_length"] = found.made.image_seq_length
    (folder / "processor_config.json").write_text(json.dumps(options))
    return folder


def pictures_in(folder: Path, sizes=SIZES):
    """Pictures of noise, as files of a folder."""
    found = []
    for number, (width, height) in enumerate(sizes):
        draw = torch.Generator().manual_seed(number)
        pixels = (torch.rand(height, width, 3, generator=draw) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
        found.append(picture_at(folder / f"{number}.png"))
    return found


def adapter_of(backbone, seed):
    """A random adapter, whose numbers are about as large as embeddings."""
    draw = torch.Generator().manual_seed(seed)
    size = 0.5 * float(backbone.model.get_input_embeddings().weight.std())
    shapes = (M, backbone.d), (S, R), (R, backbone.d)
    return Adapter(*(torch.randn(*shape, generator=draw) * size**0.5 for shape in shapes), alpha=1.0)


def compared(backbone, pictures) -> str:
    """What of scores, gradients and new tokens of a stack of two is not the model's own; "" where all is."""
    adapters = [adapter_of(backbone, seed) for seed in (0, 1)]
    rows = encode(backbone.tokens, TEXTS, WORDS, [0, 1, 2, 0], adapters[0].config, [*pictures, None])
    items = [(which, row) for row in rows for which in (0, 1)]
    tensors = Tensors.of(adapters, backbone.device)
    with torch.no_grad():
        wanted = torch.tensor(
            [[own_score(backbone, adapters[w], row, ids) for ids in row.candidates] for w, row in items]
        )
    off = float((torch.tensor(score_rows(backbone, tensors, items)) - wanted).abs().max())
    if not off <= 1e-4 * max(1.0, float(wanted.abs().max()) / 5):
        return f"scores differ by {off:.2g} nats"
    for part in (names := ("prompt", "a", "b")):
        setattr(tensors, part, getattr(tensors, part).detach().requires_grad_())
    gold = [(which, row.only_gold()) for which, row in items]
    accumulate(backbone, tensors, gold, [1.0] * len(gold), 400)
    parts = [getattr(adapters[0], part) for part in names]
    total = -sum(own_score(backbone, adapters[0], row, row.candidates[0]) for which, row in gold if which == 0)
    for part, theirs in zip(names, torch.autograd.grad(total, parts), strict=True):
        off = float((getattr(tensors, part).grad[0] - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3))
        if not off <= 1e-3:
            return f"gradient of {part} differs by {off:.2g} of it"
    opened = encode_open(backbone.tokens, TEXTS, adapters[1].config, 3, [*pictures, None])
    written = generate_ids(backbone, Tensors.of(adapters, backbone.device), [(1, row) for row in opened], 3)
    theirs = [own_words(backbone, adapters[1], row) for row in opened]
    placeholder = backbone.vision.processor.token_id
    written = [ours[: len(own)] if placeholder in own else ours for ours, own in zip(written, theirs, strict=True)]
    return "" if written == theirs else f"new tokens {written} are not {theirs}"


def own_logits(backbone, adapter, row, answer):
    """The model's own logits [n, vocab] of one text with its picture and answer, behind the prompt."""
    processor, at, size = backbone.vision.processor, *((row.seen.at, row.seen.size) if row.seen else (0, 0))
    if row.seen:
        given = processor.inputs(read_picture(row.seen.picture))
    else:
        prefix = backbone.way.sees == "prefix"
        given = text_alone(processor.inputs(Image.new("RGB", SIZES[0]))) if prefix else {}
    before, block, behind = row.source[:at], row.source[at : at + size], row.source[at + size :]
    call = row_of(block, given, [5] * M + list(before), [*behind, *answer], len(answer))
    text = torch.tensor([*before, *behind, *answer])
    shifted = backbone.model.get_input_embeddings()(text) + (adapter.scale * adapter.a @ adapter.b)[: len(text)]
    vectors = torch.cat([adapter.prompt, shifted[:at], adapter.prompt.new_zeros(size, backbone.d), shifted[at:]])
    kept = torch.zeros(1, len(vectors), dtype=torch.bool)
    kept[:, M + at : M + at + size] = True
    with embedding(backbone.model, vectors[None], kept):
        return backbone.model(**call, use_cache=False).logits[0, M:]


def own_score(backbone, adapter, row, answer):
    """Log-probability of an answer, nats."""
    logits = own_logits(backbone, adapter, row, answer)[len(row.source) - 1 :][: len(answer)].log_softmax(-1)
    return logits[torch.arange(len(answer)), torch.tensor(answer)].sum()


@torch.no_grad()
def own_words(backbone, adapter, row):
    """Three tokens, greedily; what stands for a picture is the last, for the model cannot be asked what follows it."""
    found: list[int] = []
    while len(found) < 3:
        token = int(own_logits(backbone, adapter, row, found)[-1].argmax())
        if token in backbone.tokens.end_ids:
            break
        found.append(token)
        if token == backbone.vision.processor.token_id:
            break
    return found
