"""Usage errors in one line: what was wrong with the words after `dept`, and which help to read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from rich.markup import escape

from flows.cli import terminal
from infra.explain import bounds
from infra.nearest import near

USAGE = 2
# typer hands out one of the parser's errors only; what stands right above it is the family of all of them.
UsageError: Any = typer.BadParameter.__mro__[1]


@contextlib.contextmanager
def usage_told(group: Any, words: Sequence[str]) -> Iterator[None]:
    """Say an error of the parser in one line, plain in a pipe, and end with exit code 2.

    Args:
        group: the outermost command. words: what was given to it.
    """
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `dept` alone: its text is the help
            raise
        terminal.complain(f"[bold red]Error:[/] {escape(told(error, group, words))}")
        raise typer.Exit(USAGE) from None


def told(error: Any, group: Any, given: Sequence[str]) -> str:
    """A usage error in words, with the remedy."""
    context = error.ctx
    parameter = getattr(error, "param", None)
    kind = type(error).__name__
    name = _name_of(parameter)
    if kind == "NoSuchOption":
        option = error.option_name
        known = [one for p in _parameters(context) for one in p.opts if one.startswith("--")]
        said = f"no option {option}{near(option, known, list_all=False).rstrip('?')}"
    elif kind == "MissingParameter":
        said = f"{name} is missing"
    elif kind == "BadParameter" and parameter is not None:
        said = f"{name}: {_expected(parameter, error)}"
    elif error.message.startswith("No such command"):
        asked = error.message.split("'")[1] if "'" in error.message else "?"
        known = list(getattr(context.command, "commands", ()))
        said = f"no command {asked!r}{near(asked, known)}"
    else:
        plain = error.format_message().replace("(s)", "")
        said = plain[:1].lower() + plain[1:]
    words = " ".join(["dept", *_commands(group, given)])
    said = said.rstrip(".?")
    return f"{f'{words[5:]}: ' if words != 'dept' else ''}{said}. Remedy: {words} --help"


def _commands(group: Any, given: Sequence[str]) -> list[str]:
    """The names of the commands among the words: ["tasks", "check"]."""
    found = []
    for word in given:
        if (group := getattr(group, "commands", {}).get(word)) is None:
            break
        found.append(word)
    return found


def _parameters(context: Any) -> list[Any]:
    return [] if context is None else list(context.command.params)


def _name_of(parameter: Any) -> str:
    """--option, or the metavar of an argument."""
    if parameter is None:
        return "an argument"
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).upper().strip("[].")
    return str(max(parameter.opts, key=len))


def _expected(parameter: Any, error: Any) -> str:
    """What a value may be, as plans are told it; the parser's words are those of its libraries."""
    message = str(error.message).removeprefix("Value error, ")
    faults = error.__cause__.errors() if hasattr(error.__cause__, "errors") else [{}]
    kind, given = str(faults[0].get("type", "")), faults[0].get("input")
    if found := re.fullmatch(r"'?(.*?)'? is not one of (.*?)\.?", message):
        known = re.findall(r"'(.*?)'", found[2])
        return f"{found[1]!r} is unknown{near(found[1], known)}"
    if kind.startswith(("int", "float", "greater", "less", "finite")):
        low, high = (getattr(parameter, name, None) for name in ("min", "max"))
        limits = [Ge(low)] if low is not None else []
        field = FieldInfo.from_annotation(float if kind.startswith(("float", "finite")) else int)
        field.metadata = [*limits, Le(high)] if high is not None else limits
        return f"must be {bounds(field)}, got {given!r}"
    return message[:1].lower() + message[1:]
