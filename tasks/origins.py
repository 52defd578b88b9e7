"""Where a task's rows come from: an installed wheel, a user's file, a data set of the hub. Specs only; no reading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Frozen(BaseModel):
    """Base of the specs: immutable, hashable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _pairs(value: Any) -> Any:
    """A mapping, or pairs, as pairs of text: a dict cannot be hashed, and tasks are cache keys."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, (list, tuple)) or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in pairs):
        raise ValueError("write one `name: value` for each")
    plain = {True: "true", False: "false"}
    return tuple(
        (str(key), plain[v] if isinstance(v, bool) else str(v) if isinstance(v, int) else v) for key, v in pairs
    )


Pairs = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)]


class Threshold(Frozen):
    """Makes two labels of a number: <= -at is `below`, >= at is `above`; rows between are dropped as neutral."""

    at: float = Field(gt=0, description="distance from 0, in units of the column")
    below: str
    above: str


class PackageSource(Frozen):
    """A file inside an installed wheel. The package is looked up, never imported."""

    kind: Literal["package"]
    package: str = Field(pattern=r"^[A-Za-z_]\w*$", description="top-level import name")
    requirement: str = Field(description="what pip installs, pinned")
    path: str = Field(description="file (reader folders: folder), relative to the package's folder")
    reader: Literal["csv", "tsv", "label-first", "folders"] = Field(
        description="csv: with header and quotes; tsv: with header, no quotes; label-first: lines of 'LABEL the text'; "
        "folders: path/LABEL/*.txt, one text a file"
    )
    text: str = "text"
    label: str = "label"
    id: str | None = Field(None, description="column that names a row; none: the line number")
    label_until: str | None = Field(None, min_length=1, description="keep the label's part before this mark")
    threshold: Threshold | None = Field(None, description="the label column holds a number: make labels of it")
    unescape: bool = Field(False, description="the text holds HTML entities (&amp;): resolve them")


class FileSource(Frozen):
    """A user's own file, UTF-8."""

    kind: Literal["file"]
    path: Path
    format: Literal["csv", "jsonl", "parquet"] | None = Field(None, description="none: by the file's ending")
    columns: Pairs = Field(
        (), description="field of the template -> column (a.b: key b of column a); default: the same name"
    )
    text: str = Field("text", description="column (csv, parquet) or key (jsonl) of the field text")
    label: str = Field("label", description="column or key of the label, the number or the answer (or list of answers)")
    delimiter: str = Field(",", min_length=1, max_length=1, description="csv only")


class HubSource(Frozen):
    """A data set of the Hugging Face hub that loads without a script."""

    kind: Literal["hub"]
    repo: str = Field(min_length=1, description="owner/name")
    config: str | None = None
    revision: str = Field("main", description="commit or branch, such as refs/convert/parquet; pin it")
    train: str = Field("train", description="name of the split in the hub")
    validation: str | None = Field(None, description="name of the split in the hub")
    test: str | None = Field(None, description="name of the split in the hub, if its labels are public")
    columns: Pairs = Field(
        (), description="field of the template -> column (a.b: key b of column a); default: the same name"
    )
    label: str = Field("label", description="column of the label, the number or the answer (or list of answers)")
    where: Pairs = Field((), description="keep rows whose column has this value")
    id: str | None = Field(None, description="column that names a row; none: its place in the split")
