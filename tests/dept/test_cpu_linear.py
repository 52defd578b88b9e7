"""Packed linear layers give the numbers of the layers they replace, forward and backward."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dept.adapters.initialise import from_text
from dept.adapters.stack import Tensors
from dept.backbones import cpu_linear as onednn
from dept.backbones.backbone import Backbone
from dept.batches.collate import collate
from dept.batches.pack import Pack
from dept.batches.tokenise import encode
from dept.config import AdapterConfig
from dept.engine import forward

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def losses_and_gradients(backbone):
    config = AdapterConfig(m=3, r=2, s=16)
    rows = encode(backbone.tokens, ["the film was good", "bad plot"], ("negative", "positive"), [1, 0], config)
    start = Tensors.of([from_text(backbone, config, "a good film", 0)], backbone.device)
    parts = [part.detach().requires_grad_() for part in (start.prompt, start.a, torch.full_like(start.b, 0.1))]
    tensors = Tensors(*parts, start.scale)
    batch = collate([Pack(0, (row,), (i,)) for i, row in enumerate(rows)], backbone)
    found = forward.scores(backbone, batch, tensors, forward.prefix(backbone, tensors)).words
    found.sum().backward()
    return found.detach(), *(part.grad for part in parts)


@pytest.mark.parametrize("layer", [nn.Linear(24, 40), nn.Linear(24, 40, bias=False), Conv1D(40, 24)])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 300, 24)])
def test_a_packed_layer_gives_the_same(layer, shape):
    torch.manual_seed(0)
    layer.requires_grad_(False)
    packed = onednn.PackedLinear(layer)
    found = []
    for which in (layer, packed):
        x = torch.linspace(-1, 1, 24).expand(shape).clone().requires_grad_()
        y = which(x)
        y.pow(2).sum().backward()
        found.append((y.detach(), x.grad))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
def test_a_packed_backbone_gives_the_same(tiny_folders, family, monkeypatch):
    packed = Backbone.from_pretrained(str(tiny_folders[family]), device="cpu")
    monkeypatch.setattr(onednn, "_has_kernels", lambda: False)
    plain = Backbone.from_pretrained(str(tiny_folders[family]), device="cpu")
    kinds = [{type(m) for m in b.modules()} for b in (plain, packed)]
    assert onednn.PackedLinear not in kinds[0]
    assert onednn.PackedLinear in kinds[1]
    assert type(packed.model.get_output_embeddings()) is nn.Linear  # its weight is the embedding's too
    for theirs, ours in zip(losses_and_gradients(plain), losses_and_gradients(packed), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert packed.model.state_dict().keys() == plain.model.state_dict().keys()


@pytest.mark.parametrize("why", ["bfloat16", "processor", "no memory"])
def test_left_alone_where_it_does_not_fit(tiny_folders, why, monkeypatch):
    """By what the machine is, never by what happens to be free on it."""
    if why == "processor":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    total = 1000 if why == "no memory" else 2**40
    monkeypatch.setattr(onednn.psutil, "virtual_memory", lambda: type("Memory", (), {"total": total, "available": 0}))
    dtype = "bfloat16" if why == "bfloat16" else "float32"
    backbone = Backbone.from_pretrained(str(tiny_folders["llama"]), dtype=dtype, device="cpu")
    assert not any(isinstance(m, onednn.PackedLinear) for m in backbone.modules())
    assert not backbone.packed
    monkeypatch.undo()
    assert Backbone.from_pretrained(str(tiny_folders["llama"]), device="cpu").packed


def test_packed_layers_can_run_on_their_plain_weights(tiny_llama, monkeypatch):
    """Which of the two ran is seen by the kernel: on some processors both give the same bits."""
    calls, kernel = [], onednn._apply
    monkeypatch.setattr(onednn, "_apply", lambda *given: calls.append(len(given)) or kernel(*given))
    ids = torch.tensor([[5, 6, 7]])
    packed, ran = tiny_llama.model(ids).logits, len(calls)
    assert ran
    with onednn.unpacked(tiny_llama.model):
        plain = tiny_llama.model(ids).logits
    assert len(calls) == ran
    torch.testing.assert_close(plain, packed, rtol=1e-4, atol=1e-4)
    assert torch.equal(tiny_llama.model(ids).logits, packed)
    assert len(calls) == 2 * ran
