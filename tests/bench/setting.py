"""The benchmark's ground: SmolLM2-135M, film reviews, and a stack that makes steps."""

from dept.backbone import shared_backbone
from dept.batching import encode
from dept.config import AdapterConfig, TrainConfig
from dept.initialise import from_text
from dept.train import Loop, Trial
from tasks.catalogue import get_task
from tasks.splits import load_splits

PAPER = AdapterConfig(m=40, r=41, s=256)  # 57,152 numbers on d=576: as many as a 99-token prompt
SMALL = AdapterConfig(m=10, r=4, s=64)
TEXT = "Classify the sentiment: negative or positive."


def backbone():
    """The embedded backbone, on the CPU in float32."""
    return shared_backbone("smollm2-135m", "float32", "cpu")


def review_rows(model, config, n, skip=0):
    """n film reviews with their right label word."""
    task = get_task("movie-polarity")
    examples = load_splits(task).train[skip : skip + n]
    rows = encode(model, [e.text for e in examples], task.words, [e.label for e in examples], config)
    return [row.only_gold() for row in rows]


def loop(model, config, rows_of_trials, budget=None):
    """A stack with one trial per list of rows, ready for `step`; each step takes all rows of each trial."""
    training = TrainConfig(steps=10_000, batch_size=max(map(len, rows_of_trials)), lr_prompt=1e-3, lr_low_rank=1e-4)
    trials = [
        Trial(str(i), from_text(model, config, TEXT, i), training, rows, (), seed=i)
        for i, rows in enumerate(rows_of_trials)
    ]
    made = Loop(trials, model, slots=len(trials), budget=budget)
    made.stack.join({trial.key: trial.start for trial in trials})
    return made
