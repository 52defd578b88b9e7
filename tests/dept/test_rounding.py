"""In bfloat16 and float16 a right way is held to what rounding does to the model itself; a wrong one is found out."""

import pytest
import torch

from dept.backbones import encoder_decoder, masks, rounding, self_test
from dept.backbones.backbone import Backbone
from tests import families


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(self_test, "_known", {})


def way_of(name, dtype=torch.bfloat16):
    model = families.model_of(name).to(dtype)
    model.config.dtype = dtype
    return Backbone.of(model).way


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text", "mixtral", "bart:s", "t5:s"])
def test_right_ways_are_found_in_short_types(name):
    for dtype in (torch.bfloat16, torch.float16):
        assert way_of(name, dtype).rows == "packed"


def test_short_types_bring_no_way_that_float32_has_not():
    assert way_of("bloom").rows == "equal"


@pytest.mark.parametrize("slip", ["scale", "position", "mask", "prompt"])
def test_a_slip_is_found_out_by_the_whole_model_alone(monkeypatch, slip):
    """The whole model, in bfloat16, against a way that is a little wrong: none is confirmed."""
    model = families.model_of("llama").to(torch.bfloat16)
    kind = Backbone.kinds["causal"]
    test = kind.test("llama", lambda made, way: kind(made, None, "llama", None, way))
    good = test.measure(model)
    assert test.confirms(model, good)
    if slip == "scale":
        real = Backbone.embed
        monkeypatch.setattr(Backbone, "embed", lambda self, ids: 1.1 * real(self, ids))
    elif slip == "position":
        real_layers = kind.run_layers
        monkeypatch.setattr(
            kind, "run_layers", lambda self, e, positions, *rest: real_layers(self, e, positions + 1, *rest)
        )
    elif slip == "mask":
        real_masks = kind._masks
        monkeypatch.setattr(kind, "_masks", lambda self, seen, *rest: real_masks(self, seen | True, *rest))
    else:
        real_masks = kind._masks

        def unseen(self, seen, *rest):
            if seen.shape[-1] > seen.shape[-2]:  # behind a prompt, whose first token is hidden
                seen = torch.cat([seen[..., :1] & False, seen[..., 1:]], -1)
            return real_masks(self, seen, *rest)

        monkeypatch.setattr(kind, "_masks", unseen)
    assert not test.confirms(model, good)


def test_a_wrong_window_is_found_out_in_bfloat16(monkeypatch):
    """Where float32 would not have seen it: windows of another length in the short type alone."""
    real = masks.window_of
    assert way_of("mistral").masks == "window"
    self_test._known.clear()
    monkeypatch.setattr(self_test.Test, "_repacks", lambda *_: False)
    short = []
    monkeypatch.setattr(masks, "window_of", lambda text: real(text) - (1 if short else 0))
    in_type = self_test.Test._in_type

    def later(self, *given):
        short.append(1)
        return in_type(self, *given)

    monkeypatch.setattr(self_test.Test, "_in_type", later)
    assert way_of("mistral").rows == "equal"


def test_an_encoder_decoder_that_forgets_its_mask_is_found_out(monkeypatch):
    real = encoder_decoder.EncoderDecoderBackbone._encoded
    monkeypatch.setattr(
        encoder_decoder.EncoderDecoderBackbone,
        "_encoded",
        lambda self, rows, mask, depths: real(self, rows, torch.ones_like(mask), depths),
    )
    assert way_of("bart:s").rows != "packed"


def test_what_counts_as_rounding():
    draw = torch.Generator().manual_seed(0)
    theirs = torch.randn(9, 50, generator=draw).bfloat16()
    shakes = [0.01 * torch.randn(9, 50, generator=draw).bfloat16() for _ in range(3)]
    assert rounding.near(theirs + 0.02 * torch.randn(9, 50, generator=draw), theirs, shakes)
    assert not rounding.near(theirs + 0.06 * torch.randn(9, 50, generator=draw), theirs, shakes)
    assert not rounding.near(theirs[:8], theirs, shakes)
    exact = theirs.float()
    assert rounding.near(exact + 5e-5, exact)
    assert not rounding.near(exact + 2e-3, exact)
    embeddings = torch.randn(2, 3, 64, generator=draw).bfloat16()
    off = ((rounding.shaken(embeddings, 0).float() - embeddings.float()) / embeddings.float()).abs()
    assert 0 < float(off.max()) <= 2 * torch.finfo(torch.bfloat16).eps
    assert not torch.equal(rounding.shaken(embeddings, 0), rounding.shaken(embeddings, 1))
