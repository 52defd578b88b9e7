"""Pictures among the tokens of a text: vectors in place of embeddings, whoever gives them; A @ B on the text alone."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dept.adapters import picture_map
from dept.adapters.adapter import Adapter
from dept.adapters.head import Head
from dept.adapters.initialise import from_prompt, from_source, from_text, with_head
from dept.adapters.picture_cache import Kept
from dept.adapters.picture_map import SeenBy, patches
from dept.adapters.stack import Tensors
from dept.backbones.tokens import Block
from dept.batches.tokenise import Seen, encode, encode_answers, encode_open
from dept.config import AdapterConfig, EngineOptions, PictureMap, TrainConfig
from dept.distributed import job
from dept.engine.evaluate import Request, score, score_rows
from dept.engine.features import features
from dept.engine.generate import Prompted, generate, generate_ids
from dept.engine.seen import seen_by
from dept.engine.train import Trial, train
from dept.trial import Candidate, Search, TrialSpec
from infra.errors import InputError
from tasks.pictures import picture_at
from tests.dept.test_dept_stack import TEXTS, WORDS, assert_same
from tests.tasks.picture_cases import RED, png, saved

SIGHT = PictureMap(grid=2, pixels=4, rank=3)
SEEING = AdapterConfig(m=4, r=2, s=24, pictures=SIGHT)
BLIND = SEEING.blind
LAYOUTS = pytest.mark.parametrize("layout", ["adjacent", "paper"])


@pytest.fixture
def pictures(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(40 * number + 9, (8, 8)))
    return [picture_at(tmp_path / f"{number}.png") for number in range(3)]


def adapter_of(backbone, seed, config=SEEING):
    torch.manual_seed(seed)
    p, a, b = torch.randn(config.m, backbone.d), torch.randn(config.s, config.r), torch.randn(config.r, backbone.d)
    sight = config.pictures
    if sight is not None:
        parts = [(sight.features, sight.rank), (sight.rank, backbone.d), (sight.positions, backbone.d)]
        sight = SeenBy(sight, *(torch.randn(*size) / 4 for size in parts))
    return Adapter(p, a, b, config.alpha, config.layout, pictures=sight)


def vectors_of(adapter, picture):
    """What a picture becomes, by the definition."""
    seen = patches([picture], adapter.sees)[0]
    return seen @ adapter.picture_in @ adapter.picture_out + adapter.picture_place


def logits_of(backbone, adapter, row, answer, given=None):
    """What the model's own forward on [P; picture; text + A @ B] says at each token of an answer, one at a time."""
    source, seen = list(row.source), row.seen
    more = list(answer) if backbone.family == "causal" else []
    block = range(seen.at, seen.at + seen.size) if seen else ()
    text = [i for i in range(len(source) + len(more)) if i not in block]
    embedded = backbone.embed(torch.tensor(source + more)).clone()
    embedded[text] += (adapter.a @ adapter.b)[row.first + torch.arange(len(text))] * adapter.scale
    if seen:
        vectors = vectors_of(adapter, seen.picture) if given is None else given[seen.picture.sha256]
        embedded[[seen.at + v for v in seen.vectors]] = vectors
    whole = torch.cat([adapter.prompt, embedded])[None]
    if backbone.family == "seq2seq":
        return backbone.model(inputs_embeds=whole, labels=torch.tensor([list(answer)])).logits[0]
    m = len(adapter.prompt)
    places = torch.cat([torch.arange(m), m + row.first + torch.arange(len(embedded))])[None]
    return backbone.model(inputs_embeds=whole, position_ids=places).logits[0, m + len(source) - 1 : -1]


@torch.no_grad()
def by_hand(backbone, adapter, row, given=None):
    """Log-probability of each candidate."""
    found = []
    for candidate in row.candidates:
        logs = logits_of(backbone, adapter, row, candidate, given).log_softmax(-1)
        found.append(float(sum(logs[i, token] for i, token in enumerate(candidate))))
    return found


def rows_of(backbone, config, pictures, texts=TEXTS):
    seen = [pictures[i % len(pictures)] if i % 4 else None for i in range(len(texts))]
    return encode(backbone.tokens, texts, WORDS, [1, 0, 0, 2, 0], config, seen)


# --- rows


def test_a_picture_stands_behind_what_begins_a_text_and_is_never_cut(tiny, pictures):
    texts, config = ["good " * 60, "good"], SEEING.model_copy(update={"layout": "paper"})
    plain = encode(tiny.tokens, texts, WORDS, None, config)
    rows = encode(tiny.tokens, texts, WORDS, None, config, [pictures[0], None])
    assert rows[1] == plain[1]
    assert rows[0].seen == Seen(pictures[0], 0, 4, (0, 1, 2, 3))
    assert rows[0].source == (tiny.pad_id,) * 4 + plain[0].source
    assert (rows[0].cut, rows[0].first, rows[0].length) == (True, plain[0].first, plain[0].length + 4)
    for made in (encode_answers(tiny.tokens, texts[:1], ["very good"], config, 8, pictures[:1]),):
        assert made[0].seen == rows[0].seen
    assert encode_open(tiny.tokens, texts[:1], config, 8, pictures[:1])[0].source == made[0].source
    with pytest.raises(InputError, match=r"reads no pictures\. Remedy: adapter\.pictures"):
        encode(tiny.tokens, texts, WORDS, None, BLIND, pictures[:2])


def test_what_begins_a_text_stays_before_the_picture(tiny_llama, pictures, monkeypatch):
    monkeypatch.setattr(tiny_llama.tokens, "around", ([7], []))
    (row,) = encode(tiny_llama.tokens, ["good"], WORDS, None, SEEING, pictures[:1])
    assert row.source[:6] == (7, 0, 0, 0, 0, row.source[5])
    assert row.seen.at == 1


# --- numbers


@LAYOUTS
def test_scores_are_those_of_the_models_own_forward(tiny, pictures, layout):
    """Stacked, packed, alone; rows with and without pictures, adapters with and without maps."""
    configs = [one.model_copy(update={"layout": layout}) for one in (SEEING, SEEING, BLIND)]
    adapters = [adapter_of(tiny, seed, config) for seed, config in enumerate(configs)]
    tensors = Tensors.of(adapters, tiny.device)
    seeing = rows_of(tiny, configs[0], pictures)
    items = [(which, row) for which in (0, 1) for row in seeing]
    items += [(2, row) for row in encode(tiny.tokens, TEXTS, WORDS, None, configs[2])]
    wanted = [by_hand(tiny, adapters[which], row) for which, row in items]
    for budget in (4096, 16):
        torch.testing.assert_close(torch.tensor(score_rows(tiny, tensors, items, budget)), torch.tensor(wanted))
    alone = score_rows(tiny, Tensors.of(adapters[1:2], tiny.device), [(0, row) for row in seeing[:2]])
    torch.testing.assert_close(torch.tensor(alone), torch.tensor(wanted[len(seeing) : len(seeing) + 2]))


def test_row_by_row_gives_the_same(tiny, pictures):
    adapter = adapter_of(tiny, 0)
    rows = rows_of(tiny, SEEING, pictures)
    fast = score_rows(tiny, Tensors.of([adapter], tiny.device), [(0, row) for row in rows])
    tiny.way = replace(tiny.way, rows="single")
    slow = score_rows(tiny, Tensors.of([adapter], tiny.device), [(0, row) for row in rows])
    torch.testing.assert_close(torch.tensor(slow), torch.tensor(fast))


def test_a_backbones_own_vectors_stand_among_what_it_writes_around_them(tiny, pictures, monkeypatch):
    """Blocks with markup, of another length for each picture; the adapter has no map, or none is there at all."""
    sizes = {picture.sha256: 1 + number for number, picture in enumerate(pictures)}
    given = {sha256: torch.randn(size, tiny.d) for sha256, size in sizes.items()}
    asked = []

    def block(picture):
        size = sizes[picture.sha256]
        return Block((9, *[0] * size, 11), tuple(range(1, 1 + size)))

    def see(some):
        asked.append([one.sha256 for one in some])
        return [given[one.sha256] for one in some]

    monkeypatch.setattr(tiny.tokens, "picture_block", block, raising=False)
    monkeypatch.setattr(tiny, "see", see)
    adapter = adapter_of(tiny, 0, BLIND)
    rows = encode(tiny.tokens, TEXTS, WORDS, None, BLIND, [*pictures, None, pictures[0]])
    found = score_rows(tiny, Tensors.of([adapter], tiny.device), [(0, row) for row in rows])
    wanted = [by_hand(tiny, adapter, row, given) for row in rows]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted))
    assert all(len(set(once)) == len(once) for once in asked)
    bare = features(tiny, [(0, row) for row in rows], [1.0])
    apart = torch.cat([features(tiny, [(0, row)], [1.0]) for row in rows])
    torch.testing.assert_close(bare, apart)
    blind = encode(tiny.tokens, TEXTS, WORDS, None, BLIND)
    assert not torch.allclose(bare, features(tiny, [(0, row) for row in blind], [1.0]))


@pytest.mark.parametrize("grid", [1, 3])
def test_maps_beside_a_backbones_own_vectors(tiny_llama, pictures, monkeypatch, grid):
    """One adapter of the stack has a map of another number of places, the other leaves seeing to the backbone."""
    given = {picture.sha256: torch.randn(2, tiny_llama.d) for picture in pictures}
    asked = []
    monkeypatch.setattr(tiny_llama.tokens, "picture_block", lambda picture: Block((0, 0), (0, 1)), raising=False)
    monkeypatch.setattr(tiny_llama, "see", lambda some: asked.extend(some) or [given[one.sha256] for one in some])
    seeing = SEEING.model_copy(update={"pictures": PictureMap(grid=grid, pixels=4, rank=3)})
    adapters = [adapter_of(tiny_llama, 0, seeing), adapter_of(tiny_llama, 1, BLIND)]
    shown = [pictures[:2], pictures[1:]]
    rows = [
        encode(tiny_llama.tokens, TEXTS[:2], WORDS, None, one.config, mine)
        for one, mine in zip(adapters, shown, strict=True)
    ]
    items = [(which, row) for which in (1, 0) for row in rows[which]]
    found = score_rows(tiny_llama, Tensors.of(adapters, tiny_llama.device), items)
    wanted = [by_hand(tiny_llama, adapters[which], row, given if which else None) for which, row in items]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted))
    assert {one.sha256 for one in asked} == {one.sha256 for one in pictures[1:]}


def test_generation_sees_the_picture(tiny, pictures):
    adapter = adapter_of(tiny, 0)
    rows = encode_open(tiny.tokens, TEXTS[:3], SEEING, 4, [pictures[0], None, pictures[1]])
    tensors = Tensors.of([adapter], tiny.device)
    together = generate_ids(tiny, tensors, [(0, row) for row in rows], 4)
    for row, ids in zip(rows, together, strict=True):
        assert generate_ids(tiny, tensors, [(0, row)], 4)[0] == ids
        said = []
        while len(said) < 4:
            with torch.no_grad():
                said.append(int(logits_of(tiny, adapter, row, [*said, 5])[-1].argmax()))
            if said[-1] in tiny.tokens.end_ids:
                said.pop()
                break
        assert ids == said


def test_the_public_api_takes_pictures(tiny, pictures):
    adapters = [adapter_of(tiny, 0), adapter_of(tiny, 1, BLIND)]
    asked = [Request(TEXTS[0], WORDS, 0, picture) for picture in (*pictures[:2], None)] + [Request(TEXTS[0], WORDS, 1)]
    rows = [encode(tiny.tokens, TEXTS[:1], WORDS, None, SEEING, [one.picture])[0] for one in asked[:3]]
    wanted = score_rows(tiny, Tensors.of(adapters[:1], tiny.device), [(0, row) for row in rows])
    found = score(tiny, adapters, asked)
    torch.testing.assert_close(torch.tensor(found[:3]), torch.tensor(wanted))
    assert len({tuple(line) for line in found}) == 4
    written = generate(tiny, adapters[:1], [Prompted(TEXTS[0], 0, pictures[0])], 3)
    row = encode_open(tiny.tokens, TEXTS[:1], SEEING, 3, pictures[:1])[0]
    ids = generate_ids(tiny, Tensors.of(adapters[:1], tiny.device), [(0, row)], 3)[0]
    assert written == [tiny.tokenizer.decode(ids, skip_special_tokens=True)]


# --- training


def trials_of(backbone, pictures):
    rows = rows_of(backbone, SEEING, pictures)
    plain = encode(backbone.tokens, TEXTS, WORDS, [1, 0, 0, 2, 0], BLIND)
    config = TrainConfig(steps=6, batch_size=3, lr_prompt=0.05, lr_pictures=0.02, eval_every=2, noise=2, dropout=0.2)
    starts = [from_text(backbone, one, "good or bad?", seed) for seed, one in enumerate((SEEING, BLIND, SEEING))]
    return [
        Trial(f"t{i}", start, config, mine, mine[:3], seed=i)
        for i, (start, mine) in enumerate(zip(starts, (rows, plain, rows), strict=True))
    ]


def test_maps_are_trained_in_a_stack_as_alone(tiny, pictures):
    trials = trials_of(tiny, pictures)
    together = train(trials, tiny, EngineOptions(token_budget=64))
    for trial in trials:
        alone = train([trial], tiny)[trial.key]
        assert_same(together[trial.key], alone)
        mine, other = together[trial.key].adapter, alone.adapter
        assert mine.parts.keys() == other.parts.keys() == trial.start.parts.keys()
        for name, tensor in mine.parts.items():
            torch.testing.assert_close(tensor, other.parts[name], atol=1e-4, rtol=0)
            assert name == "b" or not torch.equal(tensor, trial.start.parts[name])


def test_ranks_read_the_same_rows(tiny_llama, pictures, tmp_path):
    trials = trials_of(tiny_llama, pictures)
    job.write_trials(tmp_path, trials, EngineOptions())
    _, again = job.read_trials(tmp_path)
    for trial, other in zip(trials, again, strict=True):
        assert trial.rows == other.rows
        owned = [[row.seen and row.seen.own for row in one.rows] for one in (trial, other)]
        assert owned[0] == owned[1], "which equality leaves out"
    assert False in owned[0], "the last trial's rows are seen by its map"


def test_a_killed_training_of_maps_goes_on_with_the_same_bits(tiny_llama, pictures, tmp_path):
    trials = trials_of(tiny_llama, pictures)
    whole = train(trials, tiny_llama)
    options = EngineOptions(checkpoint_folder=tmp_path / "kept", checkpoint_seconds=0)

    def killed(point):
        if point.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(trials, tiny_llama, options, on_point=killed)
    restored = {}
    again = train(trials, tiny_llama, options, on_restored=lambda key, state: restored.update({key: state.step}))
    assert set(restored) == {"t0", "t1", "t2"}
    for key, result in again.items():
        for name, tensor in result.adapter.parts.items():
            assert torch.equal(tensor, whole[key].adapter.parts[name])
    for name, first, then in (("out", trials, trials[1:2]), ("in", trials[1:2], trials)):  # one without a map moves
        options = EngineOptions(checkpoint_folder=tmp_path / name, checkpoint_seconds=0)
        with pytest.raises(KeyboardInterrupt):
            train(first, tiny_llama, options, on_point=killed)
        restored.clear()
        again = train(then, tiny_llama, options, on_restored=lambda key, state: restored.update({key: state.step}))
        assert restored["t1"] >= 3
        assert_same(again["t1"], whole["t1"])
    assert not list(options.checkpoint_folder.glob("*.damaged"))


# --- adapters


def test_the_map_is_part_of_the_adapters_file_budget_and_start(tiny_llama, tmp_path):
    config = SEEING
    start = from_text(tiny_llama, config, "good or bad?", 0)
    assert sum(part.numel() for part in start.parts.values()) == config.trainable(tiny_llama.d)
    full = config.model_copy(update={"pictures": PictureMap(grid=2, pixels=4)})
    assert full.trainable(32) - config.trainable(32) == 51 * 32 - 3 * (51 + 32)
    assert sum(part.numel() for part in from_text(tiny_llama, full, "good", 0).parts.values()) == full.trainable(32)
    start.save(tmp_path / "mine")
    back = Adapter.load(tmp_path / "mine")
    assert back.config == config
    assert all(torch.equal(tensor, start.parts[name]) for name, tensor in back.parts.items())
    other = SEEING.model_copy(update={"pictures": PictureMap(grid=3, pixels=4)})
    for copy in (from_source(back, config), from_prompt(back, config, 1)):
        assert torch.equal(copy.picture_in, start.picture_in)
        assert copy.config == config
    assert from_source(back, BLIND).sees is None
    assert from_source(from_source(back, BLIND), config, 5).config == config
    with pytest.raises(InputError, match=r"Remedy: the same adapter\.pictures"):
        from_source(back, other)
    assert config.starts_from(BLIND)
    assert BLIND.starts_from(config)
    assert not other.starts_from(config)
    head = Head(torch.zeros(2, 64), torch.zeros(2), torch.zeros(64), torch.ones(64))
    assert with_head(start, head, config.model_copy(update={"answers": "head"})).sees == SIGHT
    methods = {method: config.of_method(method, 32).pictures for method in ("dept", "adept", "prompt-tuning", "lora")}
    assert methods == {"dept": SIGHT, "adept": SIGHT, "prompt-tuning": SIGHT, "lora": None}
    assert config.of_method("prompt-tuning", 32).m == BLIND.of_method("prompt-tuning", 32).m


def test_patches_lie_row_by_row_from_the_upper_left(tmp_path):
    from PIL import Image

    image = Image.new("RGB", (8, 8), (0, 0, 255))
    image.paste(RED, (4, 0, 8, 4))
    (tmp_path / "a.png").write_bytes(saved(image))
    found = patches([picture_at(tmp_path / "a.png")], SIGHT) * SIGHT.features**0.5
    assert found.shape == (1, 4, 51)
    mean = torch.tensor([-0.5, -1.0, 0.5])
    torch.testing.assert_close(found[0, :, 48:], mean.expand(4, 3))
    colours = found[0, :, :48].view(4, 16, 3).mean(1) + mean
    torch.testing.assert_close(colours, torch.tensor([[-1.0, -1, 1], [1, -1, -1], [-1, -1, 1], [-1, -1, 1]]))


def test_features_are_computed_once_and_bounded(pictures):
    made = []

    def make(missing):
        made.append(len(missing))
        return [torch.zeros(10, dtype=torch.uint8) for _ in missing]

    kept = Kept(20)
    assert len(kept.of([*pictures[:2], pictures[0]], make)) == 3
    kept.of(pictures[:1], make)
    kept.of(pictures[1:], make)
    assert made == [2, 1]
    assert kept.held == 20
    kept.of(pictures[:1], make)  # it was asked for longest ago
    assert made == [2, 1, 1]


def test_threads_that_make_the_same_picture_count_it_once(pictures):
    together, kept = threading.Barrier(2), Kept(20)

    def make(missing):
        together.wait(5)
        return [torch.zeros(10, dtype=torch.uint8) for _ in missing]

    threads = [threading.Thread(target=kept.of, args=(pictures[:1], make)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.held == 10
    kept.of(pictures[1:2], lambda missing: [torch.zeros(10, dtype=torch.uint8)])
    assert kept.held == 20

    def crowd(missing):  # another thread gives up the first while this one works
        kept.of(pictures[2:], lambda _: [torch.zeros(20, dtype=torch.uint8)])
        return [torch.zeros(10, dtype=torch.uint8)]

    assert len(Kept.of(kept, pictures[:1], crowd)) == 1
    kept.most = 10
    assert len(kept.of([pictures[0], pictures[1]], crowd)) == 2
    assert kept.held <= 10


def test_a_picture_that_has_changed_is_one_line(tiny_llama, pictures, monkeypatch):
    monkeypatch.setattr(picture_map, "_kept", {})
    rows = rows_of(tiny_llama, SEEING, pictures)
    with Path(pictures[1].path).open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match=r"1\.png: the picture has changed"):
        score_rows(tiny_llama, Tensors.of([adapter_of(tiny_llama, 0)], tiny_llama.device), [(0, rows[1])])
    with pytest.raises(InputError, match="it reads no pictures"):
        seen_by(tiny_llama, SimpleNamespace(pictures=pictures), None)


def test_trials_without_pictures_keep_their_fingerprints():
    """Those of version 0.2.0; a map and its rate are part of the question."""
    common = {"backbone": "b", "backbone_id": "i", "task": "t", "task_version": 1, "data_hash": "h", "role": "target"}
    common |= {"init": "scratch", "prompt_text": "p", "test_rows": 5}
    tried = Search(candidates=(Candidate(adapter=AdapterConfig(), training=TrainConfig(eval_every=4)),))

    def spec(adapter=BLIND, **training):
        return TrialSpec(adapter=adapter, training=TrainConfig(**training), **common)

    plain = TrialSpec(adapter=AdapterConfig(), training=TrainConfig(), **common)
    assert plain.fingerprint == "4391a47f4c160f903823e9538ac526fb6ba44657b911eed91ddf517753eac8e5"
    assert (
        plain.model_copy(update={"kind": "search", "search": tried}).fingerprint
        == "21bd54f65aecb724e322a45191d3cf579add08ef46480e9eba1b958b996fe2b3"
    )
    assert spec(lr_pictures=1).fingerprint == spec().fingerprint
    assert len({one.fingerprint for one in (spec(), spec(SEEING), spec(SEEING, lr_pictures=1))}) == 3
