"""Which draws and which trials of targets a plan asks for, by name: target, shots, seed, method, strategy. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dept.config import TrainConfig
from dept.trial import Method
from flows.planning.defaults import BASELINE_RATES, RateKey
from flows.planning.groups import Strategy
from flows.planning.plan import Plan
from tasks.spec import Task


@dataclass(frozen=True)
class Draw:
    """One draw of a target's shots; shots None: all training rows."""

    target: str
    shots: int | None
    seed: int


@dataclass(frozen=True)
class Origin:
    """The adapter that a target starts from: the source's name (several: joined by +) and the adapter's sha256."""

    task: str
    sha256: str


Place = tuple[Draw, Method, Strategy]  # of a target trial
Origins = Mapping[tuple[Draw, str], Origin]  # by draw and strategy
SEARCH_SEED = 2**31  # the first; above those that a plan may name
Rate = tuple[float, float]  # peak learning rates of P, and of A and B
Rates = Mapping[tuple[RateKey, str], Rate]  # by method and target; the target is "" where one choice is for all
ALL_SOURCES = ("best-source", "similar", "mixture", "prompt-only")  # strategies that look at every source


def draws(plan: Plan) -> list[Draw]:
    """Every draw of shots of a plan."""
    return [Draw(target, k, seed) for target in plan.targets for k in plan.counted for seed in plan.seeds]


def draws_of_search(plan: Plan) -> list[Draw]:
    """Draws on which learning rates are chosen: the most shots, and seeds that no other trial uses."""
    most = None if None in plan.counted else max(filter(None, plan.counted))
    return [Draw(target, most, SEARCH_SEED + i) for target in plan.targets for i in range(plan.search_draws)]


def to_start(plan: Plan) -> list[tuple[Draw, Strategy]]:
    """Draws and strategies for which a start is needed: those of the targets, and of a search of transfer's rates."""
    found = [(draw, strategy) for draw in draws(plan) for strategy in transferring(plan)]
    strategy = searched_strategy(plan)
    if strategy is not None and len(grid(plan, "transfer", plan.transfer_training)) > 1:
        found += [(draw, strategy) for draw in draws_of_search(plan)]
    return found


def places(plan: Plan) -> list[Place]:
    """Every target trial that a plan asks for, but those that are only tested (untrained, zero-shot)."""
    return [
        (draw, method, strategy)
        for draw in draws(plan)
        for method in (one for one in plan.methods if one != "auto")
        for strategy in (plan.strategies if method == "dept" else ["scratch"])
    ]


def shown_beside(plan: Plan, tasks: Mapping[str, Task]) -> list[Place]:
    """What logistic regression makes of the same shots, for tasks that tell classes: it costs seconds, so that each
    report shows it. Not on whole splits, nor where ranks hold the backbone.
    """
    if plan.engine != "local":
        return []
    return [
        (draw, method, "scratch")
        for draw in draws(plan)
        if draw.shots is not None and tells_classes(tasks[draw.target])
        for method in plan.beside
        if method not in plan.methods
    ]


def tells_classes(task: Task) -> bool:
    """Whether a task's answers are classes, which heads and linear baselines can tell apart."""
    return task.scored and not task.grid


def needed_sources(plan: Plan) -> list[str]:
    """Sources from whose own adapter some target starts, in the plan's order."""
    wanted = transferring(plan)
    if any(strategy in ALL_SOURCES for strategy in wanted):
        return list(plan.sources)
    named = {strategy.partition(":")[2] for strategy in wanted}
    return [name for name in plan.sources if name in named]


def grid(plan: Plan, key: RateKey, recipe: TrainConfig) -> list[Rate]:
    """The rates of a method that a plan chooses from; where it names none its recipe's, or a baseline's usual."""
    share = recipe.lr_low_rank / recipe.lr_prompt if recipe.lr_prompt else 0.0
    named = plan.rates.get(key) or ([BASELINE_RATES[key]] if key in BASELINE_RATES else [])
    prompts = named or [recipe.lr_prompt]
    pairs = plan.low_rank_rates.get(key)
    if pairs:
        return [(prompt, pair) for prompt in prompts for pair in pairs]
    return [(prompt, prompt * share) for prompt in named] or [(recipe.lr_prompt, recipe.lr_low_rank)]


def transferring(plan: Plan) -> list[Strategy]:
    """The strategies of a plan that need a source."""
    return [strategy for strategy in plan.strategies if strategy != "scratch"] if plan.adapts else []


def searched_strategy(plan: Plan) -> Strategy | None:
    """The strategy on which transfer's learning rates are chosen."""
    wanted = transferring(plan)
    return "best-source" if "best-source" in wanted else next(iter(wanted), None)


def rate_key(method: Method, strategy: Strategy) -> RateKey | None:
    """Under which key the rates of a trial are searched; None: it has none, since it makes no steps."""
    if method == "in-context" or method == "calibrated" or method == "probe" or method == "tfidf":
        return None
    return "transfer" if method == "dept" and strategy != "scratch" else method
