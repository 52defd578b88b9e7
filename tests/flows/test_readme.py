"""What the README tells of the study is what the committed results say."""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_study_table_is_the_committed_one():
    study = json.loads((ROOT / "flows/studies/offline-suite.json").read_text(encoding="utf-8"))
    found = {(row["target"], row["k"], row["variant"]): row for row in study["rows"]}
    means = {(row["k"], row["variant"]): row["mean"] for row in study["means"]}
    targets = study["plan"]["targets"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    expected = []
    for k in study["plan"]["shots"]:
        expected.append(f"| k = {k} | " + " | ".join(targets) + " | mean |")
        for variant in dict.fromkeys(row["variant"] for row in study["rows"]):
            cells = [_shown(found[target, k, variant]) for target in targets]
            expected.append(f"| {variant} | " + " | ".join(cells) + f" | {means[k, variant]:.1f} |")
    assert [line for line in expected if line not in text.splitlines()] == []


def test_the_figures_of_three_draws_are_the_committed_ones():
    study = json.loads((ROOT / "flows/studies/offline-suite-draws.json").read_text(encoding="utf-8"))
    dept, tuned = (
        statistics.fmean(row["mean"] for row in study["means"] if row["variant"] == variant)
        for variant in ("scratch", "prompt-tuning")
    )
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert study["plan"]["search_draws"] == 3
    assert f"DePT came to {dept:.1f}, prompt tuning to {tuned:.1f}. Of the {tuned - dept:.1f} points" in text
    rates = study["rates"]
    assert f"(`search_draws: 3`) {rates['dept'][0]:g} and 5e-4; prompt tuning" in text
    assert rates["dept"][1] == 5e-4
    assert f"to {rates['prompt-tuning'][0]:g}. So both" in text


def _shown(row):
    return f"{row['mean']:.1f}" + ("" if row["std"] is None else f" ± {row['std']:.1f}")
