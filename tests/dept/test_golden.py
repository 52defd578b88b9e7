"""Our numbers against those of the authors' code (../shared/golden)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dept.adapters.adapter import Adapter
from dept.adapters.optimizer import AdamW
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import Row
from dept.engine.generate import generate_ids

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN, PUBLISHED = SHARED / "golden", SHARED / "published"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="../shared/published is not here")
NAMES = ("t5", "gpt2", "llama")


@pytest.fixture(scope="module", params=NAMES)
def golden(request):
    if not GOLDEN.is_dir():
        pytest.skip("../shared/golden (the authors' numbers) is not here")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    info = json.loads((GOLDEN / f"{request.param}.json").read_text())
    tensors = load_file(GOLDEN / f"{request.param}.safetensors")
    settings = {k: v for k, v in info["config"].items() if k not in ("transformers_version", "torch_dtype")}
    config = AutoConfig.for_model(**settings)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).float()
    weights = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    lost = model.load_state_dict(weights, strict=False)
    assert not lost.unexpected_keys
    assert not lost.missing_keys
    return info, tensors, Backbone.of(model)


def adapter_of(info, tensors, layout="paper"):
    return Adapter(tensors["prompt"], tensors["A"], tensors["B"], alpha=info["alpha"], layout=layout)


def padded(tensors):
    return tensors["input_ids"], tensors["attention_mask"], tensors["labels"]


def other_side(tensors):
    """The same texts, padding moved to the other side."""
    turned = []
    for ids, mask, labels in zip(*padded(tensors), strict=True):
        n = int(mask.sum())
        at = -n if mask[0] == 1 else 0
        text = slice(int(mask.argmax()), int(mask.argmax()) + n)
        new = [torch.full_like(ids, 9), torch.zeros_like(mask), torch.full_like(labels, -100)]
        place = slice(len(ids) - n, len(ids)) if at else slice(0, n)
        new[0][place], new[1][place] = ids[text], 1
        if len(labels) == len(ids):
            new[2][place] = labels[text]
        else:
            new[2] = labels
        turned.append(new)
    return tuple(torch.stack(column) for column in zip(*turned, strict=True))


def unpadded(tensors):
    """One batch per text, without a pad."""
    for ids, mask, labels in zip(*padded(tensors), strict=True):
        real = mask.bool()
        aligned = len(labels) == len(ids)
        yield ids[real][None], None, (labels[real] if aligned else labels)[None]


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def grads(adapter):
    return adapter.prompt.grad, adapter.a.grad, adapter.b.grad


def check_gradients(adapter, tensors):
    for ours, name in zip(grads(adapter), ("grad_prompt", "grad_A", "grad_B"), strict=True):
        close(ours, tensors[name])


def test_padded_batch(golden):
    info, tensors, backbone = golden
    adapter = adapter_of(info, tensors)
    out = backbone(adapter, *padded(tensors))
    close(out.loss, tensors["loss"])
    assert list(out.logits.shape) == info["logits_shape"]
    close(out.logits, tensors["logits"])
    out.loss.backward()
    check_gradients(adapter, tensors)
    assert all(not p.requires_grad and p.grad is None for p in backbone.parameters())


def test_padding_on_the_other_side(golden):
    info, tensors, backbone = golden
    adapter = adapter_of(info, tensors)
    out = backbone(adapter, *other_side(tensors), all_positions=False)
    close(out.loss, tensors["loss"])
    out.loss.backward()
    check_gradients(adapter, tensors)


def test_unpadded_rows(golden):
    info, tensors, backbone = golden
    adapter = adapter_of(info, tensors)
    counted = (tensors["labels"] != -100).sum()
    total = torch.zeros(())
    for i, (ids, mask, labels) in enumerate(unpadded(tensors)):
        out = backbone(adapter, ids, mask, labels)
        n = ids.shape[1]
        theirs = tensors["logits"][i]
        expected = theirs if backbone.family == "seq2seq" else torch.cat([theirs[: info["m"]], theirs[-n:]])
        close(out.logits[0], expected)
        total = total + out.loss * (labels != -100).sum() / counted
    close(total, tensors["loss"])
    total.backward()
    check_gradients(adapter, tensors)


@pytest.mark.parametrize(
    ("prefix", "rule", "eps", "decay", "clip"),
    [
        ("", "transformers", 1e-6, 0.0, float("inf")),
        ("alt_clip1.", "transformers", 1e-6, 0.0, 1.0),
        ("alt_torch_eps1e-6_wd0.", "torch", 1e-6, 0.0, float("inf")),
        ("alt_torch_default.", "torch", 1e-8, 0.01, float("inf")),
    ],
)
@pytest.mark.parametrize("form", ["padded", "unpadded"])
def test_trajectory(golden, prefix, rule, eps, decay, clip, form):
    info, tensors, backbone = golden
    adapter = adapter_of(info, tensors)
    parameters = {name: getattr(adapter, name).data[None] for name in ("prompt", "a", "b")}
    optimizer = AdamW(parameters, rule=rule, eps=eps)
    rates = {
        "prompt": info["optimizer"]["lr_prompt"],
        "a": info["optimizer"]["lr_A_B"],
        "b": info["optimizer"]["lr_A_B"],
    }

    def loss():
        if form == "padded":
            return backbone(adapter, *padded(tensors)).loss
        counted = (tensors["labels"] != -100).sum()
        return sum(backbone(adapter, i, m, y).loss * (y != -100).sum() / counted for i, m, y in unpadded(tensors))

    seen = []
    for _ in range(5):
        adapter.zero_grad()
        loss().backward()
        optimizer.step(
            parameters,
            {n: getattr(adapter, n).grad[None] for n in parameters},
            {n: torch.tensor([r]) for n, r in rates.items()},
            torch.tensor([decay]),
            torch.tensor([clip]),
        )
        seen.append(loss().detach())
    close(torch.stack(seen), tensors[f"{prefix}steps_loss"], 2e-4)
    for ours, name in zip((adapter.prompt, adapter.a, adapter.b), ("final_prompt", "final_A", "final_B"), strict=True):
        close(ours.detach(), tensors[f"{prefix}{name}"], 2e-4)


@pytest.mark.parametrize("golden", ["t5"], indirect=True)
def test_greedy_generation_of_the_authors(golden):
    """T5 alone: for causal models the authors' generate() uses other positions than their forward(), and we do not."""
    info, tensors, backbone = golden
    rows = [
        (0, Row(tuple(ids[mask.bool()].tolist()), ((backbone.end_id,),), -1, 0))  # as `encode_open` makes them
        for ids, mask in zip(tensors["gen.input_ids"], tensors["gen.attention_mask"], strict=True)
    ]
    adapter = adapter_of(info, tensors)
    most = info["generation"]["max_new_tokens"]
    written = generate_ids(backbone, Tensors.of([adapter], backbone.device), rows, most)
    for ours, theirs in zip(written, tensors["gen.sequences"][:, 1:].tolist(), strict=True):
        end = backbone.end_id
        assert ours == (theirs[: theirs.index(end)] if end in theirs else theirs)


@needs_published
@pytest.mark.parametrize("name", ["cola", "sst2"])
def test_published_adapters_load_to_the_exact_tensors(name, tmp_path):
    stored = torch.load(PUBLISHED / name / "adapter_model.bin", weights_only=True, map_location="cpu")
    adapter = Adapter.from_published(PUBLISHED / name)
    adapter.save(tmp_path / name)
    for one in (adapter, Adapter.load(tmp_path / name)):
        assert torch.equal(one.prompt, stored["prompt_embeddings"])
        assert torch.equal(one.a, stored["prompt_encoder.lora_embedding_A"])
        assert torch.equal(one.b, stored["prompt_encoder.lora_embedding_B"])
        assert one.alpha == 8
        assert one.layout == "paper"


@needs_published
def test_published_prompt_without_pair_warns():
    with pytest.warns(UserWarning, match="soft prompt only"):
        adapter = Adapter.from_published(PUBLISHED / "superglue-wic")
    assert adapter.prompt.shape == (60, 768)
    assert not adapter.b.any()
