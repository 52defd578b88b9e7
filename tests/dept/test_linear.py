"""Probe and TF-IDF are scikit-learn's own pipelines, chosen on validation rows or in folds, and kept as files."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dept.baselines import tfidf
from dept.baselines.answering import load_answering
from dept.baselines.files import write_baseline
from dept.baselines.linear import Chosen, Option, Way, choose, fit, log_probs
from dept.baselines.probe import DEPTHS, WAY, Probe, train_head, train_probe
from dept.baselines.tfidf import Tfidf, contents, train_tfidf
from dept.batches.tokenise import Row
from dept.constants import PULL
from dept.engine.evaluate import predictions, summarise
from dept.engine.readout import temper
from infra.errors import InputError

D = 3
TEXTS = ["the film was good", "bad plot, awful acting", "not very happy", "great", "slow service", "good and great fun"]


def rows_of(gold, labels):
    return [Row((1,), ((0,),) * labels, label, 0) for label in gold]


def drawn(n, labels, seed=0):
    """Rows whose class shows in the last depth alone, in its first columns."""
    generator, features = torch.Generator().manual_seed(seed), len(DEPTHS) * D
    gold = [i % labels for i in range(n)]
    x = torch.randn(n, features, generator=generator)
    for i, label in enumerate(gold):
        x[i, features - D + label] += 4
    return x, gold


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("n", [7, 60])
@pytest.mark.parametrize("c", [0.01, 10.0])
def test_a_fit_is_that_of_sklearn(labels, n, c):
    """With fewer rows than features and with more."""
    x, gold = drawn(n, labels)
    others, _ = drawn(5, labels, seed=1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-8, max_iter=10_000)).fit(
        x.double().numpy(), gold
    )
    ours = log_probs(fit(x, gold, labels, c), others)
    np.testing.assert_allclose(np.exp(ours), theirs.predict_proba(others.double().numpy()), atol=1e-5)


def test_a_label_without_a_row_is_as_likely_as_one_more_row():
    x, gold = drawn(8, 2)
    head = fit(x, gold, 4, 1.0)
    found = torch.tensor(log_probs(head, x)).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(8, dtype=found.dtype))
    assert found[:, 2].tolist() == pytest.approx(found[:, 3].tolist())
    middle = torch.tensor(log_probs(head, x.mean(0, keepdim=True))).exp()[0]
    assert float(middle[2] / middle[:2].sum()) == pytest.approx(1 / 8)
    alone = torch.tensor(log_probs(fit(x[:1], [1], 2, 1.0), x)).exp()
    assert alone[0].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_no_new_text_is_given_a_label_that_no_row_had(c):
    """Of 40 labels 12 have rows, which a large C fits so well that no new text is as sure of its label."""
    generator = torch.Generator().manual_seed(0)
    middles = torch.randn(12, 200, generator=generator) * 0.5
    rows = middles[[i % 12 for i in range(24)]] + torch.randn(24, 200, generator=generator)
    head = fit(rows, [i % 12 for i in range(24)], 40, c)
    others = middles.repeat(10, 1) + torch.randn(120, 200, generator=generator)
    assert set(predictions(log_probs(head, others))) <= set(range(12))


def test_a_class_for_each_row_is_no_cause_for_a_warning():
    x, _ = drawn(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predictions(log_probs(fit(x, [0, 1, 2, 3], 5, 1.0), x)) == [0, 1, 2, 3]


def test_a_feature_that_never_changes_says_nothing():
    x, gold = drawn(8, 2)
    x[:, 0] = 7.0
    head = fit(x, gold, 2, 1.0)
    assert head.weight[:, 0].abs().max() < 1e-9
    assert torch.isfinite(torch.tensor(log_probs(head, x + 1e3))).all()


@pytest.mark.parametrize("standardise", [True, False])
def test_rows_that_are_all_the_same_leave_the_frequency_of_classes(standardise):
    """As when texts differ only where they are cut."""
    same = torch.zeros(5, 2) if not standardise else torch.full((5, 9), 3.0)
    found = log_probs(fit(same, [0, 1, 1, 1, 1], 2, 1.0, standardise), same[:1])
    assert np.exp(found)[0].tolist() == pytest.approx([0.2, 0.8], abs=1e-4)


def test_features_that_are_not_finite_are_told():
    x, gold = drawn(8, 2)
    x[3, 1] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        fit(x, gold, 2, 1.0)


def test_what_is_chosen_has_the_lowest_loss_on_the_validation_rows():
    x, gold = drawn(12, 3)
    checks, right = drawn(9, 3, seed=1)
    probe = train_probe(x, rows_of(gold, 3), checks, rows_of(right, 3))
    losses = {}
    for option in WAY.options:
        fixed = train_probe(x, rows_of(gold, 3), checks[:0], [], Chosen(option))
        losses[option] = temper(fixed.score(checks), right, PULL)[1]["loss"]
    assert probe.option == min(losses, key=losses.get)
    assert probe.validation["loss"] == pytest.approx(losses[probe.option])
    assert 1.0 in probe.option.what, "the class shows there alone"
    assert probe.trainable == 3 * (len(probe.option.what) * D + 1)


def test_without_validation_rows_the_shots_judge_each_other():
    """Each row by what was trained without it."""
    x, gold = drawn(10, 2)
    seen = []

    def columns(what, known, asked):
        seen.append({tuple(line) for line in known.tolist()})
        assert not seen[-1] & {tuple(line) for line in asked.tolist()}
        return known, asked

    way = Way([Option((), c) for c in (1e-6, 1.0)], columns)
    chosen = choose(way, x.numpy(), rows_of(gold, 2), (x[:0].numpy(), []), tempered=False)
    assert chosen.option.c == 1.0
    assert chosen.found["accuracy"] > 80
    assert len(seen) == 5, "what is read of a fold is read once, whatever C"
    assert train_probe(x[:1], rows_of([1], 2), x[:0], []).option == WAY.options[0], "one shot judges nothing"
    with pytest.raises(InputError, match="no rows"):
        train_probe(x[:0], [], x[:0], [])


def test_a_head_starts_as_a_probe_of_what_it_reads():
    x, gold = drawn(12, 3)
    checks, right = drawn(9, 3, seed=1)
    head = train_head(x, rows_of(gold, 3), checks, rows_of(right, 3))
    losses = {
        c: summarise(log_probs(fit(x, gold, 3, c), checks), rows_of(right, 3))["loss"] for c in (0.01, 0.1, 1.0, 10.0)
    }
    best = fit(x, gold, 3, min(losses, key=losses.get))
    assert torch.equal(head.weight, best.weight)
    logits = head.weight @ ((checks[0] - head.mean) / head.spread) + head.bias
    assert logits.log_softmax(0).tolist() == pytest.approx(log_probs(head, checks[:1])[0], abs=1e-5)


def test_tfidf_is_that_of_sklearn():
    gold = [1, 0, 0, 1, 0, 1]
    made = train_tfidf(TEXTS, rows_of(gold, 2), [], [], Chosen(Option(("words",), 10.0)))
    theirs = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0, tol=1e-8))
    theirs.fit(TEXTS, gold)
    np.testing.assert_allclose(np.exp(made.score(TEXTS)), theirs.predict_proba(TEXTS), atol=1e-5)
    chosen = train_tfidf(TEXTS, rows_of(gold, 2), ["very good", "awful"], rows_of([1, 0], 2))
    assert predictions(chosen.score(["a good film", "a bad plot"])) == [1, 0]
    assert chosen.trainable == 2 * (sum(len(part.vocabulary_) for part in chosen.parts.values()) + 1)


def test_texts_without_a_word_are_answered_all_the_same():
    made = train_tfidf(["!", "?"], rows_of([0, 1], 2), [], [], Chosen(Option(("words",), 1.0)))
    assert torch.tensor(made.score(["?"])).exp().tolist() == [pytest.approx([0.5, 0.5])]


def test_a_template_says_nothing():
    made = [f"Review: {text}\nGood or bad?" for text in TEXTS]
    assert contents(made, "Review: {text}\nGood or bad?") == TEXTS
    assert contents(["of another template"], "Review: {text}") == ["of another template"]


def test_files_hold_all_of_it(tmp_path):
    x, gold = drawn(12, 3)
    probe = train_probe(x, rows_of(gold, 3), x, rows_of(gold, 3))
    digest = probe.save(tmp_path / "probe", task="mine")
    assert len(digest) == 64
    again = Probe.load(tmp_path / "probe")
    assert again.score(x) == probe.score(x)
    assert (again.option, again.validation) == (probe.option, probe.validation)
    assert (again.chosen.readout, again.sha256) == (probe.chosen.readout, digest)
    assert again.metadata == {"task": "mine"}
    words = train_tfidf(TEXTS, rows_of([1, 0, 0, 1, 0, 1], 2), [], [])
    words.save(tmp_path / "tfidf")
    assert Tfidf.load(tmp_path / "tfidf").score(TEXTS) == words.score(TEXTS)
    files = {file.name for part in ("probe", "tfidf") for file in (tmp_path / part).iterdir()}
    assert files == {"baseline.json", "probe.safetensors", "tfidf.safetensors"}
    (tmp_path / "probe" / "probe.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="altered"):
        Probe.load(tmp_path / "probe")
    with pytest.raises(InputError, match="missing or damaged"):
        Probe.load(tmp_path / "nowhere")


def test_ngrams_are_found_once_for_each_fold(monkeypatch):
    """Whatever the values of C: words, letters, and both."""
    fitted, real = [], tfidf._fitted
    monkeypatch.setattr(tfidf, "_fitted", lambda kind, texts: fitted.append(kind) or real(kind, texts))
    made = train_tfidf(TEXTS, rows_of([1, 0, 0, 1, 0, 1], 2), [], [])
    assert len(fitted) == 5 * 4 + len(made.option.what)


def test_answers_are_as_sure_as_rows_that_were_not_fitted_on_say(tmp_path):
    """Fitted on rows that it can tell apart by chance, it is wrong as often as not on others: 0.5 is honest."""
    generator = torch.Generator().manual_seed(0)
    x, checks = (torch.randn(n, len(DEPTHS) * D, generator=generator) for n in (8, 160))
    gold, right = [0, 1] * 4, [0, 1] * 80
    option = Option((1.0,), 10.0)
    monster = Way([option], WAY.columns)
    chosen = choose(monster, x.numpy(), rows_of(gold, 2), (checks.numpy(), rows_of(right, 2)))
    bare = train_probe(x, rows_of(gold, 2), checks, rows_of(right, 2), Chosen(option))
    probe = train_probe(x, rows_of(gold, 2), checks, rows_of(right, 2), chosen)
    assert probe.chosen.readout.temperature > 2
    plain, honest = (summarise(one.score(checks), rows_of(right, 2)) for one in (bare, probe))
    assert honest["accuracy"] == plain["accuracy"]
    assert honest["ece"] < plain["ece"] / 2
    losses = []
    for i in range(160):  # each row at the temperature of the others
        others = [line for j, line in enumerate(bare.score(checks)) if j != i]
        readout, *_ = temper(others, [label for j, label in enumerate(right) if j != i], PULL)
        losses.append(-readout.answer(bare.score(checks[i : i + 1])[0])[right[i]])
    assert probe.validation["loss"] == pytest.approx(np.mean(losses))
    assert probe.chosen.told["plain"] == pytest.approx(plain["loss"])
    probe.save(tmp_path / "probe")
    assert Probe.load(tmp_path / "probe").score(checks) == probe.score(checks)
    assert train_probe(x, rows_of(gold, 2), checks, rows_of(right, 2), tempered=False).chosen.readout.plain


def test_a_probe_goes_with_its_own_weights_alone(tmp_path, tiny_llama):
    x, gold = drawn(12, 3)
    made = train_probe(x, rows_of(gold, 3), x, rows_of(gold, 3)), train_tfidf(TEXTS, rows_of([1, 0] * 3, 2), [], [])
    for model in made:
        model.save(tmp_path / model.method, backbone="another", backbone_id="f" * 64)
        again = load_answering(tmp_path / model.method)
        assert type(again) is type(model)
        if again.needs_backbone:
            with pytest.raises(InputError, match="other weights"):
                tiny_llama.check_adapter(again)
        else:
            tiny_llama.check_adapter(again)
    write_baseline(tmp_path / "lora", lambda folder: None, {"method": "lora"})
    with pytest.raises(InputError, match="lora changes the backbone"):
        load_answering(tmp_path / "lora")
