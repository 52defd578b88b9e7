"""Probe and TF-IDF answer beside the adapters that `auto` chose: trained, tested, kept, served and renewed as one."""

import pytest
import torch

from dept.baselines import probe
from dept.baselines.answering import load_answering
from dept.baselines.ensemble import Ensemble
from dept.baselines.probe import Probe
from dept.baselines.tfidf import Tfidf
from dept.constants import CONSTANTS
from dept.engine.evaluate import Request, score
from dept.readout import mean_answers
from dept.trial import ADAPTERS
from flows import transfer
from flows.execution import linear_search
from flows.execution.challengers import renewed
from flows.execution.judge import judge
from flows.execution.settle import work_here
from flows.planning.joined import joined_targets
from flows.planning.retraining import Stale
from flows.reporting.answers import together
from flows.reporting.searched import told_searches
from infra.errors import InputError
from registry.serving import Predictor, load_champion
from registry.serving.predictor import answer_rows
from registry.serving.served import cost_of
from tests.flows.test_joint_champions import PLAN, SEARCH, TEXTS


@pytest.fixture
def joint(begin, monkeypatch):
    """Context, plan, what was done, and the joint trial, of which as many answer together as may."""
    monkeypatch.setattr("dept.engine.together.plainest", lambda losses: 0)
    monkeypatch.setattr("flows.planning.searches.ranked", lambda draw, found, outcomes: [(draw, "dept", "auto")])
    context, plan = begin(**{**PLAN, "seeds": [0]})
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    (one,) = [outcome for outcome in done.outcomes if outcome.spec.variant == "auto"]
    return context, plan, done, one


def test_they_are_trained_once_tested_and_kept_with_their_weights(joint, tmp_path):
    context, plan, done, one = joint
    linear = {o.spec.method: o for o in done.outcomes if o.spec.method in ("probe", "tfidf")}
    assert one.spec.kind == "ensemble"
    assert one.spec.weights == (2.0, 2.0, 1.0, 1.0)
    assert {*one.spec.sources[2:]} == {o.adapter_sha256 for o in linear.values()}
    kept = load_answering(context.store.fetch(one.adapter_key))
    assert kept.weights == one.spec.weights
    assert {type(member) for member in kept.members[2:]} == {Probe, Tfidf}
    assert len(one.extra["members_alone"]) == 2
    (line,) = together(done.outcomes)
    assert line.score == one.extra[ADAPTERS]
    search = done.searched[one.spec.searched]
    assert one.validation == search.validation
    assert told_searches(plan, done.searches, done.searched)[0]["chose"].startswith("4 together (")
    assert one.spec.model_copy(update={"weights": ()}).fingerprint != one.spec.fingerprint
    item = Stale(task="film", fingerprint=one.spec.fingerprint, reasons=["task data changed"], only_old=False)
    assert renewed(context, item).method == "dept"

    members = kept.members
    Ensemble(members, [2, 2, 1, 1]).save(tmp_path / "whole")
    assert Ensemble.load(tmp_path / "whole").weights == (2, 2, 1, 1)
    listed = tmp_path / "whole" / "members.json"
    listed.write_text(listed.read_text().replace("2.0", "9.0"))
    with pytest.raises(InputError, match="not those of"):
        Ensemble.load(tmp_path / "whole")
    for weights in ([1, 1, 1], [1, 1, 1, 0], [1, 1, 1, float("nan")]):
        with pytest.raises(InputError, match="weights"):
            Ensemble(members, weights)


def test_the_champion_answers_as_it_was_tested_also_in_a_batch_with_others(joint):
    context, plan, done, one = joint
    (row,) = judge(context, done.outcomes)
    assert row.challenger_fingerprint == one.spec.fingerprint
    served = load_champion("film", plan.backbone)
    members, backbone = served.adapter.members, served.backbone
    texts = [served.text_of({"text": text}) for text in TEXTS]
    parts = []
    for member in members:
        if isinstance(member, (Probe, Tfidf)):
            parts.append(member.answers(texts, backbone))
        else:
            parts.append(score(backbone, [member], [Request(text, served.words, 0) for text in texts]))
    wanted = torch.tensor(mean_answers(parts, [2, 2, 1, 1])).softmax(1)
    alone = Predictor(members[2], backbone)
    asked = [(one, {"text": text}) for text in TEXTS for one in (served, alone)]
    said = answer_rows(asked)
    found = torch.tensor([answer.probabilities for answer in said[::2]])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, check_dtype=False)
    assert said[1::2] == alone.answers([{"text": text} for text in TEXTS])
    assert cost_of(asked[::2]) > cost_of(asked[1::2]) > 0


def test_without_a_baseline_the_others_answer_and_without_an_adapter_another_method(joint):
    context, plan, done, one = joint
    about = plan, context.inputs, done.searches, done.searched
    shas = {o.spec.fingerprint: o.adapter_sha256 for o in (*done.outcomes, *done.members)}
    (whole,) = joined_targets(*about, shas, {})
    assert whole.fingerprint == one.spec.fingerprint
    tfidf = next(o for o in done.outcomes if o.spec.method == "tfidf")
    (less,) = joined_targets(*about, {key: sha for key, sha in shas.items() if key != tfidf.spec.fingerprint}, {})
    assert tfidf.adapter_sha256 not in less.sources
    assert less.weights == (2.0, 2.0, 1.0)
    adapters = {o.spec.fingerprint for o in done.members}
    first, _ = done.members
    lone = {key: sha for key, sha in shas.items() if key == first.spec.fingerprint}
    (single,) = joined_targets(*about, lone, {})
    assert (single.kind, single.init) == ("train", "auto")
    slower = first.spec.model_copy(update={"training": first.spec.training.model_copy(update={"lr_prompt": 1e-9})})
    (steady,) = joined_targets(*about, lone, {first.spec.fingerprint: slower})
    assert steady.training == slower.training  # what took its place, not what went astray
    (other,) = joined_targets(*about, {key: sha for key, sha in shas.items() if key not in adapters}, {})
    assert (other.method in ("probe", "tfidf"), other.init) == (True, "auto")


def test_what_auto_chose_is_shown_under_its_own_name_too(begin):
    """One trial, two rows of the report: the baseline's and auto's."""
    context, plan = begin(**{**PLAN, "search": {**SEARCH, "candidates": 1, "together": 1}, "seeds": [0]})
    done = transfer.stages(context, plan, work_here)
    assert done.failed == {}
    shown = {o.spec.variant: o.spec.method for o in done.outcomes if o.spec.role == "target"}
    assert set(shown) == {"untrained", "probe", "tfidf", "auto"}


def test_a_baseline_that_cannot_be_fitted_answers_with_nobody(begin, monkeypatch, capsys):
    def broken(way, *args):
        if way is probe.WAY:
            raise InputError("features are not finite")
        return judged(way, *args)

    judged = linear_search.judged
    monkeypatch.setattr(linear_search, "judged", broken)
    monkeypatch.setattr("dept.engine.together.plainest", lambda losses: 0)
    context, plan = begin(**{**PLAN, "search": {**SEARCH, "answers": ["words"]}, "seeds": [0]})
    done = transfer.stages(context, plan, work_here)
    (found,) = [one for one in done.searched.values() if one.spec.method == "dept"]
    assert found.extra["search"]["beside"] == ["tfidf"]
    assert "probe answers with nobody: features are not finite" in capsys.readouterr().err
    assert [o.spec.variant for o in done.outcomes if o.spec.init == "auto"] == ["auto"]


def test_a_change_of_a_baseline_is_a_new_question(joint, monkeypatch):
    _, _, done, one = joint
    spec = done.searched[one.spec.searched].spec
    before = spec.fingerprint
    monkeypatch.setitem(CONSTANTS, "probe", CONSTANTS["probe"] | {"temperature": 1.0})
    assert spec.fingerprint != before
