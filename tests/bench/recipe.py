"""By which the default recipe was chosen: validation curves of many recipes over many draws of shots.

    python -m tests.bench.recipe flows/studies/recipe.json PHASE [SEED ...]
    python -m tests.bench.recipe flows/studies/recipe.json report

All recipes of a draw train in one stack, checked on rows of the task's validation split: not the k rows of a draw, for
what is asked is which recipe is right, not which a draw would choose. Means over the path are read beside the last step
at each check. Never read: test rows, the study's seeds 0 to 9, bbc-topic. What the file holds is not run again.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_text
from dept.backbones.backbone import Backbone
from dept.batches.tokenise import encode
from dept.config import AdapterConfig, EngineOptions, TrainConfig
from dept.engine.evaluate import score_rows, summarise
from dept.engine.train import Loop, Trial, train
from infra.commit import source_commit
from infra.files import write_text
from tasks.catalogue import get_task
from tasks.draws import few_shot, subset
from tasks.load import load_splits
from tasks.spec import Task
from tasks.splits import Splits

TASKS = ("movie-polarity", "tweet-polarity", "sms-spam", "trec-coarse")
SOURCE, JUDGED = "amazon-polarity", ("movie-polarity", "tweet-polarity")  # by the same two words
SHAPE = AdapterConfig(m=10, r=4, s=48)
PROMPT = "Classify the text by its label."
JUDGES = 24  # validation rows of a task, the same for all draws
MOST = 32  # steps: decides the warm-up, so that a shorter phase walks the same path
CHECKS = {
    8: (0.0,),
    **dict.fromkeys((16, 24, 32, 64, 96, 120), (0.0, 0.9)),
}  # step -> means over the path, 0: the last step
MEANS = (0.0, 0.9)


def grid(objective: str, *rates: tuple[float, float]) -> list[dict]:
    """Recipes of one objective with rates of P and of the pair."""
    return [{"objective": objective, "lr_prompt": p, "lr_low_rank": pair} for p, pair in rates]


[BASE] = grid("words", (3e-2, 1e-3))
RATES = ((1e-2, 1e-3), (3e-2, 1e-3), (1e-1, 1e-3))
PHASES: dict[str, tuple[int, int, list[dict]]] = {  # k, steps, recipes
    "rates": (16, 32, grid("words", *RATES) + grid("vocabulary", *RATES)),
    "options": (
        16,
        24,
        [
            BASE,
            *grid("words", (3e-2, 1e-4), (3e-3, 1e-3)),
            *(BASE | more for more in ({"label_smoothing": 0.1}, {"dropout": 0.2}, {"noise": 5.0})),
        ],
    ),
    "sources": (0, 32, grid("words", *RATES[:2]) + grid("vocabulary", RATES[0])),  # of a source, judged on other tasks
    "longer": (0, 120, grid("words", (1e-2, 1e-3), (1e-2, 1e-4), (3e-2, 3e-4))),  # of a source, on all its rows
    # From a source of SOURCE's 400 rows, 120 steps at 0.03 and 3e-4.
    "transfer": (16, 24, grid("words", (1e-3, 1e-4), (1e-2, 1e-4), (3e-2, 1e-4), (1e-2, 1e-3), (3e-2, 1e-3))),
    "few": (4, 24, grid("words", (1e-2, 1e-3), (3e-2, 1e-3), (3e-2, 1e-4)) + grid("vocabulary", (3e-2, 1e-3))),
}


def name_of(phase: str, recipe: dict) -> str:
    """A recipe as the file names it."""
    return " ".join(
        [
            f"k={PHASES[phase][0]}" + {"transfer": " from-source", "longer": " all-rows"}.get(phase, ""),
            *(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in recipe.items()),
        ]
    )


@functools.cache
def loaded(name: str) -> tuple[Task, Splits]:
    """A task and its rows, read once for all draws."""
    task = get_task(name)
    return task, load_splits(task)


@functools.cache
def source(backbone: Backbone) -> Adapter:
    """The adapter from which the phase `transfer` starts, the same for all draws."""
    recipe = {"steps": 120, "lr_prompt": 3e-2, "lr_low_rank": 3e-4}
    [trial], _ = trials_of(backbone, SOURCE, "sources", 0, [recipe])
    return train([trial], backbone)[trial.key].adapter


def trials_of(
    backbone: Backbone, task_name: str, phase: str, seed: int, recipes: list[dict]
) -> tuple[list[Trial], list]:
    """One trial for each recipe, and the rows that judge."""
    (k, *_), (task, splits) = PHASES[phase], loaded(task_name)

    def rows(examples):
        reading = {"cut": task.cut, "template": task.template, "max_length": task.max_length}
        labels = [example.label for example in examples]
        return encode(backbone.tokens, [example.text for example in examples], task.words, labels, SHAPE, **reading)

    if not k:
        shots = rows(splits.train if phase == "longer" else subset(splits.train, 400, seed))
        others = [subset(loaded(name)[1].validation, JUDGES, 0) for name in JUDGED]
        judges = rows([example for part in others for example in part])
    else:
        shots, judges = rows(few_shot(splits, k, seed, task.strata).shots), rows(subset(splits.validation, JUDGES, 0))
    start = source(backbone) if phase == "transfer" else from_text(backbone, SHAPE, PROMPT, seed)
    made = [
        Trial(
            name_of(phase, recipe),
            start,
            TrainConfig(steps=MOST, schedule="constant", max_loss=1e9).model_copy(update=recipe),
            shots,
            (),
            seed,
        )
        for recipe in recipes
    ]
    return made, judges


def curves(backbone: Backbone, trials: list[Trial], judges: list, steps: int) -> dict[str, dict]:
    """Recipe -> mean -> step -> [loss, score]."""
    loop = Loop(trials, backbone, EngineOptions(adapters_at_once=len(trials)))
    loop.stack.join([trial.key for trial in trials])
    found: dict[str, dict] = {trial.key: {f"{mean:g}": {} for mean in MEANS} for trial in trials}
    means = {mean: {name: torch.zeros_like(part) for name, part in loop.stack.mean.items()} for mean in MEANS}

    def check(step: int) -> None:
        for mean in CHECKS.get(step, (0.0,)):
            tensors = loop.stack.averaged
            for name, value in means[mean].items():
                setattr(tensors, name, value / (1 - mean**step) if step else getattr(loop.stack.tensors, name))
            items = [(i, row) for i in range(len(trials) if step else 1) for row in judges]
            scores = score_rows(backbone, tensors, items, loop.budget)
            for i, trial in enumerate(trials):
                mine = scores[i * len(judges) : (i + 1) * len(judges)] if step else scores
                got = summarise(mine, judges)
                found[trial.key][f"{mean:g}"][str(step)] = [round(got["loss"], 4), round(got["score"], 2)]

    check(0)
    for step in range(1, steps + 1):
        loop.step()
        for mean, parts in means.items():
            for name, value in parts.items():
                value.lerp_(loop.stack.parameters[name].detach(), 1 - mean)
        if step in CHECKS:
            check(step)
    for key, state in loop.states.items():
        found[key]["training"] = [round(loss, 3) for _, loss in state.loss_curve]
    return found


def table(found: dict, phase: str, tasks: tuple[str, ...] = TASKS) -> dict[str, dict[tuple[str, int], list[float]]]:
    """Recipe -> (mean over the path, step) -> mean loss and score, over the draws that all recipes of a phase have."""
    k, _, recipes = PHASES[phase]
    names = [name_of(phase, recipe) for recipe in recipes]
    draws = [
        held
        for task in (tasks if k else (SOURCE,))
        for held in found.get(task, {}).values()
        if all(name in held for name in names)
    ]
    made: dict[str, dict[tuple[str, int], list[float]]] = {name: {} for name in names if draws}
    for name in made:
        for mean in (f"{m:g}" for m in MEANS):
            for step in sorted(set.intersection(*({int(s) for s in held[name][mean]} for held in draws))):
                cells = [held[name][mean][str(step)] for held in draws]
                made[name][mean, step] = [statistics.fmean(part) for part in zip(*cells, strict=True)] + [len(cells)]
    return made


def draw(found: dict, file: Path) -> None:
    """Validation loss by step: a row for each phase, a panel for each task and their mean; dashed: mean of the path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    phases = [phase for phase in PHASES if PHASES[phase][0] and table(found, phase)]
    panels = [*((task,) for task in TASKS), TASKS]
    size = (4 * len(panels), 4 * len(phases))
    figure, axes = pyplot.subplots(len(phases), len(panels), figsize=size, squeeze=False, sharey=True)
    for line, phase in zip(axes, phases, strict=True):
        for axis, tasks in zip(line, panels, strict=True):
            for number, (name, places) in enumerate(table(found, phase, tasks).items()):
                for mean, style in (("0", ".-"), ("0.9", ".--")):
                    points = [(step, value[0]) for (m, step), value in places.items() if m == mean]
                    label = name.partition(" ")[2] if mean == "0" else None
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label)
            axis.set_title(f"{phase}, k = {PHASES[phase][0]}: {tasks[0] if len(tasks) == 1 else 'mean'}")
            axis.set_xlabel("step")
        line[0].set_ylabel("validation loss, nats among the words")
        line[-1].legend(fontsize=6)
    axes[0][0].set_ylim(0, 2.5)
    figure.tight_layout()
    figure.savefig(file, dpi=60)


def lines(found: dict, phase: str) -> list[str]:
    """A phase as a table of a README: validation loss and score, means over tasks and draws; none without a draw."""
    made = table(found, phase)
    if not made:
        return []
    places = sorted({place for values in made.values() for place in values}, key=lambda place: (place[1], place[0]))
    count = next(iter(made.values()))["0", 0][2]
    heads = [f"step {step}" + ("" if mean == "0" else ", mean") for mean, step in places]
    found_lines = [
        f"| `{phase}`, k = {PHASES[phase][0] or 'all'}, draws: {count} | " + " | ".join(heads) + " |",
        "| --- |" + " --- |" * len(heads),
    ]
    for name, values in made.items():
        cells = ("{:.3f} / {:.0f}".format(*values[place]) if place in values else "–" for place in places)
        found_lines.append(f"| {name.partition(' ')[2]} | " + " | ".join(cells) + " |")
    return found_lines


def report(file: Path) -> None:
    """Print the tables and draw the curves beside the file."""
    found = json.loads(file.read_text())["curves"]
    for phase in PHASES:
        print(*lines(found, phase), "", sep="\n")
    draw(found, file.with_suffix(".png"))


def main() -> None:
    """See the module."""
    file, phase = Path(sys.argv[1]), sys.argv[2]
    if phase == "report":
        report(file)
        return
    seeds = [int(seed) for seed in sys.argv[3:]] or [1001, 1002, 1003]
    assert min(seeds) > 9
    backbone = Backbone.from_pretrained("smollm2-135m", "bfloat16", "cpu")
    k, steps, recipes = PHASES[phase]
    for seed in seeds:
        for task in TASKS if k else (SOURCE,):
            body = json.loads(file.read_text()) if file.exists() else {"curves": {}}
            held = body["curves"].setdefault(task, {}).setdefault(str(seed), {})
            wanted = [recipe for recipe in recipes if name_of(phase, recipe) not in held]
            if not wanted:
                continue
            began = time.monotonic()
            held |= curves(backbone, *trials_of(backbone, task, phase, seed, wanted), steps)
            body |= {"commit": source_commit(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
            write_text(file, json.dumps(body, separators=(",", ":"), sort_keys=True))
            print(phase, task, seed, len(wanted), f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
