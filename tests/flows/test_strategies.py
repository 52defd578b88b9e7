"""Every strategy and every method, end to end on a tiny backbone; what was chosen is not tried again."""

import pytest
import torch

from dept.adapters.adapter import Adapter
from flows import transfer
from flows.execution import strategies
from flows.planning.plan_file import load_plan
from infra.settings import home
from registry.ledger import Ledger

STRATEGIES = ["scratch", "source:food", "best-source", "similar", "mixture", "multitask", "prompt-only"]
METHODS = ["dept", "prompt-tuning", "lora", "full", "in-context"]


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
    ledger = Ledger.open()
    rows = ledger.find()
    assert {row.status for row in rows} == {"finished"}
    by_variant = {}
    for row in rows:
        by_variant.setdefault((row.role, row.trial_spec.variant), []).append(row)
    targets = {variant for role, variant in by_variant if role == "target"}
    assert targets == {"untrained", *STRATEGIES, *METHODS[1:]}
    assert len(by_variant["search", "scratch"]) == len(by_variant["search", "best-source"]) == 4
    sources = {row.task: row for row in rows if row.role == "source"}
    assert set(sources) == {"food", "service", "multitask"}
    for row in rows:
        assert (row.role == "search" or row.task == "multitask") == (not row.outcome["test"])

    def adapter(row):
        return Adapter.load(home() / "adapters" / row.fingerprint)

    for strategy in STRATEGIES[1:]:
        for row in by_variant["target", strategy]:
            assert row.trial_spec.source_sha256 is not None
    for row in by_variant["target", "multitask"]:
        assert row.trial_spec.source_sha256 == sources["multitask"].adapter_sha256
    for row in by_variant["target", "source:food"]:
        assert row.trial_spec.source_sha256 == sources["food"].adapter_sha256
    singles = {sources["food"].adapter_sha256, sources["service"].adapter_sha256}
    for row in (
        by_variant["target", "similar"] + by_variant["target", "prompt-only"] + by_variant["target", "best-source"]
    ):
        assert row.trial_spec.source_sha256 in singles
    for row in by_variant["target", "mixture"]:
        mixture = Adapter.load(home() / "mixtures" / row.trial_spec.source_sha256)
        weights = [part["weight"] for part in mixture.metadata["mixture"]]
        assert sum(weights) == pytest.approx(1, abs=1e-5)
        expected = sum(w * adapter(sources[name]).prompt for w, name in zip(weights, ("food", "service"), strict=True))
        torch.testing.assert_close(mixture.prompt.data, expected.data)
    for row in by_variant["target", "in-context"]:
        assert adapter(row).config.r == 0
        assert row.outcome["trainable"] == 0
        assert row.outcome["steps_done"] == 0

    def refuse(*_, **__):
        raise AssertionError("tried again")

    monkeypatch.setattr(strategies, "train", refuse)
    monkeypatch.setattr(strategies, "learn_weights", refuse)
    again = transfer.run(everything)
    assert (again.trained, again.reused) == (0, done.trained - 8)
