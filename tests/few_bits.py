"""Frozen weights of 8 and 4 bits, run on the CPU, where the product refuses them: `python -m tests.few_bits FOLDER`.

What is lifted is the question for a CUDA device, and that alone. Apart from pytest, since transformers imports torchao
at each load where it finds it: the libraries lie in `.venv/few-bits`, which only this process sees.
"""

import json
import sys

import bitsandbytes.nn.modules

from dept import AdapterConfig, Backbone, Request, TrainConfig, Trial, score, train
from dept.adapters.initialise import from_text
from dept.backbones import loading
from dept.batches.tokenise import encode
from infra.errors import InputError
from tests.tiny import WORDS

LABELS = ("negative", "positive")
TEXTS = ["the film was good", "the plot was awful and bad", "great food", "service is slow"]
ROWS = [" ".join(WORDS[at : at + 4]) for at in range(8)]


def told(folder: str, dtype: str) -> dict:
    """What a backbone of a number type is, scores, and learns."""
    backbone = Backbone.from_pretrained(folder, dtype=dtype, device="cpu")
    config = AdapterConfig(m=4, r=2, s=16)
    start = from_text(backbone, config, "is it good", 0)
    asked = [Request(text, LABELS, 0) for text in TEXTS]
    together, alone = score(backbone, [start], asked), [score(backbone, [start], [one])[0] for one in asked]
    rows = encode(backbone.tokens, ROWS, LABELS, [at % 2 for at in range(len(ROWS))], config)
    trained = train(
        [
            Trial(
                "one",
                start,
                TrainConfig(steps=16, batch_size=8, eval_every=16, lr_prompt=0.1, lr_low_rank=0.01),
                rows,
                rows,
            )
        ],
        backbone,
    )
    return {
        "bits": backbone.bits,
        "rows": backbone.way.rows,
        "bytes": sum(own.numel() * own.element_size() for own in backbone.model.parameters()),
        "together": [list(map(float, row)) for row in together],
        "alone": [list(map(float, row)) for row in alone],
        "losses": [loss for _, loss in trained["one"].state.loss_curve],
    }


def refused(folder: str) -> str:
    """What is said of bitsandbytes' 4 bits as they are on a CPU with AVX512-BF16: its kernel has no derivative."""
    try:
        Backbone.from_pretrained(folder, dtype="nf4", device="cpu")
    except InputError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    loading.check_quantised = lambda dtype, device: None
    fast = bitsandbytes.nn.modules.has_avx512bf16()
    without = {"fast": fast, "said": refused(sys.argv[1])}
    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False  # packs for answers alone: nothing trains through it
    found = {dtype: told(sys.argv[1], dtype) for dtype in ("bfloat16", *loading.QUANTISED)}
    print(json.dumps({**found, "without": without}))
