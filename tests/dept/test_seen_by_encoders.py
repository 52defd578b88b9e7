"""An adapter's own map of pictures in front of an encoder's text: numbers are those of one plain pass, by hand."""

import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_text
from dept.adapters.picture_map import SeenBy, patches
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import Seen, encode
from dept.config import AdapterConfig, PictureMap, TrainConfig
from dept.engine.evaluate import score_rows
from dept.engine.train import Trial, train
from tests.encoders import save_encoder
from tests.tasks.picture_cases import saved_at

SIGHT = PictureMap(grid=2, pixels=4, rank=3)
SEEING = AdapterConfig(m=3, r=2, s=24, alpha=1.0, pictures=SIGHT)
WORDS = ("bad", "very good", "awful")
TEXTS = ["the film was good", "bad acting", "slow food , not a price", "great plot"]


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def encoder(request, tmp_path_factory):
    folder = save_encoder(tmp_path_factory.mktemp("encoder") / request.param, request.param)
    return Backbone.from_pretrained(str(folder), device="cpu", dtype="float32")


@pytest.fixture
def pictures(tmp_path):
    return saved_at(tmp_path, 2, 90)


def adapter_of(backbone, seed, config):
    draw = torch.Generator().manual_seed(seed)
    size = float(backbone.model.get_input_embeddings().weight.std())

    def random(*shape):
        return torch.randn(*shape, generator=draw) * size**0.5

    sight = config.pictures and SeenBy(
        config.pictures, random(SIGHT.features, 3), random(3, backbone.d), random(SIGHT.positions, backbone.d)
    )
    parts = random(config.m, backbone.d), random(config.s, config.r), random(config.r, backbone.d)
    return Adapter(*parts, config.alpha, pictures=sight)


def by_hand(backbone, adapter, text, picture):
    """Log-probability of each word: [CLS] and vectors of the picture, text, masks, [SEP], behind P, in one pass."""
    words = [backbone.tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS]
    many = max(map(len, words))
    ids = backbone.tokenizer(text + " [MASK]" * many)["input_ids"]
    rows = (
        backbone.model.get_input_embeddings()(torch.tensor(ids)) + adapter.scale * (adapter.a @ adapter.b)[: len(ids)]
    )
    seen = rows[:0]
    if picture is not None:
        seen = patches([picture], SIGHT)[0] @ adapter.picture_in @ adapter.picture_out + adapter.picture_place
    whole = torch.cat([adapter.prompt, rows[:1], seen, rows[1:]])[None]
    with torch.no_grad():
        logs = backbone.model(inputs_embeds=whole).logits[0].log_softmax(-1)[-1 - many : -1]
    return [float(sum(logs[i, token] for i, token in enumerate(word))) for word in words]


def test_scores_are_those_of_the_models_own_pass(encoder, pictures):
    """Stacked with an adapter without a map; texts with and without a picture, of several lengths, in one batch."""
    adapters = [adapter_of(encoder, 0, SEEING), adapter_of(encoder, 1, SEEING.blind), adapter_of(encoder, 2, SEEING)]
    shown = [pictures[0], None, pictures[1], pictures[0]]
    rows = encode(encoder.tokens, TEXTS, WORDS, None, SEEING, shown)
    blind = encode(encoder.tokens, TEXTS, WORDS, None, SEEING.blind)
    assert rows[0].seen == Seen(pictures[0], 1, 4, (0, 1, 2, 3))
    assert [mask - 4 for mask in rows[0].masks] == list(blind[0].masks), "what the picture takes is no part of s"
    items = [(which, row) for pair in zip(rows, blind, rows, strict=True) for which, row in enumerate(pair)]
    found = score_rows(encoder, Tensors.of(adapters, encoder.device), items)
    wanted = [
        by_hand(encoder, adapter, text, picture if adapter.sees else None)
        for text, picture in zip(TEXTS, shown, strict=True)
        for adapter in adapters
    ]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), atol=1e-4, rtol=0)
    other = by_hand(encoder, adapters[0], TEXTS[0], pictures[1])
    assert max(abs(a - b) for a, b in zip(wanted[0], other, strict=True)) > 1e-2, "another picture, other numbers"


def test_training_lowers_the_loss_in_a_stack_as_alone(encoder, pictures):
    """All texts are one, so that only the picture tells the answer; beside it an adapter without a map."""
    gold, shown = [0, 1, 0, 1], [*pictures, *pictures]
    config = TrainConfig(steps=24, batch_size=4, lr_prompt=0.05, lr_pictures=0.05, eval_every=24)
    trials = []
    for number, shape in enumerate((SEEING, SEEING.blind)):
        rows = encode(encoder.tokens, ["film"] * 4, WORDS[:2], gold, shape, shown if shape.pictures else [])
        trials.append(
            Trial(f"t{number}", from_text(encoder, shape, "good or bad?", number), config, rows, rows, seed=1)
        )

    def loss(adapter, rows):
        scores = torch.tensor(score_rows(encoder, Tensors.of([adapter], encoder.device), [(0, row) for row in rows]))
        return float(torch.nn.functional.cross_entropy(scores, torch.tensor(gold)))

    together = train(trials, encoder)
    for trial in trials:
        mine = together[trial.key].adapter
        alone = train([trial], encoder)[trial.key].adapter
        for name, part in mine.parts.items():
            torch.testing.assert_close(part, alone.parts[name], atol=1e-4, rtol=0)
    seeing = trials[0]
    before, after = loss(seeing.start, seeing.rows), loss(together["t0"].adapter, seeing.rows)
    assert after < 0.6 * before, (before, after)
    assert loss(together["t1"].adapter, trials[1].rows) > 0.6, "nobody can tell without the picture"
    for name in ("picture_in", "picture_out", "picture_place"):
        assert not torch.equal(getattr(together["t0"].adapter, name), getattr(seeing.start, name))
