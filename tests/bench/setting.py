"""What the benchmark runs on: a backbone, texts, and a stack that makes steps.

On a CPU: SmolLM2-135M in float32 and film reviews. With a CUDA device: a random backbone of GPT-2's size in bfloat16
and random tokens of the reviews' lengths, which needs nothing but this package and torch.
"""

import random

import torch

from dept.adapters.adapter import Adapter
from dept.backbones.backbone import Backbone
from dept.backbones.files import resolve
from dept.backbones.loading import load_model
from dept.batches.tokenise import Row, encode
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine.train import Loop, Trial
from tasks.catalogue import get_task
from tasks.load import load_splits

PAPER = AdapterConfig(m=40, r=41, s=256)  # 57,152 numbers on d=576: as many as a 99-token prompt
SMALL = AdapterConfig(m=10, r=4, s=64)
ON_GPU = torch.cuda.is_available()
ATTENTION = ["c_attn"] if ON_GPU else ["q_proj", "v_proj"]  # where the baselines' LoRA sits
WHAT = "random GPT-2 size, bfloat16, CUDA" if ON_GPU else "SmolLM2-135M, float32, CPU"


def plain_model():
    """A model as transformers gives it, for the baselines, which must not meet our linear layers."""
    if not ON_GPU:
        return load_model(resolve("smollm2-135m"), torch.float32).requires_grad_(False)
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config()).to("cuda", torch.bfloat16).eval().requires_grad_(False)


def backbone():
    """Ours."""
    return Backbone(plain_model()) if ON_GPU else Backbone.from_pretrained("smollm2-135m", "float32", "cpu")


def review_rows(model, config, n, skip=0):
    """n texts with their right label word."""
    if ON_GPU:
        draw = random.Random(skip)
        return [Row(tuple(draw.choices(range(50_000), k=draw.randint(20, 44))), ((1,),), 0, 0) for _ in range(n)]
    task = get_task("movie-polarity")
    examples = load_splits(task).train[skip : skip + n]
    rows = encode(model.tokens, [e.text for e in examples], task.words, [e.label for e in examples], config)
    return [row.only_gold() for row in rows]


def adapter(model, config, seed):
    """An adapter of random numbers."""
    torch.manual_seed(seed)
    shapes = ((config.m, model.d), (config.s, config.r), (config.r, model.d))
    return Adapter(*(0.02 * torch.randn(shape) for shape in shapes), alpha=config.alpha, layout=config.layout)


def loop(model, config, rows_of_trials, budget=None):
    """A stack with one trial per list of rows, ready for `step`; each step takes all rows of each trial."""
    training = TrainConfig(steps=10_000, batch_size=max(map(len, rows_of_trials)), lr_prompt=1e-3, lr_low_rank=1e-4)
    trials = [
        Trial(str(i), adapter(model, config, i), training, rows, (), seed=i) for i, rows in enumerate(rows_of_trials)
    ]
    made = Loop(trials, model, EngineOptions(adapters_at_once=len(trials), token_budget=budget))
    made.stack.join([trial.key for trial in trials])
    return made
