"""Pooled hidden states are those of transformers' own forward pass with output_hidden_states, one text at a time."""

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.batches.tokenise import encode
from dept.config import AdapterConfig
from dept.engine.features import features

WORDS = ("negative", "positive", "very good")
TEXTS = ["the film was good", "bad plot and awful acting", "it was not very happy", "great", "slow service of the food"]
DEPTHS = (0.0, 0.5, 1.0)


def plain(backbone, embedded, skip):
    body = backbone.model.get_encoder() if backbone.family == "seq2seq" else backbone.model.base_model
    states = body(inputs_embeds=embedded, output_hidden_states=True).hidden_states
    return torch.cat([states[round(depth * (len(states) - 1))][0, skip:].mean(0) for depth in DEPTHS])


def rows_of(backbone, layout="adjacent"):
    return encode(backbone.tokens, TEXTS, WORDS, [1, 0, 0, 2, 0], AdapterConfig(m=4, r=2, s=24, layout=layout))


@pytest.mark.parametrize("budget", [8, 1000])
@pytest.mark.parametrize("layout", ["adjacent", "paper"])
@torch.no_grad()
def test_a_bare_backbone_reads_the_text_alone(tiny, budget, layout):
    """Wherever the rows of A stand: no prompt is before them."""
    told = []
    found = features(tiny, [(0, row) for row in rows_of(tiny, layout)], DEPTHS, budget=budget, progress=told.append)
    ids = [torch.tensor(tiny.encode_texts([text])) for text in TEXTS]
    expected = torch.stack([plain(tiny, tiny.embed(one), 0) for one in ids])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert sum(told) == sum(one.shape[1] for one in ids), "answers enter nothing"


@pytest.mark.parametrize("budget", [8, 1000])
@torch.no_grad()
def test_the_pass_of_an_adapter_is_read(tiny, budget):
    """P in front and A @ B added, those of each text's own adapter; of P itself nothing is read."""
    generator = torch.Generator().manual_seed(0)
    shapes = (4, tiny.d), (24, 2), (2, tiny.d)
    adapters = [Adapter(*(torch.randn(shape, generator=generator) for shape in shapes)) for _ in range(2)]
    items = [(which, row) for row in rows_of(tiny) for which in (0, 1)]
    found = features(tiny, items, DEPTHS, Tensors.of(adapters, tiny.device), budget)
    for (which, row), ours in zip(items, found, strict=True):
        adapter = adapters[which]
        embedded = tiny.embed(torch.tensor([row.source])) + adapter.scale * (adapter.a @ adapter.b)[: len(row.source)]
        expected = plain(tiny, torch.cat([adapter.prompt[None], embedded], dim=1), 4)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_no_rows_have_no_features(tiny):
    assert features(tiny, [], DEPTHS).shape == (0, 3 * tiny.d)
