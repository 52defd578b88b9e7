"""Where a task's rows come from: an installed wheel, a user's file, a data set of the hub. Specs only; no reading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from infra.explain import Form
from tasks.plain import composed


class Frozen(BaseModel):
    """Base of the specs: immutable, hashable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _pairs(value: Any) -> Any:
    """A mapping, or pairs, as pairs of text: a dict cannot be hashed, and tasks are cache keys."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, (list, tuple)) or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in pairs):
        raise ValueError("write one `name: value` for each")
    return tuple((composed(str(key)), _plain(value)) for key, value in pairs)


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return composed(value) if isinstance(value, str) else str(value) if isinstance(value, int) else value


Name = Annotated[str, AfterValidator(composed)]  # of a column; in NFC, as the readers have the names
MAPPING = WithJsonSchema(  # pairs are for orders that went through JSON
    {
        "anyOf": [
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}},
        ]
    }
)
Pairs = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs), MAPPING]
Columns = Annotated[Pairs, Form("`field: column` for each field")]


class Threshold(Frozen):
    """Makes two labels of a number: <= -at is `below`, >= at is `above`; rows between are dropped as neutral."""

    at: float = Field(gt=0, description="distance from 0, in units of the column")
    below: str = Field(description="label of the numbers up to -at")
    above: str = Field(description="label of the numbers from at on")


class PackageSource(Frozen):
    """A file inside an installed wheel. The package is looked up, never imported."""

    kind: Literal["package"] = Field(description="a file inside an installed wheel")
    package: str = Field(pattern=r"^[A-Za-z_]\w*$", description="top-level import name")
    requirement: str = Field(description="what pip installs, pinned")
    path: str = Field(description="file (reader folders: folder), relative to the package's folder")
    test: str | None = Field(None, description="file of the test rows; none: they are taken out of the others")
    reader: Literal["csv", "tsv", "label-first", "folders", "lists"] = Field(
        description="csv: with header and quotes; tsv: with header, no quotes; label-first: lines of 'LABEL the text'; "
        "folders: path/LABEL/*.txt, one text a file; lists: JSON, one list of lists, columns called 0, 1, 2"
    )
    text: str = Field("text", description="column of the text (readers csv and tsv)")
    label: str = Field("label", description="column of the label, or of the number of `threshold` (csv and tsv)")
    id: str | None = Field(None, description="column that names a row; none: the line number")
    label_until: str | None = Field(None, min_length=1, description="keep the label's part before this mark")
    threshold: Threshold | None = Field(None, description="the label column holds a number: make labels of it")
    unescape: bool = Field(False, description="the text holds HTML entities (&amp;): resolve them")
    skip_others: bool = Field(False, description="rows of labels outside the verbalizer are of another task: skip them")
    picture: str | None = Field(None, description="column that names the row's picture")
    pictures: str = Field(
        "{}", description="file of a picture, from the folder of the rows' file; {} stands for what the column holds"
    )


class FileSource(Frozen):
    """A user's own files, UTF-8, or a data set that the library `datasets` has saved in a folder."""

    kind: Literal["file"] = Field(description="your own files")
    path: Path = Field(description="file of all rows; of the training rows where there are other files for the rest")
    validation: Path | None = Field(None, description="file of the validation rows; none: taken out of the others")
    test: Path | None = Field(None, description="file of the test rows; none: taken out of the others")
    format: Literal["csv", "jsonl", "parquet", "dataset"] | None = Field(
        None, description="none: by the file's ending; dataset: a folder written by save_to_disk (known by its files)"
    )
    columns: Columns = Field(
        (), description="field of the template -> column (a.b: key b of column a); default: the same name"
    )
    text: Name = Field("text", description="column (csv, parquet) or key (jsonl) of the field text")
    label: Name = Field(
        "label", description="column or key of the label, the number or the answer (or list of answers)"
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="csv only; none: a tab where the file ends in .tsv, else a comma"
    )
    quotes: bool | None = Field(
        None,
        description="csv only. true: fields may stand in quotes; false: a quote is a letter like others; none: true, "
        "but with tabs false where the quotes do not pair",
    )
    picture: Name | None = Field(
        None, description="column or key of the row's picture: a file's name, or its bytes (parquet)"
    )
    pictures: Path | None = Field(
        None, description="folder that names of pictures count from; none: the folder of the rows' file"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.delimiter is not None and self.delimiter in '"\r\n':
            raise ValueError("delimiter: a quote or a line break cannot part fields; use , ; | or a tab")
        if self.pictures is not None and self.picture is None:
            raise ValueError("pictures: needs picture, the column that names a row's picture")
        return self

    @property
    def paths(self) -> dict[str, Path]:
        """Role (train, validation, test) -> file, as far as the block names one."""
        named = {"train": self.path, "validation": self.validation, "test": self.test}
        return {role: path for role, path in named.items() if path is not None}

    def rooted(self, folder: Path) -> Self:
        """The same files with relative paths read from `folder`."""
        places = {"train": "path", "validation": "validation", "test": "test"}
        found = {places[role]: folder / path for role, path in self.paths.items() if not _absolute(path)}
        if self.pictures is not None and not _absolute(self.pictures):
            found["pictures"] = folder / self.pictures
        return self.model_copy(update=found) if found else self


def _absolute(path: Path) -> bool:
    try:
        return path.expanduser().is_absolute()
    except RuntimeError:  # ~name of nobody: a folder of that name
        return path.is_absolute()


_INSIDE = re.compile(r"[\w*?\[\]{},.=-]+(/[\w*?\[\]{},.=-]+)*")  # no other place, no URL: loaders follow these


class HubSource(Frozen):
    """A data set of the Hugging Face hub that loads without a script."""

    kind: Literal["hub"] = Field(description="a data set of the Hugging Face hub")
    repo: str = Field(min_length=1, description="owner/name")
    config: str | None = Field(None, description="configuration of the data set; none: its only one")
    revision: str = Field("main", description="commit or branch, such as refs/convert/parquet; pin it")
    train: str = Field("train", description="name of the split in the hub")
    validation: str | None = Field(None, description="name of the split in the hub")
    test: str | None = Field(None, description="name of the split in the hub, if its labels are public")
    columns: Columns = Field(
        (), description="field of the template -> column (a.b: key b of column a); default: the same name"
    )
    label: Name = Field("label", description="column of the label, the number or the answer (or list of answers)")
    where: Annotated[Pairs, Form("`column: value` for each column")] = Field(
        (), description="keep rows whose column has this value"
    )
    id: str | None = Field(None, description="column that names a row; none: its place in the split")
    picture: Name | None = Field(None, description="column of the row's picture")
    files: Annotated[Pairs, Form("`split: pattern of its files` for each split")] = Field(
        (), description="files of each split in the repository; none: as it lists them, and all splits are fetched"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = {split for split in (self.train, self.validation, self.test) if split is not None}
        if self.files and named != {split for split, _ in self.files}:
            raise ValueError("files: name the files of each split that the source names, and of no other")
        if outside := [pattern for _, pattern in self.files if not _INSIDE.fullmatch(pattern) or ".." in pattern]:
            raise ValueError(
                f"files: {outside[0]!r} is no pattern of files inside the repository, such as data/train-*"
            )
        return self
