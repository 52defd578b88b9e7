"""What READMEs tell is so: figures of the studies, files, commands and their options."""

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest
import typer

from flows.cli.main import app
from flows.studies.choice import trust
from tests.bench import recipe

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "flows" / "studies"
ROOMS = ("flows", "registry", "dept", "tasks", "infra", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))])
MADE = {"dept.toml", ".dept/", "bench.json"}  # by a user or a run
KNOWN = {str(file.relative_to(ROOT)) for room in ROOMS for file in (ROOT / room).rglob("*")}
COMMANDS = typer.main.get_command(app)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_commands_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", text):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link
    for name in re.findall(r"`([\w./-]+(?:\.(?:py|yaml|md|json|png|toml|lock|j2)|/))`", text):
        near = (page.parent / name).exists() or (ROOT / name).exists() or name in MADE
        assert near or any(f"/{one}".endswith(f"/{name.rstrip('/')}") for one in KNOWN), name
    if page.name != "CHANGELOG.md":  # its table names what was
        for words in re.findall(r"(?:`|\n    (?:\.venv/bin/)?)(dept [a-z][^`\n]*)", text):
            _known(shlex.split(words.split("  ")[0].replace("'", ""), comments=True)[1:], words)


def _known(words, line):
    """Every command and option in a line that shows one."""
    command = COMMANDS
    for word in words:
        if word.startswith("-"):
            options = {one for parameter in command.params for one in parameter.opts} | {"--help"}
            assert word.split("=")[0].rstrip(",;.") in options, line
        elif hasattr(command, "commands"):
            found = command.commands.get(word.rstrip(",;.:"))
            if found is None and command is COMMANDS:
                pytest.fail(f"no command {word}: {line}")
            command = found or command


def test_the_page_of_the_command_line_names_every_file_and_command():
    text = (ROOT / "flows" / "cli" / "README.md").read_text(encoding="utf-8")
    for file in (ROOT / "flows" / "cli").glob("*.py"):
        assert file.name == "__init__.py" or f"`{file.name}`" in text, file.name
    for name in COMMANDS.commands:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize(
    ("names", "head"),
    [("offline-suite.json", "k = {}"), ("few-shot-suite*.json", "k = {}, searched")],
)
def test_a_study_table_is_the_committed_one(names, head):
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(STUDIES.glob(names))]
    found = {(row["target"], row["k"], row["variant"]): row for part in parts for row in part["rows"]}
    means = {(row["k"], row["variant"]): row["mean"] for part in parts for row in part["means"]}
    targets = parts[0]["plan"]["targets"]
    text = (STUDIES / "README.md").read_text(encoding="utf-8")
    expected = []
    for k in dict.fromkeys(k for part in parts for k in part["plan"]["shots"]):
        expected.append(f"| {head.format(k)} | " + " | ".join(targets) + " | mean |")
        for variant in dict.fromkeys(variant for one, variant in means if one == k):
            cells = [_shown(found[target, k, variant]) for target in targets]
            expected.append(f"| {variant} | " + " | ".join(cells) + f" | {means[k, variant]:.1f} |")
    assert [line for line in expected if line not in text.splitlines()] == []


def test_what_is_said_of_the_choice_is_so():
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(STUDIES.glob("few-shot-suite*.json"))]
    text = " ".join((STUDIES / "README.md").read_text(encoding="utf-8").split())
    found = trust(*parts)
    for one in found:
        assert f"in {one.agreed} of {one.pairs}" in text
    assert f"is {' and '.join(f'{one.hindsight:.1f}' for one in found)} points above" in text
    for method, name in {"scratch": "scratch", "lora": "LoRA"}.items():
        for one in found:
            _, folds, test = one.methods[method]
            assert f"{name} {folds:.1f} and {test:.1f}" in text


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


def test_the_curves_that_chose_the_recipe_are_the_committed_ones():
    found = json.loads((STUDIES / "recipe.json").read_text(encoding="utf-8"))["curves"]
    assert "bbc-topic" not in found, "left out of all choosing"
    assert all(int(seed) > 9 for draws in found.values() for seed in draws), "the study's own draws"
    text = (STUDIES / "README.md").read_text(encoding="utf-8").splitlines()
    told = [line for phase in recipe.PHASES for line in recipe.lines(found, phase)]
    assert len(told) > 8
    assert [line for line in told if line not in text] == []


def _shown(row):
    return f"{row['mean']:.1f}" + ("" if row["std"] is None else f" ± {row['std']:.1f}")
