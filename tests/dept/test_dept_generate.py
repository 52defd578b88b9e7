"""Generation in mixed batches gives what one text after the other gives, token by token, through the public API."""

import torch

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.batches.tokenise import encode_open
from dept.config import AdapterConfig
from dept.engine import generate as engine
from dept.engine.generate import Prompted, generate, generate_ids

CONFIG = AdapterConfig(m=4, r=2, s=40)
TEXTS = ["the film was", "bad plot and awful acting of the", "it", "great service, slow food and sad"]


def random_adapter(backbone, seed):
    torch.manual_seed(seed)
    shapes = ((CONFIG.m, backbone.d), (CONFIG.s, CONFIG.r), (CONFIG.r, backbone.d))
    return Adapter(*(torch.randn(shape) for shape in shapes))


def plainly(backbone, adapter, text, most):
    """Greedy decoding by running everything anew for each token."""
    source, new = backbone.encode_texts([text])[0], []
    for _ in range(most):
        if backbone.family == "seq2seq":
            labels = torch.tensor([[*new, 0]])
            logits = backbone(adapter, torch.tensor([source]), None, labels).logits[0, -1]
        else:
            logits = backbone(adapter, torch.tensor([source + new])).logits[0, -1]
        token = int(logits.argmax())
        if token == backbone.end_id:
            break
        new.append(token)
    return backbone.tokenizer.decode(new, skip_special_tokens=True)


def test_mixed_batches_write_what_single_texts_write(tiny):
    adapters = [random_adapter(tiny, seed) for seed in range(3)]
    requests = [Prompted(text, i % 3) for i, text in enumerate(TEXTS * 2)]
    written = generate(tiny, adapters, requests, max_new_tokens=8)
    expected = [plainly(tiny, adapters[r.adapter], r.text, 8) for r in requests]
    assert written == expected
    assert len(set(written)) > 2
    assert any(written)


def test_a_long_text_is_cut_and_nothing_to_do_is_nothing(tiny):
    adapter = random_adapter(tiny, 0)
    assert generate(tiny, [adapter], []) == []
    (written,) = generate(tiny, [adapter], [Prompted("good " * 80, 0)], max_new_tokens=4)
    assert isinstance(written, str)


def test_out_of_memory_halves_the_micro_batches_and_goes_on(tiny, monkeypatch):
    tensors = Tensors.of([random_adapter(tiny, 0)], tiny.device)
    items = [(0, row) for row in encode_open(tiny.tokens, TEXTS * 3, CONFIG, 6)]
    monkeypatch.setattr(engine, "token_budget", lambda _: 200)
    undisturbed, sizes, real = generate_ids(tiny, tensors, items, 6), [], engine.collate

    def short_of_memory(group, backbone):
        batch = real(group, backbone)
        if batch.ids.numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(batch.ids.numel())
        return batch

    monkeypatch.setattr(engine, "collate", short_of_memory)
    assert generate_ids(tiny, tensors, items, 6) == undisturbed
    assert max(sizes) <= 60
