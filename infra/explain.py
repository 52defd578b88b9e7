"""Say in one line what is wrong with values that a user gave: full path, cause in words, what is allowed.

Pydantic's own texts show regular expressions and names of its internals; none of these gets through here.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from infra.nearest import near

MOST = 3  # faults that are told
NAME = "a name of letters, digits, '.', '_' and '-' that begins with a letter or digit"
PATTERNS = {r"^[A-Za-z0-9][A-Za-z0-9._-]*$": NAME}  # in words
Place = tuple[int | str, ...]


@dataclass(frozen=True)
class Form:
    """Beside a pattern in Annotated: what it asks for, in words, and the usual values."""

    words: str
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Filled:
    """Beside a field in Annotated: a run fills it in. It is read where it stands, and no list of keys names it."""


def asked_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model that a user gives."""
    return {
        name: field
        for name, field in model.model_fields.items()
        if not any(isinstance(item, Filled) for item in field.metadata)
    }


# Where a mapping of some keys stands for a part of a model: (model, field) -> the model whose keys they are.
Parts = Mapping[tuple[str, str], type[BaseModel]]


def explained(
    error: ValidationError, model: type[BaseModel], body: Any = None, parts: Parts = types.MappingProxyType({})
) -> str:
    """Each fault as `field.path: what is wrong`, at most three.

    Args:
        model: what was to be made.
        body: what the user wrote, for the names of entries; default: entries are numbered.
        parts: models behind plain mappings.
    """
    faults, seen = [], set()
    for fault in error.errors(include_url=False):
        shown, field, keys = _follow(fault["loc"], model, body, parts)
        message = _message(fault, field, keys)
        if fault["type"] == "extra_forbidden":
            message = f"unknown key{near(str(fault['loc'][-1]), keys)}" if keys else "unknown key"
        line = " ".join(f"{shown}: {message}".split() if shown else message.split())
        if line not in seen:
            seen.add(line)
            faults.append(line)
    more = f" (and {len(faults) - MOST} more)" if len(faults) > MOST else ""
    return "; ".join(faults[:MOST]) + more


def bounds(field: FieldInfo) -> str:
    """What a field's value may be, in words; empty where there is nothing to say."""
    return _kind(field.annotation, field.metadata)


def _follow(place: Place, model: Any, body: Any, parts: Parts) -> tuple[str, FieldInfo | None, list[str]]:
    """The path as the user wrote it, the field there, and the keys that may stand beside its last part."""
    shown: list[str] = []
    kind, field, keys, metadata = model, None, list[str](), list[Any]()
    for part in place:
        kind, metadata = _bare(kind, metadata)
        tagged = _tagged(kind, part)
        if tagged is not None:
            kind = tagged
            continue
        keys = []
        found = None if isinstance(part, int) else _model(kind)
        if found is not None and isinstance(part, str):
            keys = [info.alias or name for name, info in asked_of(found).items()]
            field = found.model_fields.get(part)
            kind = parts.get((found.__name__, part)) or (field.annotation if field else None)
            metadata = list(field.metadata) if field else []
        else:
            kind, metadata = _entry(kind), []
            field = FieldInfo(annotation=kind) if field is None else field
            field = _of_entry(kind, field)
        if part == "[key]":  # pydantic's mark for a key of a mapping
            continue
        name = part
        if isinstance(part, int) and isinstance(body, Mapping):
            name = list(body)[part] if part < len(body) else part
        shown.append(str(name))
        body = _inside(body, part)
    return ".".join(shown), field, keys


def _of_entry(kind: Any, field: FieldInfo) -> FieldInfo:
    bare, metadata = _bare(kind, [])
    made = FieldInfo(annotation=bare, description=field.description)
    made.metadata = metadata
    return made


def _inside(body: Any, part: int | str) -> Any:
    if isinstance(body, Mapping):
        if isinstance(part, int):
            return list(body.values())[part] if part < len(body) else None
        return body.get(part)
    if isinstance(body, (list, tuple)) and isinstance(part, int) and part < len(body):
        return body[part]
    return None


def _bare(kind: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """Without Annotated and without None."""
    metadata = list(metadata)
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            for item in more:
                metadata += item.metadata if isinstance(item, FieldInfo) else [item]
        elif get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind):
            left = [arm for arm in get_args(kind) if arm is not type(None)]
            kind = left[0] if len(left) == 1 else Union[tuple(left)]  # noqa: UP007
        else:
            return kind, metadata


def _arms(kind: Any) -> list[Any]:
    return list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]


def _tagged(kind: Any, part: int | str) -> Any:
    """The arm of a union that `part` names (pydantic puts the tag into the path); None: `part` is no tag."""
    arms = _arms(kind)
    if len(arms) < 2 or not isinstance(part, str):
        return None
    for arm in arms:
        bare, metadata = _bare(arm, [])
        if any(getattr(item, "tag", None) == part for item in metadata):
            return arm
        for info in getattr(bare, "model_fields", {}).values():
            if get_origin(info.annotation) is Literal and get_args(info.annotation) == (part,):
                return arm
    return None


def _model(kind: Any) -> type[BaseModel] | None:
    for arm in _arms(kind):
        bare, _ = _bare(arm, [])
        if isinstance(bare, type) and issubclass(bare, BaseModel):
            return bare
    return None


def _entry(kind: Any) -> Any:
    """Type of an entry of a list or mapping."""
    args = [arg for arg in get_args(kind) if arg is not Ellipsis]
    return args[-1] if args else None


def _message(fault: ErrorDetails, field: FieldInfo | None, keys: list[str]) -> str:
    kind, got = fault["type"], f", got {_short(fault['input'])}"
    about = fault.get("ctx") or {}
    if kind == "missing":
        return "missing; it must be given"
    if kind == "value_error":
        return str(about.get("error", fault["msg"]))
    if kind == "union_tag_invalid":
        known = [tag.strip(" '") for tag in about["expected_tags"].split(",")]
        key = about["discriminator"].strip("'")
        if not key.isidentifier():  # a function told the arms apart: it has no key to name
            return _wanted(field) + got
        return f"{key} {about['tag']!r} is unknown{near(str(about['tag']), known)}"
    if kind == "union_tag_not_found":
        key = about["discriminator"].strip("'")
        return f"{key} is missing; it must be given" if key.isidentifier() else _wanted(field) + got
    if kind == "literal_error":
        if field is not None and len(_arms(_bare(field.annotation, [])[0])) > 1:
            return _wanted(field) + got
        known = _words(field) or [word.strip(" '") for word in about["expected"].replace(" or ", ", ").split(",")]
        return f"{_short(fault['input'])} is unknown{near(str(fault['input']), known)}"
    form = _form(field.metadata) if field is not None else None
    if kind == "string_pattern_mismatch" and form is not None and form.known:
        return f"{_short(fault['input'])} is unknown{near(str(fault['input']), form.known)}"
    if kind == "finite_number":
        return f"must be a finite number{got}"
    if kind == "string_type" and isinstance(fault["input"], bool):
        return "read as a boolean (YAML takes bare yes, no, on, off for one): put it in quotes"
    return f"{_wanted(field)}{got}"


def _wanted(field: FieldInfo | None) -> str:
    words = bounds(field) if field is not None else ""
    return f"must be {words}" if words else "must be another kind of value"


def _words(field: FieldInfo | None) -> list[str]:
    kind = _bare(field.annotation, [])[0] if field is not None else None
    return [str(word) for word in get_args(kind)] if get_origin(kind) is Literal else []


def _kind(kind: Any, metadata: list[Any]) -> str:
    kind, metadata = _bare(kind, list(metadata))
    form = _form(metadata)
    if form is not None:
        return form.words
    arms = _arms(kind)
    if len(arms) > 1:
        return " or ".join(dict.fromkeys(filter(None, (_kind(arm, metadata) for arm in arms))))
    origin = get_origin(kind)
    if origin is Literal:
        words = [str(word) for word in get_args(kind)]
        return ", ".join(words[:-1]) + (" or " if len(words) > 1 else "") + words[-1]
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return _number(kind, metadata)
    if origin in (list, tuple, set, frozenset) or kind in (list, tuple):
        inner = _kind(_entry(kind), []) if get_args(kind) else ""
        few, most = _limit(metadata, "min_length", MinLen), _limit(metadata, "max_length", MaxLen)
        size = f" of {few} to {most}" if few and most else f" of at least {few}" if few else ""
        size = f" of at most {most}" if most and not few else size
        return f"a list{size}" + (f" (each: {inner})" if inner else "")
    if origin is dict or kind is dict or _model(kind):
        return "keys and values"
    if kind is str or getattr(kind, "__name__", "") in ("Path", "PosixPath"):
        return _text(metadata)
    return ""


def _text(metadata: list[Any]) -> str:
    form = _form(metadata)
    if form is not None:
        return form.words
    pattern = next((str(item.pattern) for item in metadata if getattr(item, "pattern", None)), None)
    most = _limit(metadata, "max_length", MaxLen)
    if pattern is None:
        return "text" if not most else "one character" if most == 1 else f"text of 1 to {most:,} characters"
    words = PATTERNS.get(pattern, "text of another form")
    return f"{words}, at most {most} characters" if most and words == NAME else words


def _form(metadata: list[Any]) -> Form | None:
    return next((item for item in metadata if isinstance(item, Form)), None)


def _number(kind: type, metadata: list[Any]) -> str:
    what = "a whole number" if kind is int else "a number"
    low, above = _limit(metadata, "ge", Ge), _limit(metadata, "gt", Gt)
    high, below = _limit(metadata, "le", Le), _limit(metadata, "lt", Lt)
    if low is not None and high is not None:
        return f"{what} from {_figure(low)} to {_figure(high)}"
    parts = [f"of at least {_figure(low)}"] if low is not None else []
    parts += [f"above {_figure(above)}"] if above is not None else []
    parts += [f"of at most {_figure(high)}"] if high is not None else []
    parts += [f"below {_figure(below)}"] if below is not None else []
    return " ".join([what, " and ".join(parts)]).strip()


def _limit(metadata: list[Any], name: str, kind: type) -> Any:
    return next((getattr(item, name) for item in metadata if isinstance(item, kind)), None)


def _figure(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def inner_models(field: FieldInfo) -> list[type[BaseModel]]:
    """The models whose keys may stand within a field: its own, those of a list's entries, those of a union."""
    found: list[type[BaseModel]] = []
    waiting = [field.annotation]
    while waiting:
        kind, _ = _bare(waiting.pop(0), [])
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        elif get_args(kind) and get_origin(kind) is not Literal:
            waiting += [arg for arg in get_args(kind) if arg is not Ellipsis]
    return found
