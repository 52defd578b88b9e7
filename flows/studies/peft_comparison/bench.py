"""The run itself: train on MetaMathQA, answer GSM8K now and then and at the end, and tell what it cost.

Source: https://github.com/huggingface/peft/blob/main/method_comparison/MetaMathQA/run.py. Where this differs: rows are
packed without padding; every row that is not cut ends in the end token (there the longest of a batch does not); its
first token is given, not learned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dept.adapters.adapter import TENSORS, Adapter
from dept.adapters.initialise import from_text
from dept.adapters.stack import Tensors
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import Row
from dept.config import EngineOptions
from dept.engine.generate import Prompted, generate
from dept.engine.state import Trial
from dept.engine.train import Loop, data_order
from flows.studies.peft_comparison.answers import accuracy
from flows.studies.peft_comparison.forgetting import wiki_loss
from flows.studies.peft_comparison.meter import Meter
from flows.studies.peft_comparison.protocol import EMPTY_CACHE, Settings
from flows.studies.peft_comparison.result import result, write_result
from flows.studies.peft_comparison.rows import Question, Rows, in_buckets, read_rows
from infra.errors import InputError

Say = Callable[[str], None]


class Watched(Loop):
    """The engine's loop, with a look after every step."""

    look: Callable[[float], None]

    def step(self) -> None:
        """See `Loop`; the look is told how long the step took (s)."""
        began = time.perf_counter()
        super().step()
        self.look(time.perf_counter() - began)


def bench(settings: Settings, folder: Path, device: str | None = None, say: Say = print) -> Path:
    """Run the comparison and write `folder`/dept--NAME.json, and the adapter beside it.

    Args:
        device: cpu, cuda or cuda:N; None: the best there is.
        say: told of every validation.

    Raises:
        InputError: rows or backbone that cannot be read, an encoder-decoder, or a run that diverged.
    """
    began, created = time.perf_counter(), datetime.now(UTC).replace(microsecond=0).isoformat()
    rows = read_rows(settings)
    backbone, meter = _backbone(settings, device)
    start = from_text(backbone, settings.adapter, settings.prompt_text, settings.seed)
    training = time.perf_counter()
    run = _Run(settings, backbone, rows, meter, say)
    before = run.forgotten(start)
    adapter = run.train(start)
    say(f"training is done; answering {len(rows.test):,} test questions")
    reached = run.accuracy(adapter, rows.test)
    run.metrics.append(run.last(reached, run.forgotten(adapter) - before))
    spent = time.perf_counter() - training - run.eval_time
    place = folder / settings.experiment.replace("/", "--")
    adapter.save(place, backbone=settings.backbone, backbone_id=backbone.weights_id, task="metamathqa")
    trainable = settings.adapter.trainable(backbone.d)
    train = {
        **meter.summary(),
        "train_time": spent,
        "file_size": (place / TENSORS).stat().st_size,
        "num_trainable_params": trainable,
        "num_total_params": trainable + sum(parameter.numel() for parameter in backbone.model.parameters()),
    }
    about = {"created_at": created, "total_time": time.perf_counter() - began}
    return write_result(folder, settings, result(settings, about, train, run.metrics, meter.accelerator))


def training_rows(backbone: Backbone, questions: Sequence[Question], most: int) -> list[Row]:
    """Question and answer as one text, learned from its second token on; of `most` tokens at most, with its end."""
    tokens, made = backbone.tokens, []
    for ids in tokens.encode_texts([question.text + question.response for question in questions]):
        kept = [*ids, tokens.end_id][:most]
        made.append(Row((kept[0],), (tuple(kept[1:]),), 0, 0, len(ids) > most))
    return made


def _now(tensors: Tensors, start: Adapter) -> Adapter:
    """The only adapter of a stack as it is now."""
    prompt, a, b = (part[0].detach().cpu() for part in (tensors.prompt, tensors.a, tensors.b))
    return Adapter(prompt, a, b, alpha=start.alpha, layout=start.layout)


def _backbone(settings: Settings, device: str | None) -> tuple[Backbone, Meter]:
    from dept.backbones.loading import pick_device

    meter = Meter(pick_device(device))
    backbone = Backbone.from_pretrained(settings.backbone, settings.dtype, device)
    if backbone.family != "causal":
        raise InputError(f"backbone {settings.backbone}: the comparison is for causal models. Remedy: another backbone")
    return backbone, meter


class _Run:
    """What is measured on the way. eval_time: seconds spent on validations."""

    def __init__(self, settings: Settings, backbone: Backbone, rows: Rows, meter: Meter, say: Say) -> None:
        self.settings, self.backbone, self.rows, self.meter, self.say = settings, backbone, rows, meter, say
        self.metrics: list[dict[str, Any]] = []
        self.eval_time, self.began = 0.0, time.perf_counter()
        self.durations: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self.budget = settings.training.batch_size * settings.adapter.s  # as much at once as the benchmark's batch

    def train(self, start: Adapter) -> Adapter:
        """The adapter of the last step.

        Raises:
            InputError: it diverged.
        """
        recipe = self.settings.training
        made = training_rows(self.backbone, self.rows.train, self.settings.adapter.s)
        ordered = [made[i] for i in in_buckets([row.length for row in made], recipe.batch_size)]
        counts = [row.length + 1 for row in ordered]  # the last token is learned, but not run
        self.tokens = [sum(counts[i : i + recipe.batch_size]) for i in range(0, len(counts), recipe.batch_size)]
        # The engine shuffles an epoch; rows are laid out so that its shuffle is the benchmark's order.
        placed: list[Row] = list(ordered)
        for row, place in zip(ordered, data_order(len(ordered), len(ordered), 0, self.settings.seed), strict=True):
            placed[place] = row
        trial = Trial("bench", start, recipe, placed, (), self.settings.seed)
        loop = Watched([trial], self.backbone, EngineOptions(token_budget=self.budget))

        def look(seconds: float) -> None:
            self.durations.append(seconds)
            self.losses.append(loop.states["bench"].loss_curve[-1][1])
            self.meter.look()
            step = len(self.losses)
            if step % recipe.eval_every == 0:
                self._validate(step, _now(loop.stack.tensors, start))
            if step % EMPTY_CACHE == 0:
                self.meter.empty_cache()

        loop.look = look
        found = loop.run()["bench"]
        if found.failure is not None:
            raise InputError(f"experiment {self.settings.experiment}: {found.failure}. Remedy: lower rates")
        return found.adapter

    def accuracy(self, adapter: Adapter, questions: Sequence[Question]) -> float:
        """Share (0 to 1) of questions that are answered rightly."""
        size, written = self.settings.batch_size_eval, []
        for at in range(0, len(questions), size):
            asked = [Prompted(question.text, 0) for question in questions[at : at + size]]
            said = generate(self.backbone, [adapter], asked, self.settings.max_new_tokens)
            written += [one.text + more for one, more in zip(asked, said, strict=True)]
        return accuracy(written, [question.response for question in questions])

    def forgotten(self, adapter: Adapter) -> float:
        """Loss on Wikipedia, see `wiki_loss`."""
        most = min(self.settings.wiki_tokens, self.settings.adapter.s)
        return wiki_loss(self.backbone, adapter, self.rows.wiki, most, self.budget)

    def last(self, reached: float, forgetting: float) -> dict[str, Any]:
        """The test's entry."""
        size = self.settings.training.eval_every
        return {
            "step": len(self.losses),
            "test accuracy": reached,
            "train loss": math.fsum(self.losses[-size:]) / size,
            "train samples": len(self.losses) * self.settings.training.batch_size,
            "train total tokens": sum(self.tokens),
            "forgetting": forgetting,
        }

    def _validate(self, step: int, adapter: Adapter) -> None:
        size, began = self.settings.training.eval_every, time.perf_counter()
        reached = self.accuracy(adapter, self.rows.validation)
        spent = time.perf_counter() - began
        self.eval_time += spent
        trained = math.fsum(self.durations[-size:])
        entry = {
            "step": step,
            "valid accuracy": reached,
            "train loss": math.fsum(self.losses[-size:]) / size,
            "train samples": step * self.settings.training.batch_size,
            "train time": trained,
            "eval time": spent,
            "tokens / sec": sum(self.tokens[step - size : step]) / trained,
            "mem allocated avg": math.fsum(self.meter.allocated[-size:]) / size,
            "mem reserved avg": math.fsum(self.meter.reserved[-size:]) / size,
            "elapsed time": time.perf_counter() - self.began,
        }
        self.metrics.append(entry)
        self.say(
            f"step {step:,}: loss {entry['train loss']:.4f}, valid accuracy {100 * reached:.1f} %, "
            f"{entry['tokens / sec']:,.0f} tokens/s, {entry['mem reserved avg'] / 2**30:.1f} GiB"
        )
