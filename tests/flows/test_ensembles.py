"""Several adapters answer as one: planned, tested, kept, served, judged and reported."""

import json
from dataclasses import replace

import mlflow
import pandas as pd
import pytest
import torch

from dept.adapters.adapter import Adapter
from dept.backbones.shared import shared_backbone
from dept.baselines.answering import load_answering
from dept.baselines.ensemble import Ensemble
from dept.engine.evaluate import Request, score
from dept.readout import mean_answers
from flows import transfer
from flows.execution.settle import work_here
from flows.planning.cost import estimate
from flows.planning.plan import Plan
from flows.planning.plan_file import load_plan
from flows.reporting.answers import together
from flows.reporting.html import write_report
from infra.errors import InputError
from registry.ledger import Ledger
from registry.promotion.lookup import champion
from registry.serving import load_champion
from registry.store import Store
from registry.tracking import Tracker
from tasks.draws import subset

ALONE = {"sources": [], "strategies": ["scratch"], "targets": ["film"]}
TEXTS = ["the film 5 was great", "the film 7 was awful"]


def by_hand(members, texts, words=("negative", "positive")):
    """Softmax of the mean of the members' log-probabilities, one after the other."""
    backbone = shared_backbone(members[0].metadata["backbone"], members[0].metadata["dtype"])
    logs = [
        torch.tensor(score(backbone, [member], [Request(f"{text} :", words, 0) for text in texts])).log_softmax(1)
        for member in members
    ]
    return torch.stack(logs).mean(0).softmax(1)


def test_a_whole_plan_with_three_that_answer_together(begin, monkeypatch, tmp_path):
    """Worker, ledger, store, MLflow, champion, serving, report; a second run tests nothing anew."""
    context, plan = begin(ensemble=3, seeds=[0, 1, 2], **ALONE)
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    (ensemble,) = [outcome for outcome in done.outcomes if outcome.spec.kind == "ensemble"]
    singles = {o.spec.seed: o for o in done.outcomes if o.spec.init == "scratch" and o.spec.kind == "train"}
    assert ensemble.spec.sources == tuple(singles[seed].adapter_sha256 for seed in (0, 1, 2))
    assert ensemble.spec.variant == "ensemble:scratch"
    losses = [singles[seed].validation["loss"] for seed in (0, 1, 2)]
    assert ensemble.validation["loss"] == pytest.approx(sum(losses) / 3)

    store, ledger, tracker = Store.open(), Ledger.open(), Tracker()
    members = [Adapter.load(store.fetch(singles[seed].adapter_key)) for seed in (0, 1, 2)]
    kept = load_answering(store.fetch(ensemble.adapter_key))
    assert isinstance(kept, Ensemble)
    assert [one.sha256 for one in kept.members] == [one.sha256 for one in members]
    test = subset(context.splits["film"].test, plan.test_rows, 0)
    found = by_hand(members, [row.text.removesuffix(" :") for row in test])
    right = [int(line.argmax()) == row.label for line, row in zip(found, test, strict=True)]
    assert ensemble.test["accuracy"] == pytest.approx(100 * sum(right) / len(right))

    transfer.register(context, done.outcomes, work_here)
    now = champion(ledger, tracker, "film", context.backbone_id)
    assert now.fingerprint == ensemble.spec.fingerprint
    serving = load_champion("film", plan.backbone)
    expected = by_hand(members, TEXTS)
    probabilities = torch.tensor([answer.probabilities for answer in serving.answers([{"text": t} for t in TEXTS])])
    torch.testing.assert_close(probabilities, expected.double(), atol=1e-5, rtol=0, check_dtype=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    theirs = mlflow.pyfunc.load_model(f"models:/{now.name}@champion").predict(pd.DataFrame({"text": TEXTS}))
    assert theirs["yes"].tolist() == pytest.approx(expected[:, 1].tolist(), abs=1e-5)

    page = write_report(tmp_path, "tiny", plan.model_dump(mode="json"), done.outcomes).read_text(encoding="utf-8")
    assert "Several adapters together" in page
    (line,) = together(done.outcomes)
    assert line.mean_member == pytest.approx(sum(singles[seed].test["score"] for seed in (0, 1, 2)) / 3)
    assert line.score == ensemble.test["score"]
    alone = [singles[seed].test["score"] for seed in (0, 1, 2)]
    assert ensemble.extra["members_alone"] == pytest.approx(alone)
    untested = [replace(o, test={}) if o is not ensemble else o for o in done.outcomes]  # as the members of auto's
    assert together(untested)[0].mean_member == pytest.approx(sum(alone) / 3)
    assert f"Answering together was worth {line.gain:+.1f} points" in page
    assert "Honest probabilities" in page

    transfer.stages(context, plan, work_here)
    assert len(ledger.find(kind="ensemble")) == 1
    assert {row.attempt for row in ledger.find()} == {1}


def test_an_ensemble_that_is_lost_is_put_together_again(begin):
    context, plan = begin(ensemble=2, seeds=[0, 1], **ALONE)
    first = transfer.stages(context, plan, work_here)
    (ensemble,) = [outcome for outcome in first.outcomes if outcome.spec.kind == "ensemble"]
    place = context.store.fetch(ensemble.adapter_key)
    (place / "1" / "adapter.safetensors").write_bytes(b"nothing")
    second = transfer.stages(context, plan, work_here)
    (healed,) = [outcome for outcome in second.outcomes if outcome.spec.kind == "ensemble"]
    assert healed.adapter_key != ensemble.adapter_key
    assert (healed.adapter_sha256, healed.test) == (ensemble.adapter_sha256, ensemble.test)


def test_starts_of_one_draw_answer_together(begin):
    """Members of other shapes (prompt tuning) and a calibrated prompt among them; validated on the draw's own rows."""
    changes = {**ALONE, "methods": ["dept", "prompt-tuning", "calibrated"], "ensemble": 2, "ensemble_of": "starts"}
    context, plan = begin(**changes)
    done = transfer.stages(context, plan, work_here)
    (ensemble,) = [outcome for outcome in done.outcomes if outcome.spec.kind == "ensemble"]
    assert ensemble.spec.variant == "ensemble"
    drawn = [o for o in done.outcomes if o.spec.kind == "train" and o.spec.shots]
    assert {o.spec.variant for o in drawn} == {"scratch", "prompt-tuning", "calibrated"}
    best = sorted(drawn, key=lambda o: o.validation["loss"])[:2]
    assert set(ensemble.spec.sources) == {o.adapter_sha256 for o in best}
    assert ensemble.validation["loss"] <= sum(o.validation["loss"] for o in best) / 2 + 1e-9


def test_refits_are_not_validated_together(begin):
    """Each has learned from the draw's validation rows; what stands for the ensemble is what their searches found."""
    search = {"candidates": 2, "steps": 4, "eval_every": 2, "rungs": [2]}
    changes = {**ALONE, "methods": ["dept", "prompt-tuning", "calibrated"], "ensemble": 2, "ensemble_of": "starts"}
    context, plan = begin(**changes, search=search)
    done = transfer.stages(context, plan, work_here)
    (ensemble,) = [outcome for outcome in done.outcomes if outcome.spec.kind == "ensemble"]
    members = [o for o in done.outcomes if o.spec.kind == "train" and o.adapter_sha256 in ensemble.spec.sources]
    assert ensemble.spec.refit == any(o.spec.refit for o in members)
    assert any(o.spec.refit for o in done.outcomes)
    if ensemble.spec.refit:
        assert ensemble.validation["loss"] == pytest.approx(sum(o.validation["loss"] for o in members) / 2)
    assert not done.reused


def test_a_dry_run_counts_what_is_tested_together(make_plan):
    plan = load_plan(make_plan(ensemble=2, seeds=[0, 1, 2], **ALONE))
    (line,) = [line for line in estimate(plan).lines if line.stage == "ensembles"]
    (single,) = [line for line in estimate(plan).lines if line.variant == "untrained"]
    assert (line.trials, line.steps, line.variant) == (1, 0, "ensemble:scratch")
    assert line.evaluated == 2 * single.evaluated


def test_plans_that_ask_for_too_many():
    about = {"name": "x", "targets": ["a"], "strategies": ["scratch"], "seeds": [0, 1]}
    with pytest.raises(ValueError, match="3 seeds are needed"):
        Plan(**about, ensemble=3)
    with pytest.raises(ValueError, match="no ensemble"):
        Plan(**about, ensemble=1)


def test_files_of_an_ensemble(tmp_path):
    members = [Adapter(torch.full((2, 4), float(i)), torch.ones(3, 1), torch.ones(1, 4)) for i in range(2)]
    made = Ensemble(members)
    digest = made.save(tmp_path / "both", task="film")
    found = load_answering(tmp_path / "both")
    assert (found.sha256, found.metadata) == (digest, {"task": "film"})
    assert Ensemble(members[::-1]).save(tmp_path / "other") != digest
    (tmp_path / "both" / "1").rename(tmp_path / "both" / "2")
    with pytest.raises(InputError, match=r"safetensors and adapter.json are expected"):
        load_answering(tmp_path / "both")
    listed = json.loads((tmp_path / "other" / "members.json").read_text())
    (tmp_path / "other" / "members.json").write_text(json.dumps(listed[::-1]))
    with pytest.raises(InputError, match="its members are not those"):
        load_answering(tmp_path / "other")
    with pytest.raises(InputError, match="1 members"):
        Ensemble(members[:1])


def test_the_mean_of_log_probabilities():
    """By hand: (.8 .2) and (.5 .5), unnormalised, are sqrt(.4) to sqrt(.1), so 2/3 and 1/3."""
    parts = [[[torch.tensor(p).log().item() + 5 for p in (0.8, 0.2)]], [[torch.tensor(0.5).log().item() - 3] * 2]]
    (found,) = mean_answers(parts)
    assert torch.tensor(found).exp().tolist() == pytest.approx([2 / 3, 1 / 3])
