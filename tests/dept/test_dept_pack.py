"""What fits: texts are cut, rows packed, and memory that runs out halves the budget."""

import random

import pytest
import torch

from dept.adapters.stack import Tensors
from dept.batches.pack import micro_batches
from dept.batches.tokenise import Row, encode
from dept.engine import forward
from dept.engine.evaluate import score_rows
from dept.engine.train import train
from tests.dept.test_dept_stack import CONFIG, TEXTS, WORDS, assert_same, random_adapter, trials_of


def test_long_text_is_cut_and_marked(tiny):
    rows = encode(tiny.tokens, ["good " * 60, "good"], WORDS, None, CONFIG)
    assert [row.cut for row in rows] == [True, False]
    tensors = Tensors.of([random_adapter(tiny, 0)], tiny.device)
    assert all(torch.isfinite(torch.tensor(s)).all() for s in score_rows(tiny, tensors, [(0, row) for row in rows]))


@pytest.mark.parametrize("packing", [False, True])
def test_micro_batches_keep_every_row_and_the_budget(packing):
    draw = random.Random(0)
    items = [(i % 3, Row(tuple(range(draw.randint(1, 60))), ((1,),), 0, 0)) for i in range(200)]
    groups = micro_batches(items, 256, packing)
    packs = [pack for group in groups for pack in group]
    assert sorted(index for pack in packs for index in pack.indices) == list(range(200))
    assert all(
        items[i] == (pack.adapter_id, row) for pack in packs for i, row in zip(pack.indices, pack.rows, strict=True)
    )
    assert (max(len(pack.rows) for pack in packs) > 1) == packing
    padded = [len(group) * max(pack.length for pack in group) for group in groups]
    assert max(padded) <= 256
    assert sum(padded) / sum(row.length for _, row in items) < (1.05 if packing else 1.15)
    longest_first = [group[0].length for group in groups]
    assert longest_first == sorted(longest_first, reverse=True)
    ((lone,),) = micro_batches([(0, Row(tuple(range(60)), ((1,),), 0, 0))], 16, packing)  # over the budget: alone
    assert lone.length == 60


def test_out_of_memory_in_evaluation_halves_and_goes_on(tiny, monkeypatch):
    rows = encode(tiny.tokens, TEXTS * 8, WORDS, None, CONFIG)
    tensors = Tensors.of([random_adapter(tiny, 0)], tiny.device)
    items = [(0, row) for row in rows]
    undisturbed = score_rows(tiny, tensors, items, 200)
    real, sizes = forward.scores, []

    def short_of_memory(backbone, batch, *rest):
        if batch.ids.numel() > 80:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(batch.ids.numel())
        return real(backbone, batch, *rest)

    monkeypatch.setattr(forward, "scores", short_of_memory)
    torch.testing.assert_close(torch.tensor(score_rows(tiny, tensors, items, 200)), torch.tensor(undisturbed))
    assert max(sizes) <= 80
    monkeypatch.setattr(tiny, "sharded", True)
    with pytest.raises(torch.OutOfMemoryError):
        score_rows(tiny, tensors, items, 200)


def test_out_of_memory_halves_the_budget_and_goes_on(tiny, monkeypatch):
    trials = trials_of(tiny)
    undisturbed = train(trials, tiny)
    real, seen = forward.scores, []

    def short_of_memory(backbone, batch, *rest):
        seen.append(batch.ids.numel())
        if batch.ids.numel() > 40 and torch.is_grad_enabled():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return real(backbone, batch, *rest)

    monkeypatch.setattr(forward, "scores", short_of_memory)
    disturbed = train(trials, tiny)
    assert max(seen) > 40
    for key, result in disturbed.items():
        assert_same(result, undisturbed[key])
        assert result.state.padded >= result.state.tokens
