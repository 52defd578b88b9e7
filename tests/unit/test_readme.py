"""The README's table of the study says what the committed results say."""

import json
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


def _shown(row):
    return f"{row['mean']:.1f}" + ("" if row["std"] is None else f" ± {row['std']:.1f}")
