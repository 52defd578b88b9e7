"""What a small model of a kind has shown is held against the model itself, which may be otherwise."""

import pytest
import torch

from dept.backbones import self_test
from dept.backbones.backbone import Backbone
from infra.errors import InputError
from tests import families


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(self_test, "_known", {})


def scaling(model, by):
    """The same model, whose code (not its configuration) multiplies embeddings of ids: its sibling does not."""
    inner = model.model
    real = inner.forward

    def forward(input_ids=None, inputs_embeds=None, **more):
        if input_ids is not None:
            inputs_embeds = inner.embed_tokens(input_ids) * by
        return real(inputs_embeds=inputs_embeds, **more)

    inner.forward = forward
    return model


def looked_at(monkeypatch):
    said = []
    real = self_test.Test._confirmed
    monkeypatch.setattr(self_test.Test, "_confirmed", lambda *given: said.append(real(*given)) or said[-1])
    return said


def test_a_model_that_is_not_as_its_sibling_is_measured_by_itself(monkeypatch):
    said = looked_at(monkeypatch)
    assert Backbone.of(families.model_of("llama")).way.scale == 1
    assert said == [True]
    said.clear()
    backbone = Backbone.of(scaling(families.model_of("llama"), 8.0))  # the root of its width, 64
    assert said == [False, True]
    assert (backbone.way.rows, backbone.way.scale) == ("equal", 8.0)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(backbone.model(inputs_embeds=backbone.embed(ids)).logits, backbone.model(ids).logits)


def test_what_no_way_is_right_for_is_refused_in_one_line(monkeypatch):
    said = looked_at(monkeypatch)
    with pytest.raises(InputError, match=r"makes more of a token id than an input embedding .*Remedy") as caught:
        Backbone.of(scaling(families.model_of("llama"), 3.0))
    assert said == [False]
    assert "\n" not in str(caught.value)


def test_a_way_that_is_never_confirmed_is_refused(monkeypatch):
    monkeypatch.setattr(self_test.Test, "_confirmed", lambda *_: False)
    with pytest.raises(InputError, match=r"gives other numbers for token ids than for their embeddings\. Remedy"):
        Backbone.of(families.model_of("llama"))
