"""Task: what one task is, frozen and checked. One task is one block of YAML."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from infra.errors import InputError
from infra.explain import Form, explained
from tasks.grid import Grid
from tasks.kinds import DEFAULT_METRICS, FITTING, Kind, Metric
from tasks.origins import MAPPING, FileSource, Frozen, HubSource, PackageSource, Threshold
from tasks.plain import composed, normalise, shown

__all__ = ["FileSource", "Grid", "HubSource", "PackageSource", "Task", "Threshold"]


class Task(Frozen):
    """One task: rows, template and answers. Raise `version` when a change should count as another task."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64, description="what plans and commands call it"
    )
    version: int = Field(1, ge=1, description="raise it when a change should count as another task")
    kind: Kind = Field(
        "classification",
        description="classification (of one text or of several), regression: a number of the grid; "
        "qa: an answer found in the text; generation: free text",
    )
    description: str = Field("", description="for people: what is asked of which texts")
    license: str = Field("", description="for people: the terms of the rows")
    citation: str = Field("", description="for people: the paper of the rows")
    url: str = Field("", description="for people: the page of the rows")
    template: str = Field("{text}\nLabel:", description="what the backbone reads; {field}s are replaced")
    verbalizer: Annotated[tuple[tuple[str, str], ...], Form("`label: word` for each label"), MAPPING] = Field(
        (),
        description="classification: label in the data (number or name of the class) and the word the backbone "
        "answers with; order counts",
    )
    grid: Grid | None = Field(None, description="regression: the numbers that may be answered")
    rule: Literal["hash", "small", "large", "given"] = Field(
        "hash",
        description="splits. hash: all rows, cleaned, by their sha256; small: half of the validation split is test; "
        "large: 1,000 training rows are validation, the validation split is test; given: as the hub has them",
    )
    convert: Literal["mark-spans", "multirc", "record"] | None = Field(None, description="see tasks/converters.py")
    metrics: tuple[Metric, ...] = Field((), description="none: those usual for the kind")
    max_length: int | None = Field(
        None, ge=1, le=100_000, description="tokens of the text kept; none: as many as the adapter's s leaves"
    )
    answer_length: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="qa, generation: tokens kept for an answer, the token that ends it counted; none: by the answers "
        "in the data, 32 at least",
    )
    cut: Annotated[str | None, Form("a field of the template, start or end")] = Field(
        None,
        pattern=r"^[^\W\d]\w*$",
        description="what a text longer than its room loses: a field of the template (its end), or start or end of the "
        "whole text; none: its start (causal backbones) or its end (encoder-decoder)",
    )
    picture: Literal["shown", "hidden"] = Field(
        "shown",
        description="of rows with pictures. shown: the backbone sees them; hidden: it reads the text alone, of the "
        "same rows: how far questions get without their pictures",
    )
    chat: bool = Field(
        False,
        description="the text is the user's message in the chat template of the backbone's tokenizer, and the answer "
        "stands behind the assistant's header",
    )
    source: Annotated[PackageSource | FileSource | HubSource, Field(discriminator="kind")] = Field(
        description="where the rows come from: kind file, hub or package"
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_metrics(cls, data: Any) -> Any:
        usual = DEFAULT_METRICS.get(data.get("kind", "classification")) if isinstance(data, dict) else None
        return {**data, "metrics": usual} if usual and not data.get("metrics") else data

    @field_validator("verbalizer", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        pairs = list(value.items()) if isinstance(value, dict) else value
        if not isinstance(pairs, (list, tuple)) or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in pairs):
            raise ValueError("write one `label: word` for each label")
        return tuple((normalise(_scalar(label, "label")), _scalar(word, "word")) for label, word in pairs)

    @field_validator("template", "cut")
    @classmethod
    def _composed(cls, value: str | None) -> str | None:
        """One form of each letter (NFC): what looks equal is equal."""
        return None if value is None else composed(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_answers()
        _check_template(self.template, self.pictured)
        if self.picture == "hidden" and not self.pictured:
            raise ValueError("picture: the rows have none; take it out, or name their column in source.picture")
        if isinstance(self.source, PackageSource):
            if set(self.fields) != {"text"}:
                raise ValueError("template: a package source has the one field {text}")
        else:
            unused = [field for field, _ in self.source.columns if field not in self.fields]
            if unused:
                raise ValueError(f"source.columns: the template does not contain {{{unused[0]}}}")
        threshold = self.source.threshold if isinstance(self.source, PackageSource) else None
        if threshold and {threshold.below, threshold.above} != set(self.labels):
            raise ValueError(f"source.threshold: below and above must be the labels {', '.join(self.labels)}")
        self._check_rule()
        if self.cut is not None and self.cut not in (*self.fields, "start", "end"):
            raise ValueError(f"cut: {shown(self.cut)} is none of {', '.join(self.fields)}, start, end")
        if self.answer_length is not None and self.scored:
            raise ValueError(f"answer_length: kind {self.kind} answers with one of its words; take it out")
        return self

    def _check_answers(self) -> None:
        if self.kind == "classification" and len(self.verbalizer) < 2:
            raise ValueError("verbalizer: a task needs at least two labels")
        if self.kind != "classification" and self.verbalizer:
            raise ValueError(f"verbalizer: kind {self.kind} has none; take it out")
        if (self.kind == "regression") != (self.grid is not None):
            raise ValueError(
                "grid: kind regression needs one, for example {low: 0, high: 5, step: 0.2}; others have none"
            )
        for what, values in (("label", self.labels), ("word", self.words)):
            if "" in values:
                raise ValueError(f"verbalizer: a {what} is empty; give each label a word")
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"verbalizer: {what} {twice[0]!r} stands there twice; each {what} must differ")
        for metric in self.metrics:
            if metric not in FITTING[self.kind] or self.metrics.count(metric) > 1:
                raise ValueError(f"metrics: {metric} twice or not for {self.kind}; use {', '.join(FITTING[self.kind])}")
            if metric.startswith("multirc") and self.convert != "multirc":
                raise ValueError(f"metrics: {metric} needs convert: multirc, which says which answers belong together")
            if metric in ("f1", "multirc_f1", "multirc_em") and len(self.labels) != 2:
                raise ValueError(f"metrics: {metric} is for two labels; use macro_f1")

    def _check_rule(self) -> None:
        source = self.source
        if not isinstance(source, HubSource):
            if self.rule != "hash" or self.convert:
                raise ValueError(
                    "rule and convert are for hub sources; take them out (files of their own for validation and test: "
                    "source.validation, source.test)"
                )
            return
        needed = {"hash": (), "small": ("validation",), "large": ("validation",), "given": ("validation", "test")}
        for role in needed[self.rule]:
            if getattr(source, role) is None:
                raise ValueError(f"source.{role}: rule {self.rule} needs the name of this split")
        if self.rule in ("small", "large") and source.test is not None:
            raise ValueError(
                f"source.test: rule {self.rule} makes the test rows itself; take it out or use rule: given"
            )

    @classmethod
    def build(cls, name: object, block: object, where: str) -> Task:
        """Task `name` from the YAML block `block`; `where` (a file name) heads the InputError of a bad block."""
        if not isinstance(name, str):
            raise InputError(f"{where}: task name {name!r} is not text; put it in quotes")
        if not isinstance(block, dict):
            raise InputError(f"{where}: task {name!r} must be a block of keys (version, template, verbalizer, source)")
        try:
            return cls.model_validate({"name": name, **block})
        except ValidationError as error:
            raise InputError(f"{where}: task {name!r}: {explained(error, cls, block)}") from error

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of the template, each once, in its order."""
        return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.template) if name))

    @property
    def columns(self) -> dict[str, str]:
        """Field of the template -> column of the source."""
        source = self.source
        known = {} if isinstance(source, HubSource) else {"text": source.text}
        known |= {} if isinstance(source, PackageSource) else dict(source.columns)
        return {field: known.get(field, field) for field in self.fields}

    @property
    def pictured(self) -> bool:
        """Whether each row has a picture."""
        return self.source.picture is not None

    @property
    def sees(self) -> bool:
        """Whether the backbone is to see the rows' pictures."""
        return self.pictured and self.picture == "shown"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels as they stand in the data (regression: the grid); a label's place is its class index."""
        return self.grid.points if self.grid else tuple(label for label, _ in self.verbalizer)

    @property
    def index(self) -> dict[str, int]:
        """Label of the data -> class index (regression: place in the grid)."""
        return _index(self.verbalizer, self.grid)

    @property
    def words(self) -> tuple[str, ...]:
        """Words the backbone answers with, in the order of `labels`; none for qa and generation."""
        return self.grid.points if self.grid else tuple(word for _, word in self.verbalizer)

    @property
    def scored(self) -> bool:
        """Whether the answer is the best-scored of `words`, not generated text."""
        return self.kind in ("classification", "regression")

    @property
    def strata(self) -> int:
        """Classes that shots are balanced over; 1 where there are none."""
        return len(self.verbalizer) if self.kind == "classification" else 1

    def with_verbalizer(self, kind: Literal["words", "paper"]) -> Task:
        """The same task answered in its own words, or as the DePT authors train: by the class index as text."""
        if kind == "words" or self.kind != "classification":
            return self
        return self.model_copy(
            update={"verbalizer": tuple((label, str(index)) for index, label in enumerate(self.labels))}
        )

    def block(self) -> dict[str, Any]:
        """The task as its YAML block, without its name and without what is usual."""
        body = self.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        if self.verbalizer:
            body["verbalizer"] = dict(self.verbalizer)
        for key in ("columns", "where", "files"):
            if key in body["source"]:
                body["source"][key] = dict(body["source"][key])
        if self.metrics == DEFAULT_METRICS[self.kind]:
            del body["metrics"]
        return body

    def rooted(self, folder: Path) -> Task:
        """The same task with relative file paths read from `folder` (the folder of the plan or YAML file)."""
        if not isinstance(self.source, FileSource):
            return self
        source = self.source.rooted(folder.absolute())
        return self if source == self.source else self.model_copy(update={"source": source})


@lru_cache(maxsize=256)
def _index(verbalizer: tuple[tuple[str, str], ...], grid: Grid | None) -> dict[str, int]:
    labels = grid.points if grid else [label for label, _ in verbalizer]
    return {label: index for index, label in enumerate(labels)}


def _scalar(value: Any, what: str) -> str:
    if isinstance(value, bool):
        raise ValueError(
            f"the {what} {value} was read as a boolean (YAML takes bare yes, no, on, off, true, false for one): "
            'put it in quotes, for example "yes"'
        )
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"the {what} {value!r} is not text; put it in quotes")
    return composed(value.strip())


def _check_template(template: str, pictured: bool) -> None:
    try:
        parts = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"template: {error}; write a literal brace twice: {{{{ or }}}}") from error
    for name, spec, how in parts:
        if not name.isidentifier() or spec or how:
            raise ValueError(
                f"template: {{{name}}} is not one of the fields, as {{text}} is; write a literal brace twice"
            )
    if not parts and not (pictured and template.strip()):
        raise ValueError("template: {text} is missing; the template must contain a field")
