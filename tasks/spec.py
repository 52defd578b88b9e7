"""Task: what one task is, frozen and checked. One task is one block of YAML."""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.errors import InputError

FIELDS = {"classification": ("text",)}  # fields a record of each kind of task has


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Threshold(_Frozen):
    """Makes two labels of a number: <= -at is `below`, >= at is `above`; rows between are dropped as neutral."""

    at: float = Field(gt=0, description="distance from 0, in units of the column")
    below: str
    above: str


class PackageSource(_Frozen):
    """A file inside an installed wheel. The package is looked up, never imported."""

    kind: Literal["package"]
    package: str = Field(pattern=r"^[A-Za-z_]\w*$", description="top-level import name")
    requirement: str = Field(description="what pip installs, pinned")
    path: str = Field(description="file, relative to the package's folder")
    reader: Literal["csv", "tsv", "label-first"] = Field(
        description="csv: with header and quotes; tsv: with header, no quotes; label-first: lines of 'LABEL the text'"
    )
    text: str = "text"
    label: str = "label"
    id: str | None = Field(None, description="column that names a row; none: the line number")
    label_until: str | None = Field(None, min_length=1, description="keep the label's part before this mark")
    threshold: Threshold | None = Field(None, description="the label column holds a number: make labels of it")
    unescape: bool = Field(False, description="the text holds HTML entities (&amp;): resolve them")


class FileSource(_Frozen):
    """A user's own file, UTF-8."""

    kind: Literal["file"]
    path: Path
    format: Literal["csv", "jsonl"] | None = Field(None, description="none: by the file's ending")
    text: str = Field("text", description="column (csv) or key (jsonl) of the text")
    label: str = Field("label", description="column or key of the label")
    delimiter: str = Field(",", min_length=1, max_length=1, description="csv only")


class Task(_Frozen):
    """One task: rows, template and verbalizer. Raise `version` when a change should count as another task."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)
    version: int = Field(1, ge=1)
    kind: Literal["classification"] = "classification"
    description: str = ""
    license: str = ""
    citation: str = ""
    url: str = ""
    template: str = Field("{text}\nLabel:", description="what the backbone reads; {text} is replaced")
    verbalizer: tuple[tuple[str, str], ...] = Field(
        description="label in the data -> word the backbone answers with; a mapping, or pairs; order counts"
    )
    source: Annotated[PackageSource | FileSource, Field(discriminator="kind")]

    @field_validator("verbalizer", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        pairs = list(value.items()) if isinstance(value, dict) else value
        if not isinstance(pairs, (list, tuple)) or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in pairs):
            raise ValueError("write one `label: word` for each label")
        return tuple((_scalar(label, "label"), _scalar(word, "word")) for label, word in pairs)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.verbalizer) < 2:
            raise ValueError("verbalizer: a task needs at least two labels")
        for what, values in (("label", self.labels), ("word", self.words)):
            if "" in values:
                raise ValueError(f"verbalizer: a {what} is empty; give each label a word")
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"verbalizer: {what} {twice[0]!r} stands there twice; each {what} must differ")
        _check_template(self.template, FIELDS[self.kind])
        threshold = self.source.threshold if isinstance(self.source, PackageSource) else None
        if threshold and {threshold.below, threshold.above} != set(self.labels):
            raise ValueError(f"source.threshold: below and above must be the labels {', '.join(self.labels)}")
        return self

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
            raise InputError(f"{where}: task {name!r}: {_explain(error)}") from error

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels as they stand in the data; a label's place is its class index."""
        return tuple(label for label, _ in self.verbalizer)

    @property
    def words(self) -> tuple[str, ...]:
        """Words the backbone answers with, in the order of `labels`."""
        return tuple(word for _, word in self.verbalizer)

    def spec_hash(self) -> str:
        """sha256 (hex) of what decides the numbers; prose and the place of a user's file do not."""
        body = self.model_dump(mode="json", exclude={"description", "license", "citation", "url"})
        if isinstance(self.source, FileSource):
            del body["source"]["path"]  # the rows count, not where they lie: Splits.data_hash covers them
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def rooted(self, folder: Path) -> Task:
        """The same task with a relative file path read from `folder` (the folder of the plan or YAML file)."""
        if isinstance(self.source, FileSource) and not self.source.path.expanduser().is_absolute():
            source = self.source.model_copy(update={"path": folder.absolute() / self.source.path})
            return self.model_copy(update={"source": source})
        return self


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
    return value.strip()


def _check_template(template: str, fields: tuple[str, ...]) -> None:
    try:
        parts = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"template: {error}; write a literal brace twice: {{{{ or }}}}") from error
    known = ", ".join(f"{{{field}}}" for field in fields)
    for name, spec, how in parts:
        if name not in fields or spec or how:
            raise ValueError(f"template: {{{name}}} is not one of the fields {known}; write a literal brace twice")
    missing = [field for field in fields if field not in {name for name, _, _ in parts}]
    if missing:
        raise ValueError(f"template: {{{missing[0]}}} is missing; the template must contain {known}")


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "string_type" and isinstance(item["input"], bool):
            text = "read as a boolean (YAML takes bare yes, no, on, off for one): put it in quotes"
        lines.append(f"{place}: {text}" if place else text)
    return "; ".join(lines)
