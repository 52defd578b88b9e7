"""A probe or TF-IDF that `auto` chose is champion as an adapter is: registered, served, judged, made again if lost."""

import math
import shutil

import mlflow
import pandas as pd
import pytest
from typer.testing import CliRunner

from dept.baselines.answering import load_answering
from flows import transfer
from flows.cli.main import app
from flows.execution.challengers import renewed
from flows.execution.judge import judge
from flows.execution.settle import settle, work_here
from flows.planning import searches
from flows.planning.retraining import Stale
from infra.errors import InputError
from registry.promotion import by_hand
from registry.promotion.choose import can_answer, may_stand
from registry.promotion.lookup import champion
from registry.serving import Predictor, load_adapter, load_champion
from registry.store import Store

TEXTS = ["the film 3 was very good", "the film 4 was awful", "the film 5 was not so bad"]
PLAN = {"methods": ["auto"], "sources": [], "strategies": ["scratch"], "targets": ["film"]}
SEARCH = {"candidates": 1, "steps": 2, "eval_every": 2, "rungs": [], "together": 1}


@pytest.fixture(params=["probe", "tfidf"])
def method(request, monkeypatch):
    """What `auto` comes to, whatever its loss."""
    every = searches.competing
    monkeypatch.setattr(
        searches, "competing", lambda draw, found: [one for one in every(draw, found) if one[1] == request.param]
    )
    return request.param


@pytest.fixture
def run(begin):
    """One run of one draw, with its decision about the champion; None where nothing stood for it."""

    def run(seed=0, **changes):
        context, plan = begin(**{**PLAN, "search": SEARCH, "seeds": [seed], **changes})
        done = transfer.stages(context, plan, work_here)
        assert done.failed == {}
        return context, next(iter(judge(context, done.outcomes)), None)

    return run


def champion_of(context):
    found = champion(context.ledger, context.tracker, "film", context.backbone_id)
    return found, context.ledger.outcome(found.fingerprint)


def test_it_is_registered_and_serves(run, method, monkeypatch):
    context, row = run()
    found, outcome = champion_of(context)
    assert (row.decision, outcome.spec.method) == ("first", method)
    kept = load_answering(context.store.fetch(outcome.adapter_key))
    assert (kept.method, kept.sha256) == (method, outcome.adapter_sha256)
    if method == "tfidf":
        monkeypatch.setattr(
            "registry.serving.predictor.shared_backbone", lambda *_: pytest.fail("it reads no backbone")
        )
    served = load_champion("film")
    task, backbone = context.tasks["film"], context.backbone.backbone
    lines = kept.answers([task.template.format(text=text) for text in TEXTS], backbone)
    answers = served.predict(TEXTS)
    assert answers["label"].tolist() == [task.labels[line.index(max(line))] for line in lines]
    first = served.answers([{"text": TEXTS[0]}])[0].probabilities
    assert first == pytest.approx([math.exp(value) for value in lines[0]])
    assert served.predict([]).empty
    monkeypatch.setenv("MLFLOW_TRACKING_URI", context.tracker.uri)
    stored = mlflow.pyfunc.load_model(f"models:/{found.name}@champion")
    pd.testing.assert_frame_equal(stored.predict(pd.DataFrame({"text": TEXTS})), answers, check_exact=True)
    said = CliRunner().invoke(app, ["predict", "--task", "film", *TEXTS])
    assert said.exit_code == 0, said.output
    words = dict(zip(task.labels, task.words, strict=True))
    assert [line.split("\t")[0] for line in said.stdout.splitlines()] == answers["label"].map(words).tolist()
    said = CliRunner().invoke(app, ["predict", "--task", "film", "--json", *TEXTS])
    assert '"backbone": "tiny-llama"' in said.stdout
    _altered(outcome, method)


def _altered(outcome, method):
    """Nothing answers from a folder that is not as it was registered."""
    folder = Store.open().fetch(outcome.adapter_key)
    with pytest.raises(InputError, match="not the one that was registered"):
        load_adapter(folder, "0" * 64)
    manifest = folder / "baseline.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"c": ', '"c": 1'), encoding="utf-8")
    with pytest.raises(InputError, match="not the one that was registered"):
        load_adapter(folder, outcome.adapter_sha256)
    bare = load_answering(folder)
    bare.metadata.pop("s")
    with pytest.raises(InputError, match="lack s, so it cannot answer"):
        Predictor(bare)
    (folder / f"{method}.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="altered"):
        load_adapter(folder)


def test_it_is_judged_on_rows_that_nobody_has_seen(run, method):
    context, _ = run()
    first, _ = champion_of(context)
    context, row = run(seed=1)
    assert row.champion_fingerprint == first.fingerprint
    assert row.rows > 0
    evaluated = context.ledger.find(kind="evaluate", status="finished")
    assert {one.trial_spec.method for one in evaluated} == {method}
    assert len(evaluated) == 2
    rows = {example.id: example for part in context.splits["film"].parts().values() for example in part}
    for one in evaluated:
        spec, outcome = one.trial_spec, one.outcome
        kept = load_answering(context.store.fetch(context.ledger.by_sha256(spec.source_sha256).adapter_key))
        lines = kept.answers([rows[name].text for name in spec.row_ids], context.backbone.backbone)
        assert outcome["extra"]["rows"] == [line.index(max(line)) for line in lines]
        drawn = {name for part in kept.metadata["drawn"].values() for name in part}
        assert drawn.isdisjoint(spec.row_ids)


def test_it_is_made_again_when_it_is_lost(run, method):
    context, _ = run()
    found, outcome = champion_of(context)
    answers = load_champion("film").predict(TEXTS)
    shutil.rmtree(context.store.fetch(outcome.adapter_key))
    pd.testing.assert_frame_equal(load_champion("film").predict(TEXTS), answers)  # MLflow's copy
    context, row = run(seed=1)
    assert row.champion_fingerprint == found.fingerprint
    assert row.rows > 0, row.reason
    again = context.ledger.outcome(found.fingerprint)
    assert (again.adapter_key != outcome.adapter_key, again.validation) == (True, outcome.validation)
    same = Predictor(load_adapter(context.store.fetch(again.adapter_key), again.adapter_sha256))
    pd.testing.assert_frame_equal(same.predict(TEXTS), answers)


def test_only_what_auto_chose_stands_by_itself(run, method):
    """A person may promote it all the same; its challenger is made as it was."""
    context, _ = run()
    _, outcome = champion_of(context)
    context, row = run(seed=1, methods=[method], search=None)
    assert row is None
    (other,) = [
        row
        for row in context.ledger.find(role="target", kind="train")
        if row.trial_spec.method == method and row.fingerprint != outcome.spec.fingerprint
    ]
    asked = context.ledger.outcome(other.fingerprint)
    assert (may_stand(asked), can_answer(asked)) == (False, True)
    by_hand.promote(context, "film", context.backbone_id, fingerprint=other.fingerprint)
    assert champion_of(context)[0].fingerprint == other.fingerprint
    by_hand.rollback(context, "film", context.backbone_id)
    assert champion_of(context)[0].fingerprint == outcome.spec.fingerprint
    stale = Stale(task="film", fingerprint=outcome.spec.fingerprint, reasons=["old"], only_old=True)
    spec = renewed(context, stale)
    assert (spec.method, spec.start, spec.role, spec.refit) == (method, "shots", "challenger", False)
    made = settle(context, "challengers", [spec]).outcomes
    assert [may_stand(one) for one in made] == [True]
