"""Positions of prompts, texts and answers: what there is no room for is refused in one line, with the number."""

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.backbones.backbone import Backbone
from dept.backbones.sizes import answer_room_of, room_of, text_of, width_of
from dept.batches.tokenise import Row
from dept.engine.evaluate import Request, score
from dept.engine.features import features
from dept.engine.generate import Prompted, generate
from infra.errors import InputError
from tests import families

ROBERTA = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1, "hidden_size": 8}


@pytest.fixture(scope="module")
def blenderbot():
    return Backbone.of(families.model_of("blenderbot:s"), families.tokenizer())


def adapter_of(backbone, m=3, s=20):
    draw = torch.Generator().manual_seed(0)
    shapes = (m, backbone.d), (s, 2), (2, backbone.d)
    return Adapter(*(torch.randn(*shape, generator=draw) for shape in shapes))


def test_a_decoders_positions_end(blenderbot):
    """64 of a tiny one; 128 of the real ones."""
    adapter, word = adapter_of(blenderbot), "good " * 64
    assert len(score(blenderbot, [adapter], [Request("bad", (word, "bad"), 0)])[0]) == 2
    for length in (65, 80):
        with pytest.raises(InputError, match=rf"decoder has 64 positions; an answer takes {length} tokens. Remedy"):
            score(blenderbot, [adapter], [Request("bad", ("good " * length, "bad"), 0)])
    assert generate(blenderbot, [adapter], [Prompted("bad", 0)], 64)
    with pytest.raises(InputError, match=r"decoder has 64 positions; an answer takes 65 tokens"):
        generate(blenderbot, [adapter], [Prompted("bad", 0)], 65)


@pytest.mark.parametrize("name", ["gpt2", "blenderbot:s"])
def test_hidden_states_are_read_within_the_positions(name):
    backbone = Backbone.of(families.model_of(name), families.tokenizer())
    rows = [Row((5,) * length, ((0,),), 0, 0) for length in (64, 65)]
    assert features(backbone, [(0, rows[0])], (1.0,)).shape == (1, backbone.d)
    with pytest.raises(InputError, match=r"has 64 positions; m \+ s = 65"):
        features(backbone, [(0, rows[1])], (1.0,))


def test_positions_behind_the_padding_token():
    """roberta's first two of 514 are never used."""
    assert room_of(ROBERTA) == 512
    assert room_of(ROBERTA | {"model_type": "bert"}) == 514
    model = families.model_of("roberta")
    room = room_of(model.config.to_dict())
    assert room == 63
    model(inputs_embeds=torch.zeros(1, room, 64))
    with pytest.raises((IndexError, RuntimeError)):
        model(inputs_embeds=torch.zeros(1, room + 1, 64))


def test_sizes_of_parts():
    inner = {"hidden_size": 12, "vocab_size": 7, "max_position_embeddings": 30}
    both = {
        "is_encoder_decoder": True,
        "vocab_size": 9,
        "encoder": inner,
        "decoder": inner | {"max_position_embeddings": 20, "hidden_size": 16},
    }
    assert (width_of(text_of(both)), room_of(both), answer_room_of(both)) == (12, 30, 20)
    deep = {"thinker_config": {"text_config": inner}, "eos_token_id": 3}
    assert (width_of(text_of(deep)), room_of(deep), text_of(deep)["eos_token_id"]) == (12, 30, 3)
    assert width_of(text_of({"decoder": inner})) == 12
    assert width_of(text_of({"vision_config": inner})) is None
    relative = {"relative_attention_num_buckets": 32, "n_positions": 512}
    assert (room_of(relative), answer_room_of(relative)) == (None, None)
    led = {"max_encoder_position_embeddings": 16384, "max_decoder_position_embeddings": 1024}
    assert (room_of(led), answer_room_of(led)) == (16384, 1024)
