"""Every strategy and every method, end to end on a tiny backbone; what was chosen is not tried again."""

import pytest
import torch

from dept.adapters.adapter import Adapter
from flows import transfer
from flows.planning.plan_file import load_plan
from registry.ledger import Ledger
from registry.store import Store

STRATEGIES = ["scratch", "source:food", "best-source", "similar", "mixture", "multitask", "prompt-only"]
METHODS = ["dept", "adept", "prompt-tuning", "lora", "lora-r8", "full", "in-context"]


@pytest.fixture
def everything(make_plan):
    pytest.importorskip("peft", reason="peft is an optional extra")
    return load_plan(
        make_plan(
            strategies=STRATEGIES,
            methods=METHODS,
            seeds=[0],
            rates={"dept": [0.01, 0.05], "transfer": [0.001, 0.01], "lora": [0.01]},
            probe_steps=2,
        )
    )


def test_all_strategies_and_methods(prefect_url, everything, monkeypatch):
    done = transfer.run(everything)
    assert done.failed == {}
    assert done.not_run == {}
    ledger, store = Ledger.open(), Store.open()
    rows = ledger.find()
    assert {row.status for row in rows} == {"finished"}
    by_variant = {}
    for row in rows:
        by_variant.setdefault((row.kind, row.role, row.trial_spec.variant), []).append(row)
    targets = {variant for kind, role, variant in by_variant if role == "target"}
    # Two strategies that start alike are one trial, and the first that asks for it names it.
    assert {"untrained", "scratch", "source:food", "mixture", "multitask", "prompt-only", *METHODS[1:]} <= targets
    assert len(by_variant["train", "search", "scratch"]) == len(by_variant["train", "search", "best-source"]) == 4
    sources = {row.task: row for row in rows if row.role == "source"}
    assert set(sources) == {"food", "service", "multitask"}
    for row in rows:
        untested = row.role == "search" or row.task == "multitask"
        assert untested == (not row.outcome["test"])

    # Per target: of its own draw and of the search's, a probe of each source; for its own draw a likeness, a mixture.
    assert len(by_variant["probe", "search", "best-source"]) == 2 * 2 * 2
    assert len(by_variant["probe", "search", "similar"]) == 2
    assert len(by_variant["mixture", "search", "mixture"]) == 2
    assert all(row.adapter_key == "" for row in rows if row.kind == "probe")

    def adapter(row):
        return Adapter.load(store.fetch(row.adapter_key))

    for row in by_variant["train", "target", "multitask"]:
        assert row.trial_spec.source_sha256 == sources["multitask"].adapter_sha256
    for row in by_variant["train", "target", "source:food"]:
        assert row.trial_spec.source_sha256 == sources["food"].adapter_sha256
    singles = {sources["food"].adapter_sha256, sources["service"].adapter_sha256}
    for row in by_variant["train", "target", "prompt-only"]:
        assert row.trial_spec.source_sha256 in singles
        assert row.trial_spec.start == "prompt"
    mixtures = {row.adapter_sha256: row for row in by_variant["mixture", "search", "mixture"]}
    for row in by_variant["train", "target", "mixture"]:
        mixture = mixtures[row.trial_spec.source_sha256]
        weights = mixture.outcome["extra"]["weights"]
        assert sum(weights) == pytest.approx(1, abs=1e-5)
        expected = sum(w * adapter(sources[name]).prompt for w, name in zip(weights, ("food", "service"), strict=True))
        torch.testing.assert_close(adapter(mixture).prompt.data, expected.data)
    for row in by_variant["probe", "search", "similar"]:
        assert len(row.outcome["extra"]["similarity"]) == 2
    for row in by_variant["train", "target", "in-context"]:
        assert adapter(row).config.r == 0
        assert row.outcome["trainable"] == 0
        assert row.outcome["steps_done"] == 0

    def refuse(*_, **__):
        raise AssertionError("tried again")

    monkeypatch.setattr("flows.execution.work.train_claims", refuse)
    monkeypatch.setattr("flows.execution.work.mix_claims", refuse)
    again = transfer.run(everything)
    assert (again.trained, again.reused) == (0, done.trained + done.reused - 8)
