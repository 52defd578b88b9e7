"""The flow `dept-transfer`: sources, transfer to few-shot targets, evaluation, registration, report.

This is the controller. It adds the trials of a stage as soon as what they start from is there, sees that workers run,
waits for the ledger and adds the next stage. It loads no backbone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import Flow, flow, runtime

from dept.backbones.describe import told_dtype
from dept.trial import LINEAR, STACKED, TrialOutcome, TrialSpec
from flows import artifacts, lineage
from flows.begun import begun
from flows.execution.context import RunContext
from flows.execution.fan_out import workers_for
from flows.execution.heal import LostError, say_lost_runs
from flows.execution.judge import judge, told
from flows.execution.open import open_plan
from flows.execution.own_tasks import remember
from flows.execution.progress import say
from flows.execution.settle import Settled, Workers, settle, work_here
from flows.mlflow_page import close_parent
from flows.pages import SHORT_SECONDS, ended_in_prefect, ends, run_name, step, tagged
from flows.planning.astray import Steadied, astray, steadied
from flows.planning.astray import told as told_astray
from flows.planning.distilled import distilled_specs
from flows.planning.ensembles import ensemble_specs
from flows.planning.joined import joined_targets
from flows.planning.left_out import label, left_out
from flows.planning.places import Place, Rates, needed_sources
from flows.planning.plan import Plan, WorkerCount
from flows.planning.rates import best_rates
from flows.planning.roots import check_paths
from flows.planning.searches import as_searched, searched_targets, searches
from flows.planning.strategies import choose, start_specs
from flows.planning.trials import search_specs, source_specs, target_specs
from flows.reporting.headline import headline
from flows.reporting.html import write_report
from flows.reporting.searched import told_searches
from flows.reporting.summary import summary_rows
from infra.errors import InputError, written
from infra.hidden import hidden_credentials
from infra.names import safe_name
from infra.quiet import errors_told_by_caller
from infra.settings import home
from infra.temporary_server import prefect_api

TRIES = 3  # of a run in which adapters are damaged under its hands


@dataclass(frozen=True)
class RunSummary:
    """What a run did. `trained` counts trials that its own worker trained, `others` those that other workers trained
    meanwhile, `reused` those taken from the ledger.

    not_run: trials that could not be tried, and why: what they start from has failed.
    """

    report: Path
    run_id: str
    trained: int
    reused: int
    failed: dict[str, str]
    not_run: dict[str, str] = field(default_factory=dict)
    others: int = 0


@dataclass
class Done:
    """What the stages of a run have reached so far.

    outcomes: of sources and targets; members: of what answers for a target together with others; tried: of the search
    of rates and of recipes, and refits in whose place others stay. searches: by what they are for.
    """

    outcomes: list[TrialOutcome] = field(default_factory=list)
    tried: list[TrialOutcome] = field(default_factory=list)
    members: list[TrialOutcome] = field(default_factory=list)
    rates: Rates = field(default_factory=dict)
    searches: dict[Place, TrialSpec] = field(default_factory=dict)
    searched: dict[str, TrialOutcome] = field(default_factory=dict)  # by fingerprint
    trained: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    astray: dict[str, str] = field(default_factory=dict)  # what became of refits, by the fingerprint of their search

    @property
    def reused(self) -> set[str]:
        """Trained adapters that came from the ledger."""
        kept = {o.spec.fingerprint for o in (*self.outcomes, *self.members) if o.spec.kind == "train"}
        return kept - self.trained - self.others

    @property
    def everything(self) -> list[TrialOutcome]:
        """Of targets, what answers with others for them, and searches."""
        return [*self.outcomes, *self.members, *self.tried]

    def note(self, settled: Settled) -> Settled:
        """Count a stage."""
        made = {o.spec.fingerprint for o in settled.outcomes if o.spec.kind == "train"}
        self.trained |= made & settled.trained
        self.others |= made & settled.others
        self.failed |= settled.told
        return settled


def make_flow(opened: RunContext | None = None) -> Flow[..., dict[str, Any]]:
    """The flow; with a context that `run` has opened already, so that rows are read and checked once."""

    @flow(name="dept-transfer", flow_run_name=run_name)
    def dept_transfer(plan: Plan, workers: WorkerCount | None = None, restart: bool = False) -> dict[str, Any]:
        """Train adapters on source tasks, start few-shot targets from them, register the best and report.

        Args:
            plan: backbone, source tasks, target tasks, shots, seeds, how adapters start, and the training recipe.
            workers: workers at a time; empty: as the plan has it, else the limit of their pool, or 1.
            restart: start this run again, up to three times, if its process dies; it goes on from what is kept.
        """
        with ends(), hidden_credentials():
            if runtime.deployment.id:  # it came through the API, and the workers may be other machines
                check_paths(plan)
                if line := told_dtype(plan.dtype, plan.device):
                    say(f"Frozen weights: {line}.")
            with workers_for(workers or plan.workers) as crew:
                return control(opened or open_plan(plan), plan, crew)

    return dept_transfer


dept_transfer = make_flow()  # what a deployment runs


def run(plan: Plan) -> RunSummary:
    """Run the flow in this process, with this process as its worker, and say what it did.

    Raises:
        InputError: something that the user can mend.
    """
    opened = open_plan(plan)  # a slip in the plan should not wait for a server
    with prefect_api(), errors_told_by_caller(), ended_in_prefect():
        done = make_flow(opened)(plan)
    return RunSummary(**{**done, "report": Path(done["report"])})


def control(context: RunContext, plan: Plan, workers: Workers = work_here) -> dict[str, Any]:
    """Carry a plan out: stage after stage, then champions and report.

    Raises:
        InputError: a full disk, or a store that does not answer.
    """
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    context.order = remember(context, plan)  # as workers elsewhere read it
    with begun(context, plan.name, "transfer"), tagged(plan.name, "transfer"):
        if unneeded := sorted(set(plan.sources) - set(needed_sources(plan))):
            say(f"Not trained, since no strategy starts from them: {', '.join(unneeded)}.")
        champions: list[dict[str, Any]] = []
        for left in reversed(range(TRIES)):
            try:
                done = stages(context, plan, workers)
                if plan.register:
                    reached = done.outcomes
                    champions = step("register-champions", lambda: register(context, reached, workers))  # noqa: B023
                break
            except LostError as error:
                if not left:
                    raise InputError(f"{error}. Adapters are lost again and again; check the store's disk") from error
        say_lost_runs(context, done.trained)
        lineage.materialise(context, plan.name, done.outcomes, champions)
        page = step("write-report", lambda: report(context, plan, done, champions, started), timeout=SHORT_SECONDS)
        artifacts.results(plan.name, done.everything, page)
        totals = {"trained": float(len(done.trained)), "failed": float(len(done.failed))}
        gain = headline(summary_rows(done.outcomes)).gain
        totals |= {} if gain is None else {"gain_points": gain}
        close_parent(context, plan.name, done.everything, totals, champions, page)
    return {
        "report": str(page),
        "run_id": context.parent_run,
        "trained": len(done.trained),
        "others": len(done.others),
        "reused": len(done.reused),
        "failed": done.failed,
        "not_run": done.not_run,
    }


def stages(context: RunContext, plan: Plan, workers: Workers) -> Done:
    """Sources, what strategies try, searches of rates and recipes, targets: each follows from the outcomes before it.

    Raises:
        LostError: an adapter was damaged meanwhile; the stages are to be gone through again.
    """
    done, inputs = Done(), context.inputs

    def settled(name: str, stage: str, specs: list[Any]) -> Settled:
        if not specs:
            return Settled()  # no task run for what is empty
        title = f"{plan.name}: {stage} ({len(specs)} trials)"
        return done.note(step(name, lambda: settle(context, stage, specs, workers), title=title, kinds=["stage"]))

    sources = settled("train-sources", "sources", source_specs(plan, inputs)).outcomes
    adapters = {outcome.spec.task: outcome.adapter_sha256 for outcome in sources}
    tried = settled("choose-starts", "starts", start_specs(plan, inputs, adapters)).by_fingerprint
    starts = choose(plan, inputs, adapters, tried)
    searched = search_specs(plan, inputs, starts.origins, starts.missing)
    search = settled("choose-rates", "rates", [spec for specs in searched.values() for spec in specs])
    done.rates, without = best_rates(searched, search.by_fingerprint, plan.rates_per == "target")
    missing = left_out(plan, starts, without)
    done.not_run = {label(place): reason for place, reason in missing.items()}
    done.searches = searches(plan, inputs, starts.origins, starts.missing)
    settled_searches = settled("search", "search", list(done.searches.values()))
    done.searched = settled_searches.by_fingerprint
    fixed = target_specs(plan, inputs, starts.origins, done.rates, {*missing, *done.searches})
    specs = [*fixed, *searched_targets(plan, inputs, done.searches, done.searched)]
    targets = settled("train-targets", "targets", specs).outcomes
    kept = _steadied(context, targets, done, workers)
    pairs = zip(targets, kept.outcomes, strict=True)
    trained = {given.spec.fingerprint: stays.adapter_sha256 for given, stays in pairs}
    together = ensemble_specs(plan, context.tasks, kept.outcomes)
    together += joined_targets(plan, inputs, done.searches, done.searched, trained, kept.instead)
    ensembles = settled("test-ensembles", "ensembles", together)
    reached = as_searched([*kept.outcomes, *ensembles.outcomes], done.searched)
    distilled = settled("distil-ensembles", "distilled", distilled_specs(plan, reached, done.rates))
    done.members = [outcome for outcome in reached if outcome.spec.role == "search"]
    done.outcomes = [*sources, *(o for o in reached if o.spec.role == "target"), *distilled.outcomes]
    done.tried = [*search.outcomes, *settled_searches.outcomes, *kept.left]
    return done


def _steadied(context: RunContext, targets: list[TrialOutcome], done: Done, workers: Workers) -> Steadied:
    """What stays of refits: those that went astray are trained again. One that then fails changes nothing."""
    lost = astray(targets, done.searched)
    if not lost:
        return Steadied(targets)
    for outcome in {one.spec.fingerprint: one for one in targets if one.spec.fingerprint in lost}.values():
        say(told_astray(outcome))
    specs = list(lost.values())
    title = f"refits trained again ({len(specs)} trials)"
    again = step("train-again", lambda: settle(context, "targets again", specs, workers), title=title, kinds=["stage"])
    for name, reason in again.told.items():
        say(f"{name}, trained again, failed: {reason}. What was trained first stays.")
    done.note(replace(again, failed={}))
    kept = steadied(targets, lost, again.by_fingerprint)
    done.astray = kept.notes
    return kept


def register(context: RunContext, outcomes: list[TrialOutcome], workers: Workers) -> list[dict[str, Any]]:
    """Let the candidate of each task stand against its champion; what was decided, for the report."""
    by_fingerprint = {outcome.spec.fingerprint: outcome for outcome in outcomes}
    serves = (*STACKED, *LINEAR)
    if unserved := {o.spec.task for o in outcomes if o.spec.variant == "auto" and o.spec.method not in serves}:
        say(f"auto chose for {', '.join(sorted(unserved))} what cannot be served: see the report.")
    decided = judge(context, outcomes, workers)
    return [told(row, by_fingerprint.get(str(row.challenger_fingerprint))) for row in decided]


def report(context: RunContext, plan: Plan, done: Done, champions: list[dict[str, Any]], started: str) -> Path:
    """Write report and plots, and a Prefect artifact with the table; returns the path of report.html."""
    run_id = context.parent_run
    link = context.tracker.link(run_id)
    about = {
        "run_id": run_id,
        "started": started,
        "champions": champions,
        "links": {"MLflow run": link} if link else {},
        # Only DePT has a second rate, that of A and B.
        "rates": {
            f"{key} on {target}" if target else key: rate[: 2 if key in ("dept", "transfer") else 1]
            for (key, target), rate in done.rates.items()
        },
        "searches": told_searches(plan, done.searches, done.searched, done.astray),
        "leaked": {name: n for name, splits in context.splits.items() if (n := splits.dropped.get("leaked", 0))},
        "seconds": (datetime.now().astimezone() - datetime.fromisoformat(started)).total_seconds(),
        "reused": sorted(done.reused),
        "others": sorted(done.others),
    }
    title = f"dept-transfer: {plan.name}"
    folder = home() / "reports" / safe_name(run_id, "run id")
    with written(folder):
        return write_report(folder, title, plan.model_dump(mode="json"), done.everything, about)
