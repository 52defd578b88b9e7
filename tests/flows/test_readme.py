"""What the README of the studies tells is what the committed results say."""

import json
import statistics
from pathlib import Path

STUDIES = Path(__file__).parents[2] / "flows" / "studies"


def test_the_study_table_is_the_committed_one():
    study = json.loads((STUDIES / "offline-suite.json").read_text(encoding="utf-8"))
    found = {(row["target"], row["k"], row["variant"]): row for row in study["rows"]}
    means = {(row["k"], row["variant"]): row["mean"] for row in study["means"]}
    targets = study["plan"]["targets"]
    text = (STUDIES / "README.md").read_text(encoding="utf-8")
    expected = []
    for k in study["plan"]["shots"]:
        expected.append(f"| k = {k} | " + " | ".join(targets) + " | mean |")
        for variant in dict.fromkeys(row["variant"] for row in study["rows"]):
            cells = [_shown(found[target, k, variant]) for target in targets]
            expected.append(f"| {variant} | " + " | ".join(cells) + f" | {means[k, variant]:.1f} |")
    assert [line for line in expected if line not in text.splitlines()] == []


def test_each_study_is_named_with_its_commit_and_date():
    text = (STUDIES / "README.md").read_text(encoding="utf-8")
    for file in sorted(STUDIES.glob("*.json")):
        study = json.loads(file.read_text(encoding="utf-8"))
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{file.name}`"))
        assert f"| {study['commit'][:7]} | {study['date']} |" in line
        assert file.with_suffix(".png").is_file()


def test_the_gain_told_is_the_one_found():
    study = json.loads((STUDIES / "offline-suite.json").read_text(encoding="utf-8"))
    means = {(row["k"], row["variant"]): row["mean"] for row in study["means"]}
    text = " ".join((STUDIES / "README.md").read_text(encoding="utf-8").split())
    gains = {k: means[k, "transfer"] - means[k, "scratch"] for k in study["plan"]["shots"]}
    assert f"by {statistics.fmean(gains.values()):.1f} points on the mean over all targets" in text
    assert f"({gains[4]:.1f} at k = 4, {gains[16]:.1f} at k = 16; {study['commit'][:7]})" in text


def test_the_figures_of_three_draws_are_the_committed_ones():
    study = json.loads((STUDIES / "offline-suite-draws.json").read_text(encoding="utf-8"))
    dept, tuned = (
        statistics.fmean(row["mean"] for row in study["means"] if row["variant"] == variant)
        for variant in ("scratch", "prompt-tuning")
    )
    text = " ".join((STUDIES / "README.md").read_text(encoding="utf-8").split())
    assert study["plan"]["search_draws"] == 3
    assert f"DePT came to {dept:.1f}, prompt tuning to {tuned:.1f}. Of the {tuned - dept:.1f} points" in text
    rates = study["rates"]
    assert f"(`search_draws: 3`) {rates['dept'][0]:g} and 5e-4; prompt tuning went" in text
    assert rates["dept"][1] == 5e-4
    assert f"to {rates['prompt-tuning'][0]:g}. So both" in text


def _shown(row):
    return f"{row['mean']:.1f}" + ("" if row["std"] is None else f" ± {row['std']:.1f}")
