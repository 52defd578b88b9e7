"""What a backbone with an adapter still makes of Wikipedia: the loss whose growth the benchmark calls forgetting.

Source: calculate_mean_per_token_loss of
https://github.com/huggingface/peft/blob/main/method_comparison/MetaMathQA/run.py. It holds a position's logits against
the token *at* that position, not against the next one; so does this, since its numbers are to stand beside theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dept.adapters.adapter import Adapter
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.collate import Batch, CausalBatch
from dept.batches.tokenise import Row
from dept.engine import forward
from dept.engine.evaluate import run_items


@torch.inference_mode()
def wiki_loss(backbone: Backbone, adapter: Adapter, texts: Sequence[str], most: int, budget: int) -> float:
    """Mean over all tokens of the cross-entropy (nats) of each position's logits with the token at that position.

    Args:
        most: tokens of a text that count. budget: padded tokens that are run at once.
    """
    tensors = Tensors.of([adapter], backbone.device)
    prompts = forward.prefix(backbone, tensors)
    rows = [_row(ids[:most], backbone.tokens.end_id) for ids in backbone.tokens.encode_texts(texts) if ids]

    def run(batch: Batch) -> Tensor:
        assert isinstance(batch, CausalBatch)
        own = batch.ids.flatten()[batch.query][batch.pick_query]
        return forward.scores(backbone, replace(batch, pick_token=own), tensors, prompts).words

    # `run_items` takes a budget of training and doubles it.
    found = run_items(backbone, [(0, row) for row in rows], max(1, budget // 2), run)
    return -sum(line[0] for line in found) / sum(row.length for row in rows)


def _row(ids: Sequence[int], after: int) -> Row:
    """A text as one token and what follows it, so that every position is asked; `after` is not run."""
    return Row((ids[0],), ((*ids[1:], after),), 0, 0)
